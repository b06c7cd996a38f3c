//! `tracing`'s events, forwarded to the host's log. Spans are not kept: their events are logged by themselves.

// Calls the log callback.
#![allow(unsafe_code)]

use std::fmt::{self, Write};

use medusa_abi::data::Slice;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
    subscriber::Interest,
};

use crate::host::{host, is_entered};

/// Makes the host's log the one of this image. Repeated calls change nothing.
pub(crate) fn install() {
    // The only failure is that it was done before.
    let _ = tracing::subscriber::set_global_default(Forward);
}

/// Logs a sentence of the SDK's own.
pub(crate) fn warn(message: &str) {
    write(2, "medusa_plugin_api", message, "");
}

struct Forward;

impl Subscriber for Forward {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level changes while the plugin runs, so every event asks; the host answers by one load.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() || !is_entered() {
            return false;
        }
        let host = host();
        // SAFETY: A number only; legal on any thread.
        i64::from(number(*metadata.level())) <= unsafe { (host.core.log_level)(host.instance) }
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        write(number(*metadata.level()), metadata.target(), &text.message, &text.fields);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// An event's message, and its other fields as `key=value` pairs.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string cannot fail; a `Debug` that does leaves its part out.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        let blank = if self.fields.is_empty() { "" } else { " " };
        let _ = write!(self.fields, "{blank}{}={value:?}", field.name());
    }
}

fn write(level: u32, target: &str, message: &str, fields: &str) {
    if !is_entered() {
        return;
    }
    let host = host();
    // SAFETY: The slices are borrowed for the call; legal on any thread.
    unsafe {
        (host.core.log)(
            host.instance,
            level,
            Slice::new(target.as_bytes()),
            Slice::new(message.as_bytes()),
            Slice::new(fields.as_bytes()),
        )
    };
}

fn number(level: Level) -> u32 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        _ => 5,
    }
}
