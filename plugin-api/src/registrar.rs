//! The registrar: `load` tells it what the plugin offers.

use std::{cell::RefCell, future::Future, rc::Rc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tower_service::Service;

use crate::{
    command::{Arguments, CommandSpec},
    config::{self, Config},
    connection::Connection,
    error::Result,
    http::{Body, Next, Record, Request, Response, Route},
    log,
    metric::{Counter, Gauge, Metric},
    plugin::{Exclusive, Plugin, Step},
    register::{self, Registration},
    serve,
    service::Replies,
    session::{self, IntoFlow, Sessions, Wake},
    spawn::spawn_named,
    state::{Kept, OldState},
    time::{Instant, interval},
};

/// Takes what the plugin offers, in `load`. Nothing of it has an effect before the plugin starts, so that a configuration
/// can be checked without one. What is registered stays as long as the plugin; [`register`](crate::register) has the
/// same for any later time.
pub struct Registrar {
    plugin: &'static Plugin,
}

impl Registrar {
    pub(crate) fn new(plugin: &'static Plugin) -> Registrar {
        Registrar { plugin }
    }

    /// The configuration, `[plugin.config]` in the file.
    ///
    /// # Errors
    /// A sentence that names the field that is wrong. The host has checked the file against the manifest's schema before.
    pub fn config<T: Config>(&self) -> Result<T> {
        config::read_config(&self.plugin.config.borrow())
    }

    /// Serves each connection that comes in by the instance's `listen` addresses, by a task. An error ends that connection
    /// and is logged. One service per plugin.
    pub fn serve<F, Fut>(&mut self, service: F)
    where
        F: Fn(Connection) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        self.record(move || serve::add_service(service));
    }

    /// Serves connections by sessions: `turn` is called when there is something to do, and parks the connection with its
    /// state or closes it. While parked, a connection costs no task, and is handed over when the plugin is upgraded, with
    /// its state as CBOR (unknown fields are ignored, so give new ones a default; let a `Vec<u8>` be written by `serde_bytes`, or it
    /// goes number by number, and makes the pause of an upgrade long). A new connection begins with `S::default()`; the answer
    /// makes sessions of connections that the plugin has by other means.
    pub fn session<S, F, R>(&mut self, turn: F) -> Sessions<S>
    where
        S: Serialize + DeserializeOwned + Default + 'static,
        F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
        R: IntoFlow<S> + 'static,
    {
        self.add_session(turn, false)
    }

    /// As [`session`](Registrar::session), with the version of the state's shape, which is the one that
    /// `export_plugin!(…, state = 2, reads = [1, 2])` says is written, and a function that reads what other versions kept.
    pub fn session_with<S, F, R, M>(&mut self, version: u32, migrate: M, turn: F) -> Sessions<S>
    where
        S: Serialize + DeserializeOwned + Default + 'static,
        F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
        R: IntoFlow<S> + 'static,
        M: Fn(u32, OldState) -> Result<S> + 'static,
    {
        let (sessions, migrate) = (Sessions::new(), Box::new(migrate));
        let registered = sessions.clone();
        self.record(move || session::add_migrating_session(turn, (version, migrate), registered));
        sessions
    }

    /// As [`session`](Registrar::session), and each park gives the host a record of the state, with which the session outlives a crash in
    /// another plugin or in the host: its next turn has [`Wake::Resumed`], with that state. One that was in a turn then is lost, and so is
    /// one whose record, as CBOR, is longer than `durable_bytes_max` (1 KiB) of the host's limits.
    pub fn durable_session<S, F, R>(&mut self, turn: F) -> Sessions<S>
    where
        S: Serialize + DeserializeOwned + Default + 'static,
        F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
        R: IntoFlow<S> + 'static,
    {
        self.add_session(turn, true)
    }

    /// Answers requests for `path` and what is beneath it. [`Response::pass`](crate::ResponseExt::pass) hands a
    /// request on to the next handler. An error is logged, and answered with 500.
    pub fn http<F, Fut>(&mut self, path: &str, handler: F)
    where
        F: Fn(Request) -> Fut + 'static,
        Fut: Future<Output = Result<Response>> + 'static,
    {
        self.http_with(Route::new(path), handler);
    }

    /// As [`http`](Registrar::http), with conditions.
    pub fn http_with<F, Fut>(&mut self, route: Route, handler: F)
    where
        F: Fn(Request) -> Fut + 'static,
        Fut: Future<Output = Result<Response>> + 'static,
    {
        self.record(move || register::http(route, handler));
    }

    /// Answers requests by a tower service, an axum `Router`, say. The request's URI is the path beneath the mount.
    pub fn http_service<S, B>(&mut self, route: impl Into<Route>, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<B>> + Clone + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::Future: 'static,
        B: http_body::Body + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let route = route.into();
        self.record(move || register::http_service(route, service));
    }

    /// Wraps what answers requests beneath the route: it may answer by itself, change the request, and look at the response
    /// that [`Next::run`] gives.
    pub fn filter<F, Fut>(&mut self, route: impl Into<Route>, filter: F)
    where
        F: Fn(Request, Next) -> Fut + 'static,
        Fut: Future<Output = Result<Response>> + 'static,
    {
        let route = route.into();
        self.record(move || register::filter(route, filter));
    }

    /// Hears of every exchange of the site when it has ended, aborted ones too.
    pub fn observer<F>(&mut self, observer: F)
    where
        F: Fn(&Record<'_>) + 'static,
    {
        self.record(move || register::observer(observer));
    }

    /// Adds a command to the monitor, typed as `INSTANCE NAME ARGUMENTS…`; `usage` and `summary` are shown by its help.
    /// The text that it answers is printed; an error makes the exit status 1. For operators; see
    /// [`command_with`](Registrar::command_with) for other roles.
    pub fn command<F, Fut>(&mut self, name: &str, usage: &str, summary: &str, handler: F)
    where
        F: Fn(Arguments) -> Fut + 'static,
        Fut: Future<Output = Result<String>> + 'static,
    {
        self.command_with(CommandSpec::new(name).usage(usage).summary(summary), handler);
    }

    /// As [`command`](Registrar::command).
    pub fn command_with<F, Fut>(&mut self, spec: CommandSpec, handler: F)
    where
        F: Fn(Arguments) -> Fut + 'static,
        Fut: Future<Output = Result<String>> + 'static,
    {
        self.record(move || register::command(spec, handler));
    }

    /// A metric that only goes up. The name is as Prometheus has them: `[a-z_][a-z0-9_]*`, the unit last.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        let metric = Metric::counter(name, help);
        let registered = metric.clone();
        self.record_without_token(move || registered.register());
        Counter::of(metric)
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let metric = Metric::gauge(name, help);
        let registered = metric.clone();
        self.record_without_token(move || registered.register());
        Gauge::of(metric)
    }

    /// Calls `job` every `period`, for the first time after one. A call that takes longer than that delays the next. An
    /// error is logged, and the calls go on; a panic ends them. There are none before the plugin serves, and while
    /// the host replaces its own binary: what they would change might still be to come, or have been written down already.
    pub fn every<F>(&mut self, period: Duration, job: F)
    where
        F: AsyncFn() -> Result<()> + 'static,
    {
        let plugin = self.plugin;
        self.record_without_token(move || {
            spawn_named("every", async move {
                let mut ticks = interval(period);
                loop {
                    ticks.tick().await;
                    if plugin.is_frozen.get() {
                        continue;
                    }
                    if let Err(error) = job().await {
                        log::warn(&format!("a periodic job failed: {error}"));
                    }
                }
            });
            Ok(())
        });
    }

    /// Runs `future` from the start on, beside everything else. An error is logged.
    pub fn spawn<F>(&mut self, future: F)
    where
        F: Future<Output = Result<()>> + 'static,
    {
        self.record_without_token(move || {
            spawn_named("", async move {
                if let Err(error) = future.await {
                    log::warn(&format!("a task failed: {error}"));
                }
            });
            Ok(())
        });
    }

    /// State that is kept when the plugin is upgraded: any serde type, with the version of its shape. The same name finds
    /// it again. `export_plugin!(…, state = 1, reads = [1])` tells the host which versions the plugin writes and reads.
    #[must_use]
    pub fn state<T>(&mut self, name: &str, version: u32) -> Rc<RefCell<T>>
    where
        T: Serialize + DeserializeOwned + Default + 'static,
    {
        self.keep(name, version, None)
    }

    /// As [`state`](Registrar::state), with a function that reads what other versions kept.
    #[must_use]
    pub fn state_with<T, M>(&mut self, name: &str, version: u32, migrate: M) -> Rc<RefCell<T>>
    where
        T: Serialize + DeserializeOwned + Default + 'static,
        M: Fn(u32, OldState) -> Result<T> + 'static,
    {
        self.keep(name, version, Some(Box::new(migrate)))
    }

    /// Offers a service to other instances: `handler` gets a request and sends any number of replies. Needs the capability
    /// `services`.
    pub fn responder<Q, R, F, Fut>(&mut self, service: &str, version: u32, handler: F)
    where
        Q: DeserializeOwned + 'static,
        R: Serialize + 'static,
        F: Fn(Q, Replies<R>) -> Fut + 'static,
        Fut: Future<Output = Result<()>> + 'static,
    {
        let service = service.to_owned();
        self.record(move || register::responder(&service, version, handler));
    }

    /// Awaited before the plugin counts as started; an error refuses the start, and an upgrade then keeps the old one.
    pub fn on_start<F>(&mut self, future: F)
    where
        F: Future<Output = Result<()>> + 'static,
    {
        self.plugin.on_start.borrow_mut().push(Box::pin(future));
    }

    /// Called when the plugin gets no more new work, with the moment until which it may finish.
    pub fn on_drain(&mut self, drain: impl Fn(Instant) + 'static) {
        self.plugin.on_drain.borrow_mut().push(Rc::new(drain));
    }

    /// Called when another generation takes over. The sessions that rest go to it now, and what is kept of them here is dropped; the
    /// others go over each at its next park, so a server that keeps connections in long turns brings those to a park now.
    /// [`on_drain`](Registrar::on_drain) follows.
    pub fn on_hand_over(&mut self, told: impl Fn() + 'static) {
        self.plugin.on_hand_over.borrow_mut().push(Rc::new(told));
    }

    /// Asked now and then for a while after an upgrade: whether the plugin can do its work. An error, or no answer within
    /// `health_ms_max`, is a fault; with too many the version before takes over again. It costs the loop's time, so it looks at what can
    /// be wrong, and does no work.
    pub fn health<C>(&mut self, check: C)
    where
        C: AsyncFn() -> Result<()> + 'static,
    {
        let check = Rc::new(check);
        self.plugin.health.borrow_mut().push(Rc::new(move || -> Step {
            let check = check.clone();
            Box::pin(async move { check().await })
        }));
    }

    /// Called with `true` before the host replaces its own binary: sessions that have parked then go over, so a server that keeps
    /// connections in long turns brings those to a park now; called with `false` if the host goes on after all. As long as a generation
    /// does not serve it is called with `true` too, before its start, and with `false` when it serves.
    pub fn on_freeze(&mut self, told: impl Fn(bool) + 'static) {
        self.plugin.on_freeze.borrow_mut().push(Rc::new(told));
    }

    /// Called last, when no task of the plugin is left.
    pub fn on_stop(&mut self, stop: impl FnOnce() + 'static) {
        self.plugin.on_stop.borrow_mut().push(Box::new(stop));
    }

    /// Called for each [`post`](crate::post), in order.
    pub fn on_post(&mut self, posted: impl Fn(&[u8]) + 'static) {
        self.plugin.on_post.borrow_mut().push(Rc::new(posted));
    }

    /// A resource that two generations cannot hold at once, a database file, say: `release` gives it up when the next one
    /// takes over, `acquire` gets it: before the first work, and again if the switch failed.
    /// `export_plugin!(…, exclusive = ["name"])` has to name it to the host; a plugin that registers more than it names is refused.
    pub fn exclusive<R, A>(&mut self, release: R, acquire: A)
    where
        R: AsyncFn() -> Result<()> + 'static,
        A: AsyncFn() -> Result<()> + 'static,
    {
        let (release, acquire) = (Rc::new(release), Rc::new(acquire));
        let exclusive = Exclusive {
            release: Box::new(move || {
                let release = release.clone();
                Box::pin(async move { release().await })
            }),
            acquire: Box::new(move || {
                let acquire = acquire.clone();
                Box::pin(async move { acquire().await })
            }),
        };
        self.plugin.exclusive.borrow_mut().push(Rc::new(exclusive));
    }

    fn add_session<S, F, R>(&mut self, turn: F, durable: bool) -> Sessions<S>
    where
        S: Serialize + DeserializeOwned + Default + 'static,
        F: AsyncFn(&mut Connection, S, Wake) -> R + 'static,
        R: IntoFlow<S> + 'static,
    {
        let sessions = Sessions::new();
        let registered = sessions.clone();
        self.record(move || session::add_session(turn, durable, registered));
        sessions
    }

    fn keep<T>(
        &mut self,
        name: &str,
        version: u32,
        migrate: Option<crate::state::Migrate<T>>,
    ) -> Rc<RefCell<T>>
    where
        T: Serialize + DeserializeOwned + Default + 'static,
    {
        let value = Rc::new(RefCell::new(T::default()));
        let kept = Kept { name: name.to_owned(), version, value: value.clone(), migrate };
        self.plugin.states.borrow_mut().push(Rc::new(kept));
        value
    }

    pub(crate) fn record(&mut self, register: impl FnOnce() -> Result<Registration> + 'static) {
        let register = move || register().map(Some);
        self.plugin.recorded.borrow_mut().push(Box::new(register));
    }

    fn record_without_token(&mut self, register: impl FnOnce() -> Result<()> + 'static) {
        let register = move || register().map(|()| None);
        self.plugin.recorded.borrow_mut().push(Box::new(register));
    }
}
