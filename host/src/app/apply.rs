//! Puts configurations into force: the first at the start, each later one as a difference to the one before, and as a whole or not
//! at all.
//!
//! What the operator has loaded, unloaded or changed by hand stays so for as long as the file says the same of it.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    app::{check, host::Host, plan::Plan},
    config::{Config, Diagnostics, Instance},
    monitor::control::{ApplyFailure, ApplyOutcome},
    plugin::{
        change::{self, Part, Wanted},
        generation::Generation,
        instance,
        lifecycle::{self, Refused, busy},
        unload,
    },
};

impl Host {
    /// Loads the enabled instances in the order in which they can find each other. One that fails does not keep the
    /// others from serving; `plugins` shows it as failed.
    pub async fn load_configured(&self) {
        let _changing = self.changing.lock().await;
        let config = self.registry.config();
        // After a crash in its code one may have failed before it was loaded.
        let is_left = |spec: &&Instance| {
            let is_there = self.registry.instance(&spec.name).is_some();
            spec.enabled && !is_there && !self.has_failed(&spec.name)
        };
        for spec in config.instances.iter().filter(is_left) {
            if let Err(failed) = self.start(spec).await {
                tracing::error!("{failed}");
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
                let ApplyOutcome {
                    applied, started, stopped, upgraded, rolled_back, restart, ..
                } = outcome;
                if applied {
                    tracing::info!(
                        ?started,
                        ?stopped,
                        ?upgraded,
                        ?restart,
                        "the configuration is applied"
                    );
                } else {
                    tracing::error!(?rolled_back, "the configuration is not applied");
                }
            }
        }
    }

    async fn read(&self) -> Result<Config, Diagnostics> {
        let config = Config::load(&self.registry.config().source.file())?;
        check::check_on_pool(&config, &self.registry.host_pool).await?;
        Ok(config)
    }

    /// Puts a configuration into force as a difference to the one before: what both say the same of is not touched. If anything fails,
    /// everything is as it was.
    pub(super) async fn apply_config(&self, config: Rc<Config>) -> ApplyOutcome {
        let _changing = self.changing.lock().await;
        let before = self.registry.config();
        let plan = self.plan(&before, &config);
        let leaving = plan.stop.iter().filter_map(|name| self.registry.instance(name));
        let leaving: Vec<_> = leaving.collect();
        // Whatever else is done to them is waited for: they go all the same.
        let mut turns_of_leaving = Vec::new();
        for instance in &leaving {
            turns_of_leaving.push(instance.turn.lock().await);
        }
        if let Err(outcome) = self.carry_out(&plan, &config, &leaving).await {
            return outcome;
        }
        self.registry.set_config(config.clone());
        for name in plan.changes().map(|spec| &spec.name).chain(&plan.stop) {
            self.forget_failure(name);
        }
        unload_all(&leaving).await;
        plan.done(self.needs_restart(&config))
    }

    /// Brings the changes about, up to the unloading of those that leave, who listen nowhere then.
    async fn carry_out(
        &self,
        plan: &Plan,
        config: &Config,
        leaving: &[Rc<instance::Instance>],
    ) -> Result<(), ApplyOutcome> {
        let wanted =
            plan.changes().map(|spec| Wanted::new(&self.registry, spec, config.library_file(spec)));
        let wanted: Vec<_> = wanted.collect();
        let instances: Vec<_> = wanted.iter().map(|wanted| wanted.instance.clone()).collect();
        let turns: Vec<_> =
            instances.iter().map(|instance| instance.turn.try_lock().ok()).collect();
        let is_free: Vec<_> = turns.iter().map(Option::is_some).collect();
        let parts = self.prepare(wanted, &is_free, leaving).await;
        let parts = parts.map_err(|failed| plan.refused(failed, Vec::new()))?;
        let released = change::release(leaving, &parts).await;
        let released = match released {
            Ok(released) => released,
            Err((name, Refused(reason))) => {
                discard(parts).await;
                let failed = vec![ApplyFailure { name, reason }];
                return Err(plan.refused(failed, Vec::new()));
            }
        };
        match self.switch(parts).await {
            Ok(parts) => {
                change::settle(parts, leaving).await;
                Ok(())
            }
            Err((failure, switched)) => {
                let (failed, touched) = self.bring_back(failure, switched, released).await;
                Err(plan.refused(failed, touched))
            }
        }
    }

    /// Makes all parts ready, or none.
    async fn prepare(
        &self,
        wanted: Vec<Wanted>,
        is_free: &[bool],
        leaving: &[Rc<instance::Instance>],
    ) -> Result<Vec<Part>, Vec<ApplyFailure>> {
        let mut free = change::free(&wanted, leaving);
        let (mut parts, mut failed) = (Vec::new(), Vec::new());
        for (wanted, is_free) in wanted.into_iter().zip(is_free) {
            let name = wanted.instance.name.clone();
            let prepared = match self.check_running() {
                Err(refusal) => Err((wanted, vec![Refused(refusal.0)])),
                Ok(()) if !is_free => Err((wanted, vec![busy(&name)])),
                Ok(()) => wanted.prepare(&mut free).await,
            };
            match prepared {
                Ok(part) => parts.push(part),
                Err((wanted, reasons)) => {
                    if *is_free {
                        wanted.forget();
                    }
                    failed.extend(reasons.into_iter().map(|reason| failure(&name, reason)));
                }
            }
            // Who is connected to what serves is answered before the next one is prepared.
            tokio::task::yield_now().await;
        }
        if failed.is_empty() {
            return Ok(parts);
        }
        discard(parts).await;
        Err(failed)
    }

    /// Switches all parts; or else tells the reason, and which were switched.
    async fn switch(&self, parts: Vec<Part>) -> Result<Vec<Part>, (ApplyFailure, Vec<Part>)> {
        let (mut waiting, mut switched) = (VecDeque::from(parts), Vec::new());
        let mut in_vain = 0;
        while let Some(mut part) = waiting.pop_front() {
            let running = self.check_running().map_err(|refusal| Refused(refusal.0));
            let reason = match running {
                Err(reason) => {
                    waiting.push_front(part);
                    let name = waiting[0].name().to_owned();
                    discard(waiting.into()).await;
                    return Err((failure(&name, reason), switched));
                }
                Ok(()) => match part.switch().await {
                    Ok(()) => {
                        in_vain = 0;
                        switched.push(part);
                        continue;
                    }
                    Err(reason) => reason,
                },
            };
            // What only one can hold may come free with another part.
            in_vain += 1;
            let may_come = waiting.iter().any(|other| other.may_free(&part));
            if may_come && in_vain <= waiting.len() && part.prepare_again().await.is_ok() {
                waiting.push_back(part);
                continue;
            }
            let failure = failure(part.name(), reason);
            part.forget();
            discard(waiting.into()).await;
            return Err((failure, switched));
        }
        Ok(switched)
    }

    /// Undoes what was done before something failed, the last first. Answers all failures, and who was touched.
    async fn bring_back(
        &self,
        first: ApplyFailure,
        switched: Vec<Part>,
        released: Vec<Rc<Generation>>,
    ) -> (Vec<ApplyFailure>, Vec<String>) {
        let (mut failed, mut touched, mut draining) = (vec![first], Vec::new(), JoinSet::new());
        for part in switched.into_iter().rev() {
            let name = part.name().to_owned();
            match part.bring_back(&mut draining).await {
                Ok(()) => touched.push(name),
                Err(Refused(reason)) => {
                    self.stays_behind(&name);
                    let reason = format!(
                        "`{name}` was changed before that, cannot be brought back, and goes on with the new configuration: {reason}"
                    );
                    failed.push(ApplyFailure { name, reason });
                }
            }
        }
        let worse = change::take_back(released).await;
        failed.extend(worse.into_iter().map(|(name, reason)| failure(&name, reason)));
        while draining.join_next().await.is_some() {}
        (failed, touched)
    }

    /// Loads an instance of the configuration; if that fails, it is remembered.
    async fn start(&self, spec: &Instance) -> Result<(), Refused> {
        self.check_running().map_err(|refusal| Refused(refusal.0))?;
        match lifecycle::load(&self.registry, spec.clone()).await {
            Ok(_) => {
                self.forget_failure(&spec.name);
                Ok(())
            }
            Err(refused) => {
                self.remember_failure(spec, &refused.0);
                Err(refused)
            }
        }
    }
}

async fn discard(parts: Vec<Part>) {
    for part in parts {
        part.discard().await;
    }
}

/// Unloads those that leave, all at once; called in the turn of each.
async fn unload_all(leaving: &[Rc<instance::Instance>]) {
    let mut unloading = JoinSet::new();
    for instance in leaving {
        let instance = instance.clone();
        unloading.spawn_local(async move {
            let drain = Duration::from_millis(instance.limits().drain_ms_max);
            if let Err(refused) = unload::unload_in_turn(&instance, drain).await {
                tracing::warn!(instance = instance.name, "{refused}");
            }
        });
    }
    while unloading.join_next().await.is_some() {}
}

fn failure(name: &str, Refused(reason): Refused) -> ApplyFailure {
    ApplyFailure { name: name.to_owned(), reason }
}
