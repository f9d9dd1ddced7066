//! What a test sees: why a plugin is not loaded, and the [`Outcome`] of one event with its
//! [`Effect`]s.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use sockhop_core::effect::{Target, Who};
use sockhop_core::rejection;

use crate::delivery::Delivery;
use crate::refusal::{Refusal, Result};

/// Why a host refuses to load a plugin. The text is the one that an operator would see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadError(pub(super) String);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoadError {}

/// The result of one event.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The ack (`null` if the handler has no reply), or the refusal. A refusal of the handler is as
    /// it returned it. The host answers the client with one of its own codes: see
    /// [`Refusal`](crate::Refusal).
    pub reply: Result<Value>,
    /// The handler's effects, in order. Of several changes of one timer, only the last is an
    /// effect. Empty after a refusal. Stored values are in
    /// [`TestHost::state`](crate::testing::TestHost::state).
    pub effects: Vec<Effect>,
}

impl Outcome {
    /// The outcome of a refused event: a refusal and no effects.
    pub fn refused(code: &str, message: impl Into<String>) -> Self {
        Self { reply: Err(Refusal::new(code, message)), effects: Vec::new() }
    }
}

/// Converts a refusal of the host.
pub(super) fn of_host(refusal: rejection::Refusal) -> Refusal {
    Refusal { code: refusal.code, message: refusal.message }
}

/// An emit with an ack whose outcome is not known.
#[derive(Debug, Clone, PartialEq)]
pub struct AskedAck {
    /// The id that the handler got.
    pub id: String,
    /// The public id of the connection.
    pub connection: String,
    /// The name of the emitted event.
    pub event: String,
    /// Its data.
    pub data: Value,
    /// The name of the [`Ack`](crate::Ack).
    pub ack: String,
    /// How long the client may take to answer.
    pub timeout: Duration,
    /// The context that the handler of the outcome gets back.
    pub context: Value,
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
    /// A volatile event was emitted.
    EmitVolatile {
        /// Who receives it.
        to: Target,
        /// Its name.
        event: String,
        /// Its data.
        data: Value,
        /// The attachments that the placeholders of `data` name.
        attachments: Vec<Vec<u8>>,
    },
    /// An event was emitted with an ack, which
    /// [`TestHost::answer`](crate::testing::TestHost::answer) answers.
    EmitWithAck(AskedAck),
    /// The caller was joined to this room.
    Join(String),
    /// The caller was removed from this room.
    Leave(String),
    /// Others were joined to this room.
    JoinMember(Who, String),
    /// Others were removed from this room.
    RemoveMember(Who, String),
    /// A timer was set.
    SetTimer {
        /// Its name.
        timer: String,
        /// Its key.
        key: String,
        /// Its deadline, in milliseconds since 1970.
        due: u64,
        /// Its data.
        data: Value,
    },
    /// A timer was cancelled, if it was set.
    CancelTimer {
        /// Its name.
        timer: String,
        /// Its key.
        key: String,
    },
    /// A request is sent after the commit.
    Deliver(Delivery),
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
