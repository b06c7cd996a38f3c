//! Metrics: words that the host keeps and shows, and that the plugin changes without asking.

// Changes the host's words through the pointers that it gives.
#![allow(unsafe_code)]

use std::{
    fmt, ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicPtr, AtomicU64, Ordering},
    },
};

use medusa_abi::{
    data::{Handle, Slice},
    service::{METRIC_COUNTER, METRIC_GAUGE, MetricSpec},
};

use crate::{
    error::{Error, Result},
    handle::Owned,
    host::host,
};

/// A metric that only goes up. Clones are the same metric; it may be used on any thread.
#[derive(Clone, Debug)]
pub struct Counter(Arc<Metric>);

/// A metric that goes up and down. Clones are the same metric; it may be used on any thread.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Metric>);

impl Counter {
    pub(crate) fn of(metric: Arc<Metric>) -> Counter {
        Counter(metric)
    }

    /// Adds one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.word(|word| word.fetch_add(n, Ordering::Relaxed));
    }

    /// What it counts now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.word(|word| word.load(Ordering::Relaxed))
    }
}

impl Gauge {
    pub(crate) fn of(metric: Arc<Metric>) -> Gauge {
        Gauge(metric)
    }

    /// Makes it `value`.
    pub fn set(&self, value: u64) {
        self.0.word(|word| word.swap(value, Ordering::Relaxed));
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.word(|word| word.fetch_add(n, Ordering::Relaxed));
    }

    /// Takes `n` away; not below zero.
    pub fn subtract(&self, n: u64) {
        self.0.word(|word| {
            let less = |value: u64| Some(value.saturating_sub(n));
            word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default()
        });
    }

    /// What it shows now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.word(|word| word.load(Ordering::Relaxed))
    }
}

/// The metric behind a [`Counter`] or a [`Gauge`].
pub(crate) struct Metric {
    name: String,
    help: String,
    kind: u32,
    /// The host's word while it is registered, which `handle` keeps; null before.
    word: AtomicPtr<AtomicU64>,
    /// Stands for the host's word before the start.
    early: AtomicU64,
    handle: Mutex<Option<Owned>>,
}

impl Metric {
    pub(crate) fn counter(name: &str, help: &str) -> Arc<Metric> {
        Metric::new(name, help, METRIC_COUNTER)
    }

    pub(crate) fn gauge(name: &str, help: &str) -> Arc<Metric> {
        Metric::new(name, help, METRIC_GAUGE)
    }

    /// Has the host keep the word from here on.
    pub(crate) fn register(&self) -> Result<()> {
        let spec = MetricSpec {
            name: Slice::new(self.name.as_bytes()),
            help: Slice::new(self.help.as_bytes()),
            kind: self.kind,
            flags: 0,
            spare: [0; 2],
        };
        let mut word: *mut u64 = ptr::null_mut();
        let host = host();
        // SAFETY: The spec is borrowed for the call, the host writes to `word` during it.
        let code = unsafe { (host.offer.metric_add)(host.instance, &spec, &mut word) };
        let rule = "a name begins with `a` to `z` or `_`, and goes on with these and digits";
        let what = format!("cannot add the metric {}", self.name);
        let handle = Error::check_named(code, &what, rule)?;
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Owned::new(handle as Handle));
        if !word.is_null() {
            // SAFETY: The host's word is valid until the handle is dropped, which the last owner of `self` does.
            unsafe {
                (*word.cast::<AtomicU64>())
                    .fetch_add(self.early.load(Ordering::Relaxed), Ordering::Relaxed)
            };
            self.word.store(word.cast(), Ordering::Release);
        }
        Ok(())
    }

    fn new(name: &str, help: &str, kind: u32) -> Arc<Metric> {
        Arc::new(Metric {
            name: name.to_owned(),
            help: help.to_owned(),
            kind,
            word: AtomicPtr::new(ptr::null_mut()),
            early: AtomicU64::new(0),
            handle: Mutex::new(None),
        })
    }

    fn word<R>(&self, f: impl FnOnce(&AtomicU64) -> R) -> R {
        let word = self.word.load(Ordering::Acquire);
        if word.is_null() {
            return f(&self.early);
        }
        // SAFETY: As in `register`: `self` owns the handle.
        f(unsafe { &*word })
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metric").field("name", &self.name).finish_non_exhaustive()
    }
}
