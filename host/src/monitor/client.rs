//! The other end of the monitor's socket: `medusa ctl`, and what `medusa monitor` asks through.
//!
//! It runs in a process of its own, never in the host.

use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    path::Path,
    rc::Rc,
    time::Duration,
};

use rustix::net::RecvFlags;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    runtime::{self, Runtime},
    time::timeout,
};

use crate::monitor::protocol::{self, Reply, Request};

/// A connection to a running host.
pub struct Client {
    stream: BufReader<UnixStream>,
    runtime: Rc<Runtime>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there.
    NotRunning(String),
    /// The connection broke, or the other side does not speak the protocol.
    Broken(String),
    /// What is typed cannot be read.
    Input(String),
    /// The answer cannot be written: the reader of our output has left.
    OutputClosed,
}

impl Client {
    /// What a client waits in.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub fn runtime() -> Result<Rc<Runtime>, ClientError> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(Rc::new).map_err(|error| broken(&error))
    }

    /// Connects to a host's socket.
    pub fn connect(runtime: &Rc<Runtime>, path: &Path) -> Result<Client, ClientError> {
        let stream = runtime.block_on(UnixStream::connect(path));
        let stream = BufReader::new(stream.map_err(|error| not_running(path, &error))?);
        Ok(Client { stream, runtime: runtime.clone() })
    }

    /// Runs a command, writes what it says as it comes, and returns its exit status.
    pub fn run(&mut self, command: Vec<String>, json: bool) -> Result<u8, ClientError> {
        let request = request(command, json, width());
        self.runtime.clone().block_on(self.answer(&request, &mut print))
    }

    /// As [`Client::run`], unless `stop` ends first: then it answers `None`, and nothing more can be asked of this client.
    pub fn run_until(
        &mut self,
        command: Vec<String>,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<u8>, ClientError> {
        let (request, mut print) = (request(command, false, width()), print);
        self.runtime.clone().block_on(async {
            tokio::select! {
                exit = self.answer(&request, &mut print) => exit.map(Some),
                () = stop => Ok(None),
            }
        })
    }

    /// Asks for a value as JSON, and waits for it no longer than `patience`. After an error nothing more can be asked of this client.
    pub fn ask(
        &mut self,
        command: Vec<String>,
        patience: Duration,
    ) -> Result<serde_json::Value, ClientError> {
        let request = request(command, true, None);
        let mut text = String::new();
        let mut keep = |reply| {
            if let Reply::Out(piece) = reply {
                text += &piece;
            }
            Ok(())
        };
        let runtime = self.runtime.clone();
        let answer = async { timeout(patience, self.answer(&request, &mut keep)).await };
        let exit = runtime.block_on(answer);
        exit.map_err(|_| ClientError::Broken("the host does not answer".to_owned()))??;
        serde_json::from_str(&text).map_err(|error| not_ours(&error))
    }

    /// Whether the host has not closed its end, as far as it can be told without asking.
    pub fn is_open(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let received = rustix::net::recv(self.stream.get_ref().as_fd(), &mut [0_u8], flags);
        received.is_err_and(|error| error == rustix::io::Errno::AGAIN)
    }

    async fn answer(
        &mut self,
        request: &Request,
        take: &mut dyn FnMut(Reply) -> Result<(), ClientError>,
    ) -> Result<u8, ClientError> {
        let mut line = serde_json::to_vec(request).expect("its only path is UTF-8 or left out");
        line.push(b'\n');
        // A host that refuses says why before it closes: the answer is read even if the request could not be written.
        let sent = self.stream.write_all(&line).await;
        loop {
            match self.reply().await {
                Ok(Reply::Exit(exit)) => return Ok(exit),
                Ok(reply) => take(reply)?,
                Err(error) => return Err(sent.err().map_or(error, |error| broken(&error))),
            }
        }
    }

    async fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let length =
            self.stream.read_until(b'\n', &mut line).await.map_err(|error| broken(&error))?;
        if length == 0 {
            return Err(ClientError::Broken(
                "the host closed the connection before the command had ended".to_owned(),
            ));
        }
        serde_json::from_slice(&line).map_err(|error| not_ours(&error))
    }
}

fn request(command: Vec<String>, json: bool, width: Option<u16>) -> Request {
    // JSON is UTF-8. In a folder whose name is not, relative paths are relative to the configuration.
    let cwd = std::env::current_dir().ok().filter(|folder| folder.to_str().is_some());
    Request { v: protocol::VERSION, command, json, width, cwd }
}

/// The columns of the terminal, if the answer goes to one.
fn width() -> Option<u16> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    rustix::termios::tcgetwinsize(stdout)
        .ok()
        .map(|size| size.ws_col)
        .filter(|columns| *columns > 0)
}

fn print(reply: Reply) -> Result<(), ClientError> {
    match reply {
        Reply::Out(text) => write(&mut io::stdout(), &text),
        Reply::Err(text) => write(&mut io::stderr(), &text),
        Reply::Exit(_) => Ok(()),
    }
}

pub(super) fn write(stream: &mut impl Write, text: &str) -> Result<(), ClientError> {
    stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.flush())
        .map_err(|_| ClientError::OutputClosed)
}

fn not_running(path: &Path, error: &io::Error) -> ClientError {
    let shown = path.display();
    let sentence = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!(
            "no medusa is listening on {shown}; is it running? start it with `medusa serve --config FILE`, or name another \
             socket with --socket PATH or --config FILE"
        ),
        io::ErrorKind::PermissionDenied => {
            format!(
                "the monitor's socket {shown} is not yours; ask as root or as the user that medusa runs as"
            )
        }
        _ => format!("cannot connect to the monitor's socket {shown}: {error}"),
    };
    ClientError::NotRunning(sentence)
}

fn not_ours(error: &serde_json::Error) -> ClientError {
    ClientError::Broken(format!("what answers there is not a medusa of this version: {error}"))
}

fn broken(error: &io::Error) -> ClientError {
    ClientError::Broken(format!("the connection to the host broke: {error}"))
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::NotRunning(sentence)
            | ClientError::Broken(sentence)
            | ClientError::Input(sentence) => f.write_str(sentence),
            ClientError::OutputClosed => f.write_str("nobody reads the output"),
        }
    }
}

impl std::error::Error for ClientError {}
