//! What a handler wants done, held back until it has returned, and what it may ask while it runs. No I/O.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::event::{Connection, Json};
use crate::rejection::Refusal;

/// Who receives an emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The connection whose event is being handled.
    Sender,
    /// One connection, by public id.
    Connection(String),
    /// Every connection in any of these rooms, each once.
    Rooms(Vec<String>),
    /// The same, without the sender.
    RoomsButSender(Vec<String>),
    /// Every connection of the namespace.
    Everyone,
}

/// One thing that a handler wants done. What it stores is kept by its state view, because it is committed first.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Send an event.
    Emit(Emit),
    /// Join the caller to a room.
    Join(String),
    /// Take the caller out of a room.
    Leave(String),
    /// End the caller's connection; the reason is for the log.
    Disconnect(String),
}

/// One event on its way to clients, checked against its schema and its rooms.
#[derive(Debug, Clone)]
pub struct Emit {
    /// Who receives it.
    pub to: Target,
    /// The event's type.
    pub event: String,
    /// Its one argument.
    pub data: Json,
    /// What the argument's placeholders stand for.
    pub attachments: Vec<Bytes>,
}

impl Effect {
    /// What this effect counts against the bytes of one event's effects.
    pub fn size(&self) -> usize {
        match self {
            Self::Emit(emit) => {
                let targets = match &emit.to {
                    Target::Rooms(rooms) | Target::RoomsButSender(rooms) => rooms.iter().map(String::len).sum(),
                    Target::Connection(id) => id.len(),
                    Target::Sender | Target::Everyone => 0,
                };
                emit.event.len() + emit.data.as_str().len() + emit.attachments.iter().map(Bytes::len).sum::<usize>() + targets
            }
            Self::Join(text) | Self::Leave(text) | Self::Disconnect(text) => text.len(),
        }
    }
}

/// How much a plugin's log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Finest.
    Trace,
    /// For the author.
    Debug,
    /// For the operator.
    Info,
    /// Something is odd.
    Warn,
    /// Something is broken.
    Error,
}

/// What a running handler may ask of the host. The dispatcher answers, an instance passes the questions on: so the instance knows no rule,
/// and the dispatcher no WebAssembly. Every call is checked at once; what it wants done is held back.
///
/// [`Any`], so that whoever handed it to an instance gets its own type back afterwards.
///
/// Called from within the guest's call, on whichever worker polls it; no call but [`HostCalls::next_id`] may wait for anything but a read of local
/// state.
pub trait HostCalls: Any + Send {
    /// Sends an event.
    ///
    /// # Errors
    /// `undeclared`, `invalid_data`, `limit`, `misuse`.
    fn emit(&mut self, to: Target, event: String, data: String, attachments: Vec<Bytes>) -> Result<(), Refusal>;
    /// Joins the caller to a room.
    ///
    /// # Errors
    /// `unknown_room`, `forbidden`, `limit`, `misuse`.
    fn join(&mut self, room: String) -> Result<(), Refusal>;
    /// Takes the caller out of a room.
    ///
    /// # Errors
    /// `limit`, `misuse`.
    fn leave(&mut self, room: String) -> Result<(), Refusal>;
    /// Connections in a room, this handler's own changes included.
    fn count(&mut self, room: &str) -> u32;
    /// The caller's rooms, this handler's own changes included, sorted.
    fn mine(&mut self) -> Vec<String>;
    /// Connections whose id follows `after`, in the order of ids.
    ///
    /// # Errors
    /// `misuse`.
    fn connections(&mut self, after: Option<&str>, limit: u32) -> Result<Vec<Arc<Connection>>, Refusal>;
    /// Whether the caller has a role.
    fn has_role(&self, role: &str) -> bool;
    /// The caller's claims as JSON.
    fn claims(&self) -> String;
    /// The caller's own Socket.IO id, or nothing.
    fn sid(&self) -> String;
    /// The event's id.
    fn event_id(&self) -> String;
    /// The generation to which the event is bound, for the log.
    fn generation(&self) -> u64;
    /// When the host received the event, milliseconds since 1970.
    fn received_at(&self) -> u64;
    /// Ends the caller's connection after the effects are delivered.
    fn disconnect(&mut self, reason: String);
    /// A stored value.
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
    /// Entries by prefix.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn scan(&mut self, prefix: &str, cursor: Option<&str>, backwards: bool, limit: u32) -> Result<Vec<(String, Vec<u8>)>, Refusal>;
    /// The next number of a sequence. It may have to wait for the disk, and then no thread waits with it.
    ///
    /// # Errors
    /// `limit`, `misuse`, `unavailable`.
    fn next_id(&mut self, sequence: String) -> BoxFuture<'_, Result<u64, Refusal>>;
}
