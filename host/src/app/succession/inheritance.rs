//! What one image of the host leaves to the next: numbers of descriptors that stay open over the exec, and what is known of them.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::FileExt,
    },
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    app::succession::{aftermath::keeps, probation::Predecessor},
    config::{Config, Diagnostics, Instance, Source},
    monitor::control::Asker,
    plugin::{
        inherit::Legacy,
        instance::Counts,
        registry::Clock,
        session::{RestingRecords, SessionRecord},
    },
    sys::{crash::Crashes, exec, memfd},
};

/// The form of what is written down. An image that reads another one is refused before anything is touched.
pub(super) const FORMAT: u32 = 2;

/// What one image of the host leaves to the next.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Inheritance {
    pub(super) format: u32,
    /// The version of the image that wrote it.
    pub version: String,
    /// How long an image may take until it serves.
    takeover_ms_max: u64,
    /// When the host's clock began, as the system counts it.
    pub(super) clock_ns: u64,
    /// When the old image ceased to serve.
    pub(super) frozen_ns: u64,
    /// How often the host has gone on as another program.
    pub upgrades: u64,
    /// The crashes that there were; an older image says nothing of them.
    #[serde(default)]
    pub crashes: Crashes,
    pub(super) connection_id_last: u64,
    /// The configuration in force, whatever its file says by now.
    config: Text,
    /// What the service manager has told the first image.
    pub supervisor: SupervisorRecord,
    /// The program of the old image, for the way back.
    pub(super) program: RawFd,
    /// What that one reads of what is kept for the time after a crash, see [`keeps`]; all zero of one that says nothing.
    #[serde(default)]
    pub(super) keeps: [u32; 3],
    /// The program before this one, as long as this one is on probation.
    #[serde(default)]
    pub(super) before: Option<Predecessor>,
    /// Why the host is back as this program, if it is after it served as another.
    #[serde(default)]
    pub(super) back: Option<String>,
    /// What tells the standby that the next image serves.
    pub(super) standby: Option<RawFd>,
    /// Children that still serve what could not go over, and the standby.
    pub(super) children: Vec<u32>,
    /// What the monitor accepts by.
    pub monitor: RawFd,
    /// Sockets of the service manager's own, by its names.
    pub passed: Vec<(String, RawFd)>,
    /// Sessions of the monitor that wait for a request, and what they have sent of it.
    #[serde(default)]
    pub(super) waiting: Vec<(RawFd, ByteBuf)>,
    /// The session that asked for it.
    pub(super) asker: Option<Asker>,
    pub(super) instances: Vec<InstanceRecord>,
    /// Those that are configured and did not run, and why.
    pub(super) failed: Vec<(String, String)>,
}

/// An instance, in the shape that it runs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct InstanceRecord {
    pub(super) name: String,
    /// How it is configured, if by hand.
    by_hand: Option<Text>,
    /// Where its library was read from.
    pub(super) path: PathBuf,
    /// The bytes that it runs from.
    pub(super) library: RawFd,
    pub(super) counts: Counts,
    /// Why it gets no new work, if it is quarantined.
    pub(super) quarantined: Option<String>,
    /// The version that state and sessions are written in.
    pub(super) state_version: u32,
    pub(super) state: Option<ByteBuf>,
    /// The addresses as they are configured, and the sockets.
    pub(super) listeners: Vec<(String, RawFd)>,
    pub(super) sessions: Vec<SessionRecord>,
    /// Sessions beside those, which nothing is lost of if they cannot be gone on with as they were.
    pub(super) resting: RestingRecords,
}

/// What is to be known of a service manager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorRecord {
    /// Where it listens.
    pub notify_socket: Option<OsString>,
    /// How long the loop may stand still.
    pub watchdog_us: Option<u64>,
}

/// A text of a configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Text {
    name: String,
    folder: PathBuf,
    text: String,
}

impl Text {
    fn of(source: &Source) -> Text {
        let Source { name, folder, text } = source;
        Text { name: name.clone(), folder: folder.clone(), text: text.clone() }
    }

    fn source(&self) -> Rc<Source> {
        Source::new(self.name.clone(), self.folder.clone(), self.text.clone())
    }
}

impl InstanceRecord {
    /// How the instance is configured, if it was by hand.
    pub(super) fn by_hand(source: &Source, config: &Source) -> Option<ByHand> {
        (source.name != config.name).then(|| ByHand(Text::of(source)))
    }

    /// What an instance is made of here, by the configuration of the host. Its library is a copy of the descriptor: an instance that fails
    /// closes it, and the way back needs the other.
    ///
    /// # Errors
    /// It is not configured, or its configuration cannot be read any more; its library is not there.
    pub(super) fn into_legacy(self, config: &Config) -> Result<(Instance, Legacy), String> {
        let spec = match &self.by_hand {
            Some(text) => Instance::of_source(&text.source(), config)
                .map_err(|problems| problems.render(false))?,
            None => config
                .instance(&self.name)
                .cloned()
                .ok_or_else(|| format!("`{}` has run, and is not configured", self.name))?,
        };
        let library = exec::copy(self.library)
            .map_err(|error| format!("the library of `{}` is not there: {error}", self.name))?;
        let legacy = Legacy {
            path: self.path,
            library,
            counts: self.counts,
            quarantined: self.quarantined,
            version: self.state_version,
            state: self.state.map(ByteBuf::into_vec),
            listeners: self.listeners,
            sessions: self.sessions,
            resting: self.resting,
            is_rest: false,
        };
        Ok((spec, legacy))
    }
}

/// The text of a `load` command.
pub(super) struct ByHand(Text);

/// What an [`InstanceRecord`] is made of beside what is in the instance.
pub(super) struct Parts {
    pub(super) by_hand: Option<ByHand>,
    pub(super) path: PathBuf,
    pub(super) library: RawFd,
    pub(super) quarantined: Option<String>,
    pub(super) state_version: u32,
    pub(super) state: Vec<u8>,
    pub(super) sessions: Vec<SessionRecord>,
    pub(super) resting: RestingRecords,
}

impl InstanceRecord {
    pub(super) fn new(
        name: &str,
        counts: Counts,
        listeners: Vec<(String, RawFd)>,
        parts: Parts,
    ) -> InstanceRecord {
        InstanceRecord {
            name: name.to_owned(),
            by_hand: parts.by_hand.map(|text| text.0),
            path: parts.path,
            library: parts.library,
            counts,
            quarantined: parts.quarantined,
            state_version: parts.state_version,
            state: (!parts.state.is_empty()).then(|| parts.state.into()),
            listeners,
            sessions: parts.sessions,
            resting: parts.resting,
        }
    }
}

impl Inheritance {
    /// What there is to begin with: the rest is to be filled in.
    pub(super) fn blank(config: &Config) -> Inheritance {
        Inheritance {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            takeover_ms_max: config.limits.takeover_ms_max,
            clock_ns: 0,
            frozen_ns: 0,
            upgrades: 0,
            crashes: Crashes::default(),
            connection_id_last: 0,
            config: Text::of(&config.source),
            supervisor: SupervisorRecord::default(),
            program: -1,
            keeps: keeps(),
            before: None,
            back: None,
            standby: None,
            children: Vec::new(),
            monitor: -1,
            passed: Vec::new(),
            waiting: Vec::new(),
            asker: None,
            instances: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// How long the next image may take until it serves.
    pub(super) fn takeover(&self) -> Duration {
        Duration::from_millis(self.takeover_ms_max)
    }

    /// Reads what an image has left in this memory file.
    ///
    /// # Errors
    /// It is none, or of another form.
    pub fn read(memory: &File) -> io::Result<Inheritance> {
        let length = usize::try_from(memory.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        memory.read_exact_at(&mut bytes, 0)?;
        let inheritance: Inheritance =
            ciborium::from_reader(&*bytes).map_err(|error| io::Error::other(error.to_string()))?;
        match inheritance.format {
            FORMAT => Ok(inheritance),
            other => Err(io::Error::other(format!("it is of form {other}, and not {FORMAT}"))),
        }
    }

    /// A memory file that holds it, and that nobody changes any more.
    ///
    /// # Errors
    /// There is no memory, or no descriptor.
    pub(super) fn write(&self) -> io::Result<OwnedFd> {
        let mut bytes = Vec::new();
        ciborium::into_writer(self, &mut bytes).map_err(io::Error::other)?;
        memfd::sealed("medusa:inheritance", |file| file.write_all(&bytes))
    }

    /// The configuration in force.
    ///
    /// # Errors
    /// This image does not take it.
    pub fn config(&self) -> Result<Config, Diagnostics> {
        Config::parse(&self.config.source())
    }

    /// The clock goes on.
    pub fn clock(&self) -> Clock {
        Clock::since(self.clock_ns)
    }

    /// The libraries that run.
    pub(super) fn libraries(&self) -> Vec<RawFd> {
        self.instances.iter().map(|instance| instance.library).collect()
    }

    /// Every descriptor that goes over.
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let mut all = vec![self.program, self.monitor];
        all.extend(self.before.as_ref().map(|before| before.program));
        all.extend(self.asker.map(|asker| asker.descriptor).iter().chain(&self.standby));
        all.extend(self.waiting.iter().map(|(descriptor, _)| *descriptor));
        all.extend(self.passed.iter().map(|(_, descriptor)| *descriptor));
        for instance in &self.instances {
            all.push(instance.library);
            all.extend(instance.listeners.iter().map(|(_, descriptor)| *descriptor));
            all.extend(instance.sessions.iter().map(|session| session.connection.descriptor));
            all.extend(instance.resting.descriptors());
        }
        all
    }

    /// Takes the sessions of the monitor that wait for a request, and what they have sent of it.
    pub fn take_waiting(&mut self) -> Vec<(OwnedFd, Vec<u8>)> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        all.filter_map(|(session, sent)| Some((exec::take(session).ok()?, sent.into_vec())))
            .collect()
    }

    /// Takes the session that asked, to be told.
    pub fn take_asker(&mut self) -> Option<(OwnedFd, Asker)> {
        let asker = self.asker.take()?;
        Some((exec::take(asker.descriptor).ok()?, asker))
    }

    /// Has the descriptors go over, with the memory file itself, until [`exec::keep_back`].
    ///
    /// # Errors
    /// One of them is not open; those before it go over.
    pub(super) fn pass(&self, memory: &OwnedFd) -> io::Result<()> {
        let mut all = self.descriptors().into_iter().chain([memory.as_raw_fd()]);
        all.try_for_each(|descriptor| exec::set_inherited(descriptor, true))
    }
}
