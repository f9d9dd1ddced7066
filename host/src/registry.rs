//! The registry: every event with its schema and its plugin, every room with its rule. Each
//! generation is one immutable [`Generation`]: the reload path publishes it, the event path takes a
//! snapshot. So a schema is never paired with a handler of another generation.

mod active;
mod admission;
mod error;
mod lint;
mod load;
mod operator;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use sockhop_core::route::RouteTable;
use tokio::sync::watch;

use crate::contract::Contract;
use crate::event::Identity;
use crate::events::Outbound;
use crate::rule::{Access, NotJoined, OwnedRooms, RoomRule, RoomRules, Subject};

pub use active::{ActivePlugin, Inbound, PluginHealth, PluginState};
pub use error::AdmitError;
pub use lint::{Warning, lint};
pub use load::{LoadPhase, LoadState, LoadStatus};
pub use operator::{OperatorSettings, OperatorSettingsError};

/// Holds the published generation.
pub struct Registry {
    generation: ArcSwap<Generation>,
    /// See [`Registry::is_remembered`].
    remembered: ArcSwap<HashSet<String>>,
    changes: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            generation: ArcSwap::from_pointee(Generation::default()),
            remembered: ArcSwap::default(),
            changes: watch::Sender::default(),
        }
    }
}

impl Registry {
    /// Returns a registry without plugins, with the declarations of an operator.
    pub fn under(operator: OperatorSettings) -> Self {
        let generation = ArcSwap::from_pointee(Generation::under(operator));
        Self { generation, ..Self::default() }
    }

    /// Returns the current generation, with one atomic load. The caller can keep it after a reload.
    pub fn snapshot(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Publishes `generation`: new events use it from now on.
    pub fn publish(&self, generation: Generation) {
        self.generation.store(Arc::new(generation));
        self.notify_change();
    }

    /// Whether the reload path remembers this plugin, even if it does not serve: its file may be
    /// away for a moment.
    pub fn is_remembered(&self, plugin: &str) -> bool {
        self.remembered.load().contains(plugin)
    }

    /// Replaces the names of the plugins that are remembered.
    pub fn remember(&self, plugins: HashSet<String>) {
        if **self.remembered.load() != plugins {
            self.remembered.store(Arc::new(plugins));
            self.notify_change();
        }
    }

    /// Returns a receiver for changes from now on: a new generation, a plugin that serves again, or
    /// a plugin that is forgotten.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Notifies the receivers of [`Registry::changes`].
    pub fn notify_change(&self) {
        self.changes.send_replace(());
    }
}

/// One generation: the plugins that serve, with their events and rooms.
#[derive(Default)]
pub struct Generation {
    /// Number of this publication, counted from 1.
    pub number: u64,
    /// Uses a fast hash: plugins choose the names, and clients can only look them up.
    events: HashMap<String, EventRoute, foldhash::fast::RandomState>,
    rooms: RoomRules,
    routes: RouteTable,
    /// The plugins that serve, in file order.
    pub plugins: Vec<Arc<ActivePlugin>>,
    /// The serving plugins that an operator has disabled. Their events are still routed to them.
    disabled: HashSet<String>,
    /// What the operator declares.
    operator: Arc<OperatorSettings>,
    /// Whether one of the plugins asks for the handshakes of connections.
    needs_handshakes: bool,
}

/// The handler of an event, and the rules for the event.
#[derive(Clone)]
pub struct EventRoute {
    /// The plugin that handles it.
    pub plugin: Arc<ActivePlugin>,
    /// Its schemas and its meter.
    pub inbound: Arc<Inbound>,
    /// Who may send it: the rule of the operator, or else the declared one.
    pub access: Access,
    /// A rule that the operator only tries.
    pub tried: Option<Access>,
}

impl Generation {
    /// Returns a generation without plugins, with the declarations of an operator.
    pub fn under(operator: OperatorSettings) -> Self {
        Self { operator: Arc::new(operator), ..Self::default() }
    }

    /// Returns the generation that follows `previous`, without plugins.
    pub fn after(previous: &Self) -> Self {
        let operator = Arc::clone(&previous.operator);
        let rooms = RoomRules::after(&previous.rooms);
        Self { number: previous.number + 1, operator, rooms, ..Self::default() }
    }

    /// Returns the same generation with other declarations of the operator. Call it before the
    /// first plugin is admitted.
    #[must_use]
    pub fn with_operator(self, operator: Arc<OperatorSettings>) -> Self {
        Self { operator, ..self }
    }

    /// Whether one of the plugins asks for the handshakes of connections.
    pub fn needs_handshakes(&self) -> bool {
        self.needs_handshakes
    }

    /// The declarations of the operator.
    pub fn operator(&self) -> &Arc<OperatorSettings> {
        &self.operator
    }

    /// Returns the subjects of the operator's rules that no plugin declares.
    pub fn rules_without_subject(&self) -> Vec<&Subject> {
        let is_declared = |subject: &&Subject| match subject {
            Subject::Event(event) => self.events.contains_key(event),
            Subject::Room(room) => {
                self.rooms.as_slice().iter().any(|rule| rule.pattern.as_str() == room)
            }
        };
        self.operator.rules.subjects().filter(|subject| !is_declared(subject)).collect()
    }

    /// Returns the plugin of this name, or `None` if it does not serve.
    pub fn plugin(&self, name: &str) -> Option<&Arc<ActivePlugin>> {
        self.plugins.iter().find(|active| active.code.name() == name)
    }

    /// Whether an operator has disabled the plugin.
    pub fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled.contains(plugin)
    }

    /// Whether the same versions serve as in `other`, the same plugins are disabled, and the
    /// operator declares the same.
    pub fn serves_what(&self, other: &Self) -> bool {
        let same =
            |(active, other): (&Arc<ActivePlugin>, &Arc<ActivePlugin>)| Arc::ptr_eq(active, other);
        self.plugins.len() == other.plugins.len()
            && self.plugins.iter().zip(&other.plugins).all(same)
            && self.disabled == other.disabled
            && Arc::ptr_eq(&self.operator, &other.operator)
    }

    /// Whether this version serves.
    pub fn serves(&self, version: &Arc<ActivePlugin>) -> bool {
        self.plugins.iter().any(|active| Arc::ptr_eq(active, version))
    }

    /// Returns the handler of `event` and its rules, or `None` if no plugin handles it.
    pub fn route(&self, event: &str) -> Option<&EventRoute> {
        self.events.get(event)
    }

    /// The HTTP routes of all plugins.
    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    /// Returns the declarations of an event that is emitted: those of plugins, which all have the
    /// same schema, and then that of the operator. The event may go where any of them allows.
    pub fn outbound<'generation>(
        &'generation self,
        event: &'generation str,
    ) -> impl Iterator<Item = &'generation Outbound> {
        let of_plugins = self.plugins.iter().filter_map(move |active| active.outbound.get(event));
        let is_declared = of_plugins.clone().next().is_some();
        let of_operator = self.operator.events.get(event);
        let of_operator = of_operator.filter(|declared| declared.schema.is_some() || is_declared);
        of_plugins.chain(of_operator.map(|declared| &declared.outbound))
    }

    /// Whether the rooms, their rules and their plugins are the same as in `other`.
    pub fn has_rooms_of(&self, other: &Self) -> bool {
        self.rooms.as_slice() == other.rooms.as_slice()
    }

    /// Returns what the plugins and the host promise to clients.
    pub fn contract(&self) -> Contract {
        let plugins = self.plugins.iter().map(|active| &active.code.registration);
        let mut contract = Contract::new(self.number, plugins, self.rooms.as_slice());
        for inbound in contract.plugins.iter_mut().flat_map(|plugin| &mut plugin.inbound) {
            if let Some(route) = self.events.get(&inbound.event) {
                inbound.access = route.access.clone();
            }
        }
        let emits = contract.plugins.iter().flat_map(|plugin| plugin.outbound.iter().cloned());
        contract.operator_outbound = self.operator.contract(&Vec::from_iter(emits));
        contract
    }

    /// Returns the rule that the operator tries for `room`, if it would not let a handler of
    /// `plugin` join `identity`.
    pub fn tried_refuses(
        &self,
        room: &str,
        identity: &Identity,
        plugin: &str,
    ) -> Option<&RoomRule> {
        self.rooms.tried_refuses(room, identity, plugin)
    }

    /// Whether the room belongs to `plugin`.
    pub fn owns_room(&self, plugin: &str, room: &str) -> bool {
        self.rooms.owns(plugin, room)
    }

    /// Returns which rooms belong to `plugin`.
    pub fn rooms_of(&self, plugin: &str) -> OwnedRooms {
        self.rooms.owned_by(plugin)
    }

    /// Checks whether a handler of `plugin` may let `identity` join `room`.
    ///
    /// # Errors
    /// Returns why it may not join.
    pub fn may_join(&self, room: &str, identity: &Identity, plugin: &str) -> Result<(), NotJoined> {
        self.rooms.may_join(room, identity, plugin)
    }

    /// Whether a member of `room` may stay in it, if it joined by the rules of `before`.
    pub fn may_stay(&self, room: &str, identity: &Identity, before: &Self) -> bool {
        self.rooms.may_stay(room, identity, &before.rooms)
    }

    /// Adds a plugin to the plugins that were admitted before.
    ///
    /// # Errors
    /// Returns an error if it conflicts with one of them. Nothing has changed then.
    pub fn admit(
        &mut self,
        active: &Arc<ActivePlugin>,
        is_disabled: bool,
    ) -> Result<(), AdmitError> {
        admission::check(self, active)?;
        let (name, registration) = (active.code.name(), &active.code.registration);
        for (event, inbound) in &active.inbound {
            let subject = Subject::Event(event.clone());
            let route = EventRoute {
                plugin: Arc::clone(active),
                inbound: Arc::clone(inbound),
                access: self.operator.rules.decides(&subject).unwrap_or(&inbound.access).clone(),
                tried: self.operator.rules.tries(&subject).cloned(),
            };
            self.events.insert(event.clone(), route);
        }
        self.rooms.add_under(&self.operator.rules, name, &registration.rooms);
        self.routes.add(name, &registration.routes);
        self.needs_handshakes |= registration.handshake;
        if is_disabled {
            self.disabled.insert(name.to_owned());
        }
        self.plugins.push(Arc::clone(active));
        Ok(())
    }
}
