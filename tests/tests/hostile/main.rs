//! Plugins that must not be loaded, and plugins that misbehave once they are: each gets its own sentence, and everybody
//! else is served all the while.

mod library;
mod lies;
mod load;
mod panics;
