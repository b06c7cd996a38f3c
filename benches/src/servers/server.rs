//! A server under measurement: its processes have the first core to themselves.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Result, interrupt,
    load::exchange,
    machine::{self, Core},
    servers::{Kind, process},
    site::{self, Site},
};

/// How long a server may take to its first answer.
const READY_MAX: Duration = Duration::from_secs(10);

/// How long one with children may take to end them, before all are killed.
const STOP_MAX: Duration = Duration::from_secs(2);

/// A process that serves, and is killed with its children when this is dropped.
pub(crate) struct Server {
    kind: Kind,
    process: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// When its process was made.
    pub(crate) started: Instant,
    folder: TempDir, // Dropped last: the process writes into it.
}

impl Server {
    /// Starts it on the server's core, and does not wait for anything.
    fn start(kind: Kind, site: &Site) -> Result<Server> {
        let folder = site::folder()?;
        let address = free_address()?;
        let mut command = kind.command(folder.path(), site, address.port())?;
        let log = File::create(folder.path().join("log"))
            .and_then(|log| Ok((log.try_clone()?, log)))
            .map_err(|error| format!("no log can be made: {error}"))?;
        command.current_dir(&folder).stdin(Stdio::null()).stdout(log.0).stderr(log.1);
        // The core is inherited; a program in between (taskset) would take part in the time of the start.
        machine::move_to(Core::Server)?;
        let started = Instant::now();
        let process = command.spawn();
        machine::move_to(Core::Load)?;
        let process =
            process.map_err(|error| format!("{} does not start: {error}", kind.name()))?;
        Ok(Server { kind, process, address, started, folder })
    }

    /// Starts it and waits for its first answer.
    pub(crate) fn start_ready(kind: Kind, site: &Site) -> Result<Server> {
        let mut server = Server::start(kind, site)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// Waits for the first answer, asking without a pause: with the time until then something is measured.
    fn wait_ready(&mut self) -> Result<()> {
        let request = exchange::request(self.kind.sign_of_life(), &[]);
        let deadline = Instant::now() + READY_MAX;
        loop {
            let answer =
                exchange::connect(self.address).and_then(|mut connection| connection.ask(&request));
            if answer.is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let has_ended = self.process.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || Instant::now() > deadline {
                return Err(self.complaint("does not answer"));
            }
            interrupt::check()?;
        }
    }

    /// Time on a core so far, of all threads, in microseconds.
    pub(crate) fn cpu_us(&self) -> Result<f64> {
        Ok(process::cpu_ns(self.process.id())? as f64 / 1000.0)
    }

    /// Memory of all processes, in bytes.
    pub(crate) fn memory_bytes(&self) -> Result<f64> {
        Ok(process::memory_bytes(self.process.id())? as f64)
    }

    /// A sentence with the last that the server said.
    pub(crate) fn complaint(&self, what: &str) -> String {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let last = log.lines().next_back().unwrap_or("nothing");
        format!("{} {what}; its last words: {last}", self.kind.name())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let family = process::family(self.process.id());
        let mut is_alive = || matches!(self.process.try_wait(), Ok(None));
        // Only nginx has children, which it ends and waits for at once if it is asked; others might drain.
        if family.len() > 1
            && let Some(first) = Pid::from_raw(family[0] as i32)
        {
            let _ = kill_process(first, Signal::TERM);
            let deadline = Instant::now() + STOP_MAX;
            while is_alive() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        if !is_alive() {
            return;
        }
        // The first comes first: a master would start another worker.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for child in family.into_iter().skip(1).filter_map(|id| Pid::from_raw(id as i32)) {
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

/// An address that nobody has; somebody could take it before the server does, which then says so and ends.
fn free_address() -> Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(|error| format!("no port is free: {error}"))
}
