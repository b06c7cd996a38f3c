//! The new image: what it was left, all of which it restores before it serves anybody, and the way back while it has not.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::{OwnedFd, RawFd},
    path::PathBuf,
};

use super::{BACK, Inheritance, VARIABLE, probation::OnProbation, standby};
use crate::{
    app::host::Host,
    log::AUDIT,
    monitor::control::HostUpgradeOutcome,
    plugin::{arriving::Arriving, inherit, lifecycle::Refused},
    sys::{clock, exec, fault, inherit::forget_variables},
};

/// What another image has left, and why the old one is back, if this is the old one.
pub struct Left {
    /// What it has left.
    pub inheritance: Inheritance,
    /// The new one has failed, and how.
    pub back: Option<String>,
    memory: OwnedFd,
    /// All that was open for this image alone.
    descriptors: Vec<RawFd>,
    /// Those of the libraries, of which instances have copies.
    libraries: Vec<RawFd>,
}

/// What this image was left, if it follows another one. To be called first of all: from here on whatever ends this image brings the
/// old one back.
///
/// # Errors
/// What was left cannot be read. There is no way back then; the standby goes on.
pub fn left() -> Result<Option<Left>, String> {
    let Some(descriptor) = std::env::var(VARIABLE).ok().and_then(|it| it.parse::<RawFd>().ok())
    else {
        return Ok(None);
    };
    let cannot = |error: io::Error| format!("cannot read what the image before has left: {error}");
    let memory = exec::take(descriptor).map_err(cannot)?;
    let inheritance =
        Inheritance::read(&File::from(memory.try_clone().map_err(cannot)?)).map_err(cannot)?;
    let back = std::env::var(BACK).ok();
    if back.is_none() {
        let old = PathBuf::from(format!("/proc/self/fd/{}", inheritance.program));
        let variables = [
            (VARIABLE, Some(OsString::from(descriptor.to_string()))),
            (
                BACK,
                Some("the new program did not come to serve; its last words are in the log".into()),
            ),
        ];
        let image = exec::Image::new(&old, &variables).map_err(cannot)?;
        exec::guard(image, inheritance.takeover());
    }
    // They are for this image alone.
    forget_variables(&[VARIABLE, BACK]);
    let (descriptors, libraries) = (inheritance.descriptors(), inheritance.libraries());
    Ok(Some(Left { inheritance, back, memory, descriptors, libraries }))
}

/// As [`fault::after`], in the new image alone: the one before is not to fail once it is back.
pub fn fails_after(step: &str, back: Option<&String>) -> Result<(), String> {
    match back {
        Some(_) => Ok(()),
        None => fault::after(step),
    }
}

impl Host {
    /// Goes on with what the image before has left: all of it, or nothing. Nobody is served before [`Restoration::begin`].
    ///
    /// # Errors
    /// What cannot be restored, if there is no way back.
    pub async fn restore(&self, left: &mut Left) -> Result<Restoration, String> {
        fails_after("host.begun", left.back.as_ref()).map_err(|reason| self.give_up(reason))?;
        let inheritance = &mut left.inheritance;
        self.registry.connections.set_begun(self.registry.clock.start());
        self.registry.connections.set_id_last(inheritance.connection_id_last);
        for (name, descriptor) in &inheritance.passed {
            match exec::take(*descriptor) {
                Ok(socket) => self.registry.sockets.add(name.clone(), socket),
                Err(error) => return Err(self.give_up(format!("the socket `{name}`: {error}"))),
            }
        }
        let config = self.registry.config();
        let mut restored = Vec::new();
        for record in std::mem::take(&mut inheritance.instances) {
            let one = match record.into_legacy(&config) {
                Ok((spec, legacy)) => inherit::restore(&self.registry, spec, legacy).await,
                Err(reason) => Err(Refused(reason)),
            };
            let one = one.and_then(|one| match fails_after("host.restored", left.back.as_ref()) {
                Ok(()) => Ok(one),
                Err(reason) => {
                    std::mem::forget(one);
                    Err(Refused(reason))
                }
            });
            match one {
                Ok(one) => restored.push(one),
                Err(refused) => {
                    let reason = self.give_up(refused.0);
                    // The sockets are the standby's as well, which takes them up.
                    std::mem::forget(restored);
                    return Err(reason);
                }
            }
        }
        for (name, reason) in std::mem::take(&mut inheritance.failed) {
            if let Some(spec) = config.instance(&name) {
                self.remember_failure(spec, &reason);
            }
        }
        if let Err(reason) = fails_after("host.complete", left.back.as_ref()) {
            let reason = self.give_up(reason);
            std::mem::forget(restored);
            return Err(reason);
        }
        Ok(Restoration(restored))
    }

    /// What was left cannot be gone on with: goes back, if there is a way. Before anything is dropped, for the sockets are still needed.
    fn give_up(&self, reason: String) -> String {
        tracing::error!("cannot go on where the image before left off: {reason}");
        if let Ok(around) = self.succession.around() {
            drop(around.log.at_rest());
        }
        exec::go_back_for(BACK, &reason);
        reason
    }

    /// This image serves from now on, on probation if it is a new one. Answers what there is to tell whoever asked.
    pub fn arrived(&self, left: Left) -> HostUpgradeOutcome {
        exec::unguard();
        exec::hold_signals(false);
        let Left { inheritance, back, memory, descriptors, libraries } = left;
        // Nothing more of this goes over to a child.
        exec::keep_back(descriptors);
        drop(memory);
        let program = exec::take(inheritance.program);
        let before = inheritance.before.map(OnProbation::of);
        match &back {
            None => self.begin_probation(program, &inheritance.version, inheritance.keeps),
            // This one's own begins where it was left.
            Some(_) => self.succession.go_on_with_probation(before.flatten(), inheritance.back),
        }
        libraries.into_iter().for_each(|library| drop(exec::take(library)));
        let told = inheritance
            .standby
            .map(|descriptor| exec::take(descriptor).and_then(standby::tell_serving));
        if let Some(Err(error)) = told {
            tracing::error!("what was being served before the upgrade is cut: {error}");
        }
        for child in inheritance.children {
            self.look_after(child);
        }
        self.succession.upgrades.set(inheritance.upgrades + u64::from(back.is_none()));
        let pause_us = clock::monotonic_ns().saturating_sub(inheritance.frozen_ns) / 1000;
        let (from, to) = (inheritance.version, env!("CARGO_PKG_VERSION").to_owned());
        match &back {
            None => tracing::info!(target: AUDIT, from, to, pause_us, "the host was upgraded"),
            Some(reason) => {
                tracing::error!(target: AUDIT, pause_us, "the host is back as it was: {reason}")
            }
        }
        let result = if back.is_none() { "upgraded" } else { "kept" };
        HostUpgradeOutcome { result: result.to_owned(), from, to, reason: back, pause_us }
    }
}

/// Instances that could begin where another image left off.
pub struct Restoration(Vec<inherit::Restored>);
impl Restoration {
    /// They serve from now on. Answers the sessions that are yet to arrive.
    pub async fn begin(self) -> Vec<Arriving> {
        let mut arriving = Vec::new();
        for one in self.0 {
            arriving.extend(one.begin().await);
        }
        arriving
    }
}
