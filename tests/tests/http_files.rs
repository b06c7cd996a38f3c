//! Files over HTTP: byte for byte, by ranges, under conditions; folders and their listings.

use std::{
    ffi::{CString, OsStr},
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use medusa_tests::{Client, Folder, Response, Server, exchange, tool};

const SITE: &str = r#"
[[plugin]]
name = "web"
library = "http"
listen = ["127.0.0.1:0"]

[[plugin]]
name = "site"
library = "http-files"
attach = "web"
path = "/"
[plugin.config]
root = "site"
cache_control = "max-age=60"
check_every = "0 s"

[[plugin]]
name = "listed"
library = "http-files"
attach = "web"
path = "/listed"
[plugin.config]
root = "site"
listing = true
symlinks = "none"
"#;

/// A file in which every place can be told from every other.
fn numbers() -> Vec<u8> {
    (0..40_000u32).flat_map(u32::to_be_bytes).collect()
}

fn server() -> Server {
    let folder = Folder::new()
        .with("site/index.html", "<p>home</p>")
        .with("site/numbers.bin", numbers())
        .with("site/text.txt", "0123456789")
        .with("site/empty", "")
        .with("site/sub/index.html", "<p>sub</p>")
        .with("site/dir/a b&c.txt", "amp")
        .with("site/dir/.hidden", "hidden")
        .with("site/dir/deeper/x", "x")
        .with("site/.well-known/token", "well known");
    let latin = folder.path("site/dir").join(OsStr::from_bytes(b"caf\xe9"));
    fs::write(latin, "latin").expect("a name of any bytes can be written");
    std::os::unix::fs::symlink("text.txt", folder.path("site/link")).expect("a link can be made");
    let fifo =
        CString::new(folder.path("site/fifo").as_os_str().as_bytes()).expect("no NUL in a path");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        fifo.as_c_str(),
        rustix::fs::FileType::Fifo,
        0o644.into(),
        0,
    )
    .expect("a FIFO can be made");
    folder.start(SITE)
}

fn client(server: &Server) -> Client {
    Client::connect(server.address("web"))
}

fn ranged(client: &mut Client, range: &str) -> Response {
    client.get_with("/numbers.bin", &format!("Range: {range}\r\n"))
}

#[test]
fn files_come_byte_for_byte() {
    let server = server();
    let mut client = client(&server);
    let response = client.get("/numbers.bin");
    assert_eq!(response.status, 200);
    assert!(response.body == numbers(), "the file should come as it is");
    assert_eq!(response.header("content-length"), Some("160000"));
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    assert_eq!(response.header("accept-ranges"), Some("bytes"));
    assert_eq!(response.header("cache-control"), Some("max-age=60"));
    assert_eq!(client.get("/empty").body, b"");
    assert_eq!(client.get("/text.txt").header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(client.get("/").text(), "<p>home</p>");
    assert_eq!(client.get("/sub/").text(), "<p>sub</p>");
    assert_eq!(client.get("/link").text(), "0123456789");
    assert_eq!(client.get("/.well-known/token").text(), "well known");
}

#[test]
fn head_is_get_without_the_body() {
    let server = server();
    let mut client = client(&server);
    let (get, head) = (client.get("/text.txt"), client.head("/text.txt"));
    for name in ["content-length", "content-type", "etag", "last-modified", "accept-ranges"] {
        assert!(get.header(name).is_some() && get.header(name) == head.header(name), "{name}");
    }
    assert_eq!(client.get("/text.txt").text(), "0123456789");
}

#[test]
fn single_ranges_are_exact() {
    let server = server();
    let (mut client, numbers) = (client(&server), numbers());
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 159_999),
        ("bytes=159999-", 159_999, 159_999),
        ("bytes=-1", 159_999, 159_999),
        ("bytes=-500000", 0, 159_999),
        ("bytes=70000-130000", 70_000, 130_000),
        ("bytes=100-999999", 100, 159_999),
        ("bytes=0-10,5-20", 0, 20),
    ] {
        let response = ranged(&mut client, range);
        assert_eq!(response.status, 206, "{range}");
        assert_eq!(
            response.header("content-range"),
            Some(format!("bytes {first}-{last}/160000").as_str())
        );
        assert!(response.body == numbers[first..=last], "{range}");
    }
    for range in ["bytes=a", "lines=0-1", "bytes=5-1", "bytes=0-0, 1000-1000,x"] {
        let response = ranged(&mut client, range);
        assert_eq!((response.status, response.body.len()), (200, 160_000), "{range}");
    }
    let response = ranged(&mut client, "bytes=160000-");
    assert_eq!((response.status, response.header("content-range")), (416, Some("bytes */160000")));
    let many = (0..100).map(|n| format!("{}-{}", n * 1000, n * 1000)).collect::<Vec<_>>().join(",");
    assert_eq!(ranged(&mut client, &format!("bytes={many}")).status, 200);
    client.send("HEAD /numbers.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n");
    assert_eq!(client.head_response().status, 200);
}

#[test]
fn several_ranges_come_as_parts() {
    let server = server();
    let (mut client, numbers) = (client(&server), numbers());
    let response = ranged(&mut client, "bytes=0-9,100000-155555,-3");
    assert_eq!(response.status, 206);
    let content_type = response.header("content-type").expect("a multipart response has a type");
    let boundary =
        content_type.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let mut expected = Vec::new();
    for (first, last) in [(0, 9), (100_000, 155_555), (159_997, 159_999)] {
        expected.extend_from_slice(
            format!(
                "\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\ncontent-range: bytes {first}-{last}/160000\r\n\r\n"
            )
            .as_bytes(),
        );
        expected.extend_from_slice(&numbers[first..=last]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(response.body == expected, "the parts should be exact");
    assert_eq!(client.get("/text.txt").text(), "0123456789");
}

#[test]
fn conditions_are_obeyed() {
    let server = server();
    let mut client = client(&server);
    let first = client.get("/text.txt");
    let etag = first.header("etag").expect("a file has a tag").to_owned();
    let modified = first.header("last-modified").expect("a file has a time").to_owned();
    assert!(etag.starts_with('"'), "the tag is strong: {etag}");
    let mut status = |fields: String| client.get_with("/text.txt", &fields).status;
    assert_eq!(status(format!("If-None-Match: {etag}\r\n")), 304);
    assert_eq!(status(format!("If-None-Match: \"x\", W/{etag}\r\n")), 304);
    assert_eq!(status("If-None-Match: \"x\"\r\n".into()), 200);
    assert_eq!(status(format!("If-Modified-Since: {modified}\r\n")), 304);
    assert_eq!(status(format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {modified}\r\n")), 200);
    assert_eq!(status("If-Match: \"x\"\r\n".into()), 412);
    assert_eq!(status(format!("If-Match: {etag}\r\n")), 200);
    assert_eq!(status("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n".into()), 412);
    assert_eq!(status(format!("Range: bytes=0-1\r\nIf-Range: {etag}\r\n")), 206);
    assert_eq!(status("Range: bytes=0-1\r\nIf-Range: \"x\"\r\n".into()), 200);
    let not_modified = client.get_with("/text.txt", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!(not_modified.header("etag"), Some(etag.as_str()));

    server.folder().write("site/text.txt", "9876543210");
    let response = client.get_with("/text.txt", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((response.status, response.text()), (200, "9876543210"));
}

#[test]
fn a_304_ends_with_its_head() {
    let server = server();
    let request =
        "GET /text.txt HTTP/1.1\r\nHost: a\r\nIf-None-Match: *\r\nConnection: close\r\n\r\n";
    let answer = exchange(server.address("web"), request);
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 304 ") && !answer.contains("content-length"), "{answer}");
    let end = answer.find("\r\n\r\n").expect("a head ends in an empty line");
    assert_eq!(end + 4, answer.len(), "nothing follows the head: {answer}");
}

#[test]
fn a_file_from_the_future_is_as_old_as_the_response() {
    let server = server();
    let mut client = client(&server);
    let file = fs::File::options().write(true).open(server.folder().path("site/text.txt"));
    let in_2100 = UNIX_EPOCH + Duration::from_secs(4_102_444_800);
    file.and_then(|file| file.set_modified(in_2100)).expect("a file can be given a time");
    let response = client.get("/text.txt");
    let modified = response.header("last-modified").expect("a file has a time");
    assert!(!modified.contains("2100"), "{modified}");
    let later = "If-Modified-Since: Sat, 01 Jan 2101 00:00:00 GMT\r\n";
    assert_eq!(client.get_with("/text.txt", later).status, 200);
    let etag = response.header("etag").expect("a file has a tag");
    assert_eq!(client.get_with("/text.txt", &format!("If-None-Match: {etag}\r\n")).status, 304);
}

#[test]
fn folders_are_redirected_to_their_slash() {
    let server = server();
    let mut client = client(&server);
    let response = client.get("/sub");
    assert_eq!((response.status, response.header("location")), (308, Some("/sub/")));
    let response = client.get("/sub?a=b&c=%20");
    assert_eq!(response.header("location"), Some("/sub/?a=b&c=%20"));
    assert_eq!(client.get("/listed/sub").header("location"), Some("/listed/sub/"));
    // A root that is mounted at a path is a folder too.
    let response = client.get("/listed?a=b");
    assert_eq!((response.status, response.header("location")), (308, Some("/listed/?a=b")));
    assert_eq!(client.get("/dir/").status, 404);
    assert_eq!(client.get("/text.txt/").status, 404);
}

#[test]
fn listings_show_what_can_be_had() {
    let server = server();
    let mut client = client(&server);
    let response = client.get("/listed/dir/");
    assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
    let page = response.text();
    assert!(page.contains("<a href=\"./a%20b%26c.txt\">a b&amp;c.txt</a>"), "{page}");
    assert!(
        page.contains("<a href=\"./deeper/\">deeper/</a>") && !page.contains("hidden"),
        "{page}"
    );
    assert_eq!(client.get("/listed/dir/a%20b%26c.txt").text(), "amp");
    assert!(page.contains("<a href=\"./caf%E9\">caf\u{fffd}</a>"), "{page}");
    assert_eq!(client.get("/listed/dir/caf%E9").text(), "latin");
    // The root has an index file.
    assert_eq!(client.get("/listed/").text(), "<p>home</p>");
    assert_eq!(client.get("/listed/dir/.hidden").status, 404);
    // This instance follows no links.
    assert_eq!(client.get("/listed/link").status, 404);
    assert_eq!(client.head("/listed/dir/").status, 200);
}

#[test]
fn a_listing_that_is_cut_says_so() {
    let server = server();
    let many = server.folder().path("site/many");
    fs::create_dir(&many).expect("a folder can be made");
    for number in 0..=10_000 {
        fs::File::create(many.join(number.to_string())).expect("a file can be made");
    }
    let mut client = client(&server);
    assert!(
        client.get("/listed/many/").text().contains("more entries than the 10000 that are shown")
    );
    fs::remove_file(many.join("0")).expect("a file can be removed");
    assert!(!client.get("/listed/many/").text().contains("more entries"));
}

#[test]
fn a_default_type_that_is_none_is_refused() {
    let server = server();
    let wrong = "default_type=\"text/plain\\r\\nx: y\"";
    let root = format!("root={:?}", server.folder().path("site"));
    let arguments =
        ["load", "wrong", "--library", "http-files", "--set", root.as_str(), "--set", wrong];
    server.ctl(arguments).refused("default_type is no content type");
}

#[test]
fn what_is_no_file_is_not_served() {
    let server = server();
    let mut client = client(&server);
    assert_eq!(client.get("/fifo").status, 404);
    assert_eq!(client.get("/text.txt").text(), "0123456789");
    if !rustix::process::geteuid().is_root() {
        let secret = server.folder().path("site/secret");
        fs::write(&secret, "x").expect("a file can be written");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("a mode can be set");
        assert_eq!(client.get("/secret").status, 403);
    }
}

#[test]
fn only_reading_is_offered() {
    let server = server();
    let mut client = client(&server);
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        client
            .send(format!("{method} /text.txt HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
        let response = client.response();
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("GET, HEAD, OPTIONS")),
            "{method}"
        );
    }
    assert_eq!(client.get("/text.txt").text(), "0123456789");
}

#[test]
fn curl_resumes_a_download() {
    let Some(curl) = tool("curl") else { return };
    let server = server();
    let part = server.folder().path("part");
    fs::write(&part, &numbers()[..50_000]).expect("a file can be written");
    let status = Command::new(curl)
        .args(["-sS", "--max-time", "20", "-C", "-", "-o"])
        .arg(&part)
        .arg(format!("http://{}/numbers.bin", server.address("web")))
        .status()
        .expect("curl can be run");
    assert!(status.success());
    assert!(fs::read(&part).expect("the file is there") == numbers());
}
