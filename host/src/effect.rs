//! The effects of a handler, which are held back until it has returned, and the calls that it may
//! make while it runs ([`calls`]). No I/O.

mod ack;
mod calls;

use std::sync::Arc;

use bytes::Bytes;

use crate::event::Json;

pub(crate) use ack::{AckBudget, EndedAck, PendingAck};
pub(crate) use calls::{
    ConnectionCalls, DeliverCalls, EmitterCalls, HostCalls, HttpCalls, IdentityCalls, MemberCalls,
    MemberTotals, ReplyCalls, RoomCalls, StateCalls, Stopped, TimerCalls,
};

pub(crate) use sockhop_core::ack::{AckLimits, AckRequest, Outcome};
pub(crate) use sockhop_core::delivery::Delivery;
pub(crate) use sockhop_core::effect::{
    EffectLimits, Target, Who, check_own_room, check_page, check_room_count, emit_bytes,
    require_caller,
};
pub(crate) use sockhop_core::outbound::{Request, Response};
pub(crate) use sockhop_core::timer::Deadline;

/// One action that a handler requests. Its changes to the state are in its state view, because they
/// are committed first.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// Send an event.
    Emit(Emit),
    /// Add the caller to a room.
    Join(String),
    /// Remove the caller from a room.
    Leave(String),
    /// Add others to a room of the plugin.
    JoinMember(Who, String),
    /// Remove others from a room of the plugin.
    RemoveMember(Who, String),
    /// End the caller's connection; the reason is for the log.
    Disconnect(String),
}

/// One event to send to clients, already checked against its schema and its rooms.
#[derive(Debug, Clone)]
pub(crate) struct Emit {
    /// The receivers.
    pub to: Target,
    /// The event's name.
    pub event: String,
    /// The event's argument, or the list of its arguments.
    pub data: Json,
    /// The binary attachments, in the order of the placeholders.
    pub attachments: Vec<Bytes>,
    /// Whether it is skipped for receivers that read slowly.
    pub is_volatile: bool,
    /// The ack that its receiver is asked for; `None` for nearly all emits.
    pub ack: Option<Arc<PendingAck>>,
}

/// The result of a handler that succeeded.
#[derive(Debug)]
pub struct Reply {
    /// The JSON that the event's ack carries.
    pub json: Json,
    /// The binary attachments of the ack, in the order of the JSON's placeholders.
    pub attachments: Vec<Bytes>,
    /// Whether the handler asked to end its caller's connection. The ack is sent before the end.
    pub ends: bool,
}

/// One event that a handler asks to send, before it is checked.
#[derive(Debug)]
pub struct EmitRequest {
    /// The receivers.
    pub to: Target,
    /// The event's name.
    pub event: String,
    /// The event's argument, or the array of its arguments, which should be JSON.
    pub data: String,
    /// The binary attachments, in the order of the placeholders.
    pub attachments: Vec<Bytes>,
    /// Whether it is skipped for receivers that read slowly.
    pub is_volatile: bool,
}

impl EmitRequest {
    /// Bytes that the data and the attachments have.
    pub fn size(&self) -> usize {
        self.data.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Effect {
    /// Bytes that this effect counts against the limit of one event's effects.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Emit(Emit { to, event, data, attachments, ack, .. }) => {
                let attachments = attachments.iter().map(Bytes::len).sum();
                let ack = ack.as_ref().map_or(0, |ack| ack.request.bytes());
                emit_bytes(to, event, data.as_str(), attachments) + ack
            }
            Self::Join(text) | Self::Leave(text) | Self::Disconnect(text) => text.len(),
            Self::JoinMember(who, room) | Self::RemoveMember(who, room) => who.bytes() + room.len(),
        }
    }
}

/// The level of a plugin's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    /// The finest level.
    Trace,
    /// For the plugin's author.
    Debug,
    /// For the operator.
    Info,
    /// Something is unusual.
    Warn,
    /// Something has failed.
    Error,
}
