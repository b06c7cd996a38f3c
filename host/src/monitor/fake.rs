//! A host that is all made up, a monitor on it, and a client that speaks the protocol by hand: for the monitor's tests.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    sync::Notify,
    task::LocalSet,
};

use crate::{
    config::{Config, Diagnostics, Instance, Limits, Source},
    log::Log,
    monitor::{
        Monitor,
        command::Role,
        control::{
            ApplyOutcome, ApplyPlan, Asker, ConnectionStatus, Control, HostStatus, InstanceStatus,
            Later, ListenerStatus, MetricStatus, Pace, PluginCall, PluginCommand, Refusal,
            RoutePlace, RouteStatus, UnloadOutcome, UpgradeOutcome,
        },
        protocol::{self, Reply},
        socket::MonitorSocket,
        words,
    },
    status::InstanceFigures,
};

/// What the made-up host was asked to do, in order.
#[derive(Default)]
pub(super) struct Fake {
    pub done: RefCell<Vec<String>>,
    /// Where set, `load` waits for it.
    pub gate: Option<Notify>,
    /// `plugins` answers with so many.
    pub instances: Cell<usize>,
    /// What `connections` answers with; a fault, where there is nothing.
    pub connections: RefCell<Option<Vec<ConnectionStatus>>>,
    pub stop: Notify,
}

/// A monitor that runs, and what it runs on.
pub(super) struct Bench {
    pub fake: Rc<Fake>,
    pub socket: PathBuf,
    pub log: Log,
    _folder: TempDir,
}

/// A client.
pub(super) struct Talk {
    pub stream: BufReader<UnixStream>,
}

/// Runs a test on a monitor; the monitor has ended when it returns.
pub(super) async fn with_monitor<F: Future<Output = ()>>(
    fake: Fake,
    limits: Limits,
    test: impl FnOnce(Rc<Bench>) -> F,
) {
    let folder = tempfile::tempdir().unwrap();
    let bench = Rc::new(Bench {
        fake: Rc::new(fake),
        socket: folder.path().join("m.sock"),
        log: Log::detached(),
        _folder: folder,
    });
    let run = async {
        let socket = MonitorSocket::bind(&bench.socket).unwrap();
        let monitor = Monitor::new(socket, bench.fake.clone(), bench.log.clone(), limits);
        let fake = bench.fake.clone();
        let serve =
            tokio::task::spawn_local(monitor.serve(async move { fake.stop.notified().await }));
        test(bench.clone()).await;
        bench.fake.stop.notify_one();
        serve.await.unwrap();
        assert!(!bench.socket.exists());
    };
    LocalSet::new().run_until(run).await;
}

/// Runs a line on a fresh made-up host; what it says, and the exit status.
pub(super) async fn run(line: &str) -> (String, u8) {
    let answer = Rc::new(RefCell::new((String::new(), 0)));
    let copy = answer.clone();
    with_monitor(Fake::default(), Limits::default(), |bench| async move {
        *copy.borrow_mut() = bench.talk().await.ask(line).await;
    })
    .await;
    answer.take()
}

impl Bench {
    pub(super) async fn talk(&self) -> Talk {
        Talk { stream: BufReader::new(UnixStream::connect(&self.socket).await.unwrap()) }
    }

    /// Waits until the host was asked to do that.
    pub(super) async fn until_done(&self, what: &str) {
        while !self.fake.done.borrow().iter().any(|done| done == what) {
            tokio::task::yield_now().await;
        }
    }
}

impl Talk {
    /// Asks, and waits for the whole answer.
    pub(super) async fn ask(&mut self, line: &str) -> (String, u8) {
        self.send(line).await;
        self.answer().await
    }

    /// Asks a host that may already have hung up; the exit status, if there is one.
    pub(super) async fn ask_lenient(&mut self, line: &str) -> Option<u8> {
        let request = serde_json::json!({ "v": protocol::VERSION, "command": [line] });
        self.stream.get_mut().write_all(format!("{request}\n").as_bytes()).await.ok()?;
        let mut line = String::new();
        loop {
            line.clear();
            self.stream.read_line(&mut line).await.ok()?;
            match serde_json::from_str(&line).ok()? {
                Reply::Exit(exit) => return Some(exit),
                Reply::Out(_) | Reply::Err(_) => {}
            }
        }
    }

    pub(super) async fn send(&mut self, line: &str) {
        let command = words::split(line).unwrap();
        let request =
            serde_json::json!({ "v": protocol::VERSION, "command": command, "cwd": "/home/ada" });
        self.send_raw(format!("{request}\n").as_bytes()).await;
    }

    pub(super) async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    pub(super) async fn answer(&mut self) -> (String, u8) {
        let mut text = String::new();
        loop {
            match self.reply().await.expect("an answer has an end") {
                Reply::Out(piece) | Reply::Err(piece) => text += &piece,
                Reply::Exit(exit) => return (text, exit),
            }
        }
    }

    /// The next line of an answer; `None` at the end of the session.
    pub(super) async fn reply(&mut self) -> Option<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }
}

impl Fake {
    fn note(&self, what: String) {
        self.done.borrow_mut().push(what);
    }
}

impl Control for Fake {
    fn host(&self) -> HostStatus {
        HostStatus {
            version: "9.9".to_owned(),
            state: "running".to_owned(),
            ..HostStatus::default()
        }
    }

    fn instances(&self) -> Vec<InstanceStatus> {
        let instance = InstanceStatus {
            name: "web".to_owned(),
            library: "http".to_owned(),
            state: "running".to_owned(),
            listen: vec!["127.0.0.1:80".to_owned()],
            heap_bytes: 2048,
            ..InstanceStatus::default()
        };
        vec![instance; self.instances.get()]
    }

    fn figures(&self) -> Vec<InstanceFigures> {
        vec![InstanceFigures {
            name: "web".to_owned(),
            generations: 1,
            received_bytes: 1536,
            ..InstanceFigures::default()
        }]
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        vec![ListenerStatus {
            instance: "web".to_owned(),
            address: "[::1]:80".to_owned(),
            ..Default::default()
        }]
    }

    fn metrics(&self) -> Vec<MetricStatus> {
        vec![MetricStatus {
            instance: "web".to_owned(),
            name: "requests_total".to_owned(),
            kind: "counter".to_owned(),
            value: 7,
            help: "Requests.".to_owned(),
        }]
    }

    fn connections(&self, from: usize) -> (Vec<ConnectionStatus>, Option<usize>) {
        const PART: usize = 7;
        let connections = self.connections.borrow();
        let connections = connections.as_ref().expect("a made-up fault");
        self.note(format!("connections {from}"));
        let end = (from + PART).min(connections.len());
        (connections[from..end].to_vec(), (end < connections.len()).then_some(end))
    }

    fn routes(&self) -> Vec<RouteStatus> {
        vec![RouteStatus {
            id: 3,
            path: "/dav".to_owned(),
            kind: "handler".to_owned(),
            ..Default::default()
        }]
    }

    fn commands(&self) -> Vec<PluginCommand> {
        let [instance, name, usage, summary] =
            ["chat", "kick", "WHO", "throw somebody out"].map(str::to_owned);
        vec![PluginCommand { instance, name, usage, summary, role: Role::Operator, changes: true }]
    }

    fn libraries(&self) -> Later<'_, Vec<String>> {
        Box::pin(async { vec!["echo".to_owned(), "http".to_owned()] })
    }

    fn config(&self) -> Rc<Config> {
        let text = "[[plugin]]\nname = \"site\"\nlibrary = \"http-files\"\n[plugin.config]\ntoken = \"abc\"\n";
        Rc::new(Config::parse(&Source::new("medusa.toml", "/etc", text)).unwrap())
    }

    fn load(&self, instance: Instance) -> Later<'_, Result<InstanceStatus, Refusal>> {
        Box::pin(async move {
            self.note(format!("load {} begins", instance.name));
            if let Some(gate) = &self.gate {
                gate.notified().await;
            }
            let listen: Vec<String> =
                instance.listen.iter().map(|listen| listen.address.to_string()).collect();
            let library = instance.library_file(&self.config().plugin_dir).display().to_string();
            self.note(format!("load {} {library} {listen:?} {:?}", instance.name, instance.attach));
            Ok(InstanceStatus {
                name: instance.name,
                listen,
                state: "running".to_owned(),
                ..Default::default()
            })
        })
    }

    fn unload(&self, name: String, pace: Pace) -> Later<'_, Result<UnloadOutcome, Refusal>> {
        self.note(format!("unload {name} {pace:?}"));
        Box::pin(async move {
            match name.as_str() {
                "none" => Err(Refusal::from("there is no instance `none`")),
                "stuck" => Ok(UnloadOutcome {
                    name,
                    result: "failed".to_owned(),
                    mapped: true,
                    ..Default::default()
                }),
                _ => {
                    Ok(UnloadOutcome { name, result: "unloaded".to_owned(), ..Default::default() })
                }
            }
        })
    }

    fn upgrade(
        &self,
        name: String,
        library: Option<PathBuf>,
    ) -> Later<'_, Result<UpgradeOutcome, Refusal>> {
        self.note(format!("upgrade {name} {library:?}"));
        let result = if name == "bad" { "kept" } else { "upgraded" }.to_owned();
        Box::pin(async move { Ok(UpgradeOutcome { name, result, ..Default::default() }) })
    }

    fn upgrade_host(&self, binary: Option<PathBuf>, _asker: Option<Asker>) -> Later<'_, Refusal> {
        self.note(format!("upgrade-host {binary:?}"));
        Box::pin(async { Refusal("the host goes on as it is: it is a fake".to_owned()) })
    }

    fn kill(&self, id: u64) -> Result<ConnectionStatus, Refusal> {
        self.note(format!("kill {id}"));
        Ok(ConnectionStatus { id, ..Default::default() })
    }

    fn move_route(&self, id: u64, place: RoutePlace) -> Later<'_, Result<(), Refusal>> {
        self.note(format!("move {id} {place:?}"));
        Box::pin(async { Ok(()) })
    }

    fn check(&self, _: Rc<Config>) -> Later<'_, Result<(), Diagnostics>> {
        Box::pin(async { Ok(()) })
    }

    fn plan(&self, _: &Config) -> ApplyPlan {
        ApplyPlan::default()
    }

    fn apply(&self, _: Rc<Config>) -> Later<'_, ApplyOutcome> {
        Box::pin(async { ApplyOutcome { applied: true, ..ApplyOutcome::default() } })
    }

    fn run(&self, call: PluginCall) -> Later<'_, Result<(), Refusal>> {
        Box::pin(async move {
            self.note(format!(
                "{} {} {:?} json={}",
                call.instance, call.name, call.words, call.json
            ));
            call.out.text("done\n").await.map_err(|_| Refusal::from("nobody listens"))
        })
    }

    fn shutdown(&self) {
        self.stop.notify_one();
    }
}
