//! The registry: every event with its schema and its plugin, every room with its rule. Each
//! generation is one immutable [`Generation`]: the reload path publishes it, the event path takes a
//! snapshot. So a schema is never paired with a handler of another generation.

mod active;
mod admission;
mod error;
mod lint;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::contract::Contract;
use crate::event::Identity;
use crate::events::Outbound;
use crate::rule::{NotJoined, RoomRules};

pub use active::{ActivePlugin, Inbound, PluginHealth, PluginState};
pub use error::AdmitError;
pub use lint::{Warning, lint};

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
    /// The plugins that serve, in file order.
    pub plugins: Vec<Arc<ActivePlugin>>,
    /// The serving plugins that an operator has disabled. Their events are still routed to them.
    disabled: HashSet<String>,
}

/// The handler of an event, and the rules for the event.
#[derive(Clone)]
pub struct EventRoute {
    /// The plugin that handles it.
    pub plugin: Arc<ActivePlugin>,
    /// Its schemas and its access rule.
    pub inbound: Arc<Inbound>,
}

impl Generation {
    /// Returns the generation that follows `previous`, without plugins.
    pub fn after(previous: &Self) -> Self {
        Self { number: previous.number + 1, ..Self::default() }
    }

    /// Whether an operator has disabled the plugin.
    pub fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled.contains(plugin)
    }

    /// Whether the same versions serve as in `other`, and the same plugins are disabled.
    pub fn serves_what(&self, other: &Self) -> bool {
        let same =
            |(active, other): (&Arc<ActivePlugin>, &Arc<ActivePlugin>)| Arc::ptr_eq(active, other);
        self.plugins.len() == other.plugins.len()
            && self.plugins.iter().zip(&other.plugins).all(same)
            && self.disabled == other.disabled
    }

    /// Whether this version serves.
    pub fn serves(&self, version: &Arc<ActivePlugin>) -> bool {
        self.plugins.iter().any(|active| Arc::ptr_eq(active, version))
    }

    /// Returns the handler of `event` and its rules, or `None` if no plugin handles it.
    pub fn route(&self, event: &str) -> Option<&EventRoute> {
        self.events.get(event)
    }

    /// Returns the declarations of an event that plugins emit. If several plugins declare it, all
    /// have the same schema, and it may go where any of them allows.
    pub fn outbound<'generation>(
        &'generation self,
        event: &'generation str,
    ) -> impl Iterator<Item = &'generation Outbound> {
        self.plugins.iter().filter_map(move |active| active.outbound.get(event))
    }

    /// Whether the rooms, their rules and their plugins are the same as in `other`.
    pub fn has_rooms_of(&self, other: &Self) -> bool {
        self.rooms.as_slice() == other.rooms.as_slice()
    }

    /// Returns what the plugins and the host promise to clients.
    pub fn contract(&self) -> Contract {
        let plugins = self.plugins.iter().map(|active| &active.code.registration);
        Contract::new(self.number, plugins, self.rooms.as_slice())
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
            let route = EventRoute { plugin: Arc::clone(active), inbound: Arc::clone(inbound) };
            self.events.insert(event.clone(), route);
        }
        self.rooms.add(name, &registration.rooms);
        if is_disabled {
            self.disabled.insert(name.to_owned());
        }
        self.plugins.push(Arc::clone(active));
        Ok(())
    }
}
