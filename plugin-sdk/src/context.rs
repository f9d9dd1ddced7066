//! What a handler can ask and do while it handles one event.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::handlers::{Call, Output};
use crate::host::Host;
use crate::plugin::Emits;
use crate::refusal::Result;
use crate::state::State;
use crate::time::rfc3339;

/// One event being handled: who caused it, and what can be done about it.
///
/// Everything that it does (emits, joins, leaves, stored values) is checked at once, held back until the handler returns `Ok`, and then
/// applied together. After `Err` nothing is.
pub struct Context {
    event: Event,
    host: Box<dyn Host>,
}

/// An event as the host hands it over.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
    pub(crate) attachments: Vec<Vec<u8>>,
    pub(crate) caller: Option<Caller>,
}

/// Who caused an event.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) connection: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) namespace: String,
}

/// Who it is, and when it happened.
impl Context {
    /// Public id of the caller's connection: stable while it lives, safe to show to other clients. None where no connection caused the
    /// event (`$start`, `$resync`, an HTTP request).
    #[must_use]
    pub fn connection(&self) -> Option<&str> {
        self.event.caller.as_ref()?.connection.as_deref()
    }

    /// The authenticated user who caused the event, none for anonymous clients.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.event.caller.as_ref()?.user.as_deref()
    }

    /// The Socket.IO namespace of the caller, such as `/`; rooms and emits are those of this namespace. None for `$start` and `$resync`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        Some(self.event.caller.as_ref()?.namespace.as_str())
    }

    /// All connections of this node and all its namespaces, in the order of their ids. In a handler of [`on_resync`](crate::Plugin::on_resync),
    /// as they were when that event began; each later change follows as an event of its own. Copies them all: with very many connections,
    /// read them in pages with [`connections_after`](Self::connections_after).
    ///
    /// # Errors
    /// None that is known.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let mut all: Vec<Connection> = Vec::new();
        loop {
            let page = self.connections_after(all.last().map(|last| last.id.as_str()), Self::MAX_CONNECTIONS)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The connections that one call of [`connections_after`](Self::connections_after) returns at most.
    pub const MAX_CONNECTIONS: u32 = 1_000;

    /// At most `limit` (1 to 1,000) of these connections, those whose id follows `after`.
    ///
    /// # Errors
    /// `misuse`: another limit.
    pub fn connections_after(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        #[cfg(target_family = "wasm")]
        return crate::bindings::connections(after, limit);
        #[cfg(not(target_family = "wasm"))]
        self.host.connections(after, limit)
    }

    /// Whether the caller has `role`. Never for anonymous clients.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.host.has_role(role)
    }

    /// The claims of the caller's token, an object; `null` for anonymous clients.
    #[must_use]
    pub fn claims(&self) -> Value {
        serde_json::from_str(&self.host.claims()).unwrap_or_default()
    }

    /// The caller's own Socket.IO id, which it knows as `socket.id`. For the caller itself only: never show it to others. Empty where no
    /// connection caused the event.
    #[must_use]
    pub fn sid(&self) -> String {
        self.host.sid()
    }

    /// The name of the event being handled; that of a host event begins with `$`.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event.name
    }

    /// The plugin's own setting `name`, as the operator wrote it under `[plugins.NAME.config]`; none where it is not set.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        self.host.setting(name)
    }

    /// Id of this occurrence, as in logs and in clients' errors (a ULID); the same when the host runs the handler again.
    #[must_use]
    pub fn event_id(&self) -> String {
        self.host.event_id()
    }

    /// When the host received the event, milliseconds since 1970; the same when the host runs the handler again.
    #[must_use]
    pub fn received_at(&self) -> u64 {
        self.host.received_at()
    }

    /// When the host received the event, as text: RFC 3339 in UTC with milliseconds, `2026-01-31T09:30:00.000Z`.
    #[must_use]
    pub fn now(&self) -> String {
        rfc3339(self.received_at())
    }

    /// The bytes that a placeholder in the payload stands for; none where the client sent fewer attachments than it named.
    #[must_use]
    pub fn attachment(&self, attachment: &Attachment) -> Option<&[u8]> {
        self.attachments().get(usize::try_from(attachment.num).ok()?).map(Vec::as_slice)
    }

    /// The event's binary attachments, in the order of their placeholders. At most 4, and 256 KiB in all.
    #[must_use]
    pub fn attachments(&self) -> &[Vec<u8>] {
        &self.event.attachments
    }
}

/// What it can do.
impl Context {
    /// Emits `event` to the clients that `to` names, once to each.
    ///
    /// # Errors
    /// `undeclared`: the plugin does not declare it ([`Plugin::emits`](crate::Plugin::emits)), or its declaration does not name the room.
    /// `invalid_data`: against a bound of its schema. `limit`: more than 256 effects or 1 MiB in one event.
    /// `misuse`: a sender where there is none.
    pub fn emit<T: Output>(&self, to: Target, event: &Emits<T>, data: &T) -> Result {
        self.emit_binary(to, event, data, &[])
    }

    /// The same with binary attachments, each of which `data` names by exactly one [`Attachment`].
    ///
    /// # Errors
    /// As [`emit`](Self::emit), and `misuse` where placeholders and attachments don't match.
    pub fn emit_binary<T: Output>(&self, to: Target, event: &Emits<T>, data: &T, attachments: &[Vec<u8>]) -> Result {
        self.host.emit(to, event.name(), &event.encode(data)?, attachments)
    }

    /// Joins the caller to `room`; joining twice changes nothing.
    ///
    /// # Errors
    /// `unknown_room`: no loaded plugin declares it. `forbidden`: its access rule, whether the caller is anonymous or not. `limit`: 100
    /// rooms of one connection. `misuse`: no connection caused the event.
    pub fn join(&self, room: &str) -> Result {
        self.host.join(room)
    }

    /// Takes the caller out of `room`; leaving a room that it is not in changes nothing.
    ///
    /// # Errors
    /// `misuse`: no connection caused the event.
    pub fn leave(&self, room: &str) -> Result {
        self.host.leave(room)
    }

    /// The caller's rooms, sorted, with this handler's own changes; empty where no connection caused the event.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        self.host.mine()
    }

    /// Number of connections in `room` on this node, in the caller's namespace, with this handler's own changes.
    #[must_use]
    pub fn room_size(&self, room: &str) -> u32 {
        self.host.count(room)
    }

    /// Ends the caller's connection after this handler's effects are delivered. `reason` goes to the host's log. Nothing where no
    /// connection caused the event.
    pub fn disconnect(&self, reason: &str) {
        self.host.disconnect(reason);
    }

    /// The plugin's durable state.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        State { host: &*self.host }
    }
}

/// Log lines, shown with plugin, generation and event, also those of a handler that fails. At most 8 KiB each; beyond 100 lines a second
/// they are counted and dropped.
impl Context {
    /// Writes one line: `ctx.log(Level::Debug, format_args!("{n} records"))`.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.host.log(level, &message.to_string());
    }

    /// Writes one line for the operator.
    pub fn info(&self, message: impl fmt::Display) {
        self.log(Level::Info, message);
    }

    /// Writes one line: something is odd.
    pub fn warn(&self, message: impl fmt::Display) {
        self.log(Level::Warn, message);
    }

    /// Writes one line: something is broken.
    pub fn error(&self, message: impl fmt::Display) {
        self.log(Level::Error, message);
    }
}

impl Context {
    /// Runs `call` on `event`.
    pub(crate) fn run(mut event: Event, host: Box<dyn Host>, call: &Call) -> Result<Option<String>> {
        let data = std::mem::take(&mut event.data);
        call(&Self { event, host }, &data)
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("event", &self.event.name).field("caller", &self.event.caller).finish_non_exhaustive()
    }
}

/// One connection of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its public id, as [`Context::connection`] returns it.
    pub id: String,
    /// The authenticated user, none for anonymous clients.
    pub user: Option<String>,
    /// The Socket.IO namespace, such as `/`.
    pub namespace: String,
}

/// Who receives an emitted event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The connection whose event is being handled; a refusal `misuse` where there is none.
    Sender,
    /// One connection, by public id. One that is gone receives nothing, and that is no error.
    Connection(String),
    /// Every connection in any of these rooms, each once. A room in which nobody is receives nothing.
    Rooms(Vec<String>),
    /// The same, without the sender.
    RoomsButSender(Vec<String>),
    /// Every connection of the namespace.
    Everyone,
}

impl Target {
    /// Every connection in `room`.
    pub fn room(room: impl Into<String>) -> Self {
        Self::Rooms(vec![room.into()])
    }
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
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

/// The place of a binary attachment in a payload or an emitted event (a reply has none); on the wire `{"_placeholder": true, "num": 0}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    #[serde(rename = "_placeholder")]
    placeholder: bool,
    num: u32,
}

impl Attachment {
    /// The place of the attachment with index `num`, from 0.
    #[must_use]
    pub const fn new(num: u32) -> Self {
        Self { placeholder: true, num }
    }
}

impl JsonSchema for Attachment {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Attachment")
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": {
                "_placeholder": {"const": true},
                "num": {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            },
            "required": ["_placeholder", "num"],
        })
    }
}
