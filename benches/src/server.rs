//! A server under measurement: a process on the first core.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A process that serves, and is killed when this is dropped.
pub(crate) struct Server {
    process: Child,
    /// Where it listens.
    pub(crate) address: String,
}

impl Server {
    /// hyper linked in statically.
    pub(crate) fn baseline() -> Result<Server, String> {
        let here = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut process = pinned(&here.with_file_name("hyper-static"))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("the baseline does not start: {error}"))?;
        let mut address = String::new();
        let said = process.stdout.take().ok_or("the baseline has no output")?;
        BufReader::new(said).read_line(&mut address).map_err(|error| error.to_string())?;
        Ok(Server { process, address: address.trim().to_owned() })
    }

    /// medusa with `http` and `hello`, from the tree that `cargo xtask build` leaves.
    pub(crate) fn medusa() -> Result<Server, String> {
        let tree = std::env::var_os("MEDUSA_TREE")
            .ok_or("MEDUSA_TREE is not set; use `cargo xtask bench`")?;
        let tree = Path::new(&tree);
        let folder = std::env::temp_dir().join(format!("medusa-bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let (config, socket) = (folder.join("medusa.toml"), folder.join("medusa.sock"));
        let text = format!(
            "[host]\nplugin_dir = {:?}\nstate_dir = \"state\"\n[monitor]\nsocket = {socket:?}\n\
             [[plugin]]\nname = \"web\"\nlibrary = \"http\"\nlisten = [\"127.0.0.1:0\"]\n\
             [plugin.config]\nhealth = \"/health\"\n\
             [[plugin]]\nname = \"hello\"\nlibrary = \"hello\"\nattach = \"web\"\n",
            tree.join("plugins")
        );
        fs::write(&config, text).map_err(|error| error.to_string())?;
        let medusa = tree.join("bin/medusa");
        let process = pinned(&medusa)
            .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                format!("medusa does not start: {error}; run `cargo xtask build` first")
            })?;
        let mut server = Server { process, address: String::new() };
        let deadline = Instant::now() + Duration::from_secs(10);
        while server.address.is_empty() {
            let asked = Command::new(&medusa)
                .args([
                    "ctl".as_ref(),
                    "--socket".as_ref(),
                    socket.as_os_str(),
                    "listeners".as_ref(),
                ])
                .output()
                .map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&asked.stdout);
            let found = said.split_whitespace().find(|word| word.starts_with("127.0.0.1:"));
            server.address = found.unwrap_or_default().to_owned();
            if Instant::now() > deadline {
                return Err("medusa does not listen within 10 s".to_owned());
            }
            thread::yield_now();
        }
        Ok(server)
    }

    /// CPU time of its main thread so far, in nanoseconds, from the scheduler's own count.
    pub(crate) fn cpu_ns(&self) -> Result<u64, String> {
        let id = self.process.id();
        let text = fs::read_to_string(format!("/proc/{id}/task/{id}/schedstat"))
            .map_err(|error| error.to_string())?;
        text.split(' ')
            .next()
            .and_then(|ns| ns.parse().ok())
            .ok_or_else(|| format!("schedstat says {text:?}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which the measurement has noticed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn pinned(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c".as_ref(), "0".as_ref(), program.as_os_str()]);
    command
}
