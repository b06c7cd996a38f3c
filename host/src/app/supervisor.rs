//! The service manager (systemd): what it gives at the start (sd_listen_fds(3), sd_watchdog_enabled(3)), and what it is told
//! (sd_notify(3)). Without one nothing here does anything.

use std::{
    env,
    ffi::OsString,
    fmt::Display,
    future::Future,
    io,
    os::fd::{OwnedFd, RawFd},
    rc::Rc,
    str::FromStr,
    time::Duration,
};

use crate::{
    app::succession::SupervisorRecord,
    net::KeptSockets,
    sys::{clock, inherit, notify::Notifier},
};

/// What the environment says of a service manager.
#[derive(Debug, Default)]
pub struct Given {
    /// Descriptors, by their names.
    passed: Vec<(String, io::Result<OwnedFd>)>,
    notify_socket: Option<OsString>,
    watchdog: Option<Duration>,
    /// What the log is to be told once there is one.
    complaints: Vec<String>,
}

/// The service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    notifier: Option<Rc<Notifier>>,
    watchdog: Option<Duration>,
}

/// The variables of the protocols; they are meant for this process alone.
const VARIABLES: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// How a descriptor is called where the manager does not say (sd_listen_fds(3)).
const UNNAMED: &str = "unknown";

impl Given {
    /// Reads the environment, takes the descriptors that were passed, and forgets the variables. To be called before there are other
    /// threads, and before anything else opens a descriptor for good.
    #[must_use]
    pub fn take() -> Given {
        let mut given = Given { notify_socket: env::var_os("NOTIFY_SOCKET"), ..Given::default() };
        if given.is_for_us("LISTEN_PID", false) {
            given.take_descriptors();
        }
        if given.is_for_us("WATCHDOG_PID", true) {
            let usec = given.number::<u64>("WATCHDOG_USEC");
            given.watchdog = usec.filter(|usec| *usec > 0).map(Duration::from_micros);
        }
        if !inherit::forget_variables(&VARIABLES) {
            let complaint = "the variables of the service manager stay in the environment: there are threads already";
            given.complaints.push(complaint.to_owned());
        }
        given
    }

    /// What another image of the host was given.
    #[must_use]
    pub fn inherited(record: SupervisorRecord) -> Given {
        Given {
            notify_socket: record.notify_socket,
            watchdog: record.watchdog_us.map(Duration::from_micros),
            ..Given::default()
        }
    }

    /// What the next image of the host has to know.
    #[must_use]
    pub fn record(&self) -> SupervisorRecord {
        let as_us = |limit: Duration| u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        SupervisorRecord {
            notify_socket: self.notify_socket.clone(),
            watchdog_us: self.watchdog.map(as_us),
        }
    }

    fn take_descriptors(&mut self) {
        let count = self.number::<RawFd>("LISTEN_FDS").unwrap_or_default();
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':').filter(|name| !name.is_empty());
        for descriptor in inherit::descriptors(count) {
            self.passed.push((names.next().unwrap_or(UNNAMED).to_owned(), descriptor));
        }
    }

    /// Whether a variable names this process.
    fn is_for_us(&mut self, variable: &str, or_none: bool) -> bool {
        match self.number::<u32>(variable) {
            Some(pid) => pid == std::process::id(),
            None => or_none && env::var_os(variable).is_none(),
        }
    }

    fn number<T: FromStr<Err: Display>>(&mut self, variable: &str) -> Option<T> {
        let value = env::var_os(variable)?;
        let text = value.to_string_lossy();
        match text.parse() {
            Ok(number) => Some(number),
            Err(error) => {
                let complaint =
                    format!("{variable} is not heeded: `{text}` is no such number ({error})");
                self.complaints.push(complaint);
                None
            }
        }
    }

    /// Has the sockets kept for whoever is to listen there. Must be called on the loop.
    #[must_use]
    pub fn hand_out(self, sockets: &KeptSockets) -> Supervisor {
        self.complaints.iter().for_each(|complaint| tracing::warn!("{complaint}"));
        let notifier = self.notify_socket.and_then(|name| match Notifier::new(&name) {
            Ok(notifier) => Some(Rc::new(notifier)),
            Err(error) => {
                let name = name.display();
                tracing::warn!(
                    "the service manager cannot be told anything by NOTIFY_SOCKET={name}: {error}"
                );
                None
            }
        });
        if let Some(notifier) = &notifier {
            sockets.set_manager(notifier.clone());
        }
        for (name, descriptor) in self.passed {
            match descriptor {
                Ok(descriptor) => sockets.add(name, descriptor),
                Err(error) => {
                    tracing::warn!("the descriptor `{name}` was announced and not passed: {error}")
                }
            }
        }
        Supervisor { notifier, watchdog: self.watchdog }
    }
}

impl Supervisor {
    /// All that is configured was loaded, or has failed; or a changed configuration is in force.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\n{}", status_line(status)));
    }

    /// The configuration is about to be read again, or another program to take over; [`Supervisor::ready`] ends it, whoever is there then.
    pub fn reloading(&self, status: &str) {
        // What was said at the same moment is of this reload, and not of the one before.
        let now_us = clock::monotonic_ns() / 1000;
        let status = status_line(status);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}\n{status}"));
    }

    /// The host drains, and ends.
    pub fn stopping(&self, why: &str) {
        self.tell(&format!("STOPPING=1\n{}", status_line(why)));
    }

    /// Says that the loop turns, twice in each time that the manager waits for it; none if it does not.
    pub fn beat(&self) -> Option<impl Future<Output = ()> + 'static> {
        let (notifier, every) = (self.notifier.clone()?, self.watchdog? / 2);
        Some(async move {
            let mut beat = tokio::time::interval(every.max(Duration::from_millis(1)));
            beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                beat.tick().await;
                notifier.send_now("WATCHDOG=1");
            }
        })
    }

    fn tell(&self, lines: &str) {
        if let Some(notifier) = &self.notifier {
            notifier.send(lines, None);
        }
    }
}

/// A line of the protocol, whatever the text.
fn status_line(text: &str) -> String {
    format!("STATUS={}", text.replace(char::is_control, " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(status_line("a\nREADY=1\tb"), "STATUS=a READY=1 b");
    }
}
