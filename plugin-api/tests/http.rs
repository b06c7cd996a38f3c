//! Handlers, filters, observers and services as a plugin writes them, and exchanges as a server of HTTP starts them.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

use http_body::Body as _;
use medusa_plugin_api::{
    prelude::*,
    register,
    server::{Head, Refusal, exchange},
    testing::Host,
};

fn request(method: &str, path: &str, body: &'static str) -> http::Request<Bytes> {
    let request = http::Request::builder().method(method).uri(path).header("x-a", "1");
    request
        .header("host", "example.org:80")
        .body(Bytes::from_static(body.as_bytes()))
        .expect("a valid request")
}

#[test]
fn a_request_is_seen_as_it_came_before_and_after_it_is_built() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.http("/mount", async |mut request: Request| {
            let raw = format!(
                "{} {} {:?} {:?} {} {}",
                request.method_str(),
                request.path(),
                request.query(),
                request.header("x-a"),
                request.mount(),
                request.path_beneath()
            );
            assert_eq!(request.authority(), Some("example.org:80"));
            assert_eq!(request.headers()["x-a"], "1");
            assert_eq!(request.uri(), "/mount/a%20b?q=1");
            request.headers_mut().insert("x-b", "2".parse()?);
            assert_eq!(request.header("x-b"), Some("2"));
            let body = request.into_body().text(100).await?;
            Ok(Response::text(format!("{raw} {body}")))
        });
        Ok(())
    }
    let host = Host::new(load);
    let response = host.request(request("POST", "/mount/a%20b?q=1", "the body"));
    let expected = r#"POST /mount/a%20b Some("q=1") Some("1") /mount /a%20b the body"#;
    assert_eq!(response.body(), expected);
}

#[test]
fn bodies_stream_with_back_pressure_and_are_limited() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.http("/stream", async |_| {
            let pieces = Countdown(Rc::new(Cell::new(3)), medusa_plugin_api::sleep(Duration::ZERO));
            Ok(http::Response::new(Body::stream(pieces)))
        });
        registrar.http("/limited", async |request: Request| {
            let refused = request.into_body().bytes(3).await.unwrap_err();
            Ok(Response::text(refused.to_string()))
        });
        registrar.http("/failing", async |_| {
            let pieces =
                Countdown(Rc::new(Cell::new(100)), medusa_plugin_api::sleep(Duration::ZERO));
            Ok(http::Response::new(Body::stream(pieces)))
        });
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.get("/stream").body(), "321");
    assert_eq!(
        host.request(request("POST", "/limited", "four")).body(),
        "the body is longer than 3 bytes"
    );
    assert_eq!(host.get("/failing").status(), 502);
}

/// Counts down to zero, a piece every millisecond; holds an `Rc`, so it cannot be sent.
struct Countdown(Rc<Cell<u32>>, medusa_plugin_api::Sleep);

impl futures_core::Stream for Countdown {
    type Item = Result<Bytes>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes>>> {
        std::task::ready!(pin!(&mut self.1).poll(context));
        self.1.reset(Instant::now() + Duration::from_millis(1));
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        match left {
            0 => Poll::Ready(None),
            50.. => Poll::Ready(Some(Err(Error::new("no more")))),
            _ => Poll::Ready(Some(Ok(left.to_string().into()))),
        }
    }
}

#[test]
fn handlers_pass_fail_and_panic_each_by_itself() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.http("/", async |_| Ok(Response::text("root")));
        registrar.http("/pass", async |_| Ok(Response::pass()));
        registrar.http("/fail", async |_| Err(Error::new("cannot find the moon")));
        registrar.http("/panic", |_| -> Ready<Result<Response>> { panic!("before the future") });
        registrar.http("/panic/late", async |_| {
            medusa_plugin_api::sleep(Duration::from_millis(1)).await;
            panic!("in the future")
        });
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.get("/pass").body(), "root");
    assert_eq!(host.get("/fail").status(), 500);
    assert!(host.log().iter().any(|line| line.contains("cannot find the moon")));
    assert_eq!(host.get("/panic").status(), 500);
    assert_eq!(host.get("/panic/late").status(), 500);
    let panics = host.panics();
    assert!(panics[0].starts_with("before the future, at ") && panics[0].contains("http.rs:"));
    assert_eq!(panics.len(), 2);
    assert_eq!(host.get("/x").body(), "root");
}

#[test]
fn filters_answer_change_and_look() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.filter("/", async |mut request: Request, next: Next| {
            if request.header("x-stop").is_some() {
                return Ok(Response::status_only(StatusCode::FORBIDDEN));
            }
            request.headers_mut().insert("x-seen", "outer".parse()?);
            next.run(request).await?.with_header("x-outer", "1")
        });
        registrar.filter(Route::new("/a").order(1), async |request: Request, next: Next| {
            let body = next.run(request).await?.into_body().text(100).await?;
            Ok(Response::text(body.to_uppercase()))
        });
        registrar.http("/", async |request: Request| {
            let seen = request.header("x-seen").unwrap_or("nothing").to_owned();
            medusa_plugin_api::sleep(Duration::from_millis(1)).await;
            Ok(Response::text(format!("{seen} {}", request.into_body().text(100).await?)))
        });
        Ok(())
    }
    let host = Host::new(load);
    let response = host.request(request("POST", "/b", "body"));
    assert_eq!(
        (response.body().as_ref(), &response.headers()["x-outer"]),
        (&b"outer body"[..], &"1".parse().unwrap())
    );
    assert_eq!(host.request(request("POST", "/a", "body")).body(), "OUTER BODY");
    let stopped = http::Request::get("/a").header("x-stop", "").body(Bytes::new()).unwrap();
    assert_eq!(host.request(stopped).status(), StatusCode::FORBIDDEN);
}

#[test]
fn observers_hear_and_later_registrations_are_taken_back() {
    thread_local!(static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) });
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.observer(|record| {
            HEARD.with_borrow_mut(|heard| heard.push(format!("{} {}", record.path, record.status)));
        });
        let later = RefCell::new(None);
        registrar.command("mount", "", "", move |arguments| {
            let mount = arguments.first().map(String::as_str) == Some("on");
            let handler = async |_| Ok(Response::text("later"));
            let result = mount.then(|| register::http("/later", handler)).transpose();
            later.replace(result.unwrap());
            ready(Ok(String::new()))
        });
        Ok(())
    }
    let host = Host::new(load);
    for (command, status) in [("on", 200), ("off", 404), ("on", 200)] {
        host.command("mount", &[command]).unwrap();
        assert_eq!(host.get("/later").status(), status);
    }
    HEARD.with_borrow(|heard| assert_eq!(*heard, ["/later 200", "/later 404", "/later 200"]));
}

#[derive(Clone)]
struct Nested;

impl tower_service::Service<http::Request<Body>> for Nested {
    type Response = http::Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<String>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        ready(Ok(http::Response::new(request.uri().to_string())))
    }
}

#[test]
fn a_tower_service_sees_the_path_beneath_its_mount() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.http_service("/app", Nested);
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.get("/app/x?y=1").body(), "/x?y=1");
    assert_eq!(host.get("/app").body(), "/");
}

#[test]
fn a_server_starts_exchanges() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.http("/echo", async |request: Request| {
            medusa_plugin_api::sleep(Duration::from_millis(1)).await;
            Ok(http::Response::new(Body::full(request.into_body().bytes(100).await?)))
        });
        registrar.http("/panic", async |_| panic!("on purpose"));
        registrar.command("get", "", "", async |arguments| {
            let fields = [(&b"host"[..], &b"h"[..])];
            let head = Head { path: &arguments[0], ..Head::new(fields.into_iter()) };
            let body = Body::full(Bytes::from_static(b"sent"));
            match exchange(head, body).await {
                Ok(response) => {
                    let mut body = pin!(response.body);
                    let mut text = format!("{} ", response.status.as_u16());
                    while let Some(frame) =
                        std::future::poll_fn(|context| body.as_mut().poll_frame(context)).await
                    {
                        text += std::str::from_utf8(&frame?.into_data().unwrap_or_default())?;
                    }
                    Ok(text)
                }
                Err(refused) => {
                    let kept = refused.body.is_some();
                    assert_eq!(kept, refused.reason == Refusal::NotFound);
                    Ok(format!("{:?}", refused.reason))
                }
            }
        });
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.command("get", &["/echo"]).unwrap(), "200 sent");
    assert_eq!(host.command("get", &["/none"]).unwrap(), "NotFound");
    assert_eq!(host.command("get", &["/panic"]).unwrap(), "Failed");
    host.answer(|request| http::Response::new(format!("site {}", request.uri()).into()));
    assert_eq!(host.command("get", &["/none"]).unwrap(), "200 site /none");
}
