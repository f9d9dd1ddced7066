//! The log record of an event that had no effects: everything that is known of it, with the id that
//! its sender received.

use crate::event::{Connection, EventId};
use crate::rejection::Rejection;

use super::Panic;

/// Details of a failure that only operators see.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Fault {
    /// The error with its chain of causes.
    pub(crate) error: String,
    /// `file:line:column` in the source of the host or the plugin; empty if unknown.
    pub(crate) location: String,
    /// Text that the plugin wrote to standard error meanwhile, such as the message of its panic.
    pub(crate) output: String,
    /// How long the handler ran in milliseconds, if that was too long.
    pub(crate) ran_ms: Option<f64>,
}

/// The plugin version that was asked to handle an event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Handler<'event> {
    /// The plugin.
    pub(crate) plugin: &'event str,
    /// The version that it registered.
    pub(crate) version: &'event str,
    /// The generation to which the event was bound.
    pub(crate) generation: u64,
}

impl Fault {
    /// A failure of which only the error is known.
    pub(crate) fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }

    /// Adds the plugin's output, and sets the location if the output shows a panic.
    #[must_use]
    pub(crate) fn with_output(mut self, output: String) -> Self {
        self.location = panic_location(&output).unwrap_or_default().to_owned();
        self.output = output;
        self
    }
}

impl From<Panic> for Fault {
    fn from(panic: Panic) -> Self {
        Self {
            error: format!("the host panicked: {}", panic.message),
            location: panic.location,
            ..Self::default()
        }
    }
}

/// Returns the location that the first line of a Rust panic names:
/// `thread 'main' panicked at src/lib.rs:7:5:`.
fn panic_location(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once(" panicked at ")?;
    rest.lines().next()?.strip_suffix(':')
}

/// Logs why an event had no effects: at `error` if the plugin or the host is at fault, otherwise at
/// `info`.
pub(crate) fn rejected(
    event: &str,
    id: EventId,
    caller: Option<&Connection>,
    handler: Option<Handler<'_>>,
    rejection: &Rejection,
    fault: Option<&Fault>,
) {
    let client = caller.map(|caller| caller.public_id.as_str());
    let (plugin, version) =
        (handler.map(|handler| handler.plugin), handler.map(|handler| handler.version));
    let generation = handler.map(|handler| handler.generation);
    let (code, detail) = (rejection.code(), rejection.message());
    let reason = rejection.reason();
    let text = |text: fn(&Fault) -> &String| {
        fault.map(text).map(String::as_str).filter(|text| !text.is_empty())
    };
    let (error, location, output) =
        (text(|fault| &fault.error), text(|fault| &fault.location), text(|fault| &fault.output));
    let ran_ms = fault.and_then(|fault| fault.ran_ms);
    if fault.is_some() || matches!(rejection, Rejection::PluginFailed | Rejection::TimedOut) {
        tracing::error!(
            event, %id, plugin, version, generation, client, code, reason, detail, error, location, output, ran_ms, "event failed"
        );
    } else {
        tracing::info!(event, %id, plugin, version, generation, client, code, reason, detail, "event rejected");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_plugins_output_says_where() {
        let output = "\nthread '<unnamed>' (1) panicked at src/lib.rs:33:5:\nsecret\nnote: run \
                      with `RUST_BACKTRACE=1`";
        let fault = Fault::new("trapped").with_output(output.to_owned());
        assert_eq!((fault.location.as_str(), fault.output.as_str()), ("src/lib.rs:33:5", output));
        assert_eq!(Fault::new("trapped").with_output("Traceback".to_owned()).location, "");
    }
}
