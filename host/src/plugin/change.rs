//! One instance's part in a change of several: made ready with nothing changed, switched, and brought back if another part fails.
//!
//! Who listens where stays as it is until every part is switched; what comes then ([`settle`]) cannot fail.

use std::{path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use crate::{
    config,
    plugin::{
        generation::Generation,
        instance::{Bind, Instance, take_named},
        library::{Library, Original},
        lifecycle::{self, Refused, bounded},
        registry::Registry,
        unload,
        upgrade::{self, KeptState},
    },
};

/// What one instance shall be.
pub struct Wanted {
    /// Which one; it is in the registry.
    pub instance: Rc<Instance>,
    spec: Rc<config::Instance>,
    library: PathBuf,
}

/// What is ready to become of one instance.
pub struct Part {
    wanted: Wanted,
    before: Rc<config::Instance>,
    work: Work,
    bound: Vec<Bind>,
    taken: Vec<Free>,
}

enum Work {
    /// Nothing but its addresses differs.
    Addresses,
    Start(Rc<Generation>),
    Upgrade {
        old: Rc<Generation>,
        new: Rc<Generation>,
        /// What the old one was loaded from; what lies at its path may be another library by now.
        original: Original,
    },
}

/// A listener that an instance gives up.
pub struct Free {
    from: Rc<Instance>,
    bind: Bind,
}

impl Wanted {
    /// An instance as it shall be; if there is none of that name, it is made.
    pub fn new(registry: &Rc<Registry>, spec: &config::Instance, library: PathBuf) -> Wanted {
        let spec = Rc::new(spec.clone());
        let instance = registry.instance(&spec.name).unwrap_or_else(|| {
            let instance = Instance::new(registry, spec.clone());
            registry.insert(instance.clone());
            instance
        });
        Wanted { instance, spec, library }
    }

    /// Makes everything ready that can fail and changes nothing for anybody: addresses are bound, and the library's new generation is
    /// prepared. Called in the instance's turn, and `free` are the listeners that others give up.
    ///
    /// # Errors
    /// All reasons why it cannot be so.
    pub async fn prepare(self, free: &mut Vec<Free>) -> Result<Part, (Wanted, Vec<Refused>)> {
        let before = self.instance.spec.borrow().clone();
        let (mut bound, mut taken, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        let kept = self.instance.kept(&self.spec.listen);
        for (listen, _) in self.spec.listen.iter().zip(kept).filter(|(_, kept)| kept.is_none()) {
            if let Some(it) = take_free(free, &listen.address).filter(|_| listen.tls.is_none()) {
                taken.push(it);
                continue;
            }
            match lifecycle::bind_one(&self.instance.registry, &self.spec, listen) {
                Ok(bind) => bound.push(bind),
                Err(reason) => refused.push(explain(reason, &listen.address, free)),
            }
        }
        match self.work().await {
            Ok(work) if refused.is_empty() => {
                return Ok(Part { wanted: self, before, work, bound, taken });
            }
            Ok(work) => work.discard().await,
            Err(reason) => refused.push(reason),
        }
        Err((self, refused))
    }

    async fn work(&self) -> Result<Work, Refused> {
        let instance = &self.instance;
        let Some(old) = instance.current() else {
            return Ok(Work::Start(self.generation().await?));
        };
        let before = instance.spec.borrow().clone();
        // Not compared with what runs: that may be another one by the operator's doing.
        let same_library = instance.registry.config().library_file(&before) == self.library;
        if same_library && self.spec.same_work(&before) {
            return Ok(Work::Addresses);
        }
        let original = old.with_library(Library::original).and_then(Result::ok);
        let original = original.ok_or_else(|| {
            Refused(format!("the library of `{}` cannot be kept for a way back", instance.name))
        })?;
        Ok(Work::Upgrade { new: self.generation().await?, old, original })
    }

    async fn generation(&self) -> Result<Rc<Generation>, Refused> {
        let before = self.instance.spec.replace(self.spec.clone());
        let prepared = lifecycle::prepare(&self.instance, &self.library).await;
        self.instance.spec.replace(before);
        prepared
    }

    /// It was made for this change, and is not needed.
    pub fn forget(&self) {
        if self.instance.generations().is_empty() {
            self.instance.registry.remove(&self.instance.name);
        }
    }
}

impl Work {
    /// Unloads what was only prepared.
    async fn discard(&self) {
        if let Work::Start(new) | Work::Upgrade { new, .. } = self {
            lifecycle::discard(new).await;
        }
    }

    fn new_generation(&self) -> Option<&Generation> {
        match self {
            Work::Addresses => None,
            Work::Start(new) | Work::Upgrade { new, .. } => Some(new),
        }
    }
}

impl Part {
    /// The instance's name.
    pub fn name(&self) -> &str {
        &self.wanted.instance.name
    }

    /// Unloads what was prepared.
    pub async fn discard(self) {
        self.work.discard().await;
        self.wanted.forget();
    }

    /// Has the instance work as it shall. It goes on listening where it did.
    ///
    /// # Errors
    /// Why it goes on as it was; what was prepared is gone.
    pub async fn switch(&self) -> Result<(), Refused> {
        let Wanted { instance, spec, library } = &self.wanted;
        instance.spec.replace(spec.clone());
        let switched = async {
            match &self.work {
                Work::Addresses => {}
                Work::Start(new) => {
                    lifecycle::begin(new, library).await?;
                    lifecycle::enter(new).await?;
                }
                Work::Upgrade { old, new, .. } => {
                    lifecycle::begin(new, library).await?;
                    upgrade::switch_to(old, new).await?;
                }
            }
            Ok(())
        };
        switched.await.inspect_err(|_| {
            instance.spec.replace(self.before.clone());
        })
    }

    /// What was prepared is gone, and nobody needs the instance if it was made for it.
    pub fn forget(&self) {
        self.wanted.forget();
    }

    /// Prepares once more what could not be switched.
    ///
    /// # Errors
    /// Why it cannot be.
    pub async fn prepare_again(&mut self) -> Result<(), Refused> {
        self.work = self.wanted.work().await?;
        Ok(())
    }

    /// Whether another part may succeed once this one is switched, for this one gives up what only one can hold.
    pub fn may_free(&self, other: &Part) -> bool {
        let Work::Upgrade { old, .. } = &self.work else { return false };
        other.work.new_generation().is_some_and(|new| shares_exclusive(old, new))
    }

    /// Has the instance work as before, after [`Part::switch`]. A generation that only served since then drains among `draining`.
    ///
    /// # Errors
    /// Why it stays as it is now.
    pub async fn bring_back(self, draining: &mut JoinSet<()>) -> Result<(), Refused> {
        let Part { wanted, before, work, .. } = self;
        let instance = &wanted.instance;
        instance.spec.replace(before);
        let (new, original) = match work {
            Work::Addresses => return Ok(()),
            Work::Start(new) => {
                withdraw(new, draining).await;
                return Ok(());
            }
            Work::Upgrade { new, original, .. } => (new, original),
        };
        return_to(&new, original).await.inspect_err(|_| {
            instance.spec.replace(wanted.spec);
        })
    }
}

/// Has a generation from before take the place of one that had taken its: with the state if that can be.
async fn return_to(new: &Rc<Generation>, original: Original) -> Result<(), Refused> {
    let instance = &new.instance;
    let again = lifecycle::start_original(instance, &Arc::new(original)).await?;
    let spare = again.with_library(Library::original).and_then(Result::ok);
    let Err(reason) = upgrade::replace(new, &again, KeptState::Carried).await else {
        tracing::info!(instance = instance.name, generation = again.number, "brought back");
        return Ok(());
    };
    let spare = spare.filter(|_| again.manifest.state.is_some());
    let spare = spare.ok_or_else(|| Refused(reason.clone()))?;
    let again = lifecycle::start_original(instance, &Arc::new(spare)).await?;
    upgrade::replace(new, &again, KeptState::Dropped).await.map_err(Refused)?;
    let generation = again.number;
    tracing::warn!(
        instance = instance.name,
        generation,
        "brought back without the state that it kept: {reason}"
    );
    Ok(())
}

/// Unloads a generation that no listener leads to yet.
async fn withdraw(new: Rc<Generation>, draining: &mut JoinSet<()>) {
    if !new.manifest.exclusive.is_empty()
        && let Err(reason) = bounded(&new, "release", new.release()).await
    {
        tracing::warn!(instance = new.name(), "{reason}");
    }
    draining.spawn_local(async move {
        let limit = Duration::from_millis(new.limits.drain_ms_max);
        if let Err(refused) = unload::unload_in_turn(&new.instance, limit).await {
            tracing::warn!(instance = new.name(), "{refused}");
        }
    });
    // Its routes are gone before anybody else's come back.
    tokio::task::yield_now().await;
}

/// The listeners that nobody keeps of those that change and those that leave.
pub fn free(wanted: &[Wanted], leaving: &[Rc<Instance>]) -> Vec<Free> {
    let all = |instance: &Rc<Instance>, keeps: &[config::Listen]| {
        let kept = instance.kept(keeps);
        let is_kept = |bind: &Bind| kept.iter().flatten().any(|kept| Rc::ptr_eq(kept, &bind.1));
        let given = instance.bound().into_iter().filter(|bind| !is_kept(bind));
        given.map(|bind| Free { from: instance.clone(), bind }).collect::<Vec<_>>()
    };
    let changing = wanted.iter().flat_map(|wanted| all(&wanted.instance, &wanted.spec.listen));
    changing.chain(leaving.iter().flat_map(|instance| all(instance, &[]))).collect()
}

/// The listener that has this address, under the name that it shall have.
fn take_free(free: &mut Vec<Free>, address: &config::Address) -> Option<Free> {
    let mut binds: Vec<Bind> = free.iter().map(|free| free.bind.clone()).collect();
    let listener = take_named(&mut binds, address)?;
    let at = free.iter().position(|free| Rc::ptr_eq(&free.bind.1, &listener))?;
    let Free { from, .. } = free.remove(at);
    Some(Free { from, bind: (address.clone(), listener) })
}

fn explain(Refused(reason): Refused, address: &config::Address, free: &[Free]) -> Refused {
    match free.iter().find(|free| free.bind.1.address().clashes(address)) {
        Some(Free { from, bind: (clashing, _) }) => Refused(format!(
            "{reason}; `{}` listens on {clashing} until all of this is in force: take that away first, by a configuration \
             in which nobody has {address} yet",
            from.name
        )),
        None => Refused(reason),
    }
}

/// Has those who leave give up what only one can hold and a part asks for. Answers whom it was taken from.
///
/// # Errors
/// One of them does not; they have all taken theirs back.
pub async fn release(
    leaving: &[Rc<Instance>],
    parts: &[Part],
) -> Result<Vec<Rc<Generation>>, (String, Refused)> {
    let mut released = Vec::new();
    for generation in leaving.iter().filter_map(|instance| instance.current()) {
        let asks = |part: &Part| {
            part.work.new_generation().is_some_and(|new| shares_exclusive(&generation, new))
        };
        if !parts.iter().any(asks) {
            continue;
        }
        let given = bounded(&generation, "release", generation.release()).await;
        released.push(generation.clone());
        if let Err(reason) = given {
            let worse = take_back(released).await;
            let reasons: Vec<_> =
                std::iter::once(reason).chain(worse.into_iter().map(|it| it.1.0)).collect();
            return Err((generation.name().to_owned(), Refused(reasons.join("; and "))));
        }
    }
    Ok(released)
}

/// Has those who stay after all take back what they gave up; answers which could not, and why.
pub async fn take_back(released: Vec<Rc<Generation>>) -> Vec<(String, Refused)> {
    let mut failed = Vec::new();
    for generation in released.iter().rev() {
        if let Err(reason) = bounded(generation, "acquire", generation.acquire()).await {
            let name = generation.name().to_owned();
            let reason = format!("`{name}` could not take its exclusive resources back: {reason}");
            failed.push((name, Refused(reason)));
        }
    }
    failed
}

fn shares_exclusive(one: &Generation, other: &Generation) -> bool {
    one.manifest.exclusive.iter().any(|name| other.manifest.exclusive.contains(name))
}

/// Has everybody listen where they shall, once all parts are switched. A listener that goes from one instance to another is open all
/// the while; those that nobody has any more are closed.
pub async fn settle(parts: Vec<Part>, leaving: &[Rc<Instance>]) {
    for Free { from, bind: (_, listener) } in parts.iter().flat_map(|part| &part.taken) {
        from.let_go(listener).await;
    }
    for Part { wanted: Wanted { instance, spec, .. }, work, mut bound, taken, .. } in parts {
        bound.extend(taken.into_iter().map(|taken| taken.bind));
        if let Work::Start(new) = work {
            lifecycle::open(&new, &spec, bound).await;
        } else {
            instance.quota.set_max(lifecycle::quota_of(&spec));
            instance.listen(&spec.listen, bound).await;
        }
    }
    for instance in leaving {
        instance.close_listeners().await;
    }
}
