//! What a plugin's code may use off the loop: the log, and `post`.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, LazyLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use medusa_abi::data::InstanceId;
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    config::Limits,
    plugin::misuse::{Misuse, Misuses},
};

/// A message on its way to a generation's `posted` hook.
pub struct Post {
    /// To whom.
    pub to: InstanceId,
    /// What.
    pub bytes: Vec<u8>,
}

/// The part of a generation that any thread may touch.
pub struct OffLoop {
    /// The instance's name.
    pub name: String,
    /// How long one call into it may take before the log names it.
    pub stall: Duration,
    /// Panics that the plugin's hook has told of.
    pub panics: AtomicU64,
    /// Calls into it that took longer than that.
    pub stalls: AtomicU64,
    misuses: Misuses,
    id: InstanceId,
    posts: UnboundedSender<Post>,
    /// How many may wait for the loop, and how many bytes of them.
    posts_max: u64,
    bytes_max: u64,
    waiting: AtomicU64,
    bytes_waiting: AtomicU64,
}

static ALL: LazyLock<RwLock<HashMap<InstanceId, Arc<OffLoop>>>> = LazyLock::new(RwLock::default);

impl OffLoop {
    /// Makes it known under its id.
    pub fn new(
        id: InstanceId,
        name: &str,
        limits: &Limits,
        posts: UnboundedSender<Post>,
    ) -> Arc<OffLoop> {
        let this = Arc::new(OffLoop {
            name: name.to_owned(),
            stall: Duration::from_millis(limits.stall_ms),
            panics: 0.into(),
            stalls: 0.into(),
            misuses: Misuses::default(),
            id,
            posts,
            posts_max: limits.posts_per_instance_max,
            bytes_max: limits.post_bytes_per_instance_max,
            waiting: 0.into(),
            bytes_waiting: 0.into(),
        });
        ALL.write().unwrap_or_else(PoisonError::into_inner).insert(id, this.clone());
        this
    }

    /// The one of that id, if its generation lives.
    pub fn find(id: InstanceId) -> Option<Arc<OffLoop>> {
        ALL.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// Forgets it: its generation is gone.
    pub fn forget(id: InstanceId) {
        ALL.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The plugin did something against the contract; `what` says what.
    pub fn misused(&self, misuse: Misuse, what: fmt::Arguments<'_>) {
        self.misuses.count(&self.name, misuse, what);
    }

    /// Queues bytes for the loop. `false` if too much waits already, or the loop has ended.
    pub fn post(&self, bytes: &[u8]) -> bool {
        let has_room = self.waiting.fetch_add(1, Ordering::AcqRel) < self.posts_max;
        let waiting = self.bytes_waiting.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        if has_room && waiting.saturating_add(bytes.len() as u64) <= self.bytes_max {
            return self.posts.send(Post { to: self.id, bytes: bytes.to_vec() }).is_ok();
        }
        self.delivered(bytes.len());
        false
    }

    /// One post of so many bytes waits no longer.
    pub fn delivered(&self, bytes: usize) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        self.bytes_waiting.fetch_sub(bytes as u64, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn posts_that_wait_are_bounded_in_number_and_in_bytes() {
        let (posts, _deliver) = tokio::sync::mpsc::unbounded_channel();
        let limits = Limits {
            posts_per_instance_max: 4,
            post_bytes_per_instance_max: 1024,
            ..Limits::default()
        };
        let off_loop = OffLoop::new(InstanceId::MAX, "a", &limits, posts);
        assert!(!off_loop.post(&vec![0; 1024 + 1]));
        assert!(off_loop.post(&vec![0; 1024]));
        assert!(!off_loop.post(b"x"));
        off_loop.delivered(1024);
        let taken = (0..4 + 1).filter(|_| off_loop.post(b"x")).count();
        assert_eq!(taken, 4);
        OffLoop::forget(InstanceId::MAX);
    }
}
