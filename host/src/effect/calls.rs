//! The calls that a running handler may make to the host: one trait for each WIT interface whose
//! calls depend on the event.

use std::any::Any;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::event::{Connection, FiredTimer};
use crate::rejection::Refusal;

use super::{AckRequest, Deadline, Delivery, EmitRequest, Request, Response, Who};

/// The calls that a running handler may make to the host. The dispatcher implements them and an
/// instance forwards them. So the instance knows no rules, and the dispatcher knows no WebAssembly.
/// Each call is checked at once, but its effect is held back.
///
/// The supertrait [`Any`] lets the dispatcher convert the value back to its own type after the
/// instance returns it.
///
/// The methods run within the guest's call, on the worker thread that polls it. Only
/// [`StateCalls::next_id`] and [`HttpCalls::send`] may wait for more than a read of local state.
pub trait HostCalls:
    EmitterCalls
    + ReplyCalls
    + RoomCalls
    + MemberCalls
    + ConnectionCalls
    + IdentityCalls
    + StateCalls
    + TimerCalls
    + HttpCalls
    + DeliverCalls
    + Any
    + Send
{
    /// The generation of the routes that the event uses, for the log.
    fn generation(&self) -> u64;
}

/// The interface `emitter`: a handler sends events.
pub trait EmitterCalls {
    /// Sends an event.
    ///
    /// # Errors
    /// `undeclared`, `invalid_data`, `limit`, `misuse`.
    fn emit(&mut self, request: EmitRequest) -> Result<(), Refusal>;
    /// Sends an event to the connection that `ack` names, and asks its client for an ack. Returns
    /// the id of the ack. The receivers of `request` are not used.
    ///
    /// # Errors
    /// `undeclared`, `invalid_data`, `limit`, `misuse`.
    fn emit_with_ack(&mut self, request: EmitRequest, ack: AckRequest) -> Result<String, Refusal>;
}

/// The interface `replies`: a handler attaches bytes to its reply.
pub trait ReplyCalls {
    /// Attaches bytes to the reply. Returns the number of the attachment for its placeholder.
    ///
    /// # Errors
    /// `limit`, `misuse`.
    fn attach(&mut self, bytes: Vec<u8>) -> Result<u32, Refusal>;
}

/// The interface `rooms`: a handler joins and leaves rooms, and reads who is in them.
pub trait RoomCalls {
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
}

/// The interface `members`: a handler changes and reads who is in the rooms of its plugin.
pub trait MemberCalls {
    /// Adds others to a room.
    ///
    /// # Errors
    /// `unknown_room`, `forbidden`, `limit`.
    fn join_member(&mut self, who: Who, room: String) -> Result<(), Refusal>;
    /// Removes others from a room.
    ///
    /// # Errors
    /// `unknown_room`, `limit`.
    fn remove_member(&mut self, who: Who, room: String) -> Result<(), Refusal>;
    /// At most `limit` connections in a room whose public id follows `after`, in the order of
    /// public ids, without this handler's own changes.
    ///
    /// # Errors
    /// `unknown_room`, `misuse`.
    fn members(
        &mut self,
        room: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal>;
    /// Like [`MemberCalls::members`], for any room: the plugin gets only the public ids.
    ///
    /// # Errors
    /// `misuse`.
    fn member_ids(
        &mut self,
        room: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal>;
    /// Number of connections and users in any room, without this handler's own changes.
    ///
    /// # Errors
    /// None at present.
    fn member_totals(&mut self, room: &str) -> Result<MemberTotals, Refusal>;
}

/// Who is in a room, as numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberTotals {
    /// Connections.
    pub connections: usize,
    /// Users, each once, however many connections they have. Anonymous clients do not count.
    pub users: usize,
}

/// The interface `connections`: a handler reads which connections exist.
pub trait ConnectionCalls {
    /// At most `limit` connections whose public id follows `after`, in the order of public ids.
    ///
    /// # Errors
    /// `misuse`.
    fn connections(
        &mut self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Arc<Connection>>, Refusal>;
}

/// The interface `identity`: a handler reads who has caused the event, and ends its connection.
pub trait IdentityCalls {
    /// Whether the caller has a role.
    fn has_role(&self, role: &str) -> bool;
    /// The caller's claims as JSON; `null` without a caller.
    fn claims(&self) -> String;
    /// The `auth` of the caller's handshake as JSON; `null` if it is not kept.
    ///
    /// # Errors
    /// `misuse`.
    fn auth(&self) -> Result<String, Refusal>;
    /// The parameters of the URL of the caller's handshake; `None` if they are not kept.
    ///
    /// # Errors
    /// `misuse`.
    fn query(&self) -> Result<Option<Vec<(String, String)>>, Refusal>;
    /// The caller's own Socket.IO id; empty without a caller.
    fn sid(&self) -> String;
    /// The event's id.
    fn event_id(&self) -> String;
    /// When the host received the event, in milliseconds since 1970.
    fn received_at(&self) -> u64;
    /// Ends the caller's connection after the effects are delivered. Only the first call counts.
    fn disconnect(&mut self, reason: String);
}

/// The interface `state`: a handler reads and writes the plugin's state.
pub trait StateCalls {
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

/// The interface `timers`: a handler sets and cancels the timers of its plugin.
pub trait TimerCalls {
    /// Sets a timer with data, which should be JSON. Replaces one with the same name and key.
    ///
    /// # Errors
    /// `undeclared`, `invalid_data`, `limit`, `misuse`, `unavailable`.
    fn set_timer(
        &mut self,
        timer: String,
        key: String,
        deadline: Deadline,
        data: String,
    ) -> Result<(), Refusal>;
    /// Cancels a timer. If it is not set, nothing changes.
    ///
    /// # Errors
    /// `undeclared`, `limit`, `misuse`, `unavailable`.
    fn cancel_timer(&mut self, timer: String, key: String) -> Result<(), Refusal>;
    /// The timer whose event is handled; `None` for another event.
    fn fired_timer(&self) -> Option<&FiredTimer>;
}

/// The host stops the handler: its run is of no use, and the event is handled again.
#[derive(Debug, thiserror::Error)]
#[error("the host has stopped the handler, and handles the event again")]
pub struct Stopped;

/// The interface `http`: a handler sends requests to other services.
pub trait HttpCalls {
    /// Sends a request, and waits for the whole response. It does not block the worker thread.
    ///
    /// The inner result is the handler's: the response, or why there is none (`not_allowed`,
    /// `invalid_url`, `misuse`, `limit`, `busy`, `timeout`, `unreachable`, `response_too_large`).
    ///
    /// # Errors
    /// The handler must be stopped.
    fn send(
        &mut self,
        request: Request,
    ) -> BoxFuture<'_, Result<Result<Response, Refusal>, Stopped>>;
}

/// The interface `deliver`: a handler asks for requests that are sent after the commit.
pub trait DeliverCalls {
    /// Asks for a delivery. Returns its id.
    ///
    /// # Errors
    /// `not_allowed`, `misuse`, `undeclared`, `limit`, `unavailable`.
    fn deliver(&mut self, delivery: Delivery) -> Result<String, Refusal>;
}
