//! The life of the plugin, as the host calls it. [`export_plugin!`](crate::export_plugin) makes the table.

// Implements the root's hooks.
#![allow(unsafe_code)]

use std::rc::Rc;

use medusa_abi::{
    ABI_MAJOR, ABI_MINOR,
    code::{self, Code},
    data::{ByteSink, InstanceId, Slice, Table},
    host::HostCallbacks,
    proof::layout_proof,
    root::{Hooks, MAGIC, Root},
    task::Task,
};

use crate::{
    catch::{catch, guard},
    error::{Error, Result},
    heap::Heap,
    host::{self, bytes_of, fail, write_sink},
    http::{clear_permits, clear_streams, clear_switches},
    late, log, panic,
    plugin::{Exclusive, Step, plugin},
    registrar::Registrar,
    service::from_cbor,
    state,
    task::into_task,
    time::Instant,
};

/// What the macro knows of the plugin.
pub trait Export: 'static {
    /// The plugin's `load`.
    fn load(registrar: &mut Registrar) -> Result<()>;

    /// The plugin's heap, if it has one of its own.
    fn heap() -> Option<&'static Heap>;

    /// What the manifest names as exclusive; `None` where there is no manifest.
    fn exclusive() -> Option<&'static [&'static str]> {
        None
    }
}

/// The table of hooks of `P`.
#[must_use]
pub const fn hooks<P: Export>() -> Hooks {
    Hooks {
        size: size_of::<Hooks>(),
        prepare: prepare::<P>,
        start,
        release,
        acquire,
        export_state,
        import_state,
        drain,
        posted,
        stop,
        heap_release: heap_release::<P>,
        handed_over,
        health,
        freeze,
    }
}

/// The root of a library with these hooks.
#[must_use]
pub const fn root(hooks: &'static Hooks, heap: Option<&'static Heap>) -> Root {
    Root {
        magic: MAGIC,
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        size: size_of::<Root>() as u32,
        hooks: Table::new(hooks),
        heap: match heap {
            Some(heap) => heap.counters(),
            None => std::ptr::null(),
        },
        layout: Some(layout_proof),
        spare: [0; 4],
    }
}

unsafe extern "C" fn prepare<P: Export>(
    tables: Table<HostCallbacks>,
    instance: InstanceId,
    config: Slice,
) -> Code {
    // SAFETY: The host's tables outlive this image, and this is the first call into it.
    if let Err(code) = unsafe { host::enter(tables, instance) } {
        return code;
    }
    match P::heap() {
        Some(heap) => heap.set_aside(set_up_image),
        None => set_up_image(),
    }
    answer(|| {
        // SAFETY: The slice is this hook's argument.
        let config = unsafe { bytes_of(config) };
        let plugin = plugin()?;
        if !config.is_empty() {
            let config = from_cbor(config)
                .map_err(|error| error.context("the configuration cannot be read"))?;
            plugin.config.replace(config);
        }
        P::load(&mut Registrar::new(plugin))?;
        check_exclusive(plugin.exclusive.borrow().len(), P::exclusive())
    })
}

/// The host asks for exclusive resources only if the manifest names some: one that it does not name would never be acquired.
fn check_exclusive(registered: usize, named: Option<&[&str]>) -> Result<()> {
    match named {
        Some(named) if registered > named.len() => Err(Error::new(format!(
            "the plugin registers {registered} exclusive resource(s), and its manifest names {}; \
             name each in `export_plugin!(…, exclusive = [\"…\"])`",
            named.len()
        ))),
        _ => Ok(()),
    }
}

/// Makes what lives as long as the image, whatever the plugin does.
fn set_up_image() {
    panic::install();
    // A global dispatcher and the list of all dispatchers, neither of which `tracing` can give back.
    log::install();
    // The buffer of standard output, which `println!` would make and never give back.
    let _ = std::io::stdout();
}

unsafe extern "C" fn start(out: *mut Task) -> Code {
    // SAFETY: `out` is this hook's argument.
    unsafe { hand_out(out, async { plugin()?.start().await }) }
}

unsafe extern "C" fn release(out: *mut Task) -> Code {
    // SAFETY: `out` is this hook's argument.
    unsafe { each_exclusive(out, |exclusive| (exclusive.release)()) }
}

unsafe extern "C" fn acquire(out: *mut Task) -> Code {
    // SAFETY: `out` is this hook's argument.
    unsafe { each_exclusive(out, |exclusive| (exclusive.acquire)()) }
}

unsafe extern "C" fn export_state(sink: ByteSink) -> Code {
    answer(|| {
        let states = plugin()?.states.borrow().clone();
        let bytes = state::export(&states)?;
        if !bytes.is_empty() {
            // SAFETY: The sink is this hook's argument.
            let code = unsafe { write_sink(sink, &bytes) };
            Error::check(code, "the host did not take the state")?;
        }
        Ok(())
    })
}

unsafe extern "C" fn import_state(_version: u32, bytes: Slice) -> Code {
    answer(|| {
        let states = plugin()?.states.borrow().clone();
        // SAFETY: The slice is this hook's argument.
        state::import(&states, unsafe { bytes_of(bytes) })
    })
}

unsafe extern "C" fn drain(deadline_ns: u64) -> Code {
    answer(|| {
        let drains = plugin()?.on_drain.borrow().clone();
        drains.iter().for_each(|drain| drain(Instant::from_ns(deadline_ns)));
        Ok(())
    })
}

unsafe extern "C" fn handed_over() -> Code {
    answer(|| {
        plugin()?.is_handed_over.set(true);
        let told = plugin()?.on_hand_over.borrow().clone();
        told.iter().for_each(|told| told());
        Ok(())
    })
}

unsafe extern "C" fn health(out: *mut Task) -> Code {
    let checks = match plugin() {
        Ok(plugin) => plugin.health.borrow().clone(),
        Err(_) => return code::WRONG_THREAD,
    };
    let all = async move {
        for check in checks {
            check().await?;
        }
        Ok(())
    };
    // SAFETY: `out` is this hook's argument.
    unsafe { hand_out(out, all) }
}

unsafe extern "C" fn freeze(is_frozen: u32) -> Code {
    answer(|| {
        let plugin = plugin()?;
        plugin.is_frozen.set(is_frozen != 0);
        let told = plugin.on_freeze.borrow().clone();
        told.iter().for_each(|told| told(is_frozen != 0));
        Ok(())
    })
}

unsafe extern "C" fn posted(bytes: Slice) -> Code {
    answer(|| {
        // SAFETY: The slice is this hook's argument.
        let bytes = unsafe { bytes_of(bytes) };
        late::drop_now();
        if late::is_nudge(bytes) {
            return Ok(());
        }
        let receivers = plugin()?.on_post.borrow().clone();
        receivers.iter().for_each(|posted| posted(bytes));
        Ok(())
    })
}

unsafe extern "C" fn stop() -> Code {
    // Each part by itself, so that one that panics leaves nothing of the others behind.
    let stopped = answer(|| {
        plugin()?.stop();
        Ok(())
    });
    let cleared = answer(|| {
        // A second look: a destructor may have left something, and a panic of the first the rest.
        plugin()?.stop();
        late::drop_now();
        clear_streams();
        clear_permits();
        clear_switches();
        Ok(())
    });
    catch(panic::uninstall);
    stopped.min(cleared)
}

unsafe extern "C" fn heap_release<P: Export>() -> Code {
    if let Some(heap) = P::heap() {
        // SAFETY: The host calls this last: no code of the library runs again.
        unsafe { heap.release() };
    }
    code::READY
}

/// Runs a hook; an error is told to the host.
fn answer(f: impl FnOnce() -> Result<()>) -> Code {
    guard(|| match f() {
        Ok(()) => code::READY,
        Err(error) => fail(&error.to_string()),
    })
}

/// # Safety
/// `out` must be the argument of the running hook.
unsafe fn hand_out(out: *mut Task, future: impl Future<Output = Result<()>> + 'static) -> Code {
    guard(|| {
        let task = into_task(async move {
            match future.await {
                Ok(()) => code::READY,
                Err(error) => fail(&error.to_string()),
            }
        });
        // SAFETY: The caller's promise.
        unsafe { out.write(task) };
        code::READY
    })
}

/// # Safety
/// As [`hand_out`].
unsafe fn each_exclusive(out: *mut Task, step: fn(&Exclusive) -> Step) -> Code {
    let exclusive: Vec<Rc<Exclusive>> = match plugin() {
        Ok(plugin) => plugin.exclusive.borrow().clone(),
        Err(_) => return code::WRONG_THREAD,
    };
    if exclusive.is_empty() {
        return code::READY;
    }
    let steps = async move {
        for exclusive in exclusive {
            step(&exclusive).await?;
        }
        Ok(())
    };
    // SAFETY: The caller's promise.
    unsafe { hand_out(out, steps) }
}
