//! The probation of a program that the host has gone on as: once it serves, the program before it stays open for `host_probation_ms`. A
//! fatal signal, a panic or a stall in the host's own code executes that one, which goes on as after a crash, see `aftermath`. A fault in
//! a plugin's code is the plugin's, and the new program goes on without it.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    panic,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Succession,
    aftermath::{FROM, VARIABLE, keeps},
};
use crate::{
    app::host::Host,
    log::AUDIT,
    sys::{clock, crash, exec},
};

/// The program before the one that is on probation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Predecessor {
    /// What it is executed by.
    pub(super) program: RawFd,
    version: String,
    /// The end of the probation, as the system counts its time.
    until_ns: u64,
}

/// The same in the program that is on probation. Dropping it closes the way back.
pub(super) struct OnProbation {
    program: OwnedFd,
    version: String,
    until_ns: u64,
}

impl Predecessor {
    /// Whether the probation is over.
    pub(super) fn is_over(&self) -> bool {
        clock::monotonic_ns() >= self.until_ns
    }

    /// From now on a fault in the host's own code is answered by that program, which is given the table.
    ///
    /// # Errors
    /// The environment cannot be written down.
    pub(super) fn arm(&self, table: RawFd) -> io::Result<()> {
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.program));
        let variables = [
            (VARIABLE, Some(OsString::from(table.to_string()))),
            (FROM, Some(env!("CARGO_PKG_VERSION").into())),
        ];
        crash::arm_back(Some(exec::Image::new(&path, &variables)?));
        Ok(())
    }
}

impl OnProbation {
    /// Takes up what another image has written down; none if it is not there, or the probation is over.
    pub(super) fn of(record: Predecessor) -> Option<OnProbation> {
        let is_over = record.is_over();
        let program = exec::take(record.program).ok()?;
        (!is_over).then_some(OnProbation {
            program,
            version: record.version,
            until_ns: record.until_ns,
        })
    }

    fn record(&self) -> Predecessor {
        Predecessor {
            program: self.program.as_raw_fd(),
            version: self.version.clone(),
            until_ns: self.until_ns,
        }
    }

    fn left(&self) -> Duration {
        Duration::from_nanos(self.until_ns.saturating_sub(clock::monotonic_ns()))
    }
}

impl Drop for OnProbation {
    fn drop(&mut self) {
        // Before its descriptor is closed.
        crash::arm_back(None);
    }
}

impl Succession {
    /// The program before this one, as long as this one is on probation.
    pub(super) fn predecessor(&self) -> Option<Predecessor> {
        self.before.borrow().as_ref().map(OnProbation::record)
    }

    /// How long the probation lasts, if this program is on probation.
    pub fn probation_left(&self) -> Option<Duration> {
        self.before.borrow().as_ref().map(OnProbation::left)
    }

    /// Why the host is back as this program, if it is after it served as another.
    pub fn back(&self) -> Option<String> {
        self.back.borrow().clone()
    }

    /// The probation, and what was said, are those of before.
    pub(super) fn go_on_with_probation(&self, before: Option<OnProbation>, back: Option<String>) {
        *self.before.borrow_mut() = before;
        *self.back.borrow_mut() = back;
    }
}

impl Host {
    /// This program begins to serve where `program`, which reads `reads` of what is kept for the time after a crash, has served.
    pub(super) fn begin_probation(
        &self,
        program: io::Result<OwnedFd>,
        version: &str,
        reads: [u32; 3],
    ) {
        let limit = Duration::from_millis(self.registry.config().limits.host_probation_ms);
        if limit.is_zero() {
            return;
        }
        if reads != keeps() {
            return tracing::warn!(
                from = version,
                "there is no way back if the host crashes: the program before reads other forms ({reads:?}) of what is kept for \
                 that than this one writes ({:?})",
                keeps()
            );
        }
        match program {
            Ok(program) => {
                let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
                let until_ns = clock::monotonic_ns().saturating_add(limit_ns);
                let before = OnProbation { program, version: version.to_owned(), until_ns };
                *self.succession.before.borrow_mut() = Some(before);
            }
            Err(error) => tracing::error!(
                "there is no way back if the host crashes: the program before is not there: {error}"
            ),
        }
    }

    /// Waits for the end of the probation, if there is one, and closes the way back then.
    pub async fn watch_probation(self: Rc<Self>) {
        let left = || self.succession.probation_left();
        while let Some(left) = left().filter(|left| !left.is_zero()) {
            tokio::time::sleep(left).await;
        }
        let Some(before) = self.succession.before.take() else { return };
        let from = before.version.clone();
        drop(before);
        if exec::is_left_behind() {
            return;
        }
        // What is kept names its descriptor.
        self.registry.changed.notify_one();
        let to = env!("CARGO_PKG_VERSION");
        tracing::info!(target: AUDIT, from, to, "the probation of the host's program is over, and the upgrade is kept");
    }
}

/// Has a panic of the host's own code go the way back, if there is one. To be called when the log has its own hook.
pub fn heed_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        before(panic);
        exec::go_back();
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("without a message");
        crash::panicked(&format!("{message}, at {at}"));
    }));
}
