//! Runs a plugin natively, without a host: [`TestHost`].
//!
//! The rules and the transaction are those of the host. A plugin that a host refuses to load is
//! refused. Payloads, replies and emitted data must match their schemas. The default limits of
//! effects, rooms, keys, values and scans apply. The effects of a handler count only if it returned
//! `Ok` and a valid reply.
//!
//! The test host does not limit time, memory, the size of a message or the size of the whole state.
//! It does not run the handlers of other plugins, or run a handler again after a conflict. Use a
//! host for those.

// Each module uses only modules that are declared before it.
mod outcome;

mod declared;
mod timers;

mod deliveries;
mod stubs;

mod run;

mod acks;
mod load;
mod requests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop_core::handshake::Handshake;
use sockhop_core::identity::Identity;
use sockhop_core::limits;
use sockhop_core::name::host_event;
use sockhop_core::timer;

use self::declared::Declared;
use self::run::{Caller, Finished, Received, Run, World};
use self::timers::{Due, Timers};
use crate::access::Access;
use crate::connection::Connection;
use crate::event::{self, Event};
use crate::level::Level;
use crate::plugin::Plugin;
use crate::refusal::{Refusal, Result};
use crate::time::milliseconds;
use crate::timer::FiredTimer;

pub use self::deliveries::CommittedDelivery;
pub use self::outcome::{AskedAck, Effect, LoadError, Outcome};
pub use self::timers::SetTimer;
#[doc(inline)]
pub use sockhop_core::state_check::{CheckReply, Unreadable};

/// The time of the first event, unless a test sets another: 2026-01-01T00:00:00.000Z, in
/// milliseconds since 1970.
const START: u64 = 1_767_225_600_000;

/// The namespace of all connections.
const NAMESPACE: &str = "/";

/// Maximum number of timers that fire in one [`advance`](TestHost::advance).
const FIRINGS: usize = 100_000;

/// A host for one plugin in a unit test. It keeps state, room membership, sequences, timers and
/// deliveries between events.
///
/// Events come from one connection at a time, the *caller*. At first this is the anonymous
/// connection `c1`. [`connection`](Self::connection) selects another one, and [`user`](Self::user)
/// and [`role`](Self::role) set its identity.
///
/// ```
/// use sockhop_sdk::testing::{Outcome, TestHost};
/// use sockhop_sdk::{Context, Plugin, Result};
/// use serde_json::json;
///
/// fn whoami(ctx: &Context, _: ()) -> Result<Option<String>> {
///     Ok(ctx.user().map(str::to_owned))
/// }
///
/// let mut host = TestHost::new(Plugin::new("who", "1.0.0", "").on("whoami", whoami));
/// let replied = |reply| Outcome { reply: Ok(reply), effects: vec![] };
/// assert_eq!(host.handle("whoami", json!(null)), replied(json!(null)));
/// assert_eq!(host.user("7").handle("whoami", json!(null)), replied(json!("7")));
/// ```
#[derive(Debug)]
pub struct TestHost {
    plugin: Plugin,
    declared: Rc<Declared>,
    /// The rooms of other plugins.
    other_rooms: Vec<(String, Access)>,
    /// The identities of the connections, by id.
    clients: BTreeMap<String, Identity>,
    current: String,
    /// The time of the clock.
    now: u64,
    /// Whether an event was handled or the clock was advanced.
    has_begun: bool,
    events: u64,
    /// Shared with the run of a handler.
    timers: Rc<Timers>,
    world: World,
    log: Vec<(Level, String)>,
    /// Those of the last reply.
    attachments: Vec<Vec<u8>>,
}

impl TestHost {
    /// Loads `plugin`.
    ///
    /// # Panics
    /// If a host refuses to load the plugin; see [`try_new`](Self::try_new).
    #[must_use]
    pub fn new(plugin: Plugin) -> Self {
        Self::with_settings(plugin, &[])
    }

    /// Loads `plugin` with its own settings, as an operator would write them under
    /// `[plugins.NAME.config]`, so that its declarations can depend on them
    /// ([`Plugin::configure`]).
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the plugin that is wrong"
    )]
    pub fn with_settings(plugin: Plugin, settings: &[(&str, &str)]) -> Self {
        let name = format!("{plugin:?}");
        Self::try_with_settings(plugin, settings)
            .unwrap_or_else(|error| panic!("a host refuses to load {name}: {error}"))
    }

    /// Loads `plugin`, or returns why a host refuses to load it: an invalid name, version, room or
    /// access rule; an event with two handlers; a schema or a schedule that the host does not
    /// support.
    ///
    /// # Errors
    /// The reason, as `sockhop check` prints it.
    pub fn try_new(plugin: Plugin) -> Result<Self, LoadError> {
        Self::try_with_settings(plugin, &[])
    }

    /// Loads `plugin` as [`with_settings`](Self::with_settings) does, or returns why a host refuses
    /// to load it.
    ///
    /// # Errors
    /// As [`try_new`](Self::try_new), and the message of [`Plugin::configure`].
    pub fn try_with_settings(plugin: Plugin, settings: &[(&str, &str)]) -> Result<Self, LoadError> {
        let settings = settings.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        let world = World { settings: settings.collect(), ..World::default() };
        let declared = Rc::new(Declared::load(&plugin, &world.settings)?);
        let timers = Rc::new(Timers::new(declared.schedules(), START));
        Ok(Self {
            plugin,
            declared,
            other_rooms: Vec::new(),
            clients: BTreeMap::new(),
            current: "c1".to_owned(),
            now: START,
            has_begun: false,
            events: 0,
            timers,
            world,
            log: Vec::new(),
            attachments: Vec::new(),
        })
    }

    /// Loads `plugin`, another version of the plugin under test, in its place, as a deployment or a
    /// rollback does. Everything else stays: state, timers, deliveries, connections, and the rooms
    /// of other plugins. A schedule that the version does not declare is removed.
    ///
    /// ```
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Result};
    /// use serde_json::json;
    ///
    /// fn add(ctx: &Context, number: u64) -> Result {
    ///     ctx.state().set("number", &number)
    /// }
    ///
    /// /// Version 2 reads what version 1 has stored.
    /// fn sum(ctx: &Context, number: u64) -> Result<u64> {
    ///     Ok(ctx.state().get("number")?.unwrap_or(0) + number)
    /// }
    ///
    /// let mut host = TestHost::new(Plugin::new("sums", "1.0.0", "").on("add", add));
    /// host.handle("add", json!(3));
    /// host.deploy(Plugin::new("sums", "2.0.0", "").on("sum", sum));
    /// assert_eq!(host.handle("sum", json!(4)).reply, Ok(json!(7)));
    /// ```
    ///
    /// # Panics
    /// If a host refuses to load the plugin, or a room of another plugin beside it.
    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the plugin that is wrong"
    )]
    pub fn deploy(&mut self, plugin: Plugin) -> &mut Self {
        match Declared::load(&plugin, &self.world.settings) {
            Ok(declared) => self.declared = Rc::new(declared),
            Err(error) => panic!("a host refuses to load {plugin:?}: {error}"),
        }
        let schedules = self.declared.schedules();
        Rc::make_mut(&mut self.timers).replace_schedules(schedules, self.now);
        self.plugin = plugin;
        for (pattern, access) in std::mem::take(&mut self.other_rooms) {
            self.room(&pattern, access);
        }
        self
    }

    /// Adds a room that another plugin declares.
    ///
    /// # Panics
    /// If a host refuses the room: it is invalid, or conflicts with a room of the plugin under
    /// test.
    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the room that is wrong"
    )]
    pub fn room(&mut self, pattern: &str, access: Access) -> &mut Self {
        if let Err(error) = self.declared.add_room(pattern, &access.to_string()) {
            panic!("a host refuses the room `{pattern}` of another plugin: {error}");
        }
        self.other_rooms.push((pattern.to_owned(), access));
        self
    }

    /// Selects the connection with this public id as the caller of the next events. A new
    /// connection is anonymous. Its `socket.id` is `sid-` followed by the id.
    pub fn connection(&mut self, id: &str) -> &mut Self {
        id.clone_into(&mut self.current);
        self
    }

    /// Sets the user of the caller.
    pub fn user(&mut self, user: &str) -> &mut Self {
        self.client().user = Some(user.to_owned());
        self
    }

    /// Adds a role to the caller. Only a [`user`](Self::user) has roles.
    pub fn role(&mut self, role: &str) -> &mut Self {
        let client = self.client();
        if !client.has_role(role) {
            client.roles.push(role.to_owned());
        }
        self
    }

    /// Sets the token's claims of the caller. Only a [`user`](Self::user) has claims.
    pub fn claims(&mut self, claims: Value) -> &mut Self {
        self.client().claims = claims;
        self
    }

    /// Sets what the caller has sent when it connected: its `auth`, and the query of the URL, such
    /// as `lang=de&room=7`. As on a host that takes tokens, the member `token` of `auth` is left
    /// out, and nothing is kept of more than 4 KiB or of an `auth` that is no object. Without this,
    /// the caller has sent nothing.
    pub fn handshake(&mut self, auth: Value, query: &str) -> &mut Self {
        let kept = Handshake::read(&auth.to_string(), query, true, limits::HANDSHAKE_BYTES);
        self.world.handshakes.insert(self.current.clone(), kept.ok());
        self
    }

    /// Sets the plugin's own setting `name`, as an operator would under `[plugins.NAME.config]`,
    /// for the handlers that read it. The declarations of the plugin stay as they are: for those,
    /// use [`with_settings`](Self::with_settings).
    pub fn setting(&mut self, name: &str, value: &str) -> &mut Self {
        self.world.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the time at which the next events are received, in milliseconds since 1970. The initial
    /// time is 2026-01-01T00:00:00.000Z, and the clock stands still except in
    /// [`advance`](Self::advance).
    ///
    /// No timer fires here. Overdue timers fire in the next `advance`, also in
    /// `advance(Duration::ZERO)`. Before the first event, this is also the time at which the host
    /// starts: the times of schedules come after it. They also do if the clock is set back.
    pub fn at(&mut self, ms: u64) -> &mut Self {
        if !self.has_begun || ms < self.now {
            Rc::make_mut(&mut self.timers).set_schedules(ms);
        }
        self.now = ms;
        self
    }

    /// Moves the clock forward, and fires the timers and schedules that become due on the way or
    /// are overdue. They fire in the order of their deadlines, and those with the same deadline in
    /// the order in which they were set. The clock stands at the deadline while the handler runs,
    /// or where it was if the timer is overdue. A timer that a handler sets fires too if it becomes
    /// due on the way.
    ///
    /// Returns each timer that has fired with the outcome of its handler. A timer whose handler
    /// fails stays, and fires again 1 s later, then after 5 s, 25 s and 125 s, and then every 10
    /// minutes. After 8 attempts it is dead. The times of a schedule that are overdue together come
    /// once.
    ///
    /// # Panics
    /// If more than 100,000 timers fire, which happens if a handler sets a timer that is due at
    /// once again and again.
    pub fn advance(&mut self, by: Duration) -> Vec<(FiredTimer, Outcome)> {
        self.has_begun = true;
        let end = self.now.saturating_add(milliseconds(by));
        let mut fired = Vec::new();
        while let Some(due) = self.timers.next(end) {
            assert!(
                fired.len() < FIRINGS,
                "more than {FIRINGS} timers fire in one `advance`, the last one is `{}`: does its \
                 handler set a timer that is due at once?",
                due.timer.name
            );
            fired.push(self.fire(due));
        }
        self.now = end;
        fired
    }

    /// Handles an event from the caller. If the event has a list of arguments
    /// ([`Args`](crate::Args)), `data` is the array of them, and so is the reply of one that has a
    /// list.
    pub fn handle(&mut self, event: &str, data: Value) -> Outcome {
        self.handle_binary(event, data, Vec::new())
    }

    /// Handles an event with attachments, which `data` names by placeholders.
    pub fn handle_binary(
        &mut self,
        event: &str,
        data: Value,
        attachments: Vec<Vec<u8>>,
    ) -> Outcome {
        let (caller, data) = (self.caller(), data.to_string());
        let checked = self.declared.check_event(event, &caller.identity, &data, attachments.len());
        match checked {
            Ok(()) => self.run(event, data, attachments, Some(caller), None),
            Err(rejection) => Outcome::refused(rejection.code(), rejection.message()),
        }
    }

    /// Handles an HTTP request of the caller, who has no connection in it. `target` is the path,
    /// with the query if there is one, as in a request: `/notes/7?limit=20`. A request without a
    /// route is refused as `unknown_event`; a host answers 404 or 405.
    pub fn request(&mut self, method: &str, target: &str, body: Option<Value>) -> Outcome {
        let body = body.map(|body| body.to_string());
        let caller = Caller { connection: None, ..self.caller() };
        let event = self.declared.request(method, target, body.as_deref());
        let checked = event.and_then(|(event, data)| {
            self.declared.check_event(&event, &caller.identity, &data, 0)?;
            Ok((event, data))
        });
        match checked {
            Ok((event, data)) => self.run(&event, data, Vec::new(), Some(caller), None),
            Err(rejection) => Outcome::refused(rejection.code(), rejection.message()),
        }
    }

    /// Starts the host: sends `$start`, which has no caller.
    pub fn start(&mut self) -> Outcome {
        self.host_event(host_event::START, Value::Null, None)
    }

    /// Sends `$resync`, which has no caller, as if the plugin had missed host events. Its handler
    /// reads the connections that have [connected](Self::connect) and not
    /// [disconnected](Self::disconnect).
    pub fn resync(&mut self) -> Outcome {
        self.host_event(host_event::RESYNC, Value::Null, None)
    }

    /// Sends `$room_occupied`. The test host does not follow its rooms, as a host does.
    pub fn room_occupied(&mut self, room: &str) -> Outcome {
        self.host_event_of_room(host_event::ROOM_OCCUPIED, room)
    }

    /// Sends `$room_vacated`; see [`room_occupied`](Self::room_occupied).
    pub fn room_vacated(&mut self, room: &str) -> Outcome {
        self.host_event_of_room(host_event::ROOM_VACATED, room)
    }

    /// Connects the caller: joins a user to the room `user_` + user, unless a rule forbids it, and
    /// sends `$connect`.
    pub fn connect(&mut self) -> Outcome {
        let caller = self.caller();
        if let Some(room) = self.declared.own_room(&caller.identity) {
            self.world.members.insert((room, self.current.clone()));
        }
        let (id, user) = (self.current.clone(), caller.identity.user.clone());
        let connection = Connection { id, user, namespace: NAMESPACE.to_owned() };
        self.world.connected.insert(self.current.clone(), connection);
        self.host_event(host_event::CONNECT, Value::Null, Some(caller))
    }

    /// Disconnects the caller: ends the [acks](Self::pending_acks) that are waited for, sends
    /// `$disconnect` while the caller is still in its rooms, and then removes it from them.
    pub fn disconnect(&mut self) -> Outcome {
        self.end_acks_of_caller();
        let caller = self.caller();
        self.world.connected.remove(&self.current);
        let outcome = self.host_event(host_event::DISCONNECT, Value::Null, Some(caller));
        self.world.members.retain(|(_, connection)| *connection != self.current);
        outcome
    }

    /// Returns what the handler of the last event has attached to its reply
    /// ([`Context::attach`](crate::Context::attach)). Empty after a refusal.
    #[must_use]
    pub fn reply_attachments(&self) -> &[Vec<u8>] {
        &self.attachments
    }

    /// Returns the plugin's stored values by key. A value that is not JSON appears as an array of
    /// bytes.
    #[must_use]
    pub fn state(&self) -> BTreeMap<String, Value> {
        let entries = self.world.state.iter();
        entries
            .map(|(key, value)| {
                (
                    key.clone(),
                    serde_json::from_slice(value).unwrap_or_else(|_| value.clone().into()),
                )
            })
            .collect()
    }

    /// Stores a value, as if an earlier version of the plugin had stored it.
    pub fn store(&mut self, key: &str, value: &Value) -> &mut Self {
        self.world.state.insert(key.to_owned(), value.to_string().into_bytes());
        self
    }

    /// Returns the timers that are set, in the order of their deadlines. Those of schedules are
    /// among them, with an empty key. A timer whose handler has failed keeps its deadline.
    #[must_use]
    pub fn timers(&self) -> Vec<SetTimer> {
        self.timers.waiting()
    }

    /// Returns the timers whose handler has failed in all attempts, in the order of their
    /// deadlines. Only an operator can retry or drop them. That of a schedule has its deadline as
    /// its key.
    #[must_use]
    pub fn dead_timers(&self) -> Vec<SetTimer> {
        self.timers.dead()
    }

    /// Returns the connections in `room`, sorted.
    #[must_use]
    pub fn members(&self, room: &str) -> Vec<String> {
        self.world
            .members
            .iter()
            .filter(|(name, _)| name == room)
            .map(|(_, connection)| connection.clone())
            .collect()
    }

    /// Returns every log line of the plugin, with its level.
    #[must_use]
    pub fn log(&self) -> &[(Level, String)] {
        &self.log
    }

    /// Returns the schema of `event`'s payload, as the plugin registers it, or `null` if the event
    /// has no handler.
    #[must_use]
    pub fn payload_schema(&self, event: &str) -> Value {
        self.declared.payload_schema(event).cloned().unwrap_or_default()
    }

    fn client(&mut self) -> &mut Identity {
        self.clients.entry(self.current.clone()).or_default()
    }

    /// The identities of all connections. An anonymous client has no roles and no claims.
    fn identities(&self) -> BTreeMap<String, Identity> {
        let clients = self.clients.iter().filter(|(_, identity)| identity.user.is_some());
        clients.map(|(id, identity)| (id.clone(), identity.clone())).collect()
    }

    /// The selected connection with its identity.
    fn caller(&mut self) -> Caller {
        let identity = self.identities().remove(&self.current).unwrap_or_default();
        Caller { connection: Some(self.current.clone()), identity }
    }

    fn host_event_of_room(&mut self, event: &str, room: &str) -> Outcome {
        let caller = Caller { connection: None, identity: Identity::default() };
        self.host_event(event, json!({"room": room, "namespace": NAMESPACE}), Some(caller))
    }

    fn host_event(&mut self, event: &str, data: Value, caller: Option<Caller>) -> Outcome {
        if self.declared.listens_to(event) {
            self.run(event, data.to_string(), Vec::new(), caller, None)
        } else {
            Outcome { reply: Ok(Value::Null), effects: Vec::new() }
        }
    }

    /// Fires a timer at its time, or at once if it is overdue.
    fn fire(&mut self, Due { at, timer, data }: Due) -> (FiredTimer, Outcome) {
        self.now = self.now.max(at);
        let event = timer::event_name(&timer.name);
        let outcome = self.run(&event, data, Vec::new(), None, Some(timer.clone()));
        (timer, outcome)
    }

    fn run(
        &mut self,
        name: &str,
        data: String,
        attachments: Vec<Vec<u8>>,
        caller: Option<Caller>,
        timer: Option<FiredTimer>,
    ) -> Outcome {
        self.has_begun = true;
        self.events += 1;
        let event = Event {
            name: name.to_owned(),
            data,
            attachments,
            caller: caller.as_ref().map(|caller| event::Caller {
                connection: caller.connection.clone(),
                user: caller.identity.user.clone(),
                namespace: NAMESPACE.to_owned(),
            }),
        };
        let received = Received { caller, at: self.now, number: self.events, timer: timer.clone() };
        let run = Rc::new(Run::new(
            Rc::clone(&self.declared),
            received,
            self.identities(),
            Rc::clone(&self.timers),
            self.world.clone(),
        ));
        let reply = self.plugin.handle(event, Box::new(Rc::clone(&run)));
        let Finished { world, mut effects, mut attachments, timers: changes, log } = run.finish();
        let reply = reply.and_then(|reply| self.check_reply(name, reply, attachments.len()));
        // Also after a refusal: log lines are not effects.
        self.log.extend(log);
        // It shares the timers, and they are changed now.
        drop(run);
        let timers = Rc::make_mut(&mut self.timers);
        if reply.is_ok() {
            self.world = world;
            if let Some(timer) = &timer {
                timers.handled(timer, self.now);
            }
            // Afterwards: the handler may have set the same timer again.
            timers.apply(changes);
        } else {
            effects.clear();
            attachments.clear();
            // A number is never returned to its sequence.
            self.world.sequences = world.sequences;
            // A request that was sent can't be undone.
            self.world.requests = world.requests;
            if let Some(timer) = &timer {
                timers.failed(timer, self.now);
            }
        }
        self.attachments = attachments;
        Outcome { reply, effects }
    }

    /// Returns the ack. The client of a handler whose reply is invalid receives `plugin_failed`;
    /// the reason is for the test, as it is for the host's log.
    fn check_reply(&self, event: &str, reply: Option<String>, attachments: usize) -> Result<Value> {
        if load::is_about_state(event) {
            return load::read(event, reply.as_deref(), attachments);
        }
        let reply = self.declared.check_reply(event, reply, attachments);
        reply
            .and_then(|reply| {
                serde_json::from_str(reply.as_str()).map_err(|error| error.to_string())
            })
            .map_err(|reason| Refusal::new("plugin_failed", reason))
    }
}

#[cfg(test)]
mod tests;
