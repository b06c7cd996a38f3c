//! The table of what the host keeps for one generation, by handle: slot and generation number.
//!
//! Numbers are drawn from one sequence for all tables, so that another instance's handle is stale here and not somebody
//! else's object.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use medusa_abi::{
    code::{self, Code},
    data::Handle,
};

use crate::{
    file::{File, Root},
    net::{connection::Connection, listener::Listener, resolve::Lookup},
    plugin::{
        exchange::{Exchange, Request},
        future::PluginFuture,
        misuse::Misuse,
        off_loop::OffLoop,
        offer::{Call, CommandEntry, IncomingCall, Metric, ResponderEntry},
        permit::Permit,
        route::{ObserverEntry, Route},
        serve::Service,
        work::{Job, PluginThread, Timer},
    },
};

macro_rules! resources {
    ($($kind:ident($type:ty)),* $(,)?) => {
        /// Something that the host keeps for a plugin.
        pub enum Resource { $(#[doc = stringify!($kind)] $kind(Rc<$type>),)* }

        /// What kind of thing a [`Resource`] is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $(#[doc = stringify!($kind)] $kind,)* }

        /// How many kinds there are.
        const KINDS: usize = [$(Kind::$kind),*].len();

        impl Resource {
            /// Which kind it is.
            pub fn kind(&self) -> Kind {
                match self { $(Resource::$kind(_) => Kind::$kind,)* }
            }
        }

        $(impl Held for $type {
            const KIND: Kind = Kind::$kind;

            fn wrap(this: Rc<$type>) -> Resource {
                Resource::$kind(this)
            }

            fn of(resource: &Resource) -> Option<&Rc<$type>> {
                match resource {
                    Resource::$kind(this) => Some(this),
                    _ => None,
                }
            }
        })*
    };
}

resources! {
    Task(PluginFuture),
    Job(Job),
    Thread(PluginThread),
    Timer(Timer),
    Service(Service),
    Connection(Connection),
    Listener(Listener),
    Lookup(RefCell<Lookup>),
    Root(Root),
    File(File),
    Route(Route),
    Observer(ObserverEntry),
    Command(CommandEntry),
    Metric(Metric),
    Responder(ResponderEntry),
    Call(Call),
    IncomingCall(IncomingCall),
    Exchange(Exchange),
    Request(Request),
    Permit(Permit),
}

/// A type that handles can stand for.
pub trait Held: Sized {
    /// Its kind.
    const KIND: Kind;
    /// Makes the resource of it.
    fn wrap(this: Rc<Self>) -> Resource;
    /// Looks into a resource.
    fn of(resource: &Resource) -> Option<&Rc<Self>>;
}

/// The table.
pub struct Handles {
    owner: Arc<OffLoop>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<u32>>,
    counts: [Cell<u32>; KINDS],
    closed: Cell<bool>,
}

struct Slot {
    number: u32,
    resource: Option<Resource>,
}

impl Handles {
    /// A table of a generation's.
    pub fn of(owner: Arc<OffLoop>) -> Handles {
        Handles {
            owner,
            slots: RefCell::default(),
            free: RefCell::default(),
            counts: Default::default(),
            closed: Cell::new(false),
        }
    }

    /// Puts something into the table.
    ///
    /// # Errors
    /// `LIMIT` if there are `max` of the kind already, `GONE` if the table was closed.
    pub fn insert<T: Held>(&self, this: Rc<T>, max: u64) -> Result<Handle, Code> {
        if self.closed.get() {
            return Err(code::GONE);
        }
        let count = &self.counts[T::KIND as usize];
        if u64::from(count.get()) >= max {
            return Err(code::LIMIT);
        }
        count.set(count.get() + 1);
        let number = next_number();
        let slot = Slot { number, resource: Some(T::wrap(this)) };
        let mut slots = self.slots.borrow_mut();
        let index = if let Some(index) = self.free.borrow_mut().pop() {
            slots[index as usize] = slot;
            index
        } else {
            slots.push(slot);
            u32::try_from(slots.len() - 1).expect("the limits keep a table below 2^32 slots")
        };
        Ok(Handle::from(number) << 32 | Handle::from(index))
    }

    /// What the handle stands for.
    ///
    /// # Errors
    /// `STALE` if it is not in the table, or is something else.
    pub fn get<T: Held>(&self, handle: Handle) -> Result<Rc<T>, Code> {
        let slots = self.slots.borrow();
        let slot = slots.get(place(handle));
        let slot = slot.filter(|slot| slot.number == (handle >> 32) as u32);
        let resource = slot.and_then(|slot| slot.resource.as_ref());
        if let Some(found) = resource.and_then(T::of) {
            return Ok(found.clone());
        }
        let other = resource.map(Resource::kind);
        drop(slots);
        self.not_found(T::KIND, other);
        Err(code::STALE)
    }

    /// Tells the log of a handle that is not what the plugin takes it for.
    fn not_found(&self, kind: Kind, other: Option<Kind>) {
        match other {
            Some(other) => {
                let what = format_args!("it used a handle as {kind:?} that stands for {other:?}");
                self.misused(Misuse::Kind, what);
            }
            // These end without the plugin's doing, and others of its tasks may still have their numbers.
            None if matches!(
                kind,
                Kind::Connection | Kind::IncomingCall | Kind::Request | Kind::Exchange
            ) => {}
            None => {
                let what = format_args!(
                    "it used a handle as {kind:?} that was dropped, or was never its own"
                );
                self.misused(Misuse::Gone, what);
            }
        }
    }

    /// The plugin did something against the contract. A table that was closed makes everything stale, which is not its doing.
    pub fn misused(&self, misuse: Misuse, what: fmt::Arguments<'_>) {
        if !self.closed.get() {
            self.owner.misused(misuse, what);
        }
    }

    /// Takes something out of the table; what is to be done with it is the caller's.
    ///
    /// # Errors
    /// `STALE` if it is not there.
    pub fn remove(&self, handle: Handle) -> Result<Resource, Code> {
        let index = handle as u32;
        let mut slots = self.slots.borrow_mut();
        let slot =
            slots.get_mut(index as usize).filter(|slot| slot.number == (handle >> 32) as u32);
        let resource = slot.and_then(|slot| slot.resource.take()).ok_or(code::STALE)?;
        self.free.borrow_mut().push(index);
        let count = &self.counts[resource.kind() as usize];
        count.set(count.get() - 1);
        Ok(resource)
    }

    /// Whether nothing more is let in.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// How many of a kind there are.
    pub fn count(&self, kind: Kind) -> u32 {
        self.counts[kind as usize].get()
    }

    /// How many there are in all.
    pub fn len(&self) -> u32 {
        self.counts.iter().map(Cell::get).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of a type, with their handles.
    pub fn all<T: Held>(&self) -> Vec<(Handle, Rc<T>)> {
        let slots = self.slots.borrow();
        let held = |(index, slot): (usize, &Slot)| {
            let this = slot.resource.as_ref().and_then(T::of)?.clone();
            Some((Handle::from(slot.number) << 32 | index as Handle, this))
        };
        slots.iter().enumerate().filter_map(held).collect()
    }

    /// Lets nothing more in; what is there can still be used and taken out.
    pub fn seal(&self) {
        self.closed.set(true);
    }

    /// Takes everything out, in no order, and lets nothing more in.
    pub fn close(&self) -> Vec<Resource> {
        self.closed.set(true);
        self.free.borrow_mut().clear();
        self.counts.iter().for_each(|count| count.set(0));
        self.slots.take().into_iter().filter_map(|slot| slot.resource).collect()
    }
}

/// Where in its table a handle's thing is: a small number, which another has once that one is gone.
pub fn place(handle: Handle) -> usize {
    handle as u32 as usize
}

/// The next number, from 1 to 2^31 - 1, so that a handle is a positive `i64`.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
        if number != 0 {
            return number;
        }
    }
}
