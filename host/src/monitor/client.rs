//! The other end of the monitor's socket: `medusa ctl` and `medusa monitor`.
//!
//! It blocks; it runs in a process of its own, never in the host.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::monitor::{
    protocol::{self, Reply, Request},
    words,
};

/// A connection to a running host.
pub struct Client {
    stream: UnixStream,
    replies: BufReader<UnixStream>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum ClientError {
    /// Nobody listens there.
    NotRunning(String),
    /// The connection broke, or the other side does not speak the protocol.
    Broken(String),
    /// The answer cannot be written: the reader of our output has left.
    OutputClosed,
}

/// The line with which the interactive monitor asks for a command.
const PROMPT: &str = "medusa> ";

impl Client {
    /// Connects to a host's socket.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| not_running(path, &error))?;
        let replies = stream.try_clone().map_err(|error| broken(&error))?;
        Ok(Client { stream, replies: BufReader::new(replies) })
    }

    /// Runs a command, writes what it says as it comes, and returns its exit status.
    pub fn run(&mut self, command: Vec<String>, json: bool) -> Result<u8, ClientError> {
        // JSON is UTF-8. In a folder whose name is not, relative paths are relative to the configuration.
        let cwd = std::env::current_dir().ok().filter(|folder| folder.to_str().is_some());
        let request = Request { v: protocol::VERSION, command, json, width: width(), cwd };
        let mut line = serde_json::to_vec(&request).expect("its only path is UTF-8 or left out");
        line.push(b'\n');
        // A host that refuses says why before it closes: the answer is read even if the request could not be written.
        let sent = self.stream.write_all(&line);
        loop {
            match self.reply() {
                Ok(Reply::Out(text)) => write(&mut io::stdout(), &text)?,
                Ok(Reply::Err(text)) => write(&mut io::stderr(), &text)?,
                Ok(Reply::Exit(exit)) => return Ok(exit),
                Err(error) => return Err(sent.err().map_or(error, |error| broken(&error))),
            }
        }
    }

    fn reply(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let length = self.replies.read_until(b'\n', &mut line).map_err(|error| broken(&error))?;
        if length == 0 {
            return Err(ClientError::Broken(
                "the host closed the connection before the command had ended".to_owned(),
            ));
        }
        serde_json::from_slice(&line).map_err(|error| {
            ClientError::Broken(format!(
                "what answers there is not a medusa of this version: {error}"
            ))
        })
    }
}

/// Runs the commands that are typed, line by line, until the input ends or `quit`. The exit status is that of the last one.
pub fn interactive(path: &Path) -> Result<u8, ClientError> {
    let mut client = Client::connect(path)?;
    let (input, prompt) = (io::stdin(), io::stdin().is_terminal() && io::stdout().is_terminal());
    let (mut line, mut exit) = (String::new(), protocol::DONE);
    loop {
        if prompt {
            write(&mut io::stdout(), PROMPT)?;
        }
        line.clear();
        if input.lock().read_line(&mut line).map_err(|error| broken(&error))? == 0 {
            return Ok(exit);
        }
        let words = match words::split(&line) {
            Ok(words) => words,
            Err(words::Unclosed(quote)) => {
                write(&mut io::stderr(), &format!("nothing closes the {quote} in this line\n"))?;
                exit = protocol::USAGE;
                continue;
            }
        };
        match words.first().map(String::as_str) {
            None => {}
            Some("quit" | "exit") => return Ok(exit),
            Some(_) => exit = client.run(words, false)?,
        }
    }
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

fn write(stream: &mut impl Write, text: &str) -> Result<(), ClientError> {
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

fn broken(error: &io::Error) -> ClientError {
    ClientError::Broken(format!("the connection to the host broke: {error}"))
}

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ClientError::NotRunning(sentence) | ClientError::Broken(sentence) => {
                f.write_str(sentence)
            }
            ClientError::OutputClosed => f.write_str("nobody reads the output"),
        }
    }
}

impl std::error::Error for ClientError {}
