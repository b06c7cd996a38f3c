//! The service manager's side: it passes sockets, listens to what a service says, and keeps what it is given.

use std::{
    fs::File,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use medusa_tests::Folder;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Listens to a service.
pub(crate) struct Manager {
    socket: UnixDatagram,
    /// The service's NOTIFY_SOCKET.
    name: String,
}

/// What a service has said at once.
#[derive(Debug)]
pub(crate) struct Message {
    lines: Vec<String>,
    descriptors: Vec<OwnedFd>,
}

/// A service that is about to be started.
#[derive(Default)]
pub(crate) struct Service {
    sockets: Vec<(String, OwnedFd)>,
    variables: Vec<(&'static str, String)>,
    /// An expression of the shell; nothing stands for the service itself.
    listen_pid: Option<&'static str>,
}

const PATIENCE: Duration = Duration::from_secs(60);

impl Manager {
    /// One with a socket in this folder.
    pub(crate) fn at(path: &Path) -> Manager {
        let socket = UnixDatagram::bind(path).expect("a socket can be bound in a folder of ours");
        Manager::new(socket, path.to_str().expect("it is text").to_owned())
    }

    /// One whose socket has no file.
    pub(crate) fn abstract_for(test: &str) -> Manager {
        let name = format!("medusa-tests/{test}/{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("it is short");
        let socket = UnixDatagram::bind_addr(&address).expect("nobody else has that name");
        Manager::new(socket, format!("@{name}"))
    }

    fn new(socket: UnixDatagram, name: String) -> Manager {
        socket.set_read_timeout(Some(PATIENCE)).expect("a minute is no nonsense");
        Manager { socket, name }
    }

    /// A service that is to talk to this manager.
    pub(crate) fn service(&self) -> Service {
        Service::default().with("NOTIFY_SOCKET", &self.name)
    }

    /// The next message but for the watchdog's.
    #[track_caller]
    pub(crate) fn next(&self) -> Message {
        loop {
            let message = self.receive().expect("the service says something");
            if message.lines != ["WATCHDOG=1"] {
                return message;
            }
        }
    }

    /// Waits for a message with this line.
    #[track_caller]
    pub(crate) fn wait_for(&self, line: &str) -> Message {
        loop {
            let message = self.receive();
            let message = message.unwrap_or_else(|error| panic!("`{line}` was not said: {error}"));
            if message.has(line) {
                return message;
            }
        }
    }

    /// Whether the service says nothing for this long.
    pub(crate) fn hears_nothing(&self, span: Duration) -> bool {
        self.socket.set_nonblocking(true).expect("it is ours");
        while self.receive().is_ok() {}
        self.socket.set_nonblocking(false).expect("it is ours");
        self.socket.set_read_timeout(Some(span)).expect("it is no nonsense");
        let heard = self.receive();
        self.socket.set_read_timeout(Some(PATIENCE)).expect("it is no nonsense");
        heard.is_err()
    }

    fn receive(&self) -> rustix::io::Result<Message> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(&self.socket, &mut pieces, &mut control, flags)?.bytes;
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                descriptors.extend(rights);
            }
        }
        let text = std::str::from_utf8(&bytes[..length]).expect("it is text");
        Ok(Message { lines: text.lines().map(str::to_owned).collect(), descriptors })
    }
}

impl Message {
    /// Whether it has this line.
    pub(crate) fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|it| it == line)
    }

    /// What follows `KEY=`.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> &str {
        let value = self.lines.iter().find_map(|it| it.strip_prefix(key)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {key}= in {self:?}"))
    }

    /// The descriptor that came with it, under its name.
    #[track_caller]
    pub(crate) fn stored(mut self) -> (String, OwnedFd) {
        assert!(self.has("FDSTORE=1") && self.descriptors.len() == 1, "{self:?}");
        (self.value("FDNAME").to_owned(), self.descriptors.remove(0))
    }
}

impl Service {
    /// It has this in its environment.
    pub(crate) fn with(mut self, variable: &'static str, value: &str) -> Service {
        self.variables.push((variable, value.to_owned()));
        self
    }

    /// It is passed this, under a name; two at the most.
    pub(crate) fn pass(mut self, name: &str, socket: impl Into<OwnedFd>) -> Service {
        self.sockets.push((name.to_owned(), socket.into()));
        self
    }

    /// What is passed is said to be for another process.
    pub(crate) fn for_another_process(mut self) -> Service {
        self.listen_pid = Some("1");
        self
    }

    /// The command that starts it. A shell puts the descriptors where they belong, and then is the service.
    pub(crate) fn command(self, folder: &Folder) -> Command {
        let places = ["3<&0", "4>&1"];
        assert!(self.sockets.len() <= places.len(), "there are two streams to pass them by");
        let script = format!(
            "exec {} </dev/null >/dev/null\nexport LISTEN_PID={}\nexec \"$@\"",
            places[..self.sockets.len()].join(" "),
            self.listen_pid.unwrap_or("$$"),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(folder.program());
        command.arg("serve").arg("--config").arg(folder.path("medusa.toml"));
        let names: Vec<_> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        command.env("LISTEN_FDNAMES", names.join(":"));
        command.env("LISTEN_FDS", names.len().to_string());
        command.envs(self.variables);
        let mut sockets = self.sockets.into_iter().map(|(_, socket)| Stdio::from(socket));
        command.stdin(sockets.next().unwrap_or_else(Stdio::null));
        command.stdout(sockets.next().unwrap_or_else(Stdio::null));
        command
    }
}

/// A descriptor that is no socket.
pub(crate) fn no_socket() -> OwnedFd {
    File::open("/dev/null").expect("it is there").into()
}
