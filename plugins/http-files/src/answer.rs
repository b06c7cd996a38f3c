//! From a request to a response.

use std::{
    future::Future,
    io::{self, ErrorKind},
    pin::pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use medusa_plugin_api::{
    Body, Error, File, FileInfo, Permit, Request, Response, ResponseExt, Result, build_id,
};

use crate::{
    conditional::{self, Outcome, Validators},
    etag, multipart, page,
    parts::Parts,
    path::{self, NoTarget, Target},
    range::{self, Selection},
    site::{Found, Site},
};

/// The methods that a file knows.
const ALLOW: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");

/// The build's name, for tests that alternate builds.
const BUILD: &str = build_id!();

/// The fields that conditional.rs and range.rs look at.
static CONDITIONS: [&str; 6] =
    ["if-none-match", "if-modified-since", "range", "if-match", "if-unmodified-since", "if-range"];

/// Answers a request, or passes it on if there is no such file.
pub(crate) async fn answer(request: Request, site: &Rc<Site>) -> Result<Response> {
    // Not `path_beneath`: the root's own path may lack its slash too.
    let beneath = request.path().strip_prefix(request.mount()).unwrap_or("/");
    let mut response = match path::target(beneath, site.dot_files) {
        Err(NoTarget::NotFound) => return Ok(Response::pass()),
        Err(NoTarget::Malformed) => {
            let sentence = "The path has a % that two hexadecimal digits do not follow.";
            notice(StatusCode::BAD_REQUEST, sentence)
        }
        Ok(target) => match site.find(&target).await {
            Ok(Found::Nothing) => return Ok(Response::pass()),
            Ok(Found::Forbidden) => {
                notice(StatusCode::FORBIDDEN, "The server may not read this file.")
            }
            Ok(found) => {
                let file = match &found {
                    Found::File(file, _) if request.method_str() == "GET" => Some(file.info()),
                    _ => None,
                };
                let response = found_answer(request, found, site)?;
                match file {
                    Some(file) => reusable(response, file, target, site),
                    None => response,
                }
            }
            Err(error) if is_want(&error) => {
                tracing::warn!("a file cannot be opened now: {error}");
                let sentence =
                    "The server has too many files open just now. Please try again soon.";
                notice(StatusCode::SERVICE_UNAVAILABLE, sentence)
            }
            Err(error) => return Err(error.into()),
        },
    };
    if !BUILD.is_empty() {
        response.headers_mut().insert("x-medusa-build", HeaderValue::from_static(BUILD));
    }
    Ok(response)
}

/// Allows a response to be given again for as long as its path leads to the same file, unchanged.
fn reusable(response: Response, file: FileInfo, target: Target, site: &Rc<Site>) -> Response {
    // Others depend on the time of day, or are made of more than a file.
    let is_good = match response.status() {
        StatusCode::OK | StatusCode::NOT_MODIFIED => {
            site.now_if_before(conditional::whole_seconds(file.modified_ns())).is_none()
        }
        _ => false,
    };
    if !is_good {
        return response;
    }
    let (found_in, version) = (site.clone(), version(file));
    let check = move || match at_once(found_in.find(&target)) {
        Some(Ok(Found::File(found, _))) => self::version(found.info()) == version,
        _ => false,
    };
    let check_every = site.check_every;
    response.reusable(Permit::new(check).check_every(check_every).depends_on(&CONDITIONS))
}

/// What changes with a file's content, or with the file.
fn version(file: FileInfo) -> (u64, i64, i64, (u64, u64)) {
    (file.size(), file.modified_ns(), file.changed_ns(), file.device_and_inode())
}

/// What a future comes to without waiting.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// Whether an error says only that the server is short of something for the time being: files, memory, threads.
fn is_want(error: &io::Error) -> bool {
    // ENOMEM, ENFILE, EMFILE: not all have a stable name in `ErrorKind`.
    const WANT: [i32; 3] = [12, 23, 24];
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::QuotaExceeded)
        || error.raw_os_error().is_some_and(|number| WANT.contains(&number))
}

fn found_answer(request: Request, found: Found, site: &Site) -> Result<Response> {
    let is_head = match request.method_str() {
        "GET" => false,
        "HEAD" => true,
        "OPTIONS" => {
            return Ok(allowing(http::Response::new(Body::empty()), StatusCode::NO_CONTENT));
        }
        _ => {
            let response =
                notice(StatusCode::METHOD_NOT_ALLOWED, "Files can be read here, and no more.");
            return Ok(allowing(response, StatusCode::METHOD_NOT_ALLOWED));
        }
    };
    match found {
        Found::File(file, content_type) => file_answer(request, file, &content_type, site, is_head),
        Found::Listing(found) => listing(&request, found, is_head),
        Found::Folder | Found::Forbidden | Found::Nothing => with_slash(&request),
    }
}

fn allowing(response: Response, status: StatusCode) -> Response {
    let mut response = response.with_status(status);
    response.headers_mut().insert(header::ALLOW, ALLOW);
    response
}

fn notice(status: StatusCode, sentence: &str) -> Response {
    let reason = status.canonical_reason().unwrap_or("Error");
    Response::text(page::notice(status.as_u16(), reason, sentence)).with_status(status)
}

/// The folder's own path ends in a slash, for what it links to is beneath it. A path without host and port is right
/// whatever name and port the client came by.
fn with_slash(request: &Request) -> Result<Response> {
    let query = request.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = format!("{}/{query}", request.path());
    let sentence = format!("The folder is at {location}");
    notice(StatusCode::PERMANENT_REDIRECT, &sentence).with_header("location", &location)
}

fn listing(request: &Request, found: page::Listing, is_head: bool) -> Result<Response> {
    let shown = percent_encoding::percent_decode_str(request.path()).decode_utf8_lossy();
    let page = page::listing(&shown, found, request.path() != "/");
    let length = page.len();
    let mut response = Response::html(page).with_header("cache-control", "no-cache")?;
    if is_head {
        *response.body_mut() = Body::empty();
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

fn file_answer(
    request: Request,
    file: File,
    content_type: &str,
    site: &Site,
    is_head: bool,
) -> Result<Response> {
    let info = file.info();
    let (size, modified) = (info.size(), conditional::whole_seconds(info.modified_ns()));
    let etag = etag::make(size, info.modified_ns(), info.device_and_inode().1);
    let mut response = http::Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(header::ETAG, value(&etag)?);
    // RFC 9110 section 8.8.2.1: not later than the response.
    let now = site.now_if_before(modified);
    let last_modified = httpdate::fmt_http_date(now.unwrap_or(modified));
    headers.insert(header::LAST_MODIFIED, value(&last_modified)?);
    if let Some(cache_control) = &site.cache_control {
        headers.insert(header::CACHE_CONTROL, cache_control.clone());
    }
    let selection = if CONDITIONS.iter().all(|name| request.header_bytes(name).is_none()) {
        Selection::Whole
    } else {
        let method = if is_head { Method::HEAD } else { Method::GET };
        let file = Validators { etag: &etag, modified, is_in_future: now.is_some() };
        let fields = request.into_http().into_parts().0.headers;
        match conditional::evaluate(&method, &fields, file) {
            Outcome::NotModified => return Ok(response.with_status(StatusCode::NOT_MODIFIED)),
            Outcome::Failed => {
                let sentence = "The file is not as the request supposes.";
                return Ok(notice(StatusCode::PRECONDITION_FAILED, sentence));
            }
            Outcome::Proceed => select(&fields, file, size, site, is_head),
        }
    };
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    send(response, file, content_type, selection, site, is_head)
}

/// Which part of the file is asked for. Only GET has ranges (RFC 9110 section 14.2).
fn select(
    fields: &HeaderMap,
    file: Validators<'_>,
    size: u64,
    site: &Site,
    is_head: bool,
) -> Selection {
    let mut ranges = fields.get_all(header::RANGE).iter();
    match (ranges.next(), ranges.next()) {
        (Some(range), None)
            if !is_head && conditional::range_counts(fields, file, SystemTime::now()) =>
        {
            range::select(range.as_bytes(), size, site.ranges_max)
        }
        _ => Selection::Whole,
    }
}

fn send(
    mut response: Response,
    file: File,
    content_type: &str,
    selection: Selection,
    site: &Site,
    is_head: bool,
) -> Result<Response> {
    let size = file.info().size();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, value(content_type)?);
    match selection {
        Selection::Whole if is_head => {
            headers.insert(header::CONTENT_LENGTH, size.into());
        }
        Selection::Whole => *response.body_mut() = Body::file(file, 0, size),
        Selection::One(span) => {
            let content_range = multipart::content_range(span, size);
            headers.insert(header::CONTENT_RANGE, value(&content_range)?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = Body::file(file, span.start, span.length);
        }
        Selection::Many(spans) => {
            let frame = multipart::frame(&spans, size, content_type, multipart::new_boundary());
            let content_type = format!("multipart/byteranges; boundary={}", frame.boundary);
            headers.insert(header::CONTENT_TYPE, value(&content_type)?);
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = Body::wrap(Parts::new(file, frame, spans, site.piece_bytes));
        }
        Selection::Unsatisfiable => {
            let sentence = format!("The file has {size} bytes, none of which are in the range.");
            return notice(StatusCode::RANGE_NOT_SATISFIABLE, &sentence)
                .with_header("content-range", &format!("bytes */{size}"));
        }
    }
    Ok(response)
}

fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text)
        .map_err(|_| Error::new(format!("{text:?} cannot stand in a header field")))
}
