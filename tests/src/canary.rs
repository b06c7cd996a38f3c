//! A connection to `echo` that has to be served all the while.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::Server;

/// How long an answer may take; whoever blocks the loop for longer is found out.
const PATIENCE: Duration = Duration::from_secs(20);

/// An open connection to an instance of `echo`, which must answer whatever else goes wrong.
pub struct Canary {
    stream: TcpStream,
    sung: u32,
}

impl Canary {
    /// The instance of `echo` to put into a server's configuration; it is called `canary`.
    pub const CONFIGURATION: &str =
        "[[plugin]]\nname = \"canary\"\nlibrary = \"echo\"\nlisten = [\"127.0.0.1:0\"]\n";

    /// Connects to the instance `canary` of a server, and hears it sing.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn of(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address("canary"))
            .unwrap_or_else(|error| panic!("the canary takes no connection: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        let mut canary = Self { stream, sung: 0 };
        canary.sings();
        canary
    }

    /// Sends a line and expects it back, on the old connection.
    ///
    /// # Panics
    ///
    /// When anything else comes, or nothing.
    #[track_caller]
    pub fn sings(&mut self) {
        self.sung += 1;
        let line = format!("song {}\n", self.sung);
        let mut heard = vec![0; line.len()];
        let echoed = self
            .stream
            .write_all(line.as_bytes())
            .and_then(|()| self.stream.read_exact(&mut heard));
        echoed.unwrap_or_else(|error| panic!("the canary is silent at `{line}`: {error}"));
        assert_eq!(String::from_utf8_lossy(&heard), line);
    }
}
