//! Unloading: drain, cut, clean every thread, unmap, and look whether it is gone.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::{
    plugin::{
        exchange::Request,
        frame,
        generation::{Generation, Phase},
        hand_over,
        handles::Resource,
        instance::Instance,
        interpose::{self, ImageId},
        library::Library,
        lifecycle::{self, Refused, busy},
        off_loop::OffLoop,
        offer,
    },
    sys::crash,
};

/// Why it is pinned, if what kept it has just ended.
const BLOCKED: &str = "a blocking job or a thread that has only just ended";

/// What became of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// Unmapped; what its heap still held was freed.
    Unmapped {
        /// Bytes that the plugin had not freed.
        leaked_bytes: u64,
        /// In so many blocks.
        leaked_blocks: u64,
    },
    /// Still mapped.
    Pinned {
        /// What keeps it, for people.
        reason: String,
    },
}

/// Unloads an instance: its current generation drains, for `drain` at the most, and is unmapped. Its listeners close.
///
/// # Errors
/// There is nothing to unload, or another change is under way.
pub async fn unload(instance: &Rc<Instance>, drain: Duration) -> Result<Unloaded, Refused> {
    let Ok(_turn) = instance.turn.try_lock() else { return Err(busy(&instance.name)) };
    unload_in_turn(instance, drain).await
}

/// Unloads whatever there is of an instance, for good: another change of it is waited for, and so are generations that drain
/// already. Work that is in flight has until `deadline`.
pub async fn leave(instance: &Rc<Instance>, deadline: Instant) {
    let cut = async {
        tokio::time::sleep_until(deadline).await;
        instance.generations().iter().for_each(|generation| generation.cut_short());
        std::future::pending::<()>().await;
    };
    let leave = async {
        let _turn = instance.turn.lock().await;
        if instance.current().is_some() {
            let limit = Duration::from_millis(instance.limits().drain_ms_max);
            let drain = limit.min(deadline.saturating_duration_since(Instant::now()));
            // The one reason for a refusal is that there is nothing to unload.
            let _ = unload_in_turn(instance, drain).await;
        }
        for generation in instance.generations() {
            // Whoever was starting it is gone.
            if generation.phase.get() == Phase::Starting {
                finish(&generation).await;
            }
            generation.unloaded().await;
        }
    };
    tokio::select! {
        () = leave => {}
        () = cut => {}
    }
}

/// As [`unload`]; called in the instance's turn.
///
/// # Errors
/// There is nothing to unload.
pub async fn unload_in_turn(instance: &Rc<Instance>, drain: Duration) -> Result<Unloaded, Refused> {
    let Some(generation) = &instance.current() else {
        return Err(Refused(format!("`{}` is not running", instance.name)));
    };
    instance.close_listeners().await;
    lifecycle::deactivate(generation);
    // Loaded again, it is the newest once more.
    for site in instance.registry.sites.sites().values() {
        site.forget(&instance.name);
    }
    let unloaded = retire(generation, drain).await;
    if instance.generations().is_empty() {
        instance.registry.remove(&instance.name);
    }
    Ok(unloaded)
}

/// Drains a generation that gets no new work, for `drain` at the most, and unmaps it.
pub async fn retire(generation: &Rc<Generation>, drain: Duration) -> Unloaded {
    let now_ns = generation.instance.registry.clock.now_ns();
    let drain_ns = u64::try_from(drain.as_nanos()).unwrap_or(u64::MAX);
    generation.drain(now_ns.saturating_add(drain_ns));
    // Nothing waits for a way back any more.
    hand_over::drop_records(generation);
    if let Some(service) = generation.service.borrow().clone() {
        service.stir();
    }
    if tokio::time::timeout(drain, generation.drained()).await.is_err()
        || generation.in_flight() > 0
    {
        tracing::info!(
            instance = generation.name(),
            generation = generation.number,
            in_flight = generation.in_flight(),
            "the drain is over; what is in flight is cut"
        );
    }
    finish(generation).await
}

/// Cuts what is left of a generation, and unmaps it, whether or not the caller goes on to wait for it; where that is under way
/// already, its outcome is waited for. Called outside of every call into it.
pub async fn finish(generation: &Rc<Generation>) -> Unloaded {
    if !generation.begin_finish() {
        let generation = generation.clone();
        tokio::task::spawn_local(async move { cut_and_unmap(&generation).await });
    }
    generation.unloaded().await
}

async fn cut_and_unmap(generation: &Rc<Generation>) -> Unloaded {
    generation.unmount();
    generation.phase.set(Phase::Draining);
    cut(generation);
    let blocked = async {
        while is_blocked(generation) {
            generation.stir().await;
        }
    };
    if tokio::time::timeout(blocked_max(generation), blocked).await.is_err() {
        let image = generation.with_library(Library::image);
        let reason = image.and_then(|image| keeps(generation, image));
        return pin(generation, Stage::Blocked, reason.unwrap_or_else(|| BLOCKED.to_owned()));
    }
    // A job's object is dropped when the job has run; that can have begun something anew.
    cut(generation);
    generation.stop();
    unmap(generation).await
}

/// Drops the plugin's futures, then its handles, and with them everything that it registered.
fn cut(generation: &Rc<Generation>) {
    // Before the first drop: a task that spawns another when it is dropped would be cut for ever.
    generation.handles.seal();
    generation.job_permits.close();
    let threads = generation.threads.borrow().clone();
    threads.iter().for_each(|thread| thread.stop());
    generation.cut();
    generation.revoke_permits();
    for (_, request) in generation.handles.all::<Request>() {
        request.abandon();
    }
    let resources = generation.handles.close();
    for resource in resources {
        match resource {
            Resource::Metric(metric) => generation.metrics.borrow_mut().push(metric),
            // An exchange of others may have it on its list; it will not be asked any more.
            Resource::Route(route) => {
                route.unmount();
                route.object.give_back();
            }
            other => offer::dropped(other),
        }
    }
    if let Some(service) = generation.service.take() {
        service.end();
    }
    generation.responders.borrow_mut().clear();
    generation.commands.borrow_mut().clear();
    // Dropping an object can have begun a task.
    generation.cut();
}

/// How far an unload came before something kept it.
#[derive(Clone, Copy)]
enum Stage {
    /// Jobs or threads are still running its code.
    Blocked,
    /// `stop` was called; only the cleaning and the unmapping are left.
    Stopped,
}

async fn unmap(generation: &Rc<Generation>) -> Unloaded {
    let Some(image) = generation.with_library(Library::image) else {
        return generation.unloaded().await;
    };
    frame::enter(generation, || interpose::clean_current_thread(image));
    clean_pool(generation, image).await;
    if let Some(reason) = keeps(generation, image) {
        return pin(generation, Stage::Stopped, reason);
    }
    interpose::delete_keys(image);
    let (leaked_blocks, leaked_bytes, _) = generation.heap().unwrap_or_default();
    generation.heap_release();
    let library = generation.take_library().expect("its image was asked for just now");
    // Its destructors run.
    match frame::blame(generation.id, || library.close()) {
        Ok(_) => {
            gone(generation);
            tracing::info!(
                instance = generation.name(),
                generation = generation.number,
                leaked_bytes,
                leaked_blocks,
                "unloaded"
            );
            let unmapped = Unloaded::Unmapped { leaked_bytes, leaked_blocks };
            generation.set_unloaded(unmapped.clone());
            unmapped
        }
        Err(still) => {
            let reason = still.reason.to_string();
            generation.put_library(*still.library);
            // Its code may not be called again: its heap is gone. What is left is a mapping.
            pinned(generation, reason.clone());
            OffLoop::forget(generation.id);
            Unloaded::Pinned { reason }
        }
    }
}

/// Has the pool's threads drop what they hold of the image. One that is busy with another plugin's job is waited for only if
/// it holds something, and not for ever.
async fn clean_pool(generation: &Rc<Generation>, image: ImageId) {
    // No job of the image runs any more, so that what is clean stays so.
    let is_clean = || interpose::pending(image).is_clean();
    if is_clean() {
        return;
    }
    let (cleaned, is_done) = (Arc::new(Notify::new()), Rc::new(Cell::new(false)));
    let whose = generation.id;
    let clean = {
        let cleaned = cleaned.clone();
        move || {
            // They are the plugin's own.
            crash::working_for(whose, || interpose::clean_current_thread(image));
            cleaned.notify_one();
        }
    };
    let all = {
        let (generation, cleaned, is_done) = (generation.clone(), cleaned.clone(), is_done.clone());
        async move {
            generation.instance.registry.pool.clone().broadcast(clean).await;
            is_done.set(true);
            cleaned.notify_one();
            // If the library was pinned meanwhile, this is the time to look again.
            generation.stirred();
        }
    };
    tokio::task::spawn_local(all);
    let wait = async {
        while !is_clean() && !is_done.get() {
            cleaned.notified().await;
        }
    };
    let _ = tokio::time::timeout(blocked_max(generation), wait).await;
}

/// How long a cut waits for blocking jobs and threads before the library is pinned.
fn blocked_max(generation: &Generation) -> Duration {
    Duration::from_millis(generation.limits.blocked_ms_max)
}

fn gone(generation: &Rc<Generation>) {
    generation.phase.set(Phase::Gone);
    generation.instance.remove_generation(generation);
    generation.metrics.borrow_mut().clear();
    OffLoop::forget(generation.id);
    let instance = &generation.instance;
    // Somebody who loads or unloads it now sees to it himself.
    if instance.generations().is_empty() && instance.turn.try_lock().is_ok() {
        instance.registry.remove(&instance.name);
    }
}

/// What keeps a generation mapped, for people; `None` if it can go.
fn keeps(generation: &Generation, image: ImageId) -> Option<String> {
    let pending = interpose::pending(image);
    let mut kept = Vec::new();
    let mut keep = |count: usize, what: &str| {
        if count > 0 {
            kept.push(format!(
                "{count} {}",
                what.replacen("(s)", if count == 1 { "" } else { "s" }, 1)
            ));
        }
    };
    if pending.live_threads > 0 {
        let names: Vec<_> =
            interpose::threads(image).iter().map(|thread| format!("`{}`", thread.name)).collect();
        keep(
            pending.live_threads,
            &format!("running thread(s) ({}) that the plugin started itself", names.join(", ")),
        );
    }
    keep(generation.threads.borrow().len(), "running thread(s) of the plugin's own");
    keep(generation.jobs_running.get() as usize, "running blocking job(s)");
    keep(generation.depth.get() as usize, "call(s) without an answer");
    keep(generation.futures.borrow().len(), "task(s) that could not be dropped");
    keep(generation.owned.get() as usize, "object(s) that the host still holds");
    keep(generation.foreign_wakers.watch(), "waker(s) of the plugin's that the host still holds");
    keep(pending.running, "thread(s) cleaning up after it");
    keep(pending.destructors, "thread-local destructor(s) not run");
    keep(pending.keys_with_values, "thread-specific value(s) not dropped");
    (!kept.is_empty()).then(|| kept.join(", "))
}

/// Keeps the library mapped, and looks again whenever something has changed.
fn pin(generation: &Rc<Generation>, stage: Stage, reason: String) -> Unloaded {
    pinned(generation, reason.clone());
    let (generation, running) = (generation.clone(), running_now(generation));
    tokio::task::spawn_local(async move { look_again(&generation, stage, running).await });
    Unloaded::Pinned { reason }
}

/// Whether jobs or threads of the host's are still running its code.
fn is_blocked(generation: &Generation) -> bool {
    generation.jobs_running.get() > 0 || !generation.threads.borrow().is_empty()
}

/// How many threads, the pool's and others, run the plugin's code.
fn running_now(generation: &Generation) -> usize {
    let started =
        generation.with_library(|library| interpose::pending(library.image()).live_threads);
    started.unwrap_or(0)
        + generation.jobs_running.get() as usize
        + generation.threads.borrow().len()
}

fn pinned(generation: &Rc<Generation>, reason: String) {
    tracing::warn!(
        instance = generation.name(),
        generation = generation.number,
        "pinned, for {reason}"
    );
    generation.phase.set(Phase::Pinned);
    *generation.reason.borrow_mut() = Some(reason.clone());
    generation.set_unloaded(Unloaded::Pinned { reason });
}

async fn look_again(generation: &Rc<Generation>, stage: Stage, mut running: usize) {
    loop {
        // What kept it may have ended before this was first polled.
        if running == running_now(generation) {
            generation.stir().await;
        }
        running = running_now(generation);
        let Some(image) = generation.with_library(Library::image) else { return };
        let reason = keeps(generation, image);
        if let (Stage::Blocked, true) = (stage, is_blocked(generation)) {
            *generation.reason.borrow_mut() = reason;
            continue;
        }
        if interpose::pending(image).live_threads > 0 {
            *generation.reason.borrow_mut() = reason;
            continue;
        }
        // Nothing of its code runs any more: the rest of the unload is done now. If it pins again, that has its own look-out.
        if let Stage::Blocked = stage {
            cut(generation);
            generation.stop();
        }
        Box::pin(unmap(generation)).await;
        return;
    }
}
