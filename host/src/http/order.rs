//! The operator's order of routes: moves, made one after the other over the order that routes have by themselves.
//!
//! A move says where a route is to stand, not which number it has. So it holds whatever else comes and goes, rests while the
//! route or its neighbour is not there, and is undone by forgetting it.

use std::{fmt, rc::Rc};

use crate::http::route::{Route, RouteKey, RouteKind};

/// Where the operator wants a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which route.
    pub key: RouteKey,
    /// Its place.
    pub place: Place,
}

/// A place among the routes that a route can stand beside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Behind all others.
    Last,
    /// Just before that one.
    Before(RouteKey),
    /// Just behind that one.
    After(RouteKey),
}

/// Why a route cannot be moved there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveError {
    /// It is an observer.
    Observer,
    /// Before or behind itself.
    Itself,
    /// Filters come before handlers.
    Kind,
    /// Longer paths come before shorter ones.
    Path {
        /// Where it is mounted.
        moved: Box<str>,
        /// Where the other is.
        other: Box<str>,
    },
    /// There are as many moves as there may be.
    TooMany,
}

/// How many moves a server may have.
const MOVES_MAX: usize = 1024;

impl Place {
    /// The route that it is next to, if it is next to one.
    #[must_use]
    pub fn neighbour(&self) -> Option<&RouteKey> {
        match self {
            Place::First | Place::Last => None,
            Place::Before(other) | Place::After(other) => Some(other),
        }
    }
}

/// Adds a move: the order is what it was, but for the route that is moved.
///
/// # Errors
/// The move would have no effect.
pub(super) fn add(moves: &mut Vec<Move>, new: Move) -> Result<(), MoveError> {
    let Move { key, place } = &new;
    if key.kind == RouteKind::Observer {
        return Err(MoveError::Observer);
    }
    if let Some(other) = place.neighbour() {
        if key == other {
            return Err(MoveError::Itself);
        }
        if key.kind != other.kind {
            return Err(MoveError::Kind);
        }
        if !key.stands_beside(other) {
            let [moved, other] = [key, other].map(|key| key.path_shown().into());
            return Err(MoveError::Path { moved, other });
        }
    }
    if moves.len() >= MOVES_MAX {
        return Err(MoveError::TooMany);
    }
    moves.push(new);
    forget_overtaken(moves);
    Ok(())
}

/// Drops moves of routes that were moved again later, unless another was put next to them in between: it would stand
/// elsewhere then.
fn forget_overtaken(moves: &mut Vec<Move>) {
    for at in (0..moves.len()).rev() {
        let (key, later) = (&moves[at].key, &moves[at + 1..]);
        let next = later.iter().position(|other| other.key == *key);
        let is_overtaken = next.is_some_and(|next| {
            !later[..next].iter().any(|other| other.place.neighbour() == Some(key))
        });
        if is_overtaken {
            moves.remove(at);
        }
    }
}

/// Puts routes of a kind into order.
pub(super) fn arrange<H>(routes: &mut Vec<Rc<Route<H>>>, moves: &[Move]) {
    routes.sort_by(|one, two| one.precedes(two));
    for Move { key, place } in moves {
        let Some(from) = routes.iter().position(|route| route.key == *key) else { continue };
        let route = routes.remove(from);
        let beside = |other: &Rc<Route<H>>| other.key.stands_beside(key);
        let to = match place {
            Place::First => routes.iter().position(beside),
            Place::Last => routes.iter().rposition(beside).map(|last| last + 1),
            Place::Before(other) => routes.iter().position(|route| route.key == *other),
            Place::After(other) => {
                routes.iter().position(|route| route.key == *other).map(|other| other + 1)
            }
        };
        // Alone, or without its neighbour, it stays where it is.
        routes.insert(to.unwrap_or(from), route);
    }
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MoveError::Observer => {
                f.write_str("it is an observer, and each of those hears of every request")
            }
            MoveError::Itself => f.write_str("a route cannot stand before or behind itself"),
            MoveError::Kind => f.write_str(
                "one is a filter and the other a handler, and filters are always asked first",
            ),
            MoveError::Path { moved, other } => write!(
                f,
                "it is at {moved} and the other at {other}, and between handlers of different paths the longer \
                path is always asked first; move it among those at {moved}"
            ),
            MoveError::TooMany => write!(
                f,
                "{MOVES_MAX} routes were moved at this server, and no more can be; `routes move ID back` takes one back"
            ),
        }
    }
}

impl std::error::Error for MoveError {}
