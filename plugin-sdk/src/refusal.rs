//! A "no": a handler's to its client, or the host's to a plugin.

use std::fmt;

/// What a handler, and every call of the host, returns.
pub type Result<T = (), E = Refusal> = std::result::Result<T, E>;

/// A "no", from a handler to its client or from the host to a plugin: one type, so that `?` passes on what the host said.
///
/// Returned from a handler, nothing that the handler did is applied. The codes `forbidden`, `unauthorized`, `invalid_payload`,
/// `too_large` and `rate_limited` reach the client as they are, and `limit` as `too_large`. What the host says to a call that no client can put
/// right (`misuse`, `undeclared`, `invalid_data`) reaches the client as `plugin_failed`, and its message only the host's log. Any other code
/// reaches the client as `refused`, with the code as its `reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Stable, snake_case, for programs: `not_found`.
    pub code: String,
    /// For people. Reaches the client, at most 1 KiB of it.
    pub message: String,
}

impl Refusal {
    /// A refusal with a code of your own (`[a-z][a-z0-9_]{0,63}`), which clients see as `reason`.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }

    /// The caller has no right to do this.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("forbidden", message)
    }

    /// What the event is about does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not_found", message)
    }

    /// The payload is wrong in a way that its schema can't say.
    pub fn invalid_payload(message: impl Into<String>) -> Self {
        Self::new("invalid_payload", message)
    }

    /// Arguments that can't be right: the plugin's own mistake.
    pub(crate) fn misuse(message: impl Into<String>) -> Self {
        Self::new("misuse", message)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Refusal {}
