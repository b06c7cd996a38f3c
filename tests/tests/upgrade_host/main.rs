//! The host goes on as another program in place: nobody who is connected notices, and whatever fails leaves the old one serving.

mod asking;
mod drained;
mod fails_after;
mod fails_before;
mod held;
mod idle;
mod instances;
mod lines;
mod listeners;
mod next;
mod probation;
mod sessions;
mod signals;
mod steps;
mod ticks;

use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
