//! The pages that say what went wrong: short, plain, readable in light and dark and on a small screen.

use bytes::Bytes;
use http::StatusCode;

/// The body of an error: `status` as a heading and one sentence.
pub(crate) fn html(status: StatusCode, sentence: &str) -> Bytes {
    let (code, reason) = (status.as_str(), status.canonical_reason().unwrap_or("Error"));
    let mut page = String::with_capacity(900);
    for part in [
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>",
        code,
        " ",
        reason,
        "</title><style>:root{color-scheme:light dark}\
         body{font:1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:18vh auto 0;padding:0 1.25rem}\
         h1{font-size:1.5rem;font-weight:600;margin:0 0 .5rem}\
         h1 b{font-weight:300;margin-right:.5rem;opacity:.6}p{margin:0}</style></head>\n<body><h1><b>",
        code,
        "</b>",
        reason,
        "</h1><p>",
        sentence,
        "</p></body></html>\n",
    ] {
        page.push_str(part);
    }
    page.into()
}

/// What a page says when nothing more is known than the status.
pub(crate) fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 => "There is nothing here.",
        405 => "What was asked for cannot be done here.",
        500 => "The server failed at this request. The fault is not yours.",
        501 => "The server does not know how to do that.",
        502 => "What stands behind the server answered nonsense.",
        503 => "The server cannot answer this just now. Please try again soon.",
        504 => "The answer took too long.",
        _ => "The request could not be answered.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_whole() {
        let page = html(StatusCode::NOT_FOUND, sentence(StatusCode::NOT_FOUND));
        let page = std::str::from_utf8(&page).unwrap();
        assert!(page.contains("<title>404 Not Found</title>"));
        assert!(page.contains("<p>There is nothing here.</p>") && page.ends_with("</html>\n"));
    }
}
