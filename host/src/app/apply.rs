//! Puts configurations into force: the first at the start, each later one as a difference to the one before.
//!
//! What the operator has loaded, unloaded or changed by hand stays so for as long as the file says the same of it.

use std::{collections::BTreeSet, rc::Rc};

use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    app::{check, host::Host},
    config::{
        Config, Diagnostics, Instance,
        limits::{LIMITS, Scope},
    },
    monitor::control::{ApplyFailure, ApplyOutcome},
    plugin::{lifecycle, unload, upgrade},
};

/// What another configuration means for one instance.
enum Change<'a> {
    /// It goes.
    Stop,
    /// It runs, and shall run so.
    Reconfigure(&'a Instance),
    /// It does not run, and shall.
    Start(&'a Instance),
}

impl Host {
    /// Loads the enabled instances in the order in which they can find each other. One that fails does not keep the
    /// others from serving; `plugins` shows it as failed.
    pub async fn load_configured(&self) {
        let _changing = self.changing.lock().await;
        let config = self.registry.config();
        for spec in config.instances.iter().filter(|spec| spec.enabled) {
            if let Err(failed) = self.start(spec).await {
                tracing::error!("{}", failed.reason);
            }
            // Who is connected to what serves by now is answered before the next one is loaded.
            tokio::task::yield_now().await;
        }
    }

    /// Reads the configuration file again, and puts it into force; one that does not hold together changes nothing.
    pub async fn reload(&self) {
        match self.read().await {
            Err(problems) => {
                tracing::error!("the configuration is not applied:\n{}", problems.render(false));
            }
            Ok(config) => {
                let outcome = self.apply_config(Rc::new(config)).await;
                for failed in &outcome.failed {
                    tracing::error!(instance = failed.name, "{}", failed.reason);
                }
                let ApplyOutcome { started, stopped, upgraded, .. } = outcome;
                tracing::info!(?started, ?stopped, ?upgraded, "the configuration is applied");
            }
        }
    }

    async fn read(&self) -> Result<Config, Diagnostics> {
        let config = Config::load(&self.registry.config().source.file())?;
        check::check_on_pool(&config, &self.registry.host_pool).await?;
        Ok(config)
    }

    /// Puts a configuration into force as a difference to the one before: what both say the same of is not touched.
    pub(super) async fn apply_config(&self, config: Rc<Config>) -> ApplyOutcome {
        let _changing = self.changing.lock().await;
        let before = self.registry.config();
        self.registry.set_config(config.clone());
        let mut outcome =
            ApplyOutcome { restart: needs_restart(&before, &config), ..ApplyOutcome::default() };
        let mut changes = Vec::new();
        let mut leaving = JoinSet::new();
        for name in names(&before, &config) {
            match self.change(&before, &config, name) {
                None => outcome.unchanged.push(name.to_owned()),
                Some(Change::Stop) => {
                    if self.leave(name, &mut leaving).await {
                        outcome.stopped.push(name.to_owned());
                    }
                }
                Some(change) => changes.push(change),
            }
        }
        self.carry_out(changes, &mut outcome).await;
        while leaving.join_next().await.is_some() {}
        outcome
    }

    /// Carries changes out. One that fails is tried again once another has succeeded: an address may have become free.
    async fn carry_out(&self, mut changes: Vec<Change<'_>>, outcome: &mut ApplyOutcome) {
        loop {
            let (mut failed, mut left) = (Vec::new(), Vec::new());
            let count = changes.len();
            for change in changes {
                let done = match change {
                    Change::Start(spec) => {
                        self.start(spec).await.map(|()| outcome.started.push(spec.name.clone()))
                    }
                    Change::Reconfigure(spec) => self
                        .reconfigure(spec)
                        .await
                        .map(|()| outcome.upgraded.push(spec.name.clone())),
                    Change::Stop => Ok(()),
                };
                if let Err(reason) = done {
                    failed.push(reason);
                    left.push(change);
                }
            }
            if left.is_empty() || left.len() == count {
                outcome.failed = failed;
                return;
            }
            changes = left;
        }
    }

    fn change<'a>(&self, before: &Config, after: &'a Config, name: &str) -> Option<Change<'a>> {
        let wanted = after.instance(name).filter(|spec| spec.enabled);
        let had = before.instance(name).filter(|spec| spec.enabled);
        let runs =
            self.registry.instance(name).is_some_and(|instance| instance.current().is_some());
        match wanted {
            None => (had.is_some() && runs).then_some(Change::Stop),
            Some(wanted) => {
                let is_same = had.is_some_and(|had| {
                    wanted.same(had) && after.library_file(wanted) == before.library_file(had)
                });
                match (is_same, runs) {
                    (true, true) => self.is_behind(name).then_some(Change::Reconfigure(wanted)),
                    (true, false) => self.has_failed(name).then_some(Change::Start(wanted)),
                    (false, true) => Some(Change::Reconfigure(wanted)),
                    (false, false) => Some(Change::Start(wanted)),
                }
            }
        }
    }

    /// Loads an instance of the configuration; if that fails, it is remembered.
    async fn start(&self, spec: &Instance) -> Result<(), ApplyFailure> {
        self.check_running().map_err(|refusal| failure(spec, refusal.0))?;
        match lifecycle::load(&self.registry, spec.clone()).await {
            Ok(_) => {
                self.forget_failure(&spec.name);
                Ok(())
            }
            Err(refused) => {
                self.remember_failure(spec, &refused.0);
                Err(failure(spec, refused.0))
            }
        }
    }

    async fn reconfigure(&self, spec: &Instance) -> Result<(), ApplyFailure> {
        self.check_running().map_err(|refusal| failure(spec, refusal.0))?;
        let instance = self.registry.instance(&spec.name);
        let instance =
            instance.ok_or_else(|| failure(spec, format!("`{}` has gone", spec.name)))?;
        let library = self.registry.config().library_file(spec);
        match upgrade::reconfigure(&instance, Rc::new(spec.clone()), &library).await {
            Ok(()) => {
                self.forget_failure(&spec.name);
                Ok(())
            }
            Err(refused) => {
                self.stays_behind(&spec.name);
                Err(failure(spec, refused.0))
            }
        }
    }

    /// Has an instance leave, once any other change of it is done: its addresses are free when this returns, what is in flight
    /// drains beside the other changes.
    async fn leave(&self, name: &str, leaving: &mut JoinSet<()>) -> bool {
        let Some(instance) = self.registry.instance(name) else { return false };
        self.forget_failure(name);
        let (closed, is_closed) = oneshot::channel();
        leaving.spawn_local(async move {
            if let Err(refused) = unload::unload_after_others(&instance, closed).await {
                tracing::warn!(instance = instance.name, "{refused}");
            }
        });
        // Nothing is ever sent; it is dropped.
        let _ = is_closed.await;
        true
    }
}

fn failure(spec: &Instance, reason: String) -> ApplyFailure {
    ApplyFailure { name: spec.name.clone(), reason }
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
