//! Runs a plugin natively, without a host: [`TestHost`].
//!
//! The transaction is the same as in the host: the effects of a handler count only if it returned
//! `Ok`. The test host does not check the schemas' bounds (lengths, ranges), limits or time. It
//! does not run the handlers of other plugins, or run a handler again after a conflict. Use
//! `sockhop check` and a host for those.

// Each module uses only modules that stand before it.
mod client;
mod declared;
mod outcome;
mod run;

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;

use self::client::Client;
use self::declared::Declared;
use self::run::{Run, World};
use crate::access::Access;
use crate::connection::Connection;
use crate::event::{Caller, Event};
use crate::level::Level;
use crate::plugin::Plugin;

pub use self::outcome::{Effect, Outcome};

/// The time of the first event, unless a test sets another: 2026-01-01T00:00:00.000Z, in
/// milliseconds since 1970.
const START: u64 = 1_767_225_600_000;

/// The namespace of all connections.
const NAMESPACE: &str = "/";

/// A host for one plugin in a unit test. It keeps state, room membership and sequences between
/// events.
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
/// assert_eq!(host.handle("whoami", json!(null)), Outcome { reply: Ok(json!(null)), effects: vec![] });
/// assert_eq!(host.user("7").handle("whoami", json!(null)), Outcome { reply: Ok(json!("7")), effects: vec![] });
/// ```
#[derive(Debug)]
pub struct TestHost {
    plugin: Plugin,
    declared: Rc<Declared>,
    clients: BTreeMap<String, Client>,
    current: String,
    now: u64,
    events: u64,
    world: World,
}

impl TestHost {
    /// Loads `plugin`.
    ///
    /// # Panics
    /// If an event has two handlers or is declared twice with `emits`, a room is declared twice, or
    /// `requires` has no event. A host refuses such a plugin, except for a second, identical
    /// declaration of a room.
    #[must_use]
    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the plugin that is wrong"
    )]
    pub fn new(plugin: Plugin) -> Self {
        let declared = Declared::default();
        if let Err(refusal) = plugin.register(&declared) {
            panic!("a host refuses to load {plugin:?}: {refusal}");
        }
        Self {
            plugin,
            declared: Rc::new(declared),
            clients: BTreeMap::new(),
            current: "c1".to_owned(),
            now: START,
            events: 0,
            world: World::default(),
        }
    }

    /// Adds a room that another plugin declares.
    pub fn room(&mut self, pattern: &str, access: Access) -> &mut Self {
        self.declared.add_room(pattern, &access.to_string());
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

    /// Adds a role to the caller.
    pub fn role(&mut self, role: &str) -> &mut Self {
        self.client().roles.insert(role.to_owned());
        self
    }

    /// Sets the token's claims of the caller.
    pub fn claims(&mut self, claims: Value) -> &mut Self {
        self.client().claims = claims;
        self
    }

    /// Sets the plugin's own setting `name`, as an operator would under `[plugins.NAME.config]`.
    pub fn setting(&mut self, name: &str, value: &str) -> &mut Self {
        self.world.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the time at which the next events are received, in milliseconds since 1970. The initial
    /// time is 2026-01-01T00:00:00.000Z, and the clock does not advance.
    pub fn at(&mut self, ms: u64) -> &mut Self {
        self.now = ms;
        self
    }

    /// Handles an event from the caller.
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
        let client = self.client().clone();
        match self.declared.may_send(event, client.user.as_deref(), &client.roles) {
            Ok(()) => self.run(event, data, attachments, Some(client)),
            Err(refusal) => Outcome { reply: Err(refusal), effects: Vec::new() },
        }
    }

    /// Starts the host: sends `$start`, which has no caller.
    pub fn start(&mut self) -> Outcome {
        self.host_event("$start", None)
    }

    /// Sends `$resync`, which has no caller, as if the plugin had missed host events. Its handler
    /// reads the connections that have [connected](Self::connect) and not
    /// [disconnected](Self::disconnect).
    pub fn resync(&mut self) -> Outcome {
        self.host_event("$resync", None)
    }

    /// Connects the caller: sends `$connect`.
    pub fn connect(&mut self) -> Outcome {
        let client = self.client().clone();
        let (id, user, namespace) =
            (self.current.clone(), client.user.clone(), NAMESPACE.to_owned());
        self.world.connected.insert(self.current.clone(), Connection { id, user, namespace });
        self.host_event("$connect", Some(client))
    }

    /// Disconnects the caller: sends `$disconnect` while the caller is still in its rooms, and then
    /// removes it from them.
    pub fn disconnect(&mut self) -> Outcome {
        let client = self.client().clone();
        self.world.connected.remove(&self.current);
        let outcome = self.host_event("$disconnect", Some(client));
        self.world.members.retain(|(_, connection)| *connection != self.current);
        outcome
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
        &self.world.log
    }

    /// Returns the schema of `event`'s payload, as the plugin registers it, or `null` if the event
    /// has no handler.
    #[must_use]
    pub fn payload_schema(&self, event: &str) -> Value {
        self.declared
            .payload_schema(event)
            .and_then(|schema| serde_json::from_str(&schema).ok())
            .unwrap_or_default()
    }

    fn client(&mut self) -> &mut Client {
        self.clients.entry(self.current.clone()).or_default()
    }

    fn host_event(&mut self, event: &str, client: Option<Client>) -> Outcome {
        if self.declared.listens_to(event) {
            self.run(event, Value::Null, Vec::new(), client)
        } else {
            Outcome { reply: Ok(Value::Null), effects: Vec::new() }
        }
    }

    fn run(
        &mut self,
        name: &str,
        data: Value,
        attachments: Vec<Vec<u8>>,
        client: Option<Client>,
    ) -> Outcome {
        self.events += 1;
        let caller = client.as_ref().map(|client| Caller {
            connection: Some(self.current.clone()),
            user: client.user.clone(),
            namespace: NAMESPACE.to_owned(),
        });
        let event = Event { name: name.to_owned(), data: data.to_string(), attachments, caller };
        let connection = client.as_ref().map(|_| self.current.clone());
        let run = Rc::new(Run::new(
            Rc::clone(&self.declared),
            connection,
            client,
            self.now,
            self.events,
            self.world.clone(),
        ));
        let reply = self.plugin.handle(event, Box::new(Rc::clone(&run)));
        let reply = reply
            .map(|text| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default());
        let (world, mut effects) = run.finish();
        if reply.is_ok() {
            self.world = world;
        } else {
            effects.clear();
            // Numbers and log lines stay: a number is never returned to its sequence, and log lines
            // are not effects.
            self.world.sequences = world.sequences;
            self.world.log = world.log;
        }
        Outcome { reply, effects }
    }
}

#[cfg(test)]
mod tests;
