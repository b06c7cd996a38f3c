//! The host's own upgrade, in place: the process goes on as another program, with the same number, and its listeners, connections and
//! state go over.
//!
//! The old image asks the new program whether it could (`preflight`), brings sessions to a park, writes down what there is, forks a
//! standby, and executes the new program. That one restores all of it before it serves anybody; if it cannot, it executes the old
//! program, which does the same. If it does not even get to that, the standby goes on. What cannot be written down, a request that is
//! being answered for instance, the standby brings to an end. Once the new program serves it is on `probation`: a fault in its own code
//! still executes the old one, which goes on as after a crash (`aftermath`).

pub mod aftermath;
mod arrival;
mod freeze;
mod inheritance;
pub mod preflight;
pub mod probation;
mod standby;

use std::{
    cell::{Cell, OnceCell, RefCell},
    convert::Infallible,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::{Duration, Instant},
};

pub use self::{
    arrival::{Left, fails_after, left},
    inheritance::{Inheritance, SupervisorRecord},
};
use self::{
    freeze::{Frozen, LOOK_EVERY, check_threads, jobs, prepare, release, retake},
    inheritance::{InstanceRecord, Parts},
    probation::OnProbation,
    standby::{Fate, Forked},
};
use crate::{
    app::{host::Host, supervisor::Supervisor, watchdog::Watchdog},
    log::Log,
    monitor::control::{Asker, Refusal},
    plugin::{
        generation::{Generation, Phase},
        instance::Instance,
        serve::Service,
    },
    sys::{clock, crash, exec, fault, reactor},
};

/// Names the descriptor of the memory file to the next image.
const VARIABLE: &str = "MEDUSA_INHERITANCE";
/// Says to the old image, when it is back, why it is.
const BACK: &str = "MEDUSA_ROLLED_BACK";

/// What the host needs to go on as another program.
#[derive(Default)]
pub struct Succession {
    /// The file of this program, as it was when it began.
    program: PathBuf,
    /// How often the host has gone on as another program.
    upgrades: Cell<u64>,
    /// Children that bring to an end what could not go over.
    children: Rc<RefCell<Vec<u32>>>,
    /// The program before this one, as long as this one is on probation.
    before: RefCell<Option<OnProbation>>,
    /// Why the host is back as this program, if it is after it served as another.
    back: RefCell<Option<String>>,
    surroundings: OnceCell<Surroundings>,
    watchdog: RefCell<Option<Watchdog>>,
}

/// What is around the host in its process.
pub struct Surroundings {
    /// The log.
    pub log: Log,
    /// What the monitor accepts by.
    pub monitor: RawFd,
    /// Tells its sessions that wait for a request, and what they have sent of it.
    pub waiting: Rc<dyn Fn() -> Vec<(RawFd, Vec<u8>)>>,
    /// Ends the monitor in a process that only brings to an end what it has.
    pub close_monitor: Rc<dyn Fn()>,
    /// What the service manager has told.
    pub supervisor: SupervisorRecord,
    /// The service manager itself.
    pub manager: Supervisor,
}

/// Why the host has not gone on as another program.
enum Stays {
    /// It goes on as it was, and why.
    Here(String),
    /// It has: this is the process that brings to an end what could not go over.
    Behind,
}

/// Whether sessions are written down with the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sessions {
    /// They are to go over.
    Go,
    /// It is a rehearsal, which only one that was started could read them in.
    Stay,
}

impl Succession {
    /// Of a host whose program has this file.
    #[must_use]
    pub fn new() -> Succession {
        let program = std::env::current_exe().unwrap_or_default();
        // The system says so of one whose file was replaced, as it may well be when this program is back.
        let program = match program.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
            Some(path) if !program.exists() => PathBuf::from(OsStr::from_bytes(path)),
            _ => program,
        };
        Succession { program, ..Succession::default() }
    }

    /// What is around the host. To be called once.
    pub fn set_surroundings(&self, surroundings: Surroundings) {
        let _ = self.surroundings.set(surroundings);
    }

    /// How often the host has gone on as another program.
    pub fn upgrades(&self) -> u64 {
        self.upgrades.get()
    }

    /// The children that bring to an end what could not go over.
    pub fn children(&self) -> Vec<u32> {
        self.children.borrow().clone()
    }

    fn around(&self) -> Result<&Surroundings, String> {
        self.surroundings.get().ok_or_else(|| "it has only just begun; try again".to_owned())
    }
}

impl Host {
    /// Has the process go on as another program: `binary`, or what is at the path that this one was started from. `asker` is a session
    /// of the monitor, which the other one goes on with. Returns only if the host goes on as it is.
    pub async fn replace_itself(&self, binary: Option<PathBuf>, asker: Option<Asker>) -> Refusal {
        match self.try_to_replace_itself(binary, asker).await {
            Err(Stays::Here(reason)) => {
                self.tell_manager(|manager| manager.ready(&self.summary()));
                tracing::error!("the host was not upgraded: {reason}");
                Refusal(format!("the host goes on as it is: {reason}"))
            }
            Err(Stays::Behind) => {
                self.come_to_an_end().await;
                // Whoever has asked is told by the other process.
                std::future::pending().await
            }
            Ok(never) => match never {},
        }
    }

    async fn try_to_replace_itself(
        &self,
        binary: Option<PathBuf>,
        asker: Option<Asker>,
    ) -> Result<Infallible, Stays> {
        let busy = || {
            Stays::Here(
                "another change of the host is under way; wait for its end and try again"
                    .to_owned(),
            )
        };
        let _changing = self.changing.try_lock().map_err(|_| busy())?;
        self.check_running().map_err(|refusal| Stays::Here(refusal.0))?;
        let binary = binary.unwrap_or_else(|| self.succession.program.clone());
        let instances: Vec<_> =
            self.registry.instances().into_iter().filter(|it| it.current().is_some()).collect();
        // Nobody loads, upgrades or unloads one meanwhile.
        let mut turns = Vec::new();
        for instance in &instances {
            turns.push(instance.turn.try_lock().map_err(|_| busy())?);
        }
        check_threads(&instances).map_err(Stays::Here)?;
        self.ask(&binary, &instances).await.map_err(Stays::Here)?;
        fault::after("host.asked").map_err(Stays::Here)?;
        prepare(&instances).await;

        self.tell_manager(|manager| manager.reloading("going on as another program"));
        let frozen = Frozen::begin(instances.clone());
        self.settled(&instances, frozen.until).await;
        let mut released = Vec::new();
        let ready = async {
            fault::after("host.frozen")?;
            release(&instances, &mut released).await?;
            fault::after("host.released")
        };
        let gone = match ready.await {
            Ok(()) => self.go(&binary, &frozen, asker).await,
            Err(reason) => Err(Stays::Here(reason)),
        };
        match gone {
            Err(Stays::Here(reason)) => {
                let reason = retake(&released, reason).await;
                frozen.thaw();
                Err(Stays::Here(reason))
            }
            other => other,
        }
    }

    fn tell_manager(&self, tell: impl FnOnce(&Supervisor)) {
        if let Ok(around) = self.succession.around() {
            tell(&around.manager);
        }
    }

    /// Asks the program whether it could go on with what there is now.
    async fn ask(&self, binary: &Path, instances: &[Rc<Instance>]) -> Result<(), String> {
        let left = self.write_down(instances, Sessions::Stay, None, clock::monotonic_ns())?;
        let cannot = |error: io::Error| format!("what is to go over cannot be written: {error}");
        let memory = left.write().map_err(cannot)?;
        let limit = Duration::from_millis(self.registry.config().limits.preflight_ms_max);
        let (program, libraries) = (binary.to_owned(), left.libraries());
        let asking = move || preflight::ask(&program, &memory, libraries, limit);
        let asked = self.registry.host_pool.submit(asking);
        let asked = asked.map_err(|full| full.to_string())?.await;
        let answer = asked.map_err(|error| error.to_string())?;
        let answer = answer.map_err(|reason| format!("{}: {reason}", binary.display()))?;
        tracing::info!(to = answer.version, "another program could go on, and is about to");
        Ok(())
    }

    async fn go(
        &self,
        binary: &Path,
        frozen: &Frozen,
        asker: Option<Asker>,
    ) -> Result<Infallible, Stays> {
        let around = self.succession.around().map_err(Stays::Here)?;
        let pools = [&*self.registry.pool, &*self.registry.host_pool];
        loop {
            // It may have been told to end meanwhile, which the other program would know nothing of.
            self.check_running().map_err(|refusal| Stays::Here(refusal.0))?;
            let left = self.write_down(&frozen.instances, Sessions::Go, asker, frozen.since_ns);
            let left = left.map_err(Stays::Here)?;
            fault::after("host.written").map_err(Stays::Here)?;
            // From here on it is the standby that takes over if this process dies; it is not to be two that do.
            let _disarmed = crash::disarmed();
            let forked = standby::stand_by(&around.log, pools, left.takeover());
            let forked = forked.map_err(|error| {
                Stays::Here(format!("there is no room for another process: {error}"))
            })?;
            match forked {
                Some(Forked::Parent(standby)) => {
                    return Err(Stays::Here(execute(binary, left, standby)));
                }
                Some(Forked::Standby(Fate::Drain)) => {
                    self.stay_behind(frozen);
                    return Err(Stays::Behind);
                }
                Some(Forked::Standby(Fate::Serve)) => {
                    let reason = self.succeed_itself();
                    return Err(Stays::Here(reason));
                }
                None if Instant::now() >= frozen.until => {
                    return Err(Stays::Here(jobs(&frozen.instances)));
                }
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// What there is beside instances and sessions.
    fn own_inheritance(&self) -> Result<Inheritance, String> {
        let around = self.succession.around()?;
        let mut own = Inheritance::blank(&self.registry.config());
        own.clock_ns = self.registry.clock.start_ns();
        own.upgrades = self.succession.upgrades();
        own.supervisor = around.supervisor.clone();
        own.children = self.succession.children();
        own.before = self.succession.predecessor();
        own.back = self.succession.back();
        own.monitor = around.monitor;
        own.passed = self.registry.sockets.managers();
        own.failed = self.failed();
        Ok(own)
    }

    fn write_down(
        &self,
        instances: &[Rc<Instance>],
        sessions: Sessions,
        asker: Option<Asker>,
        frozen_ns: u64,
    ) -> Result<Inheritance, String> {
        let around = self.succession.around()?;
        let config = self.registry.config();
        let mut left = self.own_inheritance()?;
        left.frozen_ns = frozen_ns;
        left.crashes = crash::crashes();
        left.connection_id_last = self.registry.connections.id_last();
        let waiting = (around.waiting)().into_iter();
        left.waiting = waiting.map(|(session, sent)| (session, sent.into())).collect();
        left.asker = asker;
        left.instances =
            instances.iter().map(|it| record(it, &config, sessions)).collect::<Result<_, _>>()?;
        Ok(left)
    }

    /// Has a child be waited for when it ends.
    fn look_after(&self, child: u32) {
        let children = self.succession.children.clone();
        children.borrow_mut().push(child);
        tokio::task::spawn_local(async move {
            if let Err(error) = reactor::child_ended(child).await {
                tracing::warn!(child, "the end of a child process cannot be seen: {error}");
            }
            children.borrow_mut().retain(|other| *other != child);
        });
    }

    /// In the standby, when the new image serves: what went over is that one's.
    fn stay_behind(&self, frozen: &Frozen) {
        exec::leave_behind();
        if let Some(around) = self.succession.surroundings.get() {
            (around.close_monitor)();
        }
        let now_ns = self.registry.clock.now_ns();
        // Before the loop has another turn: a connection that came to this process now would have nobody to serve it.
        self.registry.instances().iter().for_each(|instance| instance.accept_no_more());
        for instance in &frozen.instances {
            let drain_ns = instance.limits().drain_ms_max.saturating_mul(1_000_000);
            for generation in instance.generations() {
                if instance.current().is_some_and(|current| Rc::ptr_eq(&current, &generation)) {
                    generation.phase.set(Phase::Draining);
                    generation.handed_over();
                    if let Some(service) = service(&generation) {
                        service.sessions().inspect(|sessions| sessions.leave_recorded());
                    }
                }
                // Before any of its tasks has a turn.
                generation.drain(now_ns.saturating_add(drain_ns));
            }
        }
        frozen.thaw();
        self.begin_watching();
        tracing::info!(
            process = std::process::id(),
            "this process brings to an end what could not go over to the other program"
        );
    }

    /// Drains and ends, in a process that was left behind.
    async fn come_to_an_end(&self) {
        for instance in self.registry.instances() {
            instance.close_listeners().await;
        }
        self.ask_to_stop();
    }

    /// In the standby, when the process before has died: this one goes on as the server. Answers why.
    fn succeed_itself(&self) -> String {
        self.begin_watching();
        format!(
            "the new program ended, or stood still, before it served; process {}, a copy of what was before, goes on",
            std::process::id()
        )
    }

    fn begin_watching(&self) {
        let watchdog =
            Watchdog::start_counting(!self.registry.counters, self.registry.stalls.clone());
        match watchdog {
            Ok(watchdog) => drop(self.succession.watchdog.replace(Some(watchdog))),
            Err(error) => tracing::error!("there is no watchdog any more: {error}"),
        }
    }
}

/// What serves connections as sessions.
fn service(generation: &Rc<Generation>) -> Option<Rc<Service>> {
    generation.service.borrow().clone().filter(|service| service.sessions().is_some())
}

/// Executes the program. Answers why it could not be.
fn execute(binary: &Path, mut left: Inheritance, standby: standby::Standby) -> String {
    left.standby = Some(standby.descriptor());
    left.children.push(standby.process);
    let tried = || -> io::Result<io::Error> {
        fault::after("host.forked").map_err(io::Error::other)?;
        let program = exec::own_program()?;
        left.program = program.as_raw_fd();
        let memory = left.write()?;
        let variable = OsString::from(memory.as_raw_fd().to_string());
        let image = exec::Image::new(binary, &[(VARIABLE, Some(variable)), (BACK, None)])?;
        let pass = left.pass(&memory);
        let pass = pass.and_then(|()| fault::after("host.passed").map_err(io::Error::other));
        let error = pass.map(|()| {
            exec::hold_signals(true);
            exec::set_alarm(left.takeover());
            let error = image.execute();
            exec::set_alarm(Duration::ZERO);
            exec::hold_signals(false);
            error
        });
        exec::keep_back(left.descriptors());
        error
    };
    let error = { tried }().unwrap_or_else(|error| error);
    standby.dismiss();
    format!("{} cannot be executed: {error}", binary.display())
}

fn record(
    instance: &Rc<Instance>,
    config: &crate::config::Config,
    sessions: Sessions,
) -> Result<InstanceRecord, String> {
    let of = |reason: String| format!("`{}`: {reason}", instance.name);
    let generation = instance.current().ok_or_else(|| of("it has stopped meanwhile".to_owned()))?;
    let library =
        generation.with_library(|library| Some((library.path().to_owned(), library.descriptor()?)));
    let (path, library) = library.flatten().ok_or_else(|| of("its library is gone".to_owned()))?;
    let is_quarantined = generation.phase.get() == Phase::Quarantined;
    let spec = instance.spec.borrow().clone();
    let service = service(&generation).filter(|_| sessions == Sessions::Go);
    let (sessions, resting) = match service.as_ref().and_then(|it| it.sessions()) {
        Some(sessions) => sessions.records().map_err(of)?,
        None => Default::default(),
    };
    let parts = Parts {
        by_hand: InstanceRecord::by_hand(&spec.source, &config.source),
        path,
        library,
        quarantined: generation.reason.borrow().clone().filter(|_| is_quarantined),
        state_version: generation.manifest.state.as_ref().map_or(0, |state| state.writes),
        state: generation.export_state().map_err(of)?,
        sessions,
        resting,
    };
    Ok(InstanceRecord::new(&instance.name, instance.counts(), instance.sockets(), parts))
}
