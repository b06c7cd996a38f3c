//! A connection of HTTP that is to speak another protocol (RFC 9110 section 7.8): it passes from the server's instance to that of whoever
//! answered 101, and is from then on as if it had come in there.
//!
//! Nothing is piped: the server can be upgraded or unloaded, and nobody who has left it notices.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    task::Waker,
};

use medusa_abi::code::{self, Code};

use crate::{
    net::{Connection, connections::Seat},
    plugin::{exchange::Request, generation::Generation},
};

/// The one switch that a request may lead to: shared by its exchange and those that filters make of it.
#[derive(Default)]
pub struct Switch(RefCell<State>);

#[derive(Default)]
enum State {
    /// Nobody has answered 101.
    #[default]
    Offered,
    /// Somebody has. The connection is with the server, which sends the answer.
    Taken(Taker, Seat),
    /// The connection waits to be fetched.
    HandedOver(Taker, Rc<Connection>),
    /// It was fetched, or will not come.
    Over,
}

/// Whoever answered 101.
struct Taker {
    request: Weak<Request>,
    generation: Rc<Generation>,
    /// How many filters stand before it.
    depth: u32,
    waker: Option<Waker>,
}

impl State {
    /// Whether `request` was answered 101.
    fn is_of(&self, request: &Request) -> bool {
        match self {
            State::Taken(taker, _) | State::HandedOver(taker, _) => {
                std::ptr::eq(taker.request.as_ptr(), request)
            }
            State::Offered | State::Over => false,
        }
    }
}

impl Switch {
    /// `request` is answered 101 by `generation`, behind `depth` filters. False if it is a filter that gives the answer on of somebody
    /// behind it.
    ///
    /// # Errors
    /// `LIMIT` if its instance has as many connections as it may; `GONE` if the connection is another's already.
    pub fn take(
        &self,
        request: &Rc<Request>,
        generation: &Rc<Generation>,
        depth: u32,
    ) -> Result<bool, Code> {
        match &*self.0.borrow() {
            State::Taken(inner, _) if inner.depth > depth => return Ok(false),
            State::Offered | State::Taken(..) => {}
            State::HandedOver(..) | State::Over => return Err(code::GONE),
        }
        let seat = generation.instance.quota.seat();
        let seat = seat.map_err(|full| generation.limited(full.name))?;
        let (request, generation) = (Rc::downgrade(request), generation.clone());
        let taker = Taker { request, generation, depth, waker: None };
        drop(self.0.replace(State::Taken(taker, seat)));
        Ok(true)
    }

    /// The server has sent the answer, and lets go of the connection, of which it has read `unread` in vain.
    ///
    /// # Errors
    /// `INVALID` if nobody answered 101, `GONE` if whoever did is gone; the connection is the server's still.
    pub fn hand_over(&self, connection: &Rc<Connection>, unread: &[u8]) -> Result<(), Code> {
        let waker = {
            let mut state = self.0.borrow_mut();
            match std::mem::replace(&mut *state, State::Over) {
                State::Taken(mut taker, seat) if !taker.generation.handles.is_closed() => {
                    connection.pass_on(taker.generation.owner().clone(), seat, unread);
                    let waker = taker.waker.take();
                    *state = State::HandedOver(taker, connection.clone());
                    waker
                }
                State::Offered => return Err(code::INVALID),
                _ => return Err(code::GONE),
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// The connection's handle, for whoever answered 101.
    pub fn poll(&self, request: &Request, waker: &Waker) -> Code {
        let before = {
            let mut state = self.0.borrow_mut();
            if !state.is_of(request) {
                return code::GONE;
            }
            match &mut *state {
                State::Taken(taker, _) => taker.waker.replace(waker.clone()),
                _ => None,
            }
        };
        // Outside of the borrow: it may be the plugin's own.
        drop(before);
        if matches!(&*self.0.borrow(), State::Taken(..)) {
            return code::PENDING;
        }
        let State::HandedOver(taker, connection) = self.0.replace(State::Over) else {
            return code::GONE;
        };
        // The instance's quota has counted it already.
        match taker.generation.handles.insert(connection, u64::MAX) {
            Ok(handle) => Code::try_from(handle).unwrap_or(code::LIMIT),
            Err(code) => code,
        }
    }

    /// The server's exchange has ended: a connection that was not handed over will not be.
    pub fn end(&self) {
        if !matches!(&*self.0.borrow(), State::HandedOver(..)) {
            self.over();
        }
    }

    /// Whoever answered `request` does not want its connection any more.
    pub fn abandon(&self, request: &Request) {
        let is_of = self.0.borrow().is_of(request);
        if is_of {
            self.over();
        }
    }

    fn over(&self) {
        let state = self.0.replace(State::Over);
        if let State::Taken(Taker { waker: Some(waker), .. }, _) = &state {
            waker.wake_by_ref();
        }
    }
}
