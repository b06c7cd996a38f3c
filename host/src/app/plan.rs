//! What another configuration means for each instance.

use std::collections::BTreeSet;

use crate::{
    app::host::Host,
    config::{
        Config, Instance,
        limits::{LIMITS, Scope},
    },
    monitor::control::{ApplyFailure, ApplyOutcome, ApplyPlan},
};

/// What another configuration changes. Nothing else is touched.
pub(super) struct Plan {
    /// Those that go.
    pub(super) stop: Vec<String>,
    changes: Vec<Change>,
    unchanged: Vec<String>,
}

/// An instance as it shall be.
struct Change {
    spec: Instance,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It does not run.
    Start,
    /// It runs, and another generation takes over.
    Upgrade,
    /// It runs, and listens elsewhere.
    Listen,
}

impl Host {
    /// What `after` changes if it is put into force in the place of `before`.
    pub(super) fn plan(&self, before: &Config, after: &Config) -> Plan {
        let (mut stop, mut changes, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
        for name in names(before, after) {
            let wanted = after.instance(name).filter(|spec| spec.enabled);
            let runs =
                self.registry.instance(name).is_some_and(|instance| instance.current().is_some());
            let had = before.instance(name).filter(|spec| spec.enabled);
            let kind = wanted.map(|spec| (spec, self.kind(before, after, spec, runs)));
            match kind {
                Some((spec, Some(kind))) => changes.push(Change { spec: spec.clone(), kind }),
                None if had.is_some() && runs => stop.push(name.to_owned()),
                _ => unchanged.push(name.to_owned()),
            }
        }
        Plan { stop, changes, unchanged }
    }

    fn kind(&self, before: &Config, after: &Config, wanted: &Instance, runs: bool) -> Option<Kind> {
        let name = &wanted.name;
        let same_library = |had: &Instance| after.library_file(wanted) == before.library_file(had);
        let had = before.instance(name).filter(|spec| spec.enabled);
        let is_same = had.is_some_and(|had| wanted.same(had) && same_library(had));
        let is_right = if runs { !self.is_behind(name) } else { !self.has_failed(name) };
        if is_same && is_right {
            return None;
        }
        if !runs {
            return Some(Kind::Start);
        }
        let now = self.registry.instance(name)?.spec.borrow().clone();
        let only_addresses = wanted.same_work(&now) && same_library(&now);
        Some(if only_addresses { Kind::Listen } else { Kind::Upgrade })
    }

    /// The settings that differ from what the host began with, and that only a restart puts into force.
    pub(super) fn needs_restart(&self, config: &Config) -> Vec<String> {
        needs_restart(&self.began_with, config)
    }
}

impl Plan {
    /// The instances that start or change, as they shall be.
    pub(super) fn changes(&self) -> impl Iterator<Item = &Instance> {
        self.changes.iter().map(|change| &change.spec)
    }

    /// It is in force.
    pub(super) fn done(self, restart: Vec<String>) -> ApplyOutcome {
        let started = self.of(&[Kind::Start]);
        let upgraded = self.of(&[Kind::Upgrade, Kind::Listen]);
        let Plan { stop: stopped, unchanged, .. } = self;
        ApplyOutcome {
            applied: true,
            started,
            stopped,
            upgraded,
            unchanged,
            restart,
            ..ApplyOutcome::default()
        }
    }

    /// It is not in force, and these were brought back; everybody else was not touched, except for who is among `failed` and could not
    /// be brought back.
    pub(super) fn refused(
        &self,
        failed: Vec<ApplyFailure>,
        rolled_back: Vec<String>,
    ) -> ApplyOutcome {
        ApplyOutcome { failed, rolled_back, ..ApplyOutcome::default() }
    }

    /// It is not tried.
    pub(super) fn told(self, restart: Vec<String>) -> ApplyPlan {
        let [start, upgrade, listen] =
            [Kind::Start, Kind::Upgrade, Kind::Listen].map(|kind| self.of(&[kind]));
        ApplyPlan { start, stop: self.stop, upgrade, listen, unchanged: self.unchanged, restart }
    }

    fn of(&self, kinds: &[Kind]) -> Vec<String> {
        let of = self.changes.iter().filter(|change| kinds.contains(&change.kind));
        of.map(|change| change.spec.name.clone()).collect()
    }
}

/// The names of either, each once, in the order of the newer, then of the older.
fn names<'a>(before: &'a Config, after: &'a Config) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    let all = after.instances.iter().chain(&before.instances).map(|spec| spec.name.as_str());
    all.filter(|name| seen.insert(*name)).collect()
}

/// The settings that differ and that only a restart puts into force.
fn needs_restart(before: &Config, after: &Config) -> Vec<String> {
    let differs = [
        ("[monitor] socket", before.monitor_socket != after.monitor_socket),
        ("[host] state_dir", before.state_dir != after.state_dir),
        ("[host] counters", before.counters != after.counters),
        ("[host.limits] of the whole host", host_limits(before) != host_limits(after)),
        ("[log] format", before.log.format != after.log.format),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

fn host_limits(config: &Config) -> Vec<u64> {
    let of_host = LIMITS.iter().filter(|limit| limit.scope == Scope::Host);
    of_host.map(|limit| (limit.get)(&config.limits)).collect()
}
