//! The declarations of the plugin under test, as a host keeps them after it has loaded the plugin.
//! All checks are those of `sockhop-core`, which the host uses too.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;

use serde_json::Value;
use sockhop_core::arguments::Message;
use sockhop_core::declarations::{Declarations, Registration};
use sockhop_core::effect::Target;
use sockhop_core::events::{self, Events, EventsError};
use sockhop_core::handshake::check_asked;
use sockhop_core::identity::Identity;
use sockhop_core::json::Json;
use sockhop_core::limits;
use sockhop_core::rejection::{Refusal, Rejection};
use sockhop_core::request::{self, Parameters};
use sockhop_core::route::{Found, OwnedRoute, RouteTable};
use sockhop_core::rule::{RoomRules, RoomTaken};
use sockhop_core::schedule::Schedule;

use super::outcome::{LoadError, of_host};
use crate::host::Registry;
use crate::plugin::Plugin;
use crate::refusal::Result;

/// The owner of the rooms that a test adds. No plugin can have this name.
const ANOTHER: &str = "another plugin";

/// The declarations of a plugin with compiled schemas, its routes, and the rooms of all plugins.
#[derive(Debug)]
pub(super) struct Declared {
    name: String,
    events: Events,
    listens: Vec<&'static str>,
    handshake: bool,
    routes: RouteTable,
    rooms: RefCell<RoomRules>,
}

impl Declared {
    /// Loads `plugin` as a host does: collects its declarations, and compiles its schemas.
    pub(super) fn load(
        plugin: &Plugin,
        settings: &BTreeMap<String, String>,
    ) -> Result<Self, LoadError> {
        let collector = Collector::default();
        plugin
            .register_under(&collector, settings)
            .map_err(|refusal| LoadError(refusal.message))?;
        let registration = collector.0.into_inner().finish()?;
        let events = Events::compile(&registration, limits::SCHEMA_BYTES)?;
        let Registration { name, rooms, listens, routes: declared, handshake, .. } = registration;
        let mut rules = RoomRules::default();
        rules.add(&name, &rooms);
        let mut routes = RouteTable::default();
        routes.add(&name, &declared);
        Ok(Self { name, events, listens, handshake, routes, rooms: RefCell::new(rules) })
    }

    /// Adds a room of another plugin.
    pub(super) fn add_room(&self, pattern: &str, access: &str) -> Result<(), LoadError> {
        let mut other = Declarations::default();
        other.plugin("another", "0.0.0", String::new())?;
        other.room(pattern, access)?;
        let rooms = other.finish()?.rooms;
        let mut rules = self.rooms.borrow_mut();
        rules.check(ANOTHER, &rooms)?;
        rules.add(ANOTHER, &rooms);
        Ok(())
    }

    pub(super) fn listens_to(&self, event: &str) -> bool {
        self.listens.contains(&event)
    }

    /// Checks whether the plugin may read handshakes.
    pub(super) fn check_handshake(&self) -> Result<(), Refusal> {
        check_asked(self.handshake)
    }

    pub(super) fn payload_schema(&self, event: &str) -> Option<&Value> {
        self.events.inbound.get(event).map(|inbound| inbound.data.source())
    }

    /// Checks an event of a client: its sender, its payload, and its placeholders.
    pub(super) fn check_event(
        &self,
        event: &str,
        identity: &Identity,
        data: &str,
        attachments: usize,
    ) -> Result<(), Rejection> {
        let inbound = self.events.inbound.get(event).ok_or(Rejection::UnknownEvent)?;
        inbound.access.check_sender(identity)?;
        let depth = limits::JSON_DEPTH + inbound.arguments.levels();
        events::check_payload(data, attachments, &inbound.data, depth)?;
        if inbound.arguments.are_list() && !data.trim_ascii().starts_with('[') {
            return Err(Rejection::invalid(
                "this event has a list of arguments: pass the array of them",
            ));
        }
        Ok(())
    }

    /// Returns the event that a request becomes, with its payload as text. `target` is the path,
    /// with the query if there is one.
    pub(super) fn request(
        &self,
        method: &str,
        target: &str,
        body: Option<&str>,
    ) -> Result<(String, String), Rejection> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments = request::segments(path).unwrap_or_default();
        let Found::Route(OwnedRoute { route, .. }, variables) =
            self.routes.find(method.parse().ok(), &segments)
        else {
            return Err(Rejection::UnknownEvent);
        };
        if body.is_some() && !route.method.has_body() {
            let method = route.method;
            return Err(Rejection::invalid(format!(
                "a request with the method {method} has no body here"
            )));
        }
        let inbound = self.events.inbound.get(&route.event).ok_or(Rejection::UnknownEvent)?;
        let parameters = Parameters { path: variables, query: request::pairs(query) };
        let payload = parameters.payload(body, &inbound.data, limits::JSON_DEPTH)?;
        Ok((route.event.clone(), payload))
    }

    /// Checks the reply of the handler of `event`, which may be a host event.
    pub(super) fn check_reply(
        &self,
        event: &str,
        reply: Option<String>,
        attachments: usize,
    ) -> Result<Json, String> {
        let inbound = self.events.inbound.get(event);
        let schema = inbound.and_then(|inbound| inbound.reply.as_deref());
        let arguments = inbound.map(|inbound| inbound.reply_arguments).unwrap_or_default();
        events::check_reply(reply, attachments, schema, arguments)
    }

    /// Checks whether a handler may emit `event` with this data. Returns the value of the data.
    pub(super) fn check_emit(
        &self,
        event: &str,
        to: &Target,
        data: &str,
        attachments: usize,
        has_sender: bool,
    ) -> Result<Value, Refusal> {
        let outbound = events::declared(&self.events.outbound, event)?;
        outbound.check_target(event, to, has_sender)?;
        let (_, value) = outbound.check_data(event, data.to_owned(), attachments)?;
        Ok(value)
    }

    /// Checks whether a handler may ask for `ack`.
    pub(super) fn check_ack(&self, ack: &str, context: &str) -> Result<(), Refusal> {
        events::declared_ack(&self.events.acks, ack)?;
        events::check_context(context)
    }

    /// Checks the answer of a client. Returns the JSON of its data, or why it is invalid.
    pub(super) fn check_answer(
        &self,
        ack: &str,
        arguments: &str,
        attachments: usize,
    ) -> Result<String, String> {
        let declared =
            events::declared_ack(&self.events.acks, ack).map_err(|refusal| refusal.message)?;
        let checked = declared.check(arguments, attachments, limits::JSON_DEPTH);
        checked.map(Cow::into_owned).map_err(|rejection| rejection.message().to_owned())
    }

    /// The schedules, by name.
    pub(super) fn schedules(&self) -> &BTreeMap<String, Schedule> {
        &self.events.schedules
    }

    /// Checks whether a handler may set or cancel `timer`.
    pub(super) fn check_timer(&self, timer: &str) -> Result<(), Refusal> {
        events::declared_timer(&self.events.timers, timer).map(drop)
    }

    /// Checks the data with which a handler sets `timer`. Returns its value.
    pub(super) fn check_timer_data(&self, timer: &str, data: &str) -> Result<Value, Refusal> {
        let schema = events::declared_timer(&self.events.timers, timer)?;
        let data = events::check_timer_data(timer, data.to_owned(), schema)?;
        Ok(serde_json::from_str(data.as_str()).unwrap_or_default())
    }

    /// Whether the plugin owns `room`.
    pub(super) fn owns_room(&self, room: &str) -> bool {
        self.rooms.borrow().owns(&self.name, room)
    }

    /// The room that a host joins each connection of a user to, if its rule allows that.
    pub(super) fn own_room(&self, identity: &Identity) -> Option<String> {
        let room = identity.own_room()?;
        // No handler asks.
        self.rooms.borrow().may_join(&room, identity, "").is_ok().then_some(room)
    }

    /// Checks whether a handler of the plugin may let a client join `room`.
    pub(super) fn check_join(&self, room: &str, identity: &Identity) -> Result<(), Refusal> {
        let rooms = self.rooms.borrow();
        rooms.may_join(room, identity, &self.name).map_err(|not| not.refusal(room))
    }
}

/// Collects the declarations that a plugin makes.
#[derive(Default)]
struct Collector(RefCell<Declarations>);

impl Registry for Collector {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result {
        self.0.borrow_mut().plugin(name, version, description.to_owned()).map_err(of_host)
    }

    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result {
        let (data, reply) = (data.to_owned(), reply.map(str::to_owned));
        self.0.borrow_mut().handles(event, data, reply).map_err(of_host)
    }

    fn requires(&self, event: &str, access: &str) -> Result {
        self.0.borrow_mut().requires(event, access).map_err(of_host)
    }

    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result {
        self.0.borrow_mut().emits(event, data.to_owned(), rooms).map_err(of_host)
    }

    fn room(&self, pattern: &str, access: &str) -> Result {
        self.0.borrow_mut().room(pattern, access).map_err(of_host)
    }

    fn listens(&self, event: &str) -> Result {
        self.0.borrow_mut().listens(event).map_err(of_host)
    }

    fn route(&self, method: &str, path: &str, event: &str) -> Result {
        self.0.borrow_mut().route(method, path, event).map_err(of_host)
    }

    fn handshake(&self) -> Result {
        self.0.borrow_mut().handshake().map_err(of_host)
    }

    fn arguments(&self, of: Message, event: &str) -> Result {
        self.0.borrow_mut().arguments(of, event).map_err(of_host)
    }

    fn ack(&self, ack: &str, data: &str, is_list: bool) -> Result {
        self.0.borrow_mut().ack(ack, data.to_owned(), is_list).map_err(of_host)
    }

    fn timer(&self, timer: &str, data: &str) -> Result {
        self.0.borrow_mut().timer(timer, data.to_owned()).map_err(of_host)
    }

    fn every(&self, timer: &str, cron: &str, zone: &str) -> Result {
        self.0.borrow_mut().every(timer, cron, zone).map_err(of_host)
    }
}

impl From<Refusal> for LoadError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.message)
    }
}

impl From<EventsError> for LoadError {
    fn from(error: EventsError) -> Self {
        Self(match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

impl From<RoomTaken> for LoadError {
    fn from(taken: RoomTaken) -> Self {
        Self(taken.to_string())
    }
}
