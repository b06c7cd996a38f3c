//! What a plugin's code fails with.

use std::{fmt, io};

use medusa_abi::code::{self, Code};

/// `Result` with the SDK's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error: a sentence in lower case that says what was tried, with what, and what to do next.
///
/// Every `std::error::Error` becomes one by `?`. Nothing is lost: [`Error::source`] gives the original back. For that it is
/// not a `std::error::Error` itself; [`Error::into_boxed`] makes one.
pub struct Error {
    text: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that says `text`.
    pub fn new(text: impl Into<String>) -> Error {
        Error { text: Some(text.into()), source: None }
    }

    /// The same error, beneath a sentence that says what was being tried.
    #[must_use]
    pub fn context(self, text: impl Into<String>) -> Error {
        Error { text: Some(text.into()), source: Some(self.into_boxed()) }
    }

    /// The error beneath, if there is one.
    #[must_use]
    pub fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }

    /// The kind of the system's error beneath, if there is one: `NotFound`, `TimedOut` and so on.
    #[must_use]
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
    }

    /// The code to fail with in the host's eyes: the system's error beneath, which tells what a peer did from what went wrong here,
    /// or else [`code::FAILED`].
    pub(crate) fn code(&self) -> Code {
        self.source().and_then(code_beneath).unwrap_or(code::FAILED)
    }

    /// As a boxed `std::error::Error`.
    #[must_use]
    pub fn into_boxed(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Error { text: None, source: Some(source) } => source,
            error => Box::new(Boxed(error)),
        }
    }

    /// An error that another crate already boxed.
    pub fn from_boxed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error { text: None, source: Some(source.into()) }
    }

    /// `code` if it is a success, else what it means, beneath `what`.
    pub(crate) fn check(code: Code, what: &str) -> Result<Code> {
        if code >= 0 { Ok(code) } else { Err(Error::from(io_error(code)).context(what)) }
    }

    /// As [`Error::check`], for something that is registered under a name: `rule` says what names are like.
    pub(crate) fn check_named(code: Code, what: &str, rule: &str) -> Result<Code> {
        let why = match code {
            code::INVALID => rule,
            TAKEN => "the plugin has registered one of that name already",
            code => return Error::check(code, what),
        };
        Err(Error::new(format!("{what}: {why}")))
    }
}

/// What the host answers where a name is taken.
pub(crate) const TAKEN: Code = code::from_errno(libc::EEXIST);

/// What names of commands and services are like.
pub(crate) const IS_A_WORD: &str =
    "a name is one word of at most 64 letters, digits and the signs `-`, `_` and `.`";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.text, &self.source) {
            (Some(text), None) => f.write_str(text),
            (None, Some(source)) => write!(f, "{source}"),
            (Some(text), Some(source)) => write!(f, "{text}: {source}"),
            (None, None) => f.write_str("failed without a word"),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Error {
        Error { text: None, source: Some(Box::new(error)) }
    }
}

impl From<Error> for Box<dyn std::error::Error + Send + Sync> {
    fn from(error: Error) -> Self {
        error.into_boxed()
    }
}

/// What a host's code below zero means, as the standard library's error.
pub(crate) fn io_error(code: Code) -> io::Error {
    use io::ErrorKind as Kind;
    if let Some(errno) = code::errno(code) {
        return io::Error::from_raw_os_error(errno);
    }
    let (kind, text) = match code {
        code::PANICKED => (Kind::Other, "the code behind the call panicked"),
        code::STALE => (Kind::NotConnected, "it is no longer there, or was never this plugin's"),
        code::LIMIT => {
            (Kind::QuotaExceeded, "a limit of the host would be exceeded; its log names it")
        }
        code::WRONG_THREAD => (
            Kind::Other,
            "this is possible on the loop's thread only; use post() to speak to the plugin from another",
        ),
        code::CANCELLED => (Kind::Interrupted, "it was cancelled"),
        code::DENIED => (
            Kind::PermissionDenied,
            "the plugin's manifest does not ask for the capability; name it in export_plugin!(…, capabilities = […])",
        ),
        code::INVALID => (Kind::InvalidInput, "an argument makes no sense to the host"),
        code::GONE => (Kind::BrokenPipe, "the other side is gone"),
        code::BUSY => {
            (Kind::WouldBlock, "the other side has as much to do as it may; try again later")
        }
        code::TIMEOUT => (Kind::TimedOut, "the deadline has passed"),
        code::FAILED => (Kind::Other, "the other side failed; the host's log says why"),
        code::NOT_FOUND => (Kind::NotFound, "there is no such thing"),
        code::UNSUPPORTED => (Kind::Unsupported, "this host cannot do it"),
        _ => {
            return io::Error::other(format!(
                "the host answered {code}, which this SDK does not know"
            ));
        }
    };
    io::Error::new(kind, text)
}

fn code_beneath(error: &(dyn std::error::Error + 'static)) -> Option<Code> {
    if let Some(Boxed(error)) = error.downcast_ref() {
        return error.source().and_then(code_beneath);
    }
    let Some(error) = error.downcast_ref::<io::Error>() else {
        return error.source().and_then(code_beneath);
    };
    // Its own `source` would leave out the error that it was made of.
    code_of(error).or_else(|| error.get_ref().and_then(|inner| code_beneath(inner)))
}

/// The host's code for a system's error, by its number or by its kind.
fn code_of(error: &io::Error) -> Option<Code> {
    use io::ErrorKind as Kind;
    let errno = error.raw_os_error().filter(|errno| (1..=4095).contains(errno));
    let errno = errno.or(match error.kind() {
        // What a peer does that goes away in the middle of what it says.
        Kind::ConnectionReset | Kind::UnexpectedEof => Some(libc::ECONNRESET),
        Kind::ConnectionAborted => Some(libc::ECONNABORTED),
        Kind::BrokenPipe => Some(libc::EPIPE),
        Kind::NotConnected => Some(libc::ENOTCONN),
        Kind::TimedOut => Some(libc::ETIMEDOUT),
        Kind::Interrupted => return Some(code::CANCELLED),
        _ => None,
    })?;
    Some(code::from_errno(errno))
}

/// An [`Error`] that is a `std::error::Error`.
struct Boxed(Error);

impl std::error::Error for Boxed {}

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence_and_keeps_its_source() {
        let error = Error::from(io_error(code::from_errno(libc::ENOENT))).context("cannot open x");
        assert_eq!(error.to_string(), "cannot open x: No such file or directory (os error 2)");
        assert_eq!(error.io_kind(), Some(io::ErrorKind::NotFound));
        assert!(Error::new("no").source().is_none());
    }

    #[test]
    fn what_a_peer_did_is_told_from_what_went_wrong_here() {
        let check = |error: Error, code| assert_eq!(error.code(), code, "{error}");
        check(Error::new("no"), code::FAILED);
        check(io::Error::other("no").into(), code::FAILED);
        let reset = || Error::from(io::Error::from_raw_os_error(libc::ECONNRESET));
        check(reset(), code::from_errno(libc::ECONNRESET));
        check(reset().context("a").context("b"), code::from_errno(libc::ECONNRESET));
        check(io::Error::other(reset().into_boxed()).into(), code::from_errno(libc::ECONNRESET));
        let ended = Error::from(io::Error::from(io::ErrorKind::UnexpectedEof));
        check(ended.context("in a line"), code::from_errno(libc::ECONNRESET));
        check(io_error(code::CANCELLED).into(), code::CANCELLED);
    }
}
