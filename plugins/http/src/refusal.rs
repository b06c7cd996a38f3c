//! Why a request is refused before any handler sees it, with the status that says so.

/// A reason to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// A line of the head ends in LF alone.
    BareLf,
    /// A CR that no LF follows.
    BareCr,
    /// A field goes on in the next line (RFC 9112 section 5.2).
    ObsFold,
    /// More than a few empty lines before the request line.
    EmptyLines,
    /// Not `method SP target SP version`.
    RequestLine,
    /// hyper finds the head malformed: a method, a name, a value or a target that is none.
    Malformed,
    /// The target has a byte that no URI has, or is of no form that a request may use.
    Target,
    /// Not HTTP/1.
    Version,
    /// The target is longer than the limit.
    TargetTooLong,
    /// The head is longer than the limit.
    HeadTooLong,
    /// More fields than the limit.
    TooManyFields,
    /// HTTP/1.1 without `Host`.
    NoHost,
    /// More than one `Host`.
    ManyHosts,
    /// A `Host` that is none.
    BadHost,
    /// `Content-Length` is not one number.
    Length,
    /// `Content-Length` more than once.
    ManyLengths,
    /// `Content-Length` together with `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` in HTTP/1.0.
    CodingInOldVersion,
    /// The last transfer coding is not `chunked`, or `chunked` is applied twice.
    CodingNotChunked,
    /// A transfer coding besides `chunked`.
    CodingUnknown,
    /// An expectation other than `100-continue`.
    Expectation,
    /// The body is longer than the limit.
    BodyTooLong,
    /// The chunks of the body are malformed.
    Chunk,
    /// The input ended before the body was whole.
    BodyCut,
    /// A line of the trailers is no field.
    Trailer,
    /// More trailers than there may be header fields, or longer ones than a head may be.
    TrailersTooLong,
    /// The head did not come in time.
    HeadTimeout,
    /// The body did not come in time.
    BodyTimeout,
    /// The instance has as many connections as it may.
    TooManyConnections,
}

impl Refusal {
    /// The status of the response.
    pub(crate) fn status(self) -> u16 {
        match self {
            Refusal::HeadTimeout | Refusal::BodyTimeout => 408,
            Refusal::BodyTooLong => 413,
            Refusal::TargetTooLong => 414,
            Refusal::Expectation => 417,
            Refusal::HeadTooLong | Refusal::TooManyFields | Refusal::TrailersTooLong => 431,
            Refusal::CodingUnknown => 501,
            Refusal::TooManyConnections => 503,
            Refusal::Version => 505,
            _ => 400,
        }
    }

    /// What the page says: one sentence for whoever wrote the client.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Refusal::BareLf => "A line of the request's head ends in LF without CR before it.",
            Refusal::BareCr => "The request's head has a CR that no LF follows.",
            Refusal::ObsFold => {
                "A header field is continued on the next line, which HTTP/1.1 has given up."
            }
            Refusal::EmptyLines => "There are too many empty lines before the request.",
            Refusal::RequestLine => {
                "The first line is not a method, a target and a version with one blank between them."
            }
            Refusal::Malformed => {
                "The request's method, its target or one of its header fields has characters that cannot stand there."
            }
            Refusal::Target => "The target of the request is not one that a request can have.",
            Refusal::Version => "This server speaks HTTP/1.1 and HTTP/1.0.",
            Refusal::TargetTooLong => "The target of the request is too long.",
            Refusal::HeadTooLong => "The head of the request is too long.",
            Refusal::TooManyFields => "The request has too many header fields.",
            Refusal::NoHost => "The request has no Host field.",
            Refusal::ManyHosts => "The request has more than one Host field.",
            Refusal::BadHost => "The request's Host field is not a host.",
            Refusal::Length => "The request's Content-Length is not a number.",
            Refusal::ManyLengths => "The request has more than one Content-Length.",
            Refusal::LengthAndCoding => {
                "The request has both a Content-Length and a Transfer-Encoding."
            }
            Refusal::CodingInOldVersion => "A request of HTTP/1.0 cannot have a Transfer-Encoding.",
            Refusal::CodingNotChunked => {
                "The request's last transfer coding must be chunked, once."
            }
            Refusal::CodingUnknown => "The only transfer coding that this server knows is chunked.",
            Refusal::Expectation => {
                "The only expectation that this server can meet is 100-continue."
            }
            Refusal::BodyTooLong => "The body of the request is too long.",
            Refusal::Chunk => "The body of the request is not made of chunks as it says.",
            Refusal::BodyCut => "The body of the request ends before it is whole.",
            Refusal::Trailer => "A line after the body of the request is not a trailer field.",
            Refusal::TrailersTooLong => {
                "The request has too many trailer fields, or they are too long."
            }
            Refusal::HeadTimeout => "The head of the request did not come in time.",
            Refusal::BodyTimeout => "The body of the request did not come in time.",
            Refusal::TooManyConnections => {
                "The server has as many connections as it can take. Please try again soon."
            }
        }
    }
}
