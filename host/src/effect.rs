//! The effects of a handler, which are held back until it has returned, and the calls that it may
//! make while it runs. No I/O.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::event::{Connection, Json};
use crate::rejection::Refusal;

pub(crate) use sockhop_core::effect::{
    EffectLimits, Target, check_page, check_room_count, emit_bytes, require_caller,
};

/// One action that a handler requests. Its changes to the state are in its state view, because they
/// are committed first.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send an event.
    Emit(Emit),
    /// Add the caller to a room.
    Join(String),
    /// Remove the caller from a room.
    Leave(String),
    /// End the caller's connection; the reason is for the log.
    Disconnect(String),
}

/// One event to send to clients, already checked against its schema and its rooms.
#[derive(Debug, Clone)]
pub struct Emit {
    /// The receivers.
    pub to: Target,
    /// The event's name.
    pub event: String,
    /// The event's one argument.
    pub data: Json,
    /// The binary attachments, in the order of the argument's placeholders.
    pub attachments: Vec<Bytes>,
}

/// One event that a handler asks to send, before it is checked.
#[derive(Debug)]
pub struct EmitRequest {
    /// The receivers.
    pub to: Target,
    /// The event's name.
    pub event: String,
    /// The event's one argument, which should be JSON.
    pub data: String,
    /// The binary attachments, in the order of the argument's placeholders.
    pub attachments: Vec<Bytes>,
}

impl EmitRequest {
    /// Bytes that the data and the attachments have.
    pub fn size(&self) -> usize {
        self.data.len() + self.attachments.iter().map(Bytes::len).sum::<usize>()
    }
}

impl Effect {
    /// Bytes that this effect counts against the limit of one event's effects.
    pub fn size(&self) -> usize {
        match self {
            Self::Emit(Emit { to, event, data, attachments }) => {
                let attachments = attachments.iter().map(Bytes::len).sum();
                emit_bytes(to, event, data.as_str(), attachments)
            }
            Self::Join(text) | Self::Leave(text) | Self::Disconnect(text) => text.len(),
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

/// The calls that a running handler may make to the host. The dispatcher implements them and an
/// instance forwards them. So the instance knows no rules, and the dispatcher knows no WebAssembly.
/// Each call is checked at once, but its effect is held back.
///
/// The supertrait [`Any`] lets the dispatcher convert the value back to its own type after the
/// instance returns it.
///
/// The methods run within the guest's call, on the worker thread that polls it. Only
/// [`HostCalls::next_id`] may wait for more than a read of local state.
pub trait HostCalls: Any + Send {
    /// Sends an event.
    ///
    /// # Errors
    /// `undeclared`, `invalid_data`, `limit`, `misuse`.
    fn emit(&mut self, request: EmitRequest) -> Result<(), Refusal>;
    /// Adds the caller to a room.
    ///
    /// # Errors
    /// `unknown_room`, `forbidden`, `limit`, `misuse`.
    fn join(&mut self, room: String) -> Result<(), Refusal>;
    /// Removes the caller from a room.
    ///
    /// # Errors
    /// `limit`, `misuse`.
    fn leave(&mut self, room: String) -> Result<(), Refusal>;
    /// Number of connections in a room, including this handler's own changes.
    fn room_size(&mut self, room: &str) -> u32;
    /// The caller's rooms, sorted, including this handler's own changes.
    fn rooms(&mut self) -> Vec<String>;
    /// At most `limit` connections whose public id follows `after`, in the order of public ids.
    ///
    /// # Errors
    /// `misuse`.
    fn connections(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal>;
    /// Whether the caller has a role.
    fn has_role(&self, role: &str) -> bool;
    /// The caller's claims as JSON; `null` without a caller.
    fn claims(&self) -> String;
    /// The caller's own Socket.IO id; empty without a caller.
    fn sid(&self) -> String;
    /// The event's id.
    fn event_id(&self) -> String;
    /// The generation of the routes that the event uses, for the log.
    fn generation(&self) -> u64;
    /// When the host received the event, in milliseconds since 1970.
    fn received_at(&self) -> u64;
    /// Ends the caller's connection after the effects are delivered. Only the first call counts.
    fn disconnect(&mut self, reason: String);
    /// Reads a stored value; `None` if the key does not exist.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Refusal>;
    /// Stores a value.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn set(&mut self, key: String, value: Vec<u8>) -> Result<(), Refusal>;
    /// Removes a value.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn delete(&mut self, key: &str) -> Result<(), Refusal>;
    /// Returns stored entries whose key begins with `prefix`, at most `limit`.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn scan(
        &mut self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<(String, Vec<u8>)>, Refusal>;
    /// The next number of a sequence. It may have to wait for the disk, and does not block the
    /// worker thread then.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn next_id(&mut self, sequence: String) -> BoxFuture<'_, Result<u64, Refusal>>;
}
