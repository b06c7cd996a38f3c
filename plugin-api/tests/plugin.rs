//! A plugin's life and what it may do besides HTTP: configuration, sessions, kept state, tasks, jobs, files, services.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    path::PathBuf,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use medusa_plugin_api::{
    Replies, Root, blocking, call, connect, interval, post, prelude::*, register, spawn,
    testing::Host, thread,
};

/// What it is for.
#[derive(Config, Debug)]
struct Settings {
    /// The folder.
    root: PathBuf,
    /// How much.
    #[config(default = "64 KiB", max = 1_048_576)]
    size: Size,
    #[config(default = "5 s")]
    patience: Duration,
    #[config(default = "hide", one_of = ["hide", "serve"])]
    dots: String,
    #[config(default = ["a", "b"])]
    tags: Vec<String>,
    #[config(default = -1)]
    order: i32,
    motto: Option<String>,
    user: Vec<User>,
}

#[derive(Config, Debug)]
struct User {
    name: String,
    #[config(default = false)]
    write: bool,
}

#[test]
fn the_configuration_is_read_with_its_defaults_and_refused_with_a_sentence() {
    thread_local!(static READ: RefCell<Option<Settings>> = const { RefCell::new(None) });
    fn load(registrar: &mut Registrar) -> Result<()> {
        READ.set(Some(registrar.config()?));
        Ok(())
    }
    let toml = "root = \"/srv\"\npatience = 250\n[[user]]\nname = \"ada\"\nwrite = true";
    drop(Host::builder(load).config(toml).start().unwrap());
    let read = READ.take().unwrap();
    assert_eq!(read.root, PathBuf::from("/srv"));
    assert_eq!((read.size.bytes(), read.patience), (65_536, Duration::from_millis(250)));
    assert_eq!((read.dots.as_str(), read.tags.len(), read.order), ("hide", 2, -1));
    assert!(read.motto.is_none());
    assert!(read.user[0].name == "ada" && read.user[0].write);
    for (toml, sentence) in [
        ("", "the configuration's `root` is wrong: it is missing"),
        ("root = 7", "the configuration's `root` is wrong: expected a path, found an integer"),
        ("root = \"/\"\ndots = \"x\"", "`dots` is wrong: \"x\" is none of hide, serve"),
        ("root = \"/\"\nsize = \"2 MiB\"", "`size` is wrong: 2097152 is more than 1048576"),
        ("root = \"/\"\n[[user]]\nwrite = true", "`user` is wrong"),
    ] {
        let error = Host::builder(load).config(toml).start().err().unwrap().to_string();
        assert!(error.contains(sentence), "{error}");
    }
}

#[test]
fn the_manifest_holds_the_schema() {
    use medusa_plugin_api::__private as private;
    use private::config::Config as _;
    const MANIFEST: private::Manifest = private::Manifest {
        package: "medusa-some \"thing\"",
        version: "1.2.3",
        description: "line\nline\u{1}",
        kind: "plugin",
        unwinds: true,
        capabilities: &["files", "listen"],
        exclusive: &["db"],
        state: 12,
        reads: &[11, 12],
        build: Some("b"),
        config: Some(Settings::SCHEMA),
    };
    const TEXT: [u8; private::manifest_length(&MANIFEST)] = private::manifest_text(&MANIFEST);
    let json: serde_json::Value = serde_json::from_slice(&TEXT).unwrap();
    assert_eq!(json["name"], "some \"thing\"");
    assert_eq!(json["description"], "line\nline\u{1}");
    assert_eq!(json["state"], serde_json::json!({"writes": 12, "reads": [11, 12]}));
    assert_eq!(json["panic"], "unwind");
    let field = |name: &str| {
        let fields = json["config"]["fields"].as_array().unwrap();
        fields.iter().find(|field| field["name"] == name).unwrap().clone()
    };
    assert_eq!(json["config"]["doc"], "What it is for.");
    assert_eq!(field("root")["required"], true);
    assert_eq!(field("size")["default"], "64 KiB");
    assert_eq!(field("size")["max"], 1_048_576);
    assert_eq!(field("order")["default"], -1);
    assert_eq!(field("motto")["required"], false);
    assert_eq!(field("dots")["type"], serde_json::json!({"one_of": ["hide", "serve"]}));
    assert_eq!(field("user")["type"]["list"]["table"]["fields"][1]["default"], false);
}

/// Counts lines; parks between them.
async fn turn(conn: &mut Connection, lines: u32, wake: Wake) -> Result<Flow<u32>> {
    let deadline = Some(Instant::now() + Duration::from_secs(10));
    match wake {
        Wake::Deadline => {
            conn.write_all(b"too slow\n").await?;
            Ok(Flow::Close)
        }
        Wake::Resumed => {
            conn.write_all(format!("resumed at {lines}\n").as_bytes()).await?;
            Ok(Flow::Park(lines, deadline))
        }
        Wake::Readable => {
            let mut buf = [0; 100];
            if conn.read(&mut buf).await? == 0 {
                return Ok(Flow::Close);
            }
            if buf.starts_with(b"panic") {
                panic!("as told");
            }
            conn.write_all(format!("line {}\n", lines + 1).as_bytes()).await?;
            Ok(Flow::Park(lines + 1, deadline))
        }
        _ => Ok(Flow::Close),
    }
}

#[test]
fn sessions_park_time_out_and_are_handed_over() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.session(turn);
        Ok(())
    }
    let host = Host::new(load);
    let mut conn = host.connect();
    conn.send("x\n");
    assert_eq!(conn.read_line(), "line 1");
    conn.send("x\n");
    assert_eq!(conn.read_line(), "line 2");
    host.upgrade(load).unwrap();
    assert_eq!(conn.read_line(), "resumed at 2");
    conn.send("x\n");
    assert_eq!(conn.read_line(), "line 3");
    let mut panicking = host.connect();
    panicking.send("panic\n");
    assert!(panicking.is_closed());
    host.advance(Duration::from_secs(9));
    assert!(!conn.is_closed());
    host.advance(Duration::from_secs(2));
    assert_eq!(conn.read_line(), "too slow");
    assert!(conn.is_closed());
}

#[test]
fn state_is_kept_across_upgrades_and_migrated() {
    fn one(registrar: &mut Registrar) -> Result<()> {
        let count = registrar.state::<u32>("count", 1);
        registrar.command("count", "", "", move |_| {
            *count.borrow_mut() += 1;
            std::future::ready(Ok(count.borrow().to_string()))
        });
        Ok(())
    }
    fn two(registrar: &mut Registrar) -> Result<()> {
        let count = registrar.state_with::<String, _>("count", 2, |version, old| {
            assert_eq!(version, 1);
            Ok(format!("was {}", old.read::<u32>()?))
        });
        registrar.command("count", "", "", move |_| std::future::ready(Ok(count.borrow().clone())));
        Ok(())
    }
    fn wrong(registrar: &mut Registrar) -> Result<()> {
        let _ = registrar.state::<Vec<u32>>("count", 3);
        Ok(())
    }
    let host = Host::new(one);
    host.command("count", &[]).unwrap();
    host.upgrade(one).unwrap();
    assert_eq!(host.command("count", &[]).unwrap(), "2");
    host.upgrade(two).unwrap();
    assert_eq!(host.command("count", &[]).unwrap(), "was 2");
    let error = host.upgrade(wrong).unwrap_err().to_string();
    assert!(error.starts_with("cannot import the state count of version 2"), "{error}");
}

#[test]
fn tasks_timers_jobs_and_threads_work_and_end() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        let ticks = registrar.counter("ticks", "how often");
        let posted = registrar.gauge("posted", "how much");
        let counted = ticks.clone();
        registrar.every(Duration::from_secs(1), async move || {
            counted.increment();
            Ok(())
        });
        registrar.on_post(move |bytes| posted.add(bytes.len() as u64));
        registrar.on_start(async {
            thread("poster", |stop| {
                post(b"12345").unwrap();
                assert!(medusa_plugin_api::instance_name().is_err(), "off the loop");
                while !stop.wait(Duration::from_secs(60)) {}
            })?;
            Ok(())
        });
        registrar.command("job", "", "", async |_| {
            let sum = blocking(|| (1..=100).sum::<u32>()).await?;
            let panicked = blocking(|| panic!("in the pool")).await.unwrap_err();
            let late = timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
            let task = spawn(async { sleep(Duration::from_secs(5)).await });
            task.abort();
            let aborted = task.await.unwrap_err();
            let joined = spawn(async { 7 }).await?;
            Ok(format!("{sum}, {panicked}, {}, {aborted}, {joined}", late.unwrap_err()))
        });
        registrar.command("ticks", "", "", async |_| {
            let mut ticks = interval(Duration::from_millis(10));
            let first = ticks.tick().await;
            sleep(Duration::from_millis(35)).await;
            let (second, third) = (ticks.tick().await, ticks.tick().await);
            Ok(format!("{:?} {:?}", second - first, third - first))
        });
        Ok(())
    }
    let host = Host::new(load);
    host.advance(Duration::from_millis(3500));
    assert_eq!(host.metric("ticks"), Some(3));
    let answer = host.command("job", &[]).unwrap();
    assert_eq!(answer, "5050, it panicked, it took longer than 1s, it was cancelled, 7");
    assert_eq!(host.command("ticks", &[]).unwrap(), "10ms 45ms");
    while host.metric("posted") != Some(5) {
        std::thread::yield_now();
        host.run();
    }
}

#[test]
fn a_foreign_waker_wakes_through_the_boundary() {
    /// Polls its future with a waker of its own, as `FuturesUnordered` does.
    struct Wrapped(std::pin::Pin<Box<dyn Future<Output = ()>>>);

    struct Own(Waker);

    impl std::task::Wake for Own {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.wake_by_ref();
        }
    }

    impl Future for Wrapped {
        type Output = ();

        fn poll(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            let waker = std::sync::Arc::new(Own(context.waker().clone())).into();
            self.0.as_mut().poll(&mut Context::from_waker(&waker))
        }
    }

    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.command("wait", "", "", async |_| {
            Wrapped(Box::pin(sleep(Duration::from_secs(1)))).await;
            Ok("woken".to_owned())
        });
        Ok(())
    }
    assert_eq!(Host::new(load).command("wait", &[]).unwrap(), "woken");
}

#[test]
fn services_stream_their_replies_and_errors_are_sentences() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.responder("count", 1, async |to: u32, replies: Replies<u32>| {
            if to > 100 {
                return Err(Error::new("that is too far"));
            }
            for n in 1..=to {
                replies.send(&n).await?;
            }
            Ok(())
        });
        registrar.command("sum", "", "", async |_| {
            let mut replies = call(None, "count", 1, &10u32)?;
            let mut sum = 0;
            while let Some(n) = replies.next::<u32>().await? {
                sum += n;
            }
            let missing = call(None, "nothing", 1, &()).unwrap_err();
            Ok(format!("{sum}, {missing}"))
        });
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.call::<u32, u32>("count", 1, &6).unwrap(), [1, 2, 3, 4, 5, 6]);
    let error = host.call::<u32, u32>("count", 1, &101).unwrap_err();
    assert_eq!(error.to_string(), "that is too far");
    assert!(host.call::<String, u32>("count", 1, &"x".to_owned()).is_err());
    let sum = host.command("sum", &[]).unwrap();
    assert_eq!(sum, "55, cannot call the service nothing: there is no such thing");
}

#[test]
fn files_are_opened_beneath_their_root_only() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        let folder = Root::open_dir(std::env::temp_dir())?;
        registrar.command("files", "", "", move |arguments| {
            let root = folder.clone();
            async move {
                let name = &arguments[0];
                let options = medusa_plugin_api::OpenOptions::new().create_new();
                let mut file = root.open_with(name, options).await?;
                file.write_all_at(0, b"hello").await?;
                file.sync().await?;
                let mut file = root.open(name).await?;
                let whole = file.read_to_end(5).await?;
                let escape = root.open("../etc/passwd").await.unwrap_err();
                let mut listed = root.read_dir("").await?;
                let mut found = false;
                while let Some(entry) = listed.next().await? {
                    found |= entry.name == name.as_bytes() && entry.info.is_file();
                }
                let too_long = file.read_to_end(4).await.unwrap_err().kind();
                assert_eq!(too_long, std::io::ErrorKind::FileTooLarge);
                Ok(format!("{} {found} {escape}", String::from_utf8(whole)?))
            }
        });
        Ok(())
    }
    let unique = tempfile::Builder::new().prefix("medusa-sdk-").tempdir().unwrap();
    let name = format!("{}/f", unique.path().file_name().unwrap().to_str().unwrap());
    let host = Host::new(load);
    let answer = host.command("files", &[&name]).unwrap();
    assert!(answer.starts_with("hello false Invalid cross-device link"), "{answer}");
    assert!(host.command("files", &[&name]).unwrap_err().to_string().contains("File exists"));
}

#[test]
fn outgoing_connections_meet_listeners() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.command("fetch", "", "", async |_| {
            let address = medusa_plugin_api::resolve("example.org", 80).await?[0];
            let mut conn = connect(address).await?;
            conn.write_all(b"ping").await?;
            let mut answer = [0; 4];
            conn.read_exact(&mut answer).await?;
            let refused = connect(([127, 0, 0, 1], 1).into()).await.unwrap_err();
            Ok(format!("{} {refused}", String::from_utf8_lossy(&answer)))
        });
        registrar.spawn(async {
            let mut listener = medusa_plugin_api::Listener::bind(([10, 0, 0, 1], 80).into())?;
            loop {
                let mut conn = listener.accept().await?;
                spawn(async move {
                    let mut bytes = [0; 4];
                    conn.read_exact(&mut bytes).await?;
                    conn.write_all(b"pong").await
                });
            }
        });
        Ok(())
    }
    let host = Host::new(load);
    host.add_name("example.org", &[([10, 0, 0, 1], 80).into()]);
    host.run();
    let answer = host.command("fetch", &[]).unwrap();
    assert!(answer.starts_with("pong Connection refused"), "{answer}");
}

#[test]
fn a_panic_ends_what_it_is_in_and_nothing_else() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.serve(async |_| panic!("in the service"));
        registrar.command("drop", "", "", async |_| {
            struct Bomb;
            impl Drop for Bomb {
                fn drop(&mut self) {
                    panic!("in a drop");
                }
            }
            let _bomb = Bomb;
            Err(Error::new("and an error"))
        });
        registrar.command("payload", "", "", async |_| {
            struct Payload;
            impl Drop for Payload {
                fn drop(&mut self) {
                    panic!("in the payload's drop");
                }
            }
            std::panic::panic_any(Payload)
        });
        registrar.command("fine", "", "", async |_| Ok("fine".to_owned()));
        registrar.on_drain(|_| panic!("in drain"));
        Ok(())
    }
    let host = Host::new(load);
    let conn = host.connect();
    assert!(conn.is_closed());
    assert!(host.command("drop", &[]).is_err());
    assert!(host.command("payload", &[]).is_err());
    host.drain(Duration::from_secs(1));
    assert_eq!(host.command("fine", &[]).unwrap(), "fine");
    assert_eq!(host.panics().len(), 5);
}

#[test]
fn load_may_panic_or_fail_and_start_too() {
    fn panics(_: &mut Registrar) -> Result<()> {
        panic!("in load")
    }
    fn fails(_: &mut Registrar) -> Result<()> {
        Err(Error::new("the moon is not up"))
    }
    fn fails_later(registrar: &mut Registrar) -> Result<()> {
        registrar.on_start(async { Err(Error::new("the sun neither")) });
        Ok(())
    }
    let reason = |load| Host::builder(load).start().err().unwrap().to_string();
    assert_eq!(reason(panics), "the code behind the call panicked");
    assert_eq!(reason(fails), "the moon is not up");
    assert_eq!(reason(fails_later), "the sun neither");
}

#[test]
fn exclusive_resources_pass_and_the_stop_drops_all() {
    thread_local!(static EVENTS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) });
    fn event(event: &'static str) {
        EVENTS.with_borrow_mut(|events| events.push(event));
    }
    fn load(registrar: &mut Registrar) -> Result<()> {
        struct Owned(Rc<Cell<u32>>);
        impl Drop for Owned {
            fn drop(&mut self) {
                event("dropped");
            }
        }
        let owned = Owned(Rc::new(Cell::new(0)));
        registrar.exclusive(
            async || {
                event("release");
                Ok(())
            },
            async || {
                event("acquire");
                Ok(())
            },
        );
        registrar.http("/", move |_| {
            owned.0.set(1);
            std::future::ready(Ok(Response::text("")))
        });
        registrar.on_stop(|| event("stop"));
        Ok(())
    }
    let host = Host::new(load);
    host.upgrade(load).unwrap();
    drop(host);
    let life = ["acquire", "release", "dropped", "stop"];
    EVENTS.with_borrow(|events| assert_eq!(*events, [life, life].concat()));
}

#[test]
fn a_host_without_tls_says_so_and_the_connection_goes_on() {
    async fn serve(mut conn: Connection) -> Result<()> {
        let refused = conn.start_tls("default").await.map_err(|error| error.kind());
        assert_eq!(refused, Err(std::io::ErrorKind::Unsupported));
        assert!(!conn.info()?.is_tls);
        assert_eq!(conn.tls_fact(medusa_plugin_api::TlsFact::Alpn), None);
        Ok(conn.write_all(b"in plain text\n").await?)
    }
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.serve(serve);
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(host.connect().read(), b"in plain text\n");
}

#[test]
fn what_is_registered_twice_or_under_no_name_is_refused_with_a_sentence() {
    fn load(registrar: &mut Registrar) -> Result<()> {
        registrar.command("try", "", "", async |_| {
            let command = |name: &str| {
                let spec = medusa_plugin_api::CommandSpec::new(name);
                register::command(spec, async |_| Ok(String::new())).map(drop)
            };
            let service = |_: (), _: Replies<()>| async { Ok(()) };
            let _one = register::counter("one", "")?;
            let _offered = register::responder("offer", 1, service)?;
            let tried = [
                command("try"),
                register::gauge("one", "").map(drop),
                register::responder("offer", 1, service).map(drop),
            ];
            Ok(tried.map(|tried| tried.unwrap_err().to_string()).join("\n"))
        });
        Ok(())
    }
    let host = Host::new(load);
    assert_eq!(
        host.command("try", &[]).unwrap(),
        "cannot add the command try: the plugin has registered one of that name already\n\
         cannot add the metric one: the plugin has registered one of that name already\n\
         cannot offer the service offer: the plugin has registered one of that name already"
    );
}
