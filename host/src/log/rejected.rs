//! The one record of an event that had no effects: everything that is known of it, under the id that its sender was given.

use crate::event::{Connection, EventId};
use crate::rejection::Rejection;

use super::Panic;

/// What only operators are told of a failure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fault {
    /// What went wrong, with everything that caused it.
    pub error: String,
    /// Where: `file:line:column` in the source of the host or the plugin; empty where nobody knows.
    pub location: String,
    /// What the plugin printed on its standard error meanwhile, such as the message of its panic.
    pub output: String,
    /// How long the handler ran, where that was too long.
    pub ran_ms: Option<f64>,
}

/// The code that was asked to handle an event.
#[derive(Debug, Clone, Copy)]
pub struct Handler<'event> {
    /// The plugin.
    pub plugin: &'event str,
    /// The version that it registered.
    pub version: &'event str,
    /// The generation to which the event was bound.
    pub generation: u64,
}

impl Fault {
    /// A failure that nothing else is known of.
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }

    /// The same with what the plugin printed, where that tells of a panic.
    #[must_use]
    pub fn with_output(mut self, output: String) -> Self {
        self.location = panic_location(&output).unwrap_or_default().to_owned();
        self.output = output;
        self
    }
}

impl From<Panic> for Fault {
    fn from(panic: Panic) -> Self {
        Self { error: format!("the host panicked: {}", panic.message), location: panic.location, ..Self::default() }
    }
}

/// The place that a panic of Rust names in its first line: `thread 'main' panicked at src/lib.rs:7:5:`.
fn panic_location(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once(" panicked at ")?;
    rest.lines().next()?.strip_suffix(':')
}

/// Logs why an event had no effects: at `error` where the plugin or the host is at fault, else at `info`.
pub fn rejected(
    event: &str,
    id: EventId,
    caller: Option<&Connection>,
    handler: Option<Handler<'_>>,
    rejection: &Rejection,
    fault: Option<&Fault>,
) {
    let client = caller.map(|caller| caller.public_id.as_str());
    let (plugin, version) = (handler.map(|handler| handler.plugin), handler.map(|handler| handler.version));
    let generation = handler.map(|handler| handler.generation);
    let (code, detail) = (rejection.code(), rejection.message());
    let reason = match rejection {
        Rejection::Refused(refusal) => Some(refusal.code.as_str()),
        _ => None,
    };
    let text = |text: fn(&Fault) -> &String| fault.map(text).map(String::as_str).filter(|text| !text.is_empty());
    let (error, location, output) = (text(|fault| &fault.error), text(|fault| &fault.location), text(|fault| &fault.output));
    let ran_ms = fault.and_then(|fault| fault.ran_ms);
    match fault.is_some() || matches!(rejection, Rejection::PluginFailed | Rejection::TimedOut) {
        true => tracing::error!(
            event, %id, plugin, version, generation, client, code, reason, detail, error, location, output, ran_ms, "event failed"
        ),
        false => tracing::info!(event, %id, plugin, version, generation, client, code, reason, detail, "event rejected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_plugins_output_says_where() {
        let output = "\nthread '<unnamed>' (1) panicked at src/lib.rs:33:5:\nsecret\nnote: run with `RUST_BACKTRACE=1`";
        let fault = Fault::new("trapped").with_output(output.to_owned());
        assert_eq!((fault.location.as_str(), fault.output.as_str()), ("src/lib.rs:33:5", output));
        assert_eq!(Fault::new("trapped").with_output("Traceback".to_owned()).location, "");
    }
}
