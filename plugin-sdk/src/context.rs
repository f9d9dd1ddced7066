//! The API of a handler while it handles one event.

mod deliver;
mod emit;
mod members;
mod send;
mod written;

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use sockhop_core::effect::{Target, Who};
use sockhop_core::limits;

use crate::args::Outgoing;
use crate::attachment::Attachment;
use crate::connection::Connection;
use crate::emits::Emits;
use crate::event::Event;
use crate::host::Host;
use crate::json::{Output, encode};
use crate::level::Level;
use crate::refusal::Result;
use crate::state::State;
use crate::time::{milliseconds, rfc3339};
use crate::timer::{FiredTimer, Timer};

use self::written::Written;

/// The event that is handled: who caused it, and what the handler can do.
///
/// All effects (emits, joins, leaves, stored values, timers, deliveries, a disconnect) are checked
/// immediately, held back until the handler returns `Ok`, and then applied together. After `Err`,
/// none is applied.
pub struct Context {
    event: Event,
    host: Box<dyn Host>,
    /// The writes of collections.
    written: Written,
}

/// The caller and the event.
impl Context {
    /// Returns the public id of the caller's connection. It is stable while the connection lives,
    /// and safe to show to other clients. `None` if no connection caused the event (`$start`,
    /// `$load`, `$check`, `$resync`, `$room_occupied`, `$room_vacated`, a timer, an HTTP request).
    #[must_use]
    pub fn connection(&self) -> Option<&str> {
        self.event.caller.as_ref()?.connection.as_deref()
    }

    /// Returns the authenticated user who caused the event, or `None` for an anonymous client.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.event.caller.as_ref()?.user.as_deref()
    }

    /// Returns the Socket.IO namespace of the caller, such as `/`. Rooms and emits belong to this
    /// namespace. `None` for `$start`, `$load`, `$resync` and timers.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        Some(self.event.caller.as_ref()?.namespace.as_str())
    }

    /// Returns all connections of this node, in all namespaces, in the order of their ids. A
    /// handler of [`on_resync`](crate::Plugin::on_resync) sees the connections as they were when
    /// that event began. Each later change follows as an event of its own.
    ///
    /// This copies all connections. If there are very many, read them in pages with
    /// [`connections_after`](Self::connections_after).
    ///
    /// # Errors
    /// None at present; a later host may refuse the call.
    pub fn connections(&self) -> Result<Vec<Connection>> {
        let mut all: Vec<Connection> = Vec::new();
        loop {
            let page = self.connections_after(
                all.last().map(|last| last.id.as_str()),
                Self::MAX_CONNECTIONS,
            )?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// The maximum `limit` of [`connections_after`](Self::connections_after).
    pub const MAX_CONNECTIONS: u32 = limits::CONNECTIONS_PAGE;

    /// Returns at most `limit` (1 to 1,000) connections, those whose id follows `after`, in the
    /// order of their ids.
    ///
    /// # Errors
    /// `misuse`: `limit` is out of range.
    pub fn connections_after(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        // Directly: a plugin that does not call this does not import it, and runs on hosts before
        // 0.1.1.
        #[cfg(target_family = "wasm")]
        return crate::imports::connections(after, limit);
        #[cfg(not(target_family = "wasm"))]
        self.host.connections(after, limit)
    }

    /// Returns whether the caller has `role`. Always `false` for an anonymous client.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.host.has_role(role)
    }

    /// Returns the claims of the caller's token as an object, or `null` for a caller without a
    /// token.
    #[must_use]
    pub fn claims(&self) -> Value {
        serde_json::from_str(&self.host.claims()).unwrap_or_default()
    }

    /// Returns the `auth` that the client has sent when it connected, as an object: `{}` if it has
    /// sent none. If the host takes tokens (`[auth] mode = "jwt"`), the member `token` is left out.
    /// The host has checked nothing in it: it is what the client claims.
    ///
    /// `null` if there is no connection, or if the host has not kept the handshake: no plugin asked
    /// for it when the connection began, or it has more than 4 KiB (by default). It stays the same
    /// while the connection lives.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this or [`query`](Self::query).
    ///
    /// # Errors
    /// `misuse`: the plugin does not call [`Plugin::handshake`](crate::Plugin::handshake).
    pub fn auth(&self) -> Result<Value> {
        #[cfg(target_family = "wasm")]
        let auth = crate::imports::identity::auth()?;
        #[cfg(not(target_family = "wasm"))]
        let auth = self.host.auth()?;
        Ok(serde_json::from_str(&auth).unwrap_or_default())
    }

    /// Returns the parameters of the URL by which the client has connected, decoded, in their
    /// order, without those of Engine.IO. `None` if [`auth`](Self::auth) returns `null`.
    ///
    /// # Errors
    /// As [`auth`](Self::auth).
    pub fn query(&self) -> Result<Option<Vec<(String, String)>>> {
        #[cfg(target_family = "wasm")]
        return crate::imports::identity::query();
        #[cfg(not(target_family = "wasm"))]
        self.host.query()
    }

    /// Returns the caller's Socket.IO id, which the client knows as `socket.id`. It is a secret of
    /// the caller: never send it to other clients. Empty if no connection caused the event.
    #[must_use]
    pub fn sid(&self) -> String {
        self.host.sid()
    }

    /// Returns the name of the handled event. The name of a host event begins with `$`.
    #[must_use]
    pub fn event(&self) -> &str {
        &self.event.name
    }

    /// Returns the plugin's setting `name` from `[plugins.NAME.config]`, or `None` if it is not
    /// set.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<String> {
        self.host.setting(name)
    }

    /// Returns the id of the handled event (a ULID), as in logs and in the errors of clients. It
    /// stays the same if the host runs the handler again after a write conflict. Each attempt of a
    /// timer, and each repeat by a client, has another one.
    #[must_use]
    pub fn event_id(&self) -> String {
        self.host.event_id()
    }

    /// Returns when the host received the event, in milliseconds since 1970. It stays the same if
    /// the host runs the handler again. In the handler of a timer, it is the time at which the
    /// timer fired, which is its deadline or later.
    #[must_use]
    pub fn received_at(&self) -> u64 {
        self.host.received_at()
    }

    /// Returns when the host received the event, as RFC 3339 text in UTC with milliseconds:
    /// `2026-01-31T09:30:00.000Z`. It reads no clock: it stays the same during the event, also if
    /// the host runs the handler again.
    #[must_use]
    pub fn now(&self) -> String {
        rfc3339(self.received_at())
    }

    /// Returns the timer whose handler this is, with the key under which it was set. `None` in the
    /// handler of another event.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    #[must_use]
    pub fn timer(&self) -> Option<FiredTimer> {
        #[cfg(target_family = "wasm")]
        return crate::imports::timers::current();
        #[cfg(not(target_family = "wasm"))]
        self.host.current_timer()
    }

    /// Returns the bytes of the attachment to which `attachment`, a placeholder in the payload,
    /// refers. `None` if the event has no such attachment.
    #[must_use]
    pub fn attachment(&self, attachment: &Attachment) -> Option<&[u8]> {
        self.attachments().get(usize::try_from(attachment.index()).ok()?).map(Vec::as_slice)
    }

    /// Returns the event's binary attachments, in the order of their placeholders. By default at
    /// most 4, with 256 KiB in total.
    #[must_use]
    pub fn attachments(&self) -> &[Vec<u8>] {
        &self.event.attachments
    }
}

/// The effects and the state.
impl Context {
    /// Emits `event` to the clients that `to` names, once to each client.
    ///
    /// # Errors
    /// `undeclared`: the plugin does not declare the event
    /// ([`Plugin::emits`](crate::Plugin::emits)), or the declaration does not name the room.
    /// `invalid_data`: `data` breaks a bound of its schema. `limit`: by default, more than 256
    /// effects or 1 MiB in one event. `misuse`: `to` needs a sender, and there is none.
    pub fn emit<T: Outgoing>(&self, to: Target, event: &Emits<T>, data: &T) -> Result {
        self.emit_binary(to, event, data, &[])
    }

    /// Emits `event` with binary attachments. `data` must name each attachment by exactly one
    /// [`Attachment`].
    ///
    /// # Errors
    /// As [`emit`](Self::emit), and `misuse` if placeholders and attachments do not match.
    pub fn emit_binary<T: Outgoing>(
        &self,
        to: Target,
        event: &Emits<T>,
        data: &T,
        attachments: &[Vec<u8>],
    ) -> Result {
        self.host.emit(to, event.name(), &event.encode(data)?, attachments)
    }

    /// Emits `event`, which [`Plugin::emits_json`](crate::Plugin::emits_json) declares, with data
    /// that is JSON text.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), and `invalid_data` if `data` is not JSON.
    pub fn emit_json(&self, to: Target, event: &str, data: &str) -> Result {
        self.host.emit(to, event, data, &[])
    }

    /// Attaches bytes to the reply of this handler. Returns the placeholder, which the reply must
    /// contain exactly once: the client gets the bytes in its place. If the handler attaches
    /// nothing, an [`Attachment`] in its reply is plain JSON.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this.
    ///
    /// ```
    /// use schemars::JsonSchema;
    /// use serde::Serialize;
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Attachment, Context, Plugin, Result};
    ///
    /// #[derive(Serialize, JsonSchema)]
    /// struct Picture {
    ///     name: String,
    ///     image: Attachment,
    /// }
    ///
    /// fn picture(ctx: &Context, name: String) -> Result<Picture> {
    ///     Ok(Picture { name, image: ctx.attach(&[137, 80, 78, 71])? })
    /// }
    ///
    /// let mut host = TestHost::new(Plugin::new("album", "1.0.0", "").on("picture", picture));
    /// let reply = host.handle("picture", json!("cat")).reply;
    /// let image = json!({"_placeholder": true, "num": 0});
    /// assert_eq!(reply, Ok(json!({"name": "cat", "image": image})));
    /// assert_eq!(host.reply_attachments(), [[137, 80, 78, 71]]);
    /// ```
    ///
    /// # Errors
    /// `limit`: by default, more than 4 attachments or 256 KiB of them, or the event has too many
    /// effects. `misuse`: an HTTP request has caused the event, whose answer has no attachments, or
    /// the host, whose events have no reply.
    pub fn attach(&self, bytes: &[u8]) -> Result<Attachment> {
        #[cfg(target_family = "wasm")]
        return crate::imports::replies::attach(bytes).map(Attachment::new);
        #[cfg(not(target_family = "wasm"))]
        self.host.attach(bytes).map(Attachment::new)
    }

    /// Joins the caller to `room`. If the caller is already in it, nothing changes.
    /// [`join_others`](Self::join_others) joins others.
    ///
    /// # Errors
    /// `unknown_room`: no loaded plugin declares the room. `forbidden`: the room's rule does not
    /// allow the caller. `limit`: the caller would be in more than 100 rooms (by default), or the
    /// event has too many effects. `misuse`: no connection caused the event.
    pub fn join(&self, room: &str) -> Result {
        self.host.join(room)
    }

    /// Removes the caller from `room`. If the caller is not in it, nothing changes.
    ///
    /// # Errors
    /// `limit`: the event has too many effects. `misuse`: no connection caused the event.
    pub fn leave(&self, room: &str) -> Result {
        self.host.leave(room)
    }

    /// Joins others to `room`, which this plugin declares. This is an effect like an emit, and
    /// comes before emits. If the rule of the room is not
    /// [`Access::Handler`](crate::Access::Handler), only those join whom the rule allows. A
    /// connection of a user that is not allowed, or that is in too many rooms, is not joined.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this,
    /// [`remove_others`](Self::remove_others) or [`members`](Self::members). A
    /// [`TestHost`](crate::testing::TestHost) knows the connections that have connected.
    ///
    /// ```
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Access, Context, Plugin, Result, Who};
    /// use serde_json::json;
    ///
    /// /// Lets another user into the order.
    /// fn invite(ctx: &Context, user: String) -> Result {
    ///     ctx.join_others(Who::User(user), "order_1")
    /// }
    ///
    /// let plugin = Plugin::new("orders", "1.0.0", "")
    ///     .room("order_{id}", Access::Handler)
    ///     .on("invite", invite);
    /// let mut host = TestHost::new(plugin);
    /// host.connection("c2").user("8").connect();
    /// host.connection("c1").user("7").handle("invite", json!("8"));
    /// assert_eq!(host.members("order_1"), ["c2"]);
    /// ```
    ///
    /// # Errors
    /// `unknown_room`: this plugin does not declare the room, or another declared it first.
    /// `forbidden`: the rule does not allow this connection. `limit`: the connection would be in
    /// more than 100 rooms (by default), or the event has too many effects.
    pub fn join_others(&self, who: Who, room: &str) -> Result {
        #[cfg(target_family = "wasm")]
        return crate::imports::members::join(who, room);
        #[cfg(not(target_family = "wasm"))]
        self.host.join_member(who, room)
    }

    /// Removes others from `room`, which this plugin declares. This is an effect.
    ///
    /// # Errors
    /// `unknown_room`: this plugin does not declare the room. `limit`: the event has too many
    /// effects.
    pub fn remove_others(&self, who: Who, room: &str) -> Result {
        #[cfg(target_family = "wasm")]
        return crate::imports::members::remove(who, room);
        #[cfg(not(target_family = "wasm"))]
        self.host.remove_member(who, room)
    }

    /// Returns at most `limit` (1 to 1,000) connections in `room`, which this plugin declares:
    /// those whose id follows `after`, in the order of their ids, without this handler's own
    /// changes. [`member_ids`](Self::member_ids) lists those of any room, without their users.
    ///
    /// # Errors
    /// `unknown_room`: this plugin does not declare the room. `misuse`: `limit` is out of range.
    pub fn members(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        #[cfg(target_family = "wasm")]
        return crate::imports::members::scan(room, after, limit);
        #[cfg(not(target_family = "wasm"))]
        self.host.members(room, after, limit)
    }

    /// Returns the caller's rooms, sorted, with this handler's own changes. Empty if no connection
    /// caused the event.
    #[must_use]
    pub fn rooms(&self) -> Vec<String> {
        self.host.rooms()
    }

    /// Returns the number of connections in `room` on this node, in the caller's namespace (`/` if
    /// there is no caller), with the changes that this handler has made for its caller.
    #[must_use]
    pub fn room_size(&self, room: &str) -> u32 {
        self.host.room_size(room)
    }

    /// Sets `timer` under `key`. It fires when `delay` has passed since the host received the
    /// handled event ([`received_at`](Self::received_at)): the host then calls the handler of
    /// [`Plugin::on_timer`](crate::Plugin::on_timer) with `data`. A part of a millisecond counts as
    /// a whole one.
    ///
    /// If the timer is set under this key, this replaces its deadline and its data. The key tells
    /// the timers of one name apart: the id of an order, a user. This is an effect, and counts like
    /// a stored value. [`Timer`] says what the host promises.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this, [`at`](Self::at) or
    /// [`cancel`](Self::cancel).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use sockhop_sdk::{Context, Result, Timer};
    /// /// Its data is the number of the order.
    /// const EXPIRE: Timer<u64> = Timer::new("expire");
    ///
    /// fn ordered(ctx: &Context, order: u64) -> Result {
    ///     ctx.after(&EXPIRE, Duration::from_secs(15 * 60), &order.to_string(), &order)
    /// }
    ///
    /// fn paid(ctx: &Context, order: u64) -> Result {
    ///     ctx.cancel(&EXPIRE, &order.to_string())
    /// }
    /// ```
    ///
    /// # Errors
    /// `undeclared`: the plugin does not declare the timer. `invalid_data`: `data` breaks a bound
    /// of its schema. `limit`: the key has more than 512 bytes, or `data` more than 256 KiB; the
    /// plugin would have more than 100,000 timers (by default), dead ones included; the event has
    /// too many effects. `misuse`: an empty key, a deadline after the year 9999, or `data` can't be
    /// written as JSON. `unavailable`: the state can't be used now; see [`State`]. If the state,
    /// timers included, would have more than 256 MiB, the event is rejected as `too_large`.
    pub fn after<T: Output>(
        &self,
        timer: &Timer<T>,
        delay: Duration,
        key: &str,
        data: &T,
    ) -> Result {
        let (duration, data) = (milliseconds(delay), encode(data)?);
        #[cfg(target_family = "wasm")]
        return crate::imports::timers::after(timer.name(), duration, key, &data);
        #[cfg(not(target_family = "wasm"))]
        self.host.set_timer_after(timer.name(), duration, key, &data)
    }

    /// Sets `timer` under `key`, as [`after`](Self::after) does, to fire at a time in milliseconds
    /// since 1970. If the time is over, the timer fires at once.
    ///
    /// # Errors
    /// As [`after`](Self::after).
    pub fn at<T: Output>(
        &self,
        timer: &Timer<T>,
        ms_since_1970: u64,
        key: &str,
        data: &T,
    ) -> Result {
        let data = encode(data)?;
        #[cfg(target_family = "wasm")]
        return crate::imports::timers::at(timer.name(), ms_since_1970, key, &data);
        #[cfg(not(target_family = "wasm"))]
        self.host.set_timer_at(timer.name(), ms_since_1970, key, &data)
    }

    /// Cancels `timer` under `key`. If it is not set, or dead, nothing changes. If its handler runs
    /// meanwhile, either this cancellation or that handler takes effect, never both. This is an
    /// effect, and counts like a stored value.
    ///
    /// # Errors
    /// `undeclared`: the plugin does not declare the timer. `limit`: the key has more than 512
    /// bytes, or the event has too many effects. `misuse`: an empty key. `unavailable`: the state
    /// can't be used now.
    pub fn cancel<T>(&self, timer: &Timer<T>, key: &str) -> Result {
        #[cfg(target_family = "wasm")]
        return crate::imports::timers::cancel(timer.name(), key);
        #[cfg(not(target_family = "wasm"))]
        self.host.cancel_timer(timer.name(), key)
    }

    /// Closes the caller's connection after this handler's effects are delivered. `reason` goes to
    /// the host's log. If no connection caused the event, nothing happens.
    pub fn disconnect(&self, reason: &str) {
        self.host.disconnect(reason);
    }

    /// Returns the plugin's durable state.
    #[must_use]
    pub fn state(&self) -> State<'_> {
        State { host: &*self.host }
    }
}

/// Log lines. The host shows them with plugin, generation and event, even if the handler fails. A
/// line is truncated to 8 KiB. More than 100 lines per second are dropped, and their number is
/// logged.
impl Context {
    /// Writes one line at `level`: `ctx.log(Level::Debug, format_args!("{n} records"))`.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.host.log(level, &message.to_string());
    }

    /// Writes one line at [`Level::Info`].
    pub fn info(&self, message: impl fmt::Display) {
        self.log(Level::Info, message);
    }

    /// Writes one line at [`Level::Warn`].
    pub fn warn(&self, message: impl fmt::Display) {
        self.log(Level::Warn, message);
    }

    /// Writes one line at [`Level::Error`].
    pub fn error(&self, message: impl fmt::Display) {
        self.log(Level::Error, message);
    }
}

impl Context {
    /// The writes of collections in this event.
    pub(crate) fn written(&self) -> &Written {
        &self.written
    }

    /// Creates the context of `event`, and calls `call` with it and the event's data. Fails also if
    /// `call` has ignored that a write of a collection was refused in the middle.
    pub(crate) fn run(
        mut event: Event,
        host: Box<dyn Host>,
        call: impl FnOnce(&Self, &str) -> Result<Option<String>>,
    ) -> Result<Option<String>> {
        let data = std::mem::take(&mut event.data);
        let ctx = Self { event, host, written: Written::default() };
        let reply = call(&ctx, &data);
        match ctx.written.torn() {
            Some(refusal) if reply.is_ok() => Err(refusal),
            _ => reply,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("event", &self.event.name)
            .field("caller", &self.event.caller)
            .finish_non_exhaustive()
    }
}
