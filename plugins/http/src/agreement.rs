//! The front and hyper agree. What [`Plain`] takes is the same request to the framing and to hyper, for requests that are spoilt byte
//! by byte; and whatever an extension answers, the front sends what hyper would send. A request whose head comes in two pieces is
//! hyper's, so both can be asked for the same.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, header};
use hyper::body::Incoming;
use medusa_plugin_api::{
    Body, Error, Registrar, Response, ResponseExt as _, Result, sleep,
    testing::{Host, TestConnection},
};

use crate::{
    differential::{Random, requests},
    framing::{Framing, Limits},
    plain::Plain,
};

const LIMITS: Limits =
    Limits { head_bytes_max: 400, target_bytes_max: 60, fields_max: 8, body_bytes_max: 5_000 };

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nHost: next\r\n\r\n";

const NEXT_BYTES: &str = "GET /bytes/5 HTTP/1.1\r\nHost: a\r\n\r\n";

/// What requests are spoilt with.
const BYTES: &[u8] =
    b"\r\n \t\0:;,/?#%*\\\"'@[]{}|^`~<>()=&+-._!$aAzZhHcC019\x7f\x80\xc3\xff\x0b\x0c\x1b";

const PLAIN: [&str; 6] = [
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
    "GET /a/b?c=d HTTP/1.1\r\nHost: example.org:80\r\nUser-Agent: x/1 (y)\r\nX-Empty:\r\nConnection: keep-alive\r\n\r\n",
    "HEAD / HTTP/1.1\r\nhost:a\r\n\r\n",
    "GET /? HTTP/1.1\r\nHOST: [::1]\r\nX: \t y z \t\r\nconnection:Keep-Alive\r\nCookie: a=\"b\"; c\r\nx: 2\r\nY: 3\r\nX: 4\r\n\r\n",
    "GET //%41/..?? HTTP/1.1\r\nHost:\r\nContent-Typo: t\r\nTe: x\r\nExpecs: \r\n\r\n",
    "GET /-._~!$&'()*+,;=:@ HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade2: x\r\nHosts: a\r\nHosu: b\r\n\r\n",
];

/// One letter away from being plain, or from being another message.
const SPECIAL: [&str; 7] = [
    "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// A request as its reader understood it.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    method: String,
    path: String,
    query: Option<String>,
    host: Option<String>,
    /// By name; those of one name in order.
    fields: Vec<(String, Vec<u8>)>,
}

impl Seen {
    fn new(
        [method, path]: [&str; 2],
        query: Option<&str>,
        host: Option<&str>,
        mut fields: Vec<(String, Vec<u8>)>,
    ) -> Seen {
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let (query, host) = (query.map(str::to_owned), host.map(str::to_owned));
        Seen { method: method.to_owned(), path: path.to_owned(), query, host, fields }
    }

    fn by_front(plain: &Plain, bytes: &[u8]) -> Seen {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a name is ASCII");
        let fields = plain.fields(bytes).map(|(name, value)| (text(name), value.to_vec()));
        let (query, host) = (plain.query(bytes), plain.host(bytes));
        Seen::new([plain.method(), plain.path(bytes)], query, host, fields.collect())
    }

    async fn by_hyper(request: Request<Incoming>) -> Seen {
        let (method, uri, fields) = (request.method(), request.uri(), request.headers());
        let host = fields.get(header::HOST).and_then(|host| host.to_str().ok());
        let fields =
            fields.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        let host = host.filter(|host| !host.is_empty());
        Seen::new([method.as_str(), uri.path()], uri.query(), host, fields.collect())
    }
}

/// If the front takes what `wire` begins with, framing and hyper do too, and for the same. Answers whether it does.
fn check(wire: &[u8], random: &mut Random) -> bool {
    let mut bytes = wire.to_vec();
    let Some(plain) = Plain::parse(&mut bytes, &LIMITS) else {
        assert_eq!(bytes, wire, "what is somebody else's is left as it is");
        return false;
    };
    let shown = wire.escape_ascii();
    let head = &wire[..plain.length];
    assert!(bytes.eq_ignore_ascii_case(wire), "{shown}: no more than letters are changed");
    let end = random.below(plain.length);
    assert!(Plain::parse(&mut wire[..end].to_vec(), &LIMITS).is_none(), "{shown}: half of it");
    for step in [head.len(), 1, 2 + random.below(40)] {
        let mut framing = Framing::new(LIMITS);
        for piece in head.chunks(step) {
            assert_eq!(framing.heads(), 0, "{shown}: the framing finds the end before");
            assert_eq!(framing.judge(piece), Ok(()), "{shown}");
            assert!(framing.newer_versions().is_empty(), "{shown}");
        }
        assert_eq!(framing.heads(), 1, "{shown}: the framing finds the end later");
        assert!(!framing.in_head() && !framing.in_line() && !framing.in_body(), "{shown}");
    }
    let seen = Seen::by_front(&plain, &bytes);
    let next = ("host".to_owned(), b"next".to_vec());
    let next = Seen::new(["GET", "/next"], None, Some("next"), vec![next]);
    let found = requests([head, NEXT].concat(), 1 + random.below(80), Seen::by_hyper);
    // Behind the last request, hyper looks at nothing.
    let expected = if plain.is_last { vec![seen] } else { vec![seen, next] };
    assert_eq!(found, expected, "{shown}");
    true
}

#[test]
fn what_is_plain_is_the_same_to_all_with_any_byte_changed() {
    let random = &mut Random(3);
    let mut taken = 0;
    for (request, is_plain) in
        PLAIN.map(|it| (it, true)).into_iter().chain(SPECIAL.map(|it| (it, false)))
    {
        let request = request.as_bytes();
        assert_eq!(check(request, random), is_plain, "{}", request.escape_ascii());
        for at in 0..request.len() {
            for byte in BYTES {
                let mut wire = request.to_vec();
                wire[at] = *byte;
                taken += u32::from(check(&wire, random));
                let mut wire = request.to_vec();
                wire.insert(at, *byte);
                taken += u32::from(check(&wire, random));
            }
            let mut wire = request.to_vec();
            wire.remove(at);
            taken += u32::from(check(&wire, random));
        }
    }
    assert!(taken > 10_000, "{taken} of them were taken");
}

#[test]
fn what_is_plain_is_the_same_to_all_with_several_bytes_changed() {
    let random = &mut Random(4);
    let mut taken = 0;
    for _ in 0..20_000 {
        let mut wire = random.one(&PLAIN.map(str::as_bytes)).to_vec();
        for _ in 0..1 + random.below(3) {
            let (at, byte) = (random.below(wire.len()), BYTES[random.below(BYTES.len())]);
            match random.below(4) {
                0 => wire.insert(at, byte),
                1 => drop(wire.remove(at)),
                // A line more, or its beginning.
                2 => {
                    let line =
                        random.one(&["\r\nA: b", "\r\n b", "\r\nHost: c", "\r\n", "\n", "\r"]);
                    wire.splice(at..at, line.bytes()).for_each(drop);
                }
                _ => wire[at] = byte,
            }
        }
        taken += u32::from(check(&wire, random));
    }
    assert!(taken > 2_000, "{taken} of them were taken");
}

#[test]
fn limits_are_the_same_to_front_and_framing() {
    let random = &mut Random(5);
    let mut outcomes = [0, 0];
    for target in 50..70 {
        for fields in 0..12 {
            let mut wire = format!("GET /{} HTTP/1.1\r\nHost: a\r\n", "t".repeat(target - 1));
            (1..fields).for_each(|_| wire.push_str("X: y\r\n"));
            for length in [wire.len() + 2, 398, 399, 400, 401, 402] {
                // The last field makes the head as long as that.
                let padding = length.checked_sub(wire.len() + 2 + 5);
                let last = padding.map(|padding| format!("Y: {}\r\n", "z".repeat(padding)));
                let wire = format!("{wire}{}\r\n", last.unwrap_or_default());
                let is_good = Framing::new(LIMITS).judge(wire.as_bytes()).is_ok();
                assert_eq!(check(wire.as_bytes(), random), is_good, "{wire}");
                outcomes[usize::from(is_good)] += 1;
            }
        }
    }
    assert!(outcomes.iter().all(|count| *count > 100), "{outcomes:?}");
}

/// What an extension answers.
#[derive(Clone, Default)]
struct Given {
    status: u16,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Bytes,
}

/// The server, with what its site answers next.
struct Site {
    host: Host,
    given: Rc<RefCell<Given>>,
}

impl Site {
    fn new(settings: &str) -> Site {
        let host = Host::builder(load).config(settings).start().expect("the plugin starts");
        let given = Rc::new(RefCell::new(Given::default()));
        let answered = given.clone();
        host.answer_unchecked(move |request| {
            let path = request.uri().path();
            // Some are as long as their path says.
            if let Some(length) = path.strip_prefix("/bytes/").and_then(|it| it.parse().ok()) {
                return (200, Vec::new(), vec![b'x'; length].into());
            }
            let Given { status, fields, body } = answered.borrow().clone();
            (status, fields, body)
        });
        Site { host, given }
    }

    /// All that comes until so many responses are whole, with the time moving on where they wait for it.
    fn answers(&self, conn: &mut TestConnection, asked: &[&str]) -> Vec<Answer> {
        let mut received = Vec::new();
        for _ in 0..10_000 {
            received.extend(conn.read());
            if let Some(answers) = Answer::all(&received, asked) {
                return answers;
            }
            assert!(!conn.is_ended(), "{} is all", received.escape_ascii());
            self.host.advance(Duration::from_millis(1));
        }
        panic!("{} responses do not come: {}", asked.len(), received.escape_ascii());
    }

    /// What the front answers.
    fn by_front(&self, conn: &mut TestConnection, request: &str) -> Answer {
        conn.send(request);
        self.answers(conn, &[request]).remove(0)
    }

    /// What hyper answers.
    fn by_hyper(&self, conn: &mut TestConnection, request: &str, cut: usize) -> Answer {
        conn.send(&request[..cut]);
        conn.send(&request[cut..]);
        self.answers(conn, &[request]).remove(0)
    }
}

/// The server, and an extension that is not as quick as the site.
fn load(registrar: &mut Registrar) -> Result<()> {
    crate::load(registrar)?;
    registrar.http("/own", async |mut request: medusa_plugin_api::Request| {
        Ok(match request.path_beneath() {
            "/waits" => {
                sleep(Duration::from_millis(1)).await;
                Response::text("waited\n")
            }
            "/echo" => http::Response::new(request.take_body()),
            "/empty" => http::Response::new(Body::empty()),
            "/fails" => return Err(Error::new("this one fails")),
            _ => Response::pass(),
        })
    });
    Ok(())
}

/// A response, made comparable: the order of fields of different names says nothing, nor does the time of today.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status_line: String,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Answer {
    /// The responses to these requests, if they are whole.
    ///
    /// # Panics
    /// When more follows.
    fn all(mut bytes: &[u8], asked: &[&str]) -> Option<Vec<Answer>> {
        let answers: Option<Vec<_>> =
            asked.iter().map(|request| Answer::first(&mut bytes, request)).collect();
        assert!(answers.is_none() || bytes.is_empty(), "{} is too much", bytes.escape_ascii());
        answers
    }

    fn first(bytes: &mut &[u8], request: &str) -> Option<Answer> {
        let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
        let (head, mut rest) = (&bytes[..end + 2], &bytes[end + 4..]);
        let mut lines =
            head.split(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\r"));
        let status_line = String::from_utf8_lossy(lines.next()?).into_owned();
        let mut fields: Vec<_> = lines.map(field).collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let value = |name: &str| fields.iter().find(|field| field.0 == name).map(|field| &*field.1);
        let has_body = !request.starts_with("HEAD")
            && !["HTTP/1.1 1", "HTTP/1.1 204", "HTTP/1.1 304"]
                .iter()
                .any(|it| status_line.starts_with(it));
        let body = match (value("content-length"), value("transfer-encoding")) {
            _ if !has_body => Vec::new(),
            (Some(length), None) => {
                let length = std::str::from_utf8(length).ok().and_then(|it| it.parse().ok());
                rest.split_off(..length.expect("a length is a number"))?.to_vec()
            }
            (None, Some(b"chunked")) => chunked(&mut rest)?,
            other => panic!("no length: {other:?} in {}", head.escape_ascii()),
        };
        *bytes = rest;
        Some(Answer { status_line, fields, body })
    }

    /// It is the last one on its connection.
    fn closes(&self) -> bool {
        self.fields.iter().any(|(name, value)| name == "connection" && value == b"close")
    }
}

fn field(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.windows(2).position(|it| it == b": ").expect("a line has a colon and a blank");
    let name = String::from_utf8(line[..colon].to_vec()).expect("a name is ASCII");
    let value = &line[colon + 2..];
    let time = std::str::from_utf8(value).ok().and_then(|it| httpdate::parse_http_date(it).ok());
    let is_now = time.is_some_and(|time| {
        SystemTime::now().duration_since(time).is_ok_and(|since| since < Duration::from_secs(100))
    });
    (name, if is_now { b"now".to_vec() } else { value.to_vec() })
}

fn chunked(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|it| it == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok()).expect("a size");
        let piece = rest.get(end + 2..end + 2 + size)?;
        let after = rest.get(end + 2 + size..end + 4 + size)?;
        assert_eq!(after, b"\r\n", "a chunk ends in a line end");
        body.extend(piece);
        *rest = &rest[end + 4 + size..];
        if size == 0 {
            return Some(body);
        }
    }
}

fn fields(list: &[(&[u8], &[u8])]) -> Vec<(Vec<u8>, Vec<u8>)> {
    list.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// Fields good and bad, as an extension in any language could give them.
fn all_fields() -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT".as_slice();
    vec![
        fields(&[]),
        fields(&[(b"content-type", b"text/plain"), (b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]),
        fields(&[(b"content-length", b"3")]),
        fields(&[(b"content-length", b"5"), (b"x-a", b"1")]),
        fields(&[(b"content-length", b"999999999999999999999")]),
        fields(&[(b"content-length", b"abc")]),
        fields(&[(b"content-length", b"")]),
        fields(&[(b"content-length", b"+3")]),
        fields(&[(b"content-length", b"03")]),
        fields(&[(b"content-length", b"5"), (b"content-length", b"5")]),
        fields(&[(b"content-length", b"3"), (b"content-length", b"6")]),
        fields(&[(b"connection", b"x-drop, close"), (b"x-drop", b"1"), (b"x-keep", b"2")]),
        fields(&[(b"x-drop", b"1"), (b"connection", b"keep-alive"), (b"connection", b"x-drop")]),
        fields(&[(b"connection", b"close")]),
        fields(&[
            (b"connection", b"content-type,date,server"),
            (b"content-type", b"a"),
            (b"date", date),
        ]),
        fields(&[(b"connection", b"\0"), (b"x-a", b"1")]),
        fields(&[(b"transfer-encoding", b"chunked"), (b"te", b"trailers"), (b"trailer", b"x")]),
        fields(&[(b"upgrade", b"h2c"), (b"keep-alive", b"timeout=5"), (b"proxy-connection", b"a")]),
        fields(&[(b"date", date)]),
        fields(&[(b"date", date), (b"date", b"never")]),
        fields(&[(b"date", b"\x01")]),
        fields(&[(b"server", b"own"), (b"server-build", b"own"), (b"server", b"other")]),
        fields(&[
            (b"bad name", b"1"),
            (b"", b"2"),
            (b"x:y", b"3"),
            (b"\xc3\xa4", b"4"),
            (b"x\r\ny", b"5"),
        ]),
        fields(&[
            (b"x-a", b"a\r\nb: c"),
            (b"x-n", b"\0"),
            (b"x-d", b"\x7f"),
            (b"x-l", b"a\nb"),
            (b"x-r", b"a\rb"),
        ]),
        fields(&[(b"x-t", b"\ta\t"), (b"x-b", b"  a  "), (b"x-o", b"\xff\x80"), (b"x-e", b"")]),
        fields(&[(b"X-Upper", b"1"), (b"x-Mixed", b"2"), (b"x-upper", b"3")]),
        fields(&[(b"Connection", b"x-drop"), (b"x-drop", b"1")]),
        fields(&[(b"Content-Length", b"7"), (b"Date", date), (b"Server", b"own")]),
        fields(&[(b"Transfer-Encoding", b"gzip"), (b"Keep-Alive", b"1"), (b"UPGRADE", b"x")]),
        (0..=255).map(|byte| (vec![b'x', byte], b"1".to_vec())).collect(),
        (0..=255).map(|byte| (b"x-value".to_vec(), vec![b'1', byte, b'2'])).collect(),
        (0..300)
            .map(|number| (b"set-cookie".to_vec(), format!("a={number}").into_bytes()))
            .collect(),
    ]
}

const STATUSES: [u16; 20] = [
    200, 201, 204, 205, 206, 226, 301, 304, 400, 404, 418, 431, 500, 503, 599, 600, 999, 100, 103,
    199,
];

/// Both answer the same to GET and HEAD.
fn compare(site: &Site, conns: &mut [TestConnection; 2], given: &Given, random: &mut Random) {
    *site.given.borrow_mut() = given.clone();
    for method in ["GET", "HEAD"] {
        let request = format!("{method} /given HTTP/1.1\r\nHost: a\r\n\r\n");
        let cut = 1 + random.below(request.len() - 1);
        let front = site.by_front(&mut conns[0], &request);
        let hyper = site.by_hyper(&mut conns[1], &request, cut);
        let Given { status, fields, body } = given;
        let shown: Vec<_> = fields
            .iter()
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        assert!(
            front == hyper,
            "{method} of {status} with {} bytes and {shown:#?} is\n{front:?} of the front, and\n{hyper:?} of hyper",
            body.len()
        );
    }
}

#[test]
fn half_a_head_is_hypers_and_a_whole_one_the_fronts() {
    let site = Site::new("");
    let mut conn = site.host.connect();
    let request = "GET /bytes/3 HTTP/1.1\r\nHost: a\r\n\r\n";
    // The one writes the length before the other fields of the server, the other behind them.
    let is_fronts = |response: &[u8]| {
        let at = |part: &[u8]| response.windows(part.len()).position(|it| it == part);
        at(b"content-length: 3").expect("it has one") < at(b"server: medusa").expect("it has one")
    };
    for _ in 0..2 {
        conn.send(request);
        assert!(is_fronts(&conn.read()));
        conn.send(&request[..9]);
        conn.send(&request[9..]);
        assert!(!is_fronts(&conn.read()));
        conn.send(request.repeat(2));
        assert!(is_fronts(&conn.read()));
    }
}

#[test]
fn the_front_answers_what_hyper_answers() {
    let random = &mut Random(6);
    for settings in ["", "server = \"\""] {
        let site = Site::new(settings);
        let mut conns = [site.host.connect(), site.host.connect()];
        for status in STATUSES {
            for fields in all_fields() {
                for body in ["", "xyz"].map(Bytes::from) {
                    compare(
                        &site,
                        &mut conns,
                        &Given { status, fields: fields.clone(), body },
                        random,
                    );
                }
            }
        }
        for status in [200, 204, 205, 304, 404] {
            for length in [65_535, 65_536, 65_537, 300_000] {
                let body = (0..length).map(|at: u32| at.to_le_bytes()[at as usize % 3]).collect();
                compare(&site, &mut conns, &Given { status, fields: Vec::new(), body }, random);
            }
        }
    }
}

#[test]
fn the_last_request_is_answered_alike_and_ends_the_connection() {
    let site = Site::new("health = \"/up\"");
    for (status, length) in
        [(200, 0), (200, 3), (204, 0), (304, 0), (404, 7), (200, 60_000), (200, 90_000)]
    {
        let body = vec![b'x'; length].into();
        *site.given.borrow_mut() = Given { status, fields: fields(&[(b"x-a", b"b")]), body };
        for target in ["GET /given", "HEAD /given", "GET /up", "GET /none"] {
            let request = format!("{target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let mut conns = [site.host.connect(), site.host.connect()];
            let front = site.by_front(&mut conns[0], &request);
            let hyper = site.by_hyper(&mut conns[1], &request, 9);
            assert!(
                front == hyper,
                "{request} is\n{front:?} of the front, and\n{hyper:?} of hyper"
            );
            assert!(front.closes(), "{request}: {front:?}");
            for conn in conns {
                assert!(conn.is_ended() && !conn.is_reset(), "{request}: in good order");
            }
        }
    }
}

#[test]
fn the_front_answers_what_hyper_answers_where_no_extension_does() {
    let host = Host::builder(crate::load).config("health = \"/health\"").start().unwrap();
    let site = Site { host, given: Rc::default() };
    let mut conns = [site.host.connect(), site.host.connect()];
    for path in ["/", "/health", "/health?x", "/healthy"] {
        for method in ["GET", "HEAD"] {
            let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let front = site.by_front(&mut conns[0], &request);
            assert_eq!(front, site.by_hyper(&mut conns[1], &request, 9), "{request}");
            let is_health = path.trim_end_matches("?x") == "/health";
            assert_eq!(front.status_line.contains("200"), is_health, "{request}");
        }
    }
    let requests = |name: &str| site.host.metric(name);
    assert_eq!(requests("http_requests_total"), Some(16));
    assert_eq!(requests("http_responses_2xx_total"), Some(8));
}

/// Requests of all kinds, most of them plain.
fn a_request(random: &mut Random) -> String {
    let line = |target: &str| format!("{target} HTTP/1.1\r\nHost: a\r\n\r\n");
    match random.below(20) {
        0 => line("GET /own/waits"),
        1 => line("GET /own/fails"),
        2 => line("GET /own/echo"),
        3 => line("HEAD /own/empty"),
        4 => line("HEAD /bytes/0"),
        5 => line("GET /bytes/65537"),
        6 => line("GET /bytes/30000"),
        7 => {
            let body = "b".repeat(random.below(3_000));
            format!("POST /own/echo HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        8 => "POST /own/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into(),
        9 => "POST /bytes/7 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nunrea".into(),
        10 => line("HEAD /bytes/700"),
        length => line(&format!("GET /bytes/{}", length * length)),
    }
}

/// What each of the requests is answered when it comes alone, by hyper.
fn alone(site: &Site, asked: &[&str]) -> Vec<Answer> {
    let mut conn = site.host.connect();
    asked.iter().map(|request| site.by_hyper(&mut conn, request, 3)).collect()
}

#[test]
fn pipelines_are_answered_in_order_and_whole() {
    let random = &mut Random(7);
    let site = Site::new("");
    for count in [1, 2, 3, 63, 64, 65, 128, 129, 200] {
        for round in 0..6 {
            let requests: Vec<_> = (0..count)
                .map(|number| match round {
                    // All plain, of known kinds.
                    0 => format!("GET /bytes/{number} HTTP/1.1\r\nHost: a\r\n\r\n"),
                    1 => format!("GET /bytes/{} HTTP/1.1\r\nHost: a\r\n\r\n", 10_000 + number),
                    _ => a_request(random),
                })
                .collect();
            let asked: Vec<&str> = requests.iter().map(String::as_str).collect();
            let expected = alone(&site, &asked);
            let mut conn = site.host.connect();
            let bytes = requests.concat();
            let cut = random.below(bytes.len());
            match round {
                0..3 => conn.send(bytes),
                _ => [&bytes[..cut], &bytes[cut..]].into_iter().for_each(|piece| conn.send(piece)),
            }
            let found = site.answers(&mut conn, &asked);
            assert!(found == expected, "{count} requests, cut at {cut}: {requests:#?}\n{found:?}");
            assert!(!conn.is_closed());
        }
    }
}

#[test]
fn a_pipeline_of_all_kinds_is_answered_the_same_wherever_it_is_cut() {
    let site = Site::new("");
    let requests = [
        "GET /own/waits HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /bytes/7 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /own/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
        "HEAD /bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /bytes/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "\r\nGET /own/waits HTTP/1.2\r\nHost: a\r\n\r\n",
        "POST /own/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n",
        "GET /bytes/300 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /bytes/1 HTTP/1.1\r\nHost: a\r\n\r\n",
    ];
    let expected = alone(&site, &requests);
    let bytes = requests.concat();
    for cut in 0..bytes.len() {
        // Where it waits, time passes, which takes some here too.
        for waits_between in [false, cut % 4 == 0] {
            let mut conn = site.host.connect();
            conn.send(&bytes[..cut]);
            let mut received = Vec::new();
            if waits_between {
                site.host.advance(Duration::from_millis(5));
                received = conn.read();
            }
            conn.send(&bytes[cut..]);
            let found = (0..100).find_map(|_| {
                received.extend(conn.read());
                let found = Answer::all(&received, &requests);
                site.host.advance(Duration::from_millis(1));
                found
            });
            assert_eq!(found.as_ref(), Some(&expected), "cut at {cut}, {waits_between}");
            assert!(!conn.is_closed());
            conn.close();
            site.host.run();
        }
    }
}

/// Requests of all kinds, as they may stand one behind the other.
const MIXED: [&str; 9] = [
    "GET /bytes/7 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /own/waits HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /own/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nGET /",
    "HEAD /bytes/9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /bytes/3 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "\r\nGET /own/waits HTTP/1.2\r\nHost: a\r\n\r\n",
    "POST /own/echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n",
    "GET /own/empty HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /bytes/300 HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[test]
fn a_pipeline_is_answered_the_same_wherever_it_is_handed_over() {
    let site = Site::new("");
    let expected = alone(&site, &MIXED);
    let bytes = MIXED.concat();
    for cut in 0..=bytes.len() {
        // The rest comes to the old generation while it hands over, or to the new one; or the old one has had time before.
        for (is_new, has_time) in [(true, true), (false, true), (false, false)] {
            let mut conn = site.host.connect();
            conn.send(&bytes[..cut]);
            if has_time {
                site.host.advance(Duration::from_millis(5));
            }
            let mut received = conn.read();
            site.host.hand_over().expect("nothing of it fails");
            let mut sent = cut;
            if !is_new {
                conn.send(&bytes[cut..]);
                sent = bytes.len();
            }
            // A request in flight is answered where it is. If it is not whole, so much more of it comes.
            while !site.host.is_at_rest() {
                site.host.advance(Duration::from_millis(5));
                received.extend(conn.read());
                if !site.host.is_at_rest() {
                    assert!(sent < bytes.len(), "cut at {cut}: nothing is in flight for ever");
                    conn.send(&bytes[sent..=sent]);
                    sent += 1;
                }
            }
            site.host.upgrade(load).expect("it is the same plugin");
            conn.send(&bytes[sent..]);
            let found = (0..100).find_map(|_| {
                received.extend(conn.read());
                site.host.advance(Duration::from_millis(1));
                Answer::all(&received, &MIXED)
            });
            let shown = || received.escape_ascii().to_string();
            assert_eq!(found.as_ref(), Some(&expected), "cut at {cut}, {is_new}: {}", shown());
            assert!(!conn.is_closed());
            conn.close();
            site.host.run();
        }
    }
}

#[test]
fn a_pipeline_is_answered_to_its_end_though_its_client_has_ended_its_half() {
    let site = Site::new("");
    let waits = "GET /own/waits HTTP/1.1\r\nHost: a\r\n\r\n";
    for requests in [vec![waits; 3], vec![waits, NEXT_BYTES, waits, NEXT_BYTES]] {
        let expected = alone(&site, &requests);
        let mut conn = site.host.connect();
        conn.send(requests.concat());
        conn.shutdown();
        assert_eq!(site.answers(&mut conn, &requests), expected);
        site.host.advance(Duration::from_millis(1));
        assert!(conn.is_ended() && !conn.is_reset(), "in good order");
    }
}

#[test]
fn a_slow_reader_gets_all_of_a_pipeline() {
    let random = &mut Random(8);
    let site = Site::new("");
    for _ in 0..30 {
        let requests: Vec<_> = (0..1 + random.below(150)).map(|_| a_request(random)).collect();
        let asked: Vec<&str> = requests.iter().map(String::as_str).collect();
        let expected = alone(&site, &asked);
        let mut conn = site.host.connect();
        conn.send(requests.concat());
        let mut received = Vec::new();
        while Answer::all(&received, &asked).is_none() {
            // Time moves on only when there is nothing to read.
            received.extend(conn.read_exact(1));
            received.extend(conn.read_at_most(random.below(40_000)));
        }
        assert_eq!(Answer::all(&received, &asked), Some(expected), "{requests:#?}");
        assert!(!conn.is_closed());
    }
}

#[test]
fn draining_loses_nothing_of_a_pipeline() {
    let random = &mut Random(9);
    for round in 0..40 {
        let site = Site::new("");
        let requests: Vec<_> = (0..1 + random.below(150))
            .map(|_| match round % 2 {
                0 => format!("GET /bytes/{} HTTP/1.1\r\nHost: a\r\n\r\n", random.below(5_000)),
                _ => a_request(random),
            })
            .collect();
        let asked: Vec<&str> = requests.iter().map(String::as_str).collect();
        let expected = alone(&site, &asked);
        let mut conn = site.host.connect();
        conn.send(requests.concat());
        let before = conn.read_at_most(random.below(100_000));
        site.host.drain(Duration::from_secs(60));
        let mut received = before;
        for _ in 0..1_000 {
            received.extend(conn.read());
            if conn.is_ended() {
                break;
            }
            site.host.advance(Duration::from_millis(10));
        }
        assert!(conn.is_ended() && !conn.is_reset(), "in good order");
        let found = Answer::all(&received, &asked);
        let mut found = found.unwrap_or_else(|| panic!("all of {} are answered", asked.len()));
        let closing = found.iter().position(Answer::closes);
        if let Some(at) = closing {
            assert_eq!(at, found.len() - 1, "only the last one says so");
            found[at].fields.retain(|(name, _)| name != "connection");
        }
        assert!(found == expected, "{requests:#?}");
    }
}

#[test]
fn the_last_request_of_a_connection_says_so_wherever_it_stands() {
    let random = &mut Random(10);
    let site = Site::new("requests_max = 70");
    for _ in 0..20 {
        let requests: Vec<_> = (0..100).map(|_| a_request(random)).collect();
        let asked: Vec<&str> = requests.iter().map(String::as_str).collect();
        let mut conn = site.host.connect();
        let first = random.below(70);
        conn.send(asked[..first].concat());
        site.answers(&mut conn, &asked[..first]);
        conn.send(asked[first..].concat());
        let found = site.answers(&mut conn, &asked[first..70]);
        let closing: Vec<_> = found.iter().map(Answer::closes).collect();
        assert_eq!(closing.iter().position(|it| *it), Some(70 - first - 1), "{first} came before");
        conn.shutdown();
        assert!(conn.is_ended() && !conn.is_reset());
    }
}
