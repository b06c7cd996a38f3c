//! Loading: from a file to a generation that is ready to serve, in steps that can each be refused with nothing lost.

#![allow(unsafe_code)] // Reads the library's root.

use std::{
    error::Error as _,
    ffi::CString,
    io,
    path::Path,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use medusa_abi::{
    ABI_MAJOR, ABI_MINOR, ENTRY_SYMBOL,
    code::Code,
    proof::{self, LayoutProof},
    root::{Hooks, MAGIC, Root},
};

use crate::{
    config,
    plugin::{
        frame,
        generation::{Generation, Phase},
        instance::{Bind, Instance},
        library::{Library, LoadError, Original, Staged},
        registry::Registry,
        restart,
        unload::{self, Unloaded},
    },
    sys::{crash, fault},
};

/// The table of hooks at minor 0, the oldest that this host serves; it has grown since with every hook behind these. What
/// an older plugin's table does not have is not called.
const HOOKS_BYTES_MIN: usize =
    std::mem::offset_of!(Hooks, heap_release) + size_of::<unsafe extern "C" fn() -> Code>();

/// Why something was not done, for the operator: what was tried, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Loads an instance and has it serve. One that is quarantined begins anew.
///
/// # Errors
/// Why it does not run. Nothing of it is left then.
pub async fn load(
    registry: &Rc<Registry>,
    spec: config::Instance,
) -> Result<Rc<Generation>, Refused> {
    let name = spec.name.clone();
    if let Some(instance) = registry.instance(&name)
        && let Some(current) = instance.current()
    {
        if current.phase.get() == Phase::Quarantined {
            return restart::revive(&instance, Rc::new(spec)).await;
        }
        return Err(Refused(format!(
            "`{name}` is loaded already; use `upgrade {name}` or `unload {name}`"
        )));
    }
    let spec = Rc::new(spec);
    // An instance whose old generations are still pinned or draining keeps them.
    let instance =
        registry.instance(&name).unwrap_or_else(|| Instance::new(registry, spec.clone()));
    let Ok(_turn) = instance.turn.try_lock() else { return Err(busy(&name)) };
    *instance.spec.borrow_mut() = spec.clone();
    registry.insert(instance.clone());
    let outcome = bring_up(&instance, &spec).await;
    if outcome.is_err() && instance.generations().is_empty() {
        registry.remove(&name);
    }
    outcome
}

async fn bring_up(
    instance: &Rc<Instance>,
    spec: &config::Instance,
) -> Result<Rc<Generation>, Refused> {
    let listeners = bind(instance, spec)?;
    let library = instance.registry.config().library_file(spec);
    let generation = start(instance, &library).await?;
    enter(&generation).await?;
    open(&generation, spec, listeners).await;
    Ok(generation)
}

/// Has a generation that has started be the current one of an instance that has none.
///
/// # Errors
/// Why it is not; it has been unloaded again.
pub async fn enter(generation: &Rc<Generation>) -> Result<(), Refused> {
    let entered = async {
        if !generation.manifest.exclusive.is_empty() {
            bounded(generation, "acquire", generation.acquire()).await?;
        }
        activate(generation, None)
    };
    if let Err(reason) = entered.await {
        discard(generation).await;
        return Err(Refused(format!("cannot load `{}`: {reason}", generation.name())));
    }
    generation.freeze(false);
    Ok(())
}

/// Has a generation that was [`enter`]ed be reached by its addresses: those are bound here.
pub async fn open(generation: &Generation, spec: &config::Instance, listeners: Vec<Bind>) {
    let instance = &generation.instance;
    // An older generation that is still pinned has kept the instance.
    instance.health.take();
    instance.quota.set_max(quota_of(spec));
    instance.listen(&spec.listen, listeners).await;
    tracing::info!(
        instance = instance.name,
        generation = generation.number,
        version = generation.manifest.version,
        listen = ?instance.listeners().iter().map(|listener| listener.address().to_string()).collect::<Vec<_>>(),
        "loaded"
    );
}

/// What another change of the same instance answers meanwhile.
pub fn busy(name: &str) -> Refused {
    Refused(format!("another change of `{name}` is under way; wait for its end and try again"))
}

/// Binds the addresses on which the instance does not listen yet. Nobody accepts on them before [`Instance::listen`].
///
/// # Errors
/// One cannot be had; then none is.
pub fn bind(instance: &Instance, spec: &config::Instance) -> Result<Vec<Bind>, Refused> {
    let kept = instance.kept(&spec.listen);
    let new = spec.listen.iter().zip(kept).filter(|(_, kept)| kept.is_none());
    new.map(|(listen, _)| bind_one(&instance.registry, spec, listen)).collect()
}

/// Binds one address of an instance.
///
/// # Errors
/// It cannot be had.
pub fn bind_one(
    registry: &Registry,
    spec: &config::Instance,
    listen: &config::Listen,
) -> Result<Bind, Refused> {
    if listen.tls.is_some() {
        return Err(Refused(format!(
            "cannot load `{}`: {} asks for TLS, which this version of medusa does not have yet; leave `tls` away",
            spec.name, listen.address
        )));
    }
    let bound = registry.sockets.listen(&listen.address, spec.limits.listen_backlog());
    bound
        .map(|listener| (listen.address.clone(), Rc::new(listener)))
        .map_err(|error| Refused(format!("cannot load `{}`: {error}", spec.name)))
}

/// How many connections an instance may have.
pub fn quota_of(spec: &config::Instance) -> usize {
    usize::try_from(spec.limits.connections_per_instance_max).unwrap_or(usize::MAX)
}

/// Makes a generation that has started and serves nobody yet.
///
/// # Errors
/// Why there is none; what there was of it has been unloaded again.
pub async fn start(instance: &Rc<Instance>, path: &Path) -> Result<Rc<Generation>, Refused> {
    let generation = prepare(instance, path).await?;
    begin(&generation, path).await?;
    Ok(generation)
}

/// Makes a generation that is prepared, and has not [`begin`]un: nothing outside of it has changed.
///
/// # Errors
/// As [`start`].
pub async fn prepare(instance: &Rc<Instance>, path: &Path) -> Result<Rc<Generation>, Refused> {
    let file = path.to_owned();
    prepare_staged(instance, path, move || Library::stage(&file)).await
}

/// Starts a generation that is prepared. What it does of itself, its periodic jobs, waits until it is [`Generation::freeze`]d no more:
/// when it serves, for its state is still to come, and this may yet come to nothing.
///
/// # Errors
/// As [`start`].
pub async fn begin(generation: &Rc<Generation>, path: &Path) -> Result<(), Refused> {
    generation.freeze(true);
    let started = bounded(generation, "start", generation.start()).await;
    if let Err(reason) = started.and_then(|()| fault::after("plugin.started")) {
        discard(generation).await;
        return Err(cannot_load(&generation.instance, path, &reason));
    }
    Ok(())
}

/// As [`start`], from the very bytes that another generation of the instance was loaded from.
///
/// # Errors
/// As [`start`].
pub async fn start_again(other: &Rc<Generation>) -> Result<Rc<Generation>, Refused> {
    let gone = || io::Error::other("its library is gone");
    let original = other.with_library(Library::original).ok_or_else(gone).flatten();
    let original = original
        .map_err(|error| Refused(format!("cannot load `{}` once more: {error}", other.name())))?;
    start_original(&other.instance, &Arc::new(original)).await
}

/// As [`start`], from the bytes that a generation was loaded from.
///
/// # Errors
/// As [`start`].
pub async fn start_original(
    instance: &Rc<Instance>,
    original: &Arc<Original>,
) -> Result<Rc<Generation>, Refused> {
    let (path, original) = (original.path().to_owned(), original.clone());
    let generation = prepare_staged(instance, &path, move || original.stage()).await?;
    begin(&generation, &path).await?;
    Ok(generation)
}

fn cannot_load(instance: &Instance, path: &Path, reason: &str) -> Refused {
    Refused(format!("cannot load `{}` from {}: {reason}", instance.name, path.display()))
}

pub(super) async fn prepare_staged(
    instance: &Rc<Instance>,
    path: &Path,
    staging: impl FnOnce() -> Result<Staged, LoadError> + Send + 'static,
) -> Result<Rc<Generation>, Refused> {
    let cannot = |reason: String| cannot_load(instance, path, &reason);
    let staged = stage(instance, staging).await.map_err(cannot)?;
    fault::after("plugin.staged").map_err(cannot)?;
    let config = configure(instance, &staged)?;
    let generation = open_staged(instance, path, staged)?;
    match ready(&generation, &config).and_then(|()| fault::after("plugin.prepared")) {
        Ok(()) => Ok(generation),
        Err(reason) => {
            discard(&generation).await;
            Err(cannot(reason))
        }
    }
}

/// As [`prepare`], without preparing it: it is only mapped, and none of its hooks is ever called.
///
/// # Errors
/// As [`start`].
pub(super) async fn map_dormant(
    instance: &Rc<Instance>,
    path: &Path,
    staging: impl FnOnce() -> Result<Staged, LoadError> + Send + 'static,
) -> Result<Rc<Generation>, Refused> {
    let staged = stage(instance, staging).await;
    let staged = staged.map_err(|reason| cannot_load(instance, path, &reason))?;
    let generation = open_staged(instance, path, staged)?;
    generation.lie_dormant();
    Ok(generation)
}

fn open_staged(
    instance: &Rc<Instance>,
    path: &Path,
    staged: Staged,
) -> Result<Rc<Generation>, Refused> {
    let cannot = |reason: String| cannot_load(instance, path, &reason);
    let manifest = staged.inspection().manifest.clone();
    // Its constructors run, and it has no generation yet.
    let opening = instance.registry.next_id();
    crash::set_name(opening, &instance.name);
    let library = frame::blame(opening, || staged.open());
    let library = library.map_err(|error| cannot(reason(&error)))?;
    let root = root(&library).and_then(|root| fault::after("plugin.opened").map(|()| root));
    let root = match root {
        Ok(root) => root,
        Err(reason) => {
            // No code of the plugin's own has run yet, so that there is nothing to clean.
            let _ = library.close();
            return Err(cannot(reason));
        }
    };
    let generation = Generation::new(instance, library, root, manifest);
    instance.add_generation(generation.clone());
    Ok(generation)
}

async fn stage(
    instance: &Instance,
    staging: impl FnOnce() -> Result<Staged, LoadError> + Send + 'static,
) -> Result<Staged, String> {
    let pool = &instance.registry.host_pool;
    let ticket = pool.submit(staging).map_err(|full| full.to_string())?;
    let limit = Duration::from_millis(instance.limits().start_ms_max);
    let Ok(staged) = tokio::time::timeout(limit, ticket).await else {
        return Err(format!(
            "it could not be read within {limit:?} (`start_ms_max`); is its file system slow or gone?"
        ));
    };
    staged.map_err(|error| error.to_string())?.map_err(|error| reason(&error))
}

/// Why a library was not opened, for a sentence that names its path already.
fn reason(error: &LoadError) -> String {
    match (error, error.source()) {
        (LoadError::Refused { .. } | LoadError::Watch { .. }, Some(source)) => source.to_string(),
        (_, Some(source)) => format!("{error}: {source}"),
        (_, None) => error.to_string(),
    }
}

fn configure(instance: &Instance, staged: &Staged) -> Result<Vec<u8>, Refused> {
    let value =
        config::validate::validate(&staged.inspection().manifest.config, &instance.spec.borrow())
            .map_err(|problems| Refused(problems.render(false)))?;
    let mut bytes = Vec::new();
    ciborium::into_writer(&value, &mut bytes)
        .expect("a vector takes every byte, and the value is a tree of plain values");
    Ok(bytes)
}

fn ready(generation: &Rc<Generation>, config: &[u8]) -> Result<(), String> {
    // It cannot be interrupted; but what takes too long at a load would also stop the loop at every upgrade.
    let (begun, limit) = (Instant::now(), Duration::from_millis(generation.limits.prepare_ms_max));
    generation.prepare(config)?;
    if begun.elapsed() > limit {
        let took = begun.elapsed();
        return Err(format!(
            "it took {took:?} to prepare, and may take {limit:?} (`prepare_ms_max`)"
        ));
    }
    Ok(())
}

/// Gives a step of a generation's life `start_ms_max`.
///
/// # Errors
/// The step's reason, or that it took too long.
pub async fn bounded(
    generation: &Rc<Generation>,
    doing: &str,
    step: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let limit = Duration::from_millis(generation.limits.start_ms_max);
    let done = tokio::time::timeout(limit, step).await;
    done.unwrap_or_else(|_| Err(format!("{doing} took longer than {limit:?} (`start_ms_max`)")))
}

/// Unloads a generation that never served.
pub async fn discard(generation: &Rc<Generation>) {
    if let Unloaded::Pinned { reason } = unload::finish(generation).await {
        tracing::warn!(
            instance = generation.name(),
            generation = generation.number,
            "pinned after a failed load: {reason}"
        );
    }
}

/// Finds the root in a library, and checks that it is of this contract.
fn root(library: &Library) -> Result<*const Root, String> {
    let entry = CString::new(ENTRY_SYMBOL).expect("the symbol's name holds no NUL");
    // SAFETY: The symbol is looked up as data; what it points at is checked below before it is believed.
    let root: *const Root = unsafe { library.symbol(&entry) }.map_err(|error| reason(&error))?;
    // SAFETY: The symbol lies in the library, which is mapped; its first word is read, then its size.
    let Some(found) = (unsafe { root.as_ref() }) else {
        return Err(format!("its `{ENTRY_SYMBOL}` is null"));
    };
    if found.magic != MAGIC {
        return Err(format!("its `{ENTRY_SYMBOL}` is something else: the magic number is wrong"));
    }
    if found.abi_major != ABI_MAJOR || found.abi_minor > ABI_MINOR {
        return Err(format!(
            "it speaks ABI {}.{}, this host {ABI_MAJOR}.{ABI_MINOR}, and its manifest says otherwise",
            found.abi_major, found.abi_minor
        ));
    }
    // SAFETY: The table is a static of the library; only its size is read before that is known.
    let size = unsafe { found.hooks.as_ptr().cast::<usize>().as_ref() }.copied().unwrap_or(0);
    if size < HOOKS_BYTES_MIN {
        return Err(format!(
            "its table of hooks has {size} bytes, and {HOOKS_BYTES_MIN} are needed"
        ));
    }
    if let Some(layout) = found.layout {
        let proof: LayoutProof = layout();
        // SAFETY: The proof points into the library, which is mapped.
        unsafe { proof::check(proof) }.map_err(|differences| {
            format!("its types are not those of this host's ABI:\n{differences}")
        })?;
    }
    Ok(root)
}

/// Has new work go to a generation: its routes and observers are mounted, in the places of those of `replacing`, and it
/// becomes the current one.
///
/// # Errors
/// Its routes do not fit; nothing has changed then.
pub fn activate(generation: &Rc<Generation>, replacing: Option<&Generation>) -> Result<(), String> {
    generation.mount(replacing)?;
    generation.phase.set(Phase::Running);
    generation.instance.set_current(Some(generation.clone()));
    Ok(())
}

/// Has no new work go to a generation.
pub fn deactivate(generation: &Rc<Generation>) {
    let instance = &generation.instance;
    if instance.current().is_some_and(|current| Rc::ptr_eq(&current, generation)) {
        instance.set_current(None);
    }
    generation.unmount();
    generation.phase.set(Phase::Draining);
}
