//! The one plugin of this image: what its `load` recorded, and what rests here until it stops.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
};

use ciborium::Value;

use crate::{
    error::{Error, Result},
    local::LoopCell,
    register::Registration,
    state::KeptState,
    time::Instant,
};

/// A future of the plugin's start, or of its exclusive resources.
pub(crate) type Step = Pin<Box<dyn Future<Output = Result<()>>>>;

/// What the SDK keeps for the plugin between two hooks.
pub(crate) struct Plugin {
    /// What the host passed to `prepare`.
    pub(crate) config: RefCell<Value>,
    /// What `load` wants registered at the start, in order.
    pub(crate) recorded: RefCell<Vec<Recorded>>,
    /// Awaited in order after that.
    pub(crate) on_start: RefCell<Vec<Step>>,
    /// What was registered at the start; it stays until the stop.
    pub(crate) registrations: RefCell<Vec<Registration>>,
    pub(crate) exclusive: RefCell<Vec<Rc<Exclusive>>>,
    pub(crate) health: RefCell<Vec<Check>>,
    pub(crate) states: RefCell<Vec<Rc<dyn KeptState>>>,
    pub(crate) on_drain: RefCell<Vec<OnDrain>>,
    pub(crate) on_hand_over: RefCell<Vec<OnHandOver>>,
    pub(crate) is_handed_over: Cell<bool>,
    pub(crate) on_freeze: RefCell<Vec<OnFreeze>>,
    /// It does not serve yet, or the host is about to replace its own binary.
    pub(crate) is_frozen: Cell<bool>,
    pub(crate) on_post: RefCell<Vec<OnPost>>,
    pub(crate) on_stop: RefCell<Vec<Box<dyn FnOnce()>>>,
}

/// Whether the plugin can do its work.
pub(crate) type Check = Rc<dyn Fn() -> Step>;

pub(crate) type OnDrain = Rc<dyn Fn(Instant)>;

pub(crate) type OnFreeze = Rc<dyn Fn(bool)>;

pub(crate) type OnHandOver = Rc<dyn Fn()>;

pub(crate) type OnPost = Rc<dyn Fn(&[u8])>;

/// A registration to be made at the start.
pub(crate) type Recorded = Box<dyn FnOnce() -> Result<Option<Registration>>>;

/// An exclusive resource: how it is given up, and how it is got.
pub(crate) struct Exclusive {
    pub(crate) release: Box<dyn Fn() -> Step>,
    pub(crate) acquire: Box<dyn Fn() -> Step>,
}

static PLUGIN: LoopCell<Plugin> = LoopCell::new(Plugin {
    config: RefCell::new(Value::Null),
    recorded: RefCell::new(Vec::new()),
    on_start: RefCell::new(Vec::new()),
    registrations: RefCell::new(Vec::new()),
    exclusive: RefCell::new(Vec::new()),
    health: RefCell::new(Vec::new()),
    states: RefCell::new(Vec::new()),
    on_drain: RefCell::new(Vec::new()),
    on_hand_over: RefCell::new(Vec::new()),
    is_handed_over: Cell::new(false),
    on_freeze: RefCell::new(Vec::new()),
    is_frozen: Cell::new(false),
    on_post: RefCell::new(Vec::new()),
    on_stop: RefCell::new(Vec::new()),
});

/// The plugin.
///
/// # Errors
/// Off the loop's thread.
pub(crate) fn plugin() -> Result<&'static Plugin> {
    PLUGIN.get().ok_or_else(|| {
        Error::new("this is possible on the loop's thread only; use post() to speak to the plugin from another")
    })
}

/// Whether another generation of the plugin has taken over, and goes on with the sessions: what is dropped here has not ended.
/// `false` off the loop's thread.
#[must_use]
pub fn is_handed_over() -> bool {
    PLUGIN.get().is_some_and(|plugin| plugin.is_handed_over.get())
}

impl Plugin {
    /// Registers what `load` recorded, then awaits its start.
    pub(crate) async fn start(&'static self) -> Result<()> {
        for register in self.recorded.take() {
            if let Some(registration) = register()? {
                self.registrations.borrow_mut().push(registration);
            }
        }
        for step in self.on_start.take() {
            step.await?;
        }
        Ok(())
    }

    /// Drops all of it, the plugin's own last wishes first.
    pub(crate) fn stop(&self) {
        for last in self.on_stop.take() {
            last();
        }
        drop(self.recorded.take());
        drop(self.on_start.take());
        drop(self.registrations.take());
        drop(self.exclusive.take());
        drop(self.states.take());
        drop(self.on_drain.take());
        drop(self.on_freeze.take());
        drop(self.on_hand_over.take());
        self.is_handed_over.set(false);
        self.is_frozen.set(false);
        drop(self.on_post.take());
        drop(self.config.replace(Value::Null));
    }
}
