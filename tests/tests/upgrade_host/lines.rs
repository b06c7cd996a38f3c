//! A client of lines.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};

use crate::PATIENCE;

/// What a client of a server that speaks lines has in its hands.
pub(crate) struct Lines(BufReader<Box<dyn Both>>);

trait Both: Read + Write {}

impl<T: Read + Write> Both for T {}

impl Lines {
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr) -> Lines {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        Lines(BufReader::new(Box::new(stream)))
    }

    #[track_caller]
    pub(crate) fn connect_unix(path: &Path) -> Lines {
        let stream = UnixStream::connect(path).expect("somebody listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time above zero is taken");
        Lines(BufReader::new(Box::new(stream)))
    }

    #[track_caller]
    pub(crate) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).expect("the server takes it");
    }

    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut said = String::new();
        self.0.read_line(&mut said).expect("the server answers");
        assert!(said.ends_with('\n'), "the server has closed, after {said:?}");
        said.pop();
        said
    }

    #[track_caller]
    pub(crate) fn reads(&mut self, line: &str) {
        assert_eq!(self.line(), line);
    }

    #[track_caller]
    pub(crate) fn says(&mut self, line: &str, answer: &str) {
        self.send(&format!("{line}\n"));
        self.reads(answer);
    }

    /// Reads to the end of the input, which is to come.
    #[track_caller]
    pub(crate) fn has_ended(&mut self) {
        let mut rest = String::new();
        assert_eq!(self.0.read_line(&mut rest).expect("it ends in good order"), 0, "{rest}");
    }
}
