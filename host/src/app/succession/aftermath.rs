//! The host's going on after a crash, in place: the process executes its program anew, with what was kept at hand for that.
//!
//! While it serves, a picture of what there is is kept in a memory file: the instances with their libraries, listeners and state; the table
//! of `sys::crash` has the connections that rest. After a crash the instance in whose code it was is there, and quarantined; the others
//! are started from the same bytes, with the state of the last picture, and go on with their connections that rested. Everything else,
//! requests that were being answered for instance, is lost.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::fd::{IntoRawFd as _, RawFd},
    path::PathBuf,
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::{
    Inheritance,
    inheritance::{FORMAT, InstanceRecord, Parts},
    probation::OnProbation,
};
use crate::{
    app::{
        crash_report::{self, CrashReport},
        host::Host,
        watchdog,
    },
    config::Config,
    log::AUDIT,
    net::succession::ConnectionRecord,
    plugin::{
        fence::{self, RouteRecord},
        frame,
        generation::Phase,
        inherit::{self, Restored},
        instance::Instance,
        lifecycle::{self, Refused},
        session::{RestingRecords, SessionRecord},
        unload,
    },
    sys::{
        clock,
        crash::{self, Crash, Kept},
        exec,
        inherit::forget_variables,
    },
};

/// Names the descriptor of the table to this program, when it begins anew.
pub(super) const VARIABLE: &str = "MEDUSA_CRASHED";

/// Has the version of the program that has crashed on its probation, and says that this one is back in its place.
pub(super) const FROM: &str = "MEDUSA_CRASHED_FROM";

/// The form of a [`Picture`].
const FORM: u32 = 1;

/// The forms of all that is kept for the time after a crash, as this program has them.
pub(super) fn keeps() -> [u32; 3] {
    [FORM, FORMAT, crash::FORM.into()]
}

/// Descriptors beyond those of `connections_max` that can have a place in the table: sockets of plugins' own, files.
const DESCRIPTORS_BESIDE: u64 = 16 * 1024;

/// What there is, for the time after a crash.
#[derive(Serialize, Deserialize)]
struct Picture {
    form: u32,
    inheritance: Inheritance,
    /// What is configured was still being loaded.
    is_starting: bool,
    instances: Vec<Beside>,
}

/// What a picture has of an instance beside its record.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Beside {
    name: String,
    version: String,
    /// The numbers of its generations.
    numbers: Vec<u64>,
    /// Where its handlers and filters stand.
    routes: Vec<RouteRecord>,
}

/// What is there after a crash.
pub struct Aftermath {
    picture: Picture,
    resting: Vec<Kept>,
    crash: Crash,
    report: CrashReport,
    /// In whose code it was.
    guilty: Option<String>,
    /// The version of the program that was on probation, if this one is back in its place.
    from: Option<String>,
}

/// What this program was left by itself, if it begins anew after a crash. To be called first of all: from here on another crash has it
/// begin once more.
///
/// # Errors
/// What was left cannot be read.
pub fn left() -> Result<Option<Aftermath>, String> {
    let Some(descriptor) = std::env::var(VARIABLE).ok().and_then(|it| it.parse::<RawFd>().ok())
    else {
        return Ok(None);
    };
    let cannot = |error: std::io::Error| {
        format!("the process has crashed, and what was kept for that cannot be read: {error}")
    };
    crash::take_up(descriptor).map_err(cannot)?;
    let crash = crash::last();
    let bytes = crash::memory().map_err(cannot)?;
    let mut picture = Picture::read(&bytes).map_err(cannot)?;
    let from = std::env::var(FROM).ok();
    // They are for this image alone.
    forget_variables(&[VARIABLE, FROM]);
    let _ = rustix::thread::set_name(c"medusa");
    let descriptors = crash::descriptors();
    let resting = crash::resting();
    for descriptor in descriptors.iter().copied().chain(resting.iter().map(|kept| kept.descriptor))
    {
        // It may have been closed in the last moment.
        let _ = exec::set_inherited(descriptor, false);
    }
    arm(descriptor).map_err(cannot)?;
    match (&from, &picture.inheritance.before) {
        (None, Some(before)) if !before.is_over() => before.arm(descriptor).map_err(cannot)?,
        _ => {}
    }
    let guilty = guilty(&crash, &picture);
    let report = crash_report::make(&crash, guilty.as_deref().map(|name| picture.library(name)));
    if let Some(name) = &guilty {
        picture.quarantine(name, &report.reason());
        // If it crashes once more before there is another picture, that one is not let loose.
        let _ = picture.keep();
    }
    Ok(Some(Aftermath { picture, resting, crash, report, guilty, from }))
}

/// In whose code it was: whose code ran, or whose library the instruction is in.
fn guilty(crash: &Crash, picture: &Picture) -> Option<String> {
    if crash.signal == libc::SIGALRM {
        return None;
    }
    let by_number = || {
        let of = picture.instances.iter().find(|it| it.numbers.contains(&crash.whose));
        of.map(|it| it.name.clone())
    };
    let by_place = || {
        let records = picture.inheritance.instances.iter();
        let mut libraries = records.map(|it| (it.name.clone(), it.library));
        libraries.find(|(_, library)| crash_report::is_in(crash, *library)).map(|(name, _)| name)
    };
    crash::name(crash.whose).or_else(by_number).or_else(by_place)
}

fn arm(table: RawFd) -> std::io::Result<()> {
    // Open for good: it is what is executed.
    let program = exec::own_program()?.into_raw_fd();
    let path = PathBuf::from(format!("/proc/self/fd/{program}"));
    let variables = [(VARIABLE, Some(OsString::from(table.to_string()))), (FROM, None)];
    let image = exec::Image::new(&path, &variables)?;
    crash::arm(image, frame::whose);
    Ok(())
}

impl Picture {
    fn read(bytes: &[u8]) -> std::io::Result<Picture> {
        #[derive(Deserialize)]
        struct Form {
            form: u32,
        }
        let other = |error: ciborium::de::Error<_>| std::io::Error::other(error.to_string());
        let Form { form } = ciborium::from_reader(bytes).map_err(other)?;
        if form != FORM {
            return Err(std::io::Error::other(format!("it is of form {form}, and not {FORM}")));
        }
        ciborium::from_reader(bytes).map_err(other)
    }

    /// A crash finds this one from now on.
    fn keep(&self) -> std::io::Result<()> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).map_err(std::io::Error::other)?;
        crash::set_memory(&bytes, &self.inheritance.kept_descriptors())
    }

    /// The library of an instance, for a report.
    fn library(&self, name: &str) -> crash_report::Suspect {
        let record = self.inheritance.instances.iter().find(|it| it.name == name);
        let beside = self.instances.iter().find(|it| it.name == name);
        crash_report::Suspect {
            name: name.to_owned(),
            version: beside.map(|it| it.version.clone()),
            path: record.map(|it| it.path.clone()),
            library: record.map(|it| it.library),
        }
    }

    fn quarantine(&mut self, name: &str, reason: &str) {
        let records = &mut self.inheritance.instances;
        match records.iter_mut().find(|it| it.name == name) {
            Some(record) => record.quarantined = Some(reason.to_owned()),
            // It was about to be loaded.
            None => self.inheritance.failed.push((name.to_owned(), reason.to_owned())),
        }
    }
}

impl Inheritance {
    /// Every descriptor of a picture.
    fn kept_descriptors(&self) -> Vec<RawFd> {
        self.descriptors().into_iter().filter(|descriptor| *descriptor >= 0).collect()
    }
}

impl Aftermath {
    /// What was kept.
    pub fn inheritance(&self) -> &Inheritance {
        &self.picture.inheritance
    }
}

/// The kept state of instances, as of the last time that they were asked: of which generation, and what.
type States = HashMap<String, (u64, Vec<u8>)>;

/// Whose state is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Every instance's.
    All,
    /// That of instances which have another generation since: what the one before wrote may be of another version.
    Changed,
}

impl Host {
    /// Makes the table, and has a crash be survived from now on. Without it a crash is what it is anywhere.
    pub fn begin_keeping(&self) {
        let limits = &self.registry.config().limits;
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let slots = limits.connections_max.saturating_add(DESCRIPTORS_BESIDE).min(allowed);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let record_bytes = u32::try_from(limits.durable_bytes_max).unwrap_or(u32::MAX);
        let begun = crash::begin(slots, record_bytes).and_then(|table| {
            arm(table)?;
            self.succession.predecessor().map_or(Ok(()), |before| before.arm(table))
        });
        if let Err(error) = begun {
            tracing::warn!(
                "a crash would end the process: there is no memory that outlives it: {error}"
            );
        }
    }

    /// Keeps a picture of what there is, up to date for as long as the host serves.
    pub async fn keep_pictures(&self) {
        let mut states = States::new();
        let every = self.registry.config().limits.state_every_ms;
        let mut every = tokio::time::interval(Duration::from_millis(every.max(1)));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let with_state = self.registry.config().limits.state_every_ms > 0;
        loop {
            tokio::select! {
                () = self.registry.changed.notified() => {}
                _ = every.tick(), if with_state => self.ask_states(&mut states, Asked::All),
            }
            self.keep_picture(&mut states);
        }
    }

    /// Keeps a picture as of now, with the state that instances keep: a crash may come before the next.
    pub fn keep_picture_now(&self) {
        let mut states = States::new();
        if self.registry.config().limits.state_every_ms > 0 {
            self.ask_states(&mut states, Asked::All);
        }
        self.keep_picture(&mut states);
    }

    fn keep_picture(&self, states: &mut States) {
        self.ask_states(states, Asked::Changed);
        let limits = &self.registry.config().limits;
        crash::leave_time(Duration::from_millis(limits.takeover_ms_max));
        watchdog::set_stall_max(Duration::from_millis(limits.stall_ms_max));
        let kept = self
            .picture(states)
            .and_then(|picture| picture.keep().map_err(|error| error.to_string()));
        if let Err(reason) = kept {
            tracing::debug!("what there is is not kept for the time after a crash: {reason}");
        }
    }

    /// Asks instances for the state that they keep. One that fails to tell keeps what it told before.
    fn ask_states(&self, states: &mut States, asked: Asked) {
        let instances = self.registry.instances();
        for instance in &instances {
            let Some(generation) = instance.current() else { continue };
            let known = states.get(&instance.name).map(|(generation, _)| *generation);
            let is_asked = generation.manifest.state.is_some()
                && generation.phase.get() == Phase::Running
                && (asked == Asked::All || known.is_some_and(|known| known != generation.id));
            if is_asked && let Ok(state) = generation.export_state() {
                states.insert(instance.name.clone(), (generation.id, state));
            }
        }
        states.retain(|name, _| instances.iter().any(|instance| instance.name == *name));
    }

    fn picture(&self, states: &States) -> Result<Picture, String> {
        let config = self.registry.config();
        let mut kept = self.own_inheritance()?;
        let mut instances = Vec::new();
        for instance in self.registry.instances() {
            if let Some((record, beside)) = record(&instance, &config, states) {
                kept.instances.push(record);
                instances.push(beside);
            }
        }
        Ok(Picture { form: FORM, inheritance: kept, is_starting: self.is_starting(), instances })
    }

    /// Goes on with what can be, after a crash. Nobody is served before [`Aftermath::begin`].
    pub async fn restore_after(&self, after: &mut Aftermath) -> Vec<Restored> {
        let picture = &mut after.picture;
        self.registry.set_last_id(crash::name_last());
        self.registry.connections.set_begun(self.registry.clock.start());
        self.registry.connections.set_id_last(crash::id_last());
        self.succession.upgrades.set(picture.inheritance.upgrades);
        let before = picture.inheritance.before.take().and_then(OnProbation::of);
        // Of this very program there is no way back to itself.
        let before = before.filter(|_| after.from.is_none());
        self.succession.go_on_with_probation(before, picture.inheritance.back.take());
        for (name, descriptor) in &picture.inheritance.passed {
            match exec::take(*descriptor) {
                Ok(socket) => self.registry.sockets.add(name.clone(), socket),
                Err(error) => tracing::error!("the socket `{name}` is lost: {error}"),
            }
        }
        let mut resting = std::mem::take(&mut after.resting);
        let mut restored = Vec::new();
        for record in std::mem::take(&mut picture.inheritance.instances) {
            let name = record.name.clone();
            // `record` makes both.
            let beside = picture.instances.iter().find(|it| it.name == name).cloned();
            let beside = beside.unwrap_or_default();
            let its = self.of(&beside, &mut resting);
            let sockets: Vec<RawFd> = record
                .listeners
                .iter()
                .map(|it| it.1)
                .chain(its.iter().map(|it| it.descriptor))
                .collect();
            match self.restore_one(record, beside, its).await {
                Ok(one) => restored.extend(one),
                Err(refused) => {
                    tracing::error!("{refused}");
                    self.leave_out(&name).await;
                    // Nobody has them, says `inherit::restore`; peers are not to wait for one who does not come.
                    sockets.into_iter().for_each(close);
                    picture.inheritance.failed.push((name, refused.0));
                }
            }
        }
        resting.into_iter().for_each(|kept| close(kept.descriptor));
        for (name, reason) in std::mem::take(&mut picture.inheritance.failed) {
            if let Some(spec) = self.registry.config().instance(&name) {
                self.remember_failure(spec, &reason);
            }
        }
        for child in std::mem::take(&mut picture.inheritance.children) {
            self.look_after(child);
        }
        restored
    }

    /// Takes those of the connections that are an instance's.
    fn of(&self, beside: &Beside, resting: &mut Vec<Kept>) -> Vec<Kept> {
        let is_its = |kept: &mut Kept| {
            beside.numbers.contains(&kept.owner)
                || crash::name(kept.owner).is_some_and(|name| name == beside.name)
        };
        resting.extract_if(.., is_its).collect()
    }

    async fn restore_one(
        &self,
        record: InstanceRecord,
        beside: Beside,
        its: Vec<Kept>,
    ) -> Result<Option<Restored>, Refused> {
        let (spec, mut legacy) = record.into_legacy(&self.registry.config()).map_err(Refused)?;
        if legacy.quarantined.is_some() {
            fence::fence_off(&self.registry, spec, legacy, &beside.routes).await?;
            its.into_iter().for_each(|kept| close(kept.descriptor));
            return Ok(None);
        }
        let connections = &self.registry.connections;
        legacy.sessions = its.into_iter().map(|kept| session(kept, connections)).collect();
        legacy.is_rest = true;
        inherit::restore(&self.registry, spec, legacy).await.map(Some)
    }

    /// Nothing is there any more of an instance that could not go on.
    async fn leave_out(&self, name: &str) {
        let Some(instance) = self.registry.instance(name) else { return };
        if instance.current().is_some() {
            // The one reason for a refusal is that there is nothing to unload.
            let _ = unload::unload(&instance, Duration::ZERO).await;
        }
        for generation in instance.generations() {
            lifecycle::discard(&generation).await;
        }
        self.registry.remove(name);
    }

    /// This program serves again after a crash.
    pub fn recovered(&self, after: Aftermath) {
        exec::set_alarm(Duration::ZERO);
        exec::hold_signals(false);
        let pause_us = clock::monotonic_ns().saturating_sub(after.crash.at_ns) / 1000;
        let guilty = after.guilty.as_deref().unwrap_or("nobody's");
        tracing::error!(
            instance = guilty,
            crashes = after.crash.count,
            pause_us,
            "the host has crashed, and goes on: {}",
            after.report.reason()
        );
        if let Some(from) = &after.from {
            self.is_back(from, &after.report.reason());
        }
        let folder = self.registry.config().state_dir.clone();
        let report = after.report;
        let writing = self.registry.host_pool.submit(move || report.write(&folder));
        tokio::task::spawn_local(async move {
            match writing {
                Ok(ticket) => match ticket.await {
                    Ok(Ok(file)) => {
                        tracing::info!("what is known of the crash is in {}", file.display())
                    }
                    Ok(Err(error)) => {
                        tracing::error!("the report of the crash cannot be written: {error}")
                    }
                    Err(error) => {
                        tracing::error!("the report of the crash is not written: {error}")
                    }
                },
                Err(full) => tracing::error!("the report of the crash is not written: {full}"),
            }
        });
    }
}

impl Host {
    /// This program is back in the place of the one that followed it.
    fn is_back(&self, from: &str, reason: &str) {
        let to = env!("CARGO_PKG_VERSION");
        let said = format!("the new program, {from}, crashed within its probation: {reason}");
        tracing::error!(target: AUDIT, from, to, "the host is back at {to}: {said}");
        *self.succession.back.borrow_mut() = Some(said);
        self.registry.changed.notify_one();
    }
}

impl Aftermath {
    /// Whether what is configured was still being loaded.
    pub fn is_starting(&self) -> bool {
        self.picture.is_starting
    }
}

/// What there is to know of an instance; none if nothing of it runs.
fn record(
    instance: &Instance,
    config: &Config,
    states: &States,
) -> Option<(InstanceRecord, Beside)> {
    let generation = instance.current()?;
    let library =
        generation.with_library(|library| Some((library.path().to_owned(), library.descriptor()?)));
    let (path, library) = library.flatten()?;
    let is_quarantined = generation.phase.get() == Phase::Quarantined;
    let spec = instance.spec.borrow().clone();
    // That of a generation before is another's.
    let state = states.get(&instance.name).filter(|(of, _)| *of == generation.id).map(|it| &it.1);
    let parts = Parts {
        by_hand: InstanceRecord::by_hand(&spec.source, &config.source),
        path,
        library,
        quarantined: generation.reason.borrow().clone().filter(|_| is_quarantined),
        state_version: generation.manifest.state.as_ref().map_or(0, |state| state.writes),
        state: state.cloned().unwrap_or_default(),
        sessions: Vec::new(),
        resting: RestingRecords::default(),
    };
    let record = InstanceRecord::new(&instance.name, instance.counts(), instance.sockets(), parts);
    let beside = Beside {
        name: instance.name.clone(),
        version: generation.manifest.version.clone(),
        numbers: instance.generations().iter().map(|it| it.id).collect(),
        routes: fence::routes(&generation),
    };
    Some((record, beside))
}

/// Closes a socket that nobody has.
fn close(descriptor: RawFd) {
    crash::rise(descriptor);
    drop(exec::take(descriptor));
}

fn session(kept: Kept, connections: &crate::net::Connections) -> SessionRecord {
    SessionRecord {
        connection: ConnectionRecord::kept(&kept, connections),
        is_as_new: kept.record.is_none(),
        state: kept.record.map(Into::into),
        posts: Vec::new(),
    }
}
