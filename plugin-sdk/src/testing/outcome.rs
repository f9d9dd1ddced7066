//! What a test sees of one event: its [`Outcome`] and its [`Effect`]s.

use serde_json::Value;

use crate::refusal::{Refusal, Result};
use crate::target::Target;

/// The result of one event.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The ack (`null` if the handler has no reply), or the refusal.
    pub reply: Result<Value>,
    /// The handler's effects, in order. Empty after a refusal. Stored values are in
    /// [`TestHost::state`](crate::testing::TestHost::state).
    pub effects: Vec<Effect>,
}

impl Outcome {
    /// The outcome of a refused event: a refusal and no effects.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { reply: Err(Refusal::new(code, message)), effects: Vec::new() }
    }
}

/// One effect of a handler. A join or leave that changes nothing is no effect.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// An event was emitted.
    Emit {
        /// Who receives it.
        to: Target,
        /// Its name.
        event: String,
        /// Its data.
        data: Value,
        /// The attachments that the placeholders of `data` name.
        attachments: Vec<Vec<u8>>,
    },
    /// The caller was joined to this room.
    Join(String),
    /// The caller was removed from this room.
    Leave(String),
    /// The caller's connection was closed, for this reason.
    Disconnect(String),
}

impl Effect {
    /// An emitted `event` without attachments.
    pub fn emit(to: Target, event: &str, data: Value) -> Self {
        Self::Emit { to, event: event.to_owned(), data, attachments: Vec::new() }
    }

    /// A join of the caller to `room`.
    pub fn join(room: &str) -> Self {
        Self::Join(room.to_owned())
    }

    /// A leave of the caller from `room`.
    pub fn leave(room: &str) -> Self {
        Self::Leave(room.to_owned())
    }
}
