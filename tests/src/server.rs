//! A real `medusa serve` in a folder of its own.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{CtlOutput, Folder, Process, ctl, wait::PATIENCE, wait_for, wait_until};

/// A running server. When dropped it is told to end (SIGTERM), and must end by itself and without a complaint.
#[derive(Debug)]
pub struct Server {
    child: Child,
    // Dropped last: the server works in it until it has ended.
    folder: Folder,
}

impl Server {
    /// Starts a server in a new folder and waits until it serves. Listeners should ask for port 0; [`Server::address`]
    /// tells which they got.
    ///
    /// # Panics
    ///
    /// When it does not serve within a minute; the message holds what it said.
    #[must_use]
    #[track_caller]
    pub fn start(configuration: &str) -> Self {
        Folder::new().start(configuration)
    }

    /// A server of the tree's plugins: `http` as `web` on a free port, with `http-files` as `site` over these files.
    ///
    /// # Panics
    ///
    /// As [`Server::start`].
    #[must_use]
    #[track_caller]
    pub fn with_site(files: &[(&str, &[u8])]) -> Self {
        let folder = Folder::new();
        files.iter().for_each(|(path, contents)| folder.write(&format!("site/{path}"), contents));
        folder.start(
            "[[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\n\
             [[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\nattach = \"web\"\npath = \"/\"\n\
             [plugin.config]\nroot = \"site\"\n",
        )
    }

    #[track_caller]
    pub(crate) fn start_in(folder: Folder, configuration: &str) -> Self {
        Self::start_by(folder, configuration, serve)
    }

    #[track_caller]
    pub(crate) fn start_by(
        folder: Folder,
        configuration: &str,
        command: impl FnOnce(&Folder) -> Command,
    ) -> Self {
        folder.configure(configuration);
        let mut server = Self { child: spawn(&folder, command(&folder)), folder };
        server.wait_until_it_serves();
        server
    }

    /// Starts another server by this command in the same folder, in the place of one that has ended.
    ///
    /// # Panics
    ///
    /// When it does not serve.
    #[track_caller]
    pub fn start_again(&mut self, command: Command) {
        self.child = spawn(&self.folder, command);
        self.wait_until_it_serves();
        self.wait_until_all_is_loaded();
    }

    /// Has the server end (SIGTERM), and starts another with the same configuration in the same folder.
    ///
    /// # Panics
    ///
    /// When it does not end cleanly, or the other does not serve.
    #[track_caller]
    pub fn restart(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "the server did not end cleanly: {status:?}\n{}", self.log());
        self.start_again(serve(&self.folder));
    }

    #[track_caller]
    fn wait_until_it_serves(&mut self) {
        wait_for("the server to serve", PATIENCE, || {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none(),
                "the server ended instead of serving ({ended:?}); it said:\n{}",
                self.log()
            );
            // Asking is dear (a process), knocking is not.
            UnixStream::connect(self.socket()).is_ok().then_some(())
        });
    }

    /// Waits until all that is configured is loaded.
    #[track_caller]
    pub(crate) fn running(self) -> Self {
        self.wait_until_all_is_loaded();
        self
    }

    #[track_caller]
    fn wait_until_all_is_loaded(&self) {
        wait_until("the instances to be loaded", PATIENCE, || {
            self.ctl_json(["status"])["state"] == "running"
        });
    }

    /// Runs a monitor command, as `medusa ctl --socket … ARGUMENTS` does.
    ///
    /// # Panics
    ///
    /// When it has not ended after a minute.
    #[track_caller]
    pub fn ctl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> CtlOutput {
        ctl::run(self.ctl_command().args(arguments), "", PATIENCE)
    }

    /// Runs a monitor command with `--json` and returns the answer, whether it was done or refused.
    ///
    /// # Panics
    ///
    /// When the answer is no JSON.
    #[must_use]
    #[track_caller]
    pub fn ctl_json<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Value {
        ctl::run(self.ctl_command().arg("--json").args(arguments), "", PATIENCE).json()
    }

    /// `medusa ctl --socket …`, for a command that is to run beside the test.
    #[must_use]
    pub fn ctl_command(&self) -> Command {
        let mut command = Command::new(self.folder.program());
        command.arg("ctl").arg("--socket").arg(self.socket());
        command
    }

    /// The objects that `plugins --json` has for an instance: one for each generation alive.
    #[must_use]
    #[track_caller]
    pub fn plugin(&self, name: &str) -> Vec<Value> {
        let plugins = self.ctl_json(["plugins"]);
        let plugins =
            plugins.as_array().unwrap_or_else(|| panic!("`plugins` is no array: {plugins}"));
        plugins.iter().filter(|plugin| plugin["name"] == name).cloned().collect()
    }

    /// The first address on which an instance listens.
    ///
    /// # Panics
    ///
    /// When it listens nowhere.
    #[must_use]
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        let addresses = self.addresses(name);
        *addresses
            .first()
            .unwrap_or_else(|| panic!("{name} listens nowhere: {}", self.ctl_json(["plugins"])))
    }

    /// All addresses on which an instance listens, in the order of its configuration.
    #[must_use]
    #[track_caller]
    pub fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        let plugins = self.plugin(name);
        let listed =
            plugins.iter().flat_map(|plugin| plugin["listen"].as_array().into_iter().flatten());
        let mut found = Vec::new();
        for address in listed.filter_map(|listen| listen.as_str().or(listen["address"].as_str())) {
            let address =
                address.parse().unwrap_or_else(|error| panic!("no address: `{address}` ({error})"));
            if !found.contains(&address) {
                found.push(address);
            }
        }
        found
    }

    /// The monitor's socket.
    #[must_use]
    pub fn socket(&self) -> std::path::PathBuf {
        self.folder.socket()
    }

    /// The server's folder: its configuration, its files, its own plugin folder.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What can be seen of the process from outside.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::of(self.child.id())
    }

    /// What the server wrote to its standard error so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.folder.path("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until the log holds a text.
    ///
    /// # Panics
    ///
    /// When it does not within a minute.
    #[track_caller]
    pub fn wait_for_log(&self, part: &str) {
        wait_for(&format!("`{part}` in the log"), PATIENCE, || {
            self.log().contains(part).then_some(())
        });
    }

    /// Sends the server a signal.
    ///
    /// # Panics
    ///
    /// When it has ended already.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?}: {error}"));
    }

    /// Waits until the server has ended by itself, and returns how.
    ///
    /// # Panics
    ///
    /// When it has not within a minute.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the server to end", PATIENCE, || {
            child.try_wait().expect("a child can be waited for")
        })
    }

    /// Replaces a library in the server's own plugin folder, as an operator does before `reload`.
    #[track_caller]
    pub fn install(&self, name: &str, library: &Path) {
        self.folder.install(name, library);
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn show_log(&self) {
        eprintln!("--- the server's log:\n{}--- end of the server's log", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.try_wait().ok().flatten();
        if thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            return self.show_log();
        }
        if ended.is_some() {
            // The test waited for it, and has judged how it ended.
            return;
        }
        self.signal(Signal::TERM);
        let status = ended_within(&mut self.child, PATIENCE);
        if status.is_none_or(|status| !status.success()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.show_log();
            panic!("the server did not end cleanly upon SIGTERM: {status:?}");
        }
    }
}

/// `medusa serve` with the folder's configuration.
fn serve(folder: &Folder) -> Command {
    let mut command = Command::new(folder.program());
    command.arg("serve").arg("--config").arg(folder.path("medusa.toml"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[track_caller]
fn spawn(folder: &Folder, mut command: Command) -> Child {
    let log = File::create(folder.path("server.log")).expect("a file can be made in its folder");
    command
        .env("RUST_BACKTRACE", "1")
        // A file that a test may write; see `sys::fault` of the host.
        .env("MEDUSA_FAULTS", folder.path("faults"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", folder.program().display()))
}

fn ended_within(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let started = std::time::Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            _ if started.elapsed() > deadline => return None,
            _ => thread::sleep(Duration::from_millis(5)),
        }
    }
}
