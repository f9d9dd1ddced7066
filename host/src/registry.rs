//! The registry: every event with its schema and its plugin, every room with its rule. Each
//! generation is one immutable [`Generation`]: the reload path publishes it, the event path takes a
//! snapshot. So a schema is never paired with a handler of another generation.

mod lint;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::breaker::{Breaker, Change, ClientKeys, Denied, Outcome, Permit};
use crate::config::{Limits, PluginSettings};
use crate::event::Identity;
use crate::metrics::{Meter, Metrics};
use crate::plugin::{Candidate, Plugin};
use crate::rejection::truncate;
use crate::rule::{Access, RoomPattern};
use crate::schema::{Schema, SchemaError};
use crate::store::Store;

pub use lint::{Warning, lint};

/// Holds the published generation.
pub struct Registry {
    generation: ArcSwap<Generation>,
    changes: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            generation: ArcSwap::from_pointee(Generation::default()),
            changes: watch::Sender::default(),
        }
    }
}

impl Registry {
    /// Returns the current generation, with one atomic load. The caller can keep it after a reload.
    pub fn snapshot(&self) -> Arc<Generation> {
        self.generation.load_full()
    }

    /// Publishes `routes`: new events use it from now on.
    pub fn publish(&self, generation: Generation) {
        self.generation.store(Arc::new(generation));
        self.tell_change();
    }

    /// Returns a receiver for changes from now on: a new generation, or a plugin that serves again.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Notifies the receivers of [`Registry::changes`].
    pub fn tell_change(&self) {
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
    rooms: Vec<RoomRule>,
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

/// A plugin that serves, with the data for the checks of the host.
pub struct ActivePlugin {
    /// The code and its instances.
    pub code: Plugin,
    /// The events that clients may send, by name.
    pub inbound: BTreeMap<String, Arc<Inbound>>,
    /// The events that the plugin emits, by name.
    pub outbound: BTreeMap<String, Outbound>,
    /// Its state.
    pub state: State,
    /// Its breaker and its last failure.
    pub health: Health,
}

/// The health of a plugin: decides whether a plugin that keeps failing is called.
pub struct Health {
    breaker: Mutex<Breaker>,
    /// Set when the breaker opens, for the reload path, which may roll the version back.
    has_tripped: AtomicBool,
    /// Notified when `has_tripped` is set.
    alarm: Arc<Notify>,
    /// The last failure, for operators.
    last_failure: Mutex<Option<(String, SystemTime)>>,
}

/// Maximum number of bytes that are kept of a failure's reason: enough for a sentence and a trap's
/// message.
const MAX_FAILURE: usize = 1024;

impl Health {
    fn new(limits: &Limits, alarm: Arc<Notify>) -> Self {
        Self {
            breaker: Mutex::new(Breaker::new(limits.breaker())),
            has_tripped: AtomicBool::new(false),
            alarm,
            last_failure: Mutex::default(),
        }
    }

    /// The lock is held for a few operations. A panic leaves the counters consistent.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the breaker for a permit to handle an event of `client` at `now`. Host events are
    /// passed without a client: they are never throttled.
    ///
    /// # Errors
    /// Returns whether the breaker is open or the client is throttled, and the time to retry.
    pub fn admit(&self, client: Option<&ClientKeys>, now: Instant) -> Result<Permit, Denied> {
        self.breaker().admit(client, now)
    }

    /// Records the outcome, at `now`, of an event that was admitted. Returns the change that it
    /// caused.
    pub fn record(
        &self,
        permit: Permit,
        client: Option<&ClientKeys>,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Change> {
        let change = self.breaker().record(permit, client, outcome, now);
        if matches!(change, Some(Change::Opened(_))) {
            self.has_tripped.store(true, Ordering::Release);
            self.alarm.notify_one();
        }
        change
    }

    /// Keeps the reason of a handler's failure for operators, cut to `MAX_FAILURE` bytes.
    pub fn note_failure(&self, mut reason: String) {
        truncate(&mut reason, MAX_FAILURE);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((reason, SystemTime::now()));
    }

    /// Returns why and when a handler of this version last failed.
    pub fn last_failure(&self) -> Option<(String, SystemTime)> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the breaker is open or half-open.
    pub fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// Returns whether the breaker has opened since the last call.
    pub fn take_trip(&self) -> bool {
        self.has_tripped.swap(false, Ordering::AcqRel)
    }

    /// Closes the breaker, because an operator says that the plugin is healthy.
    pub fn reset(&self) {
        self.breaker().reset();
    }
}

/// The state of one plugin, shared by all its versions.
#[derive(Clone)]
pub struct State {
    /// The stored records.
    pub store: Arc<Store>,
    /// The commit lock. It is held until the effects of a commit are delivered, so that every
    /// receiver sees changes in the order of their commits. It is a [`tokio::sync::Mutex`], because
    /// a commit is awaited while it is held.
    pub commit: Arc<tokio::sync::Mutex<()>>,
    /// Held by the one thread that waits for the next number of a sequence; see [`Store::next_id`].
    pub numbers: Arc<tokio::sync::Mutex<()>>,
    /// Bytes of all instances, including those of old versions that finish their last events.
    pub memory: Arc<AtomicUsize>,
}

/// An event that clients may send.
pub struct Inbound {
    /// Schema of the payload.
    pub data: Arc<Schema>,
    /// Schema of the ack. `None` if the ack is `null`.
    pub reply: Option<Arc<Schema>>,
    /// Who may send it.
    pub access: Access,
    /// Its metrics.
    pub meter: Meter,
}

/// An event that a plugin emits.
#[derive(Clone)]
pub struct Outbound {
    /// Schema of its argument. If a reply has the same schema, both are the same [`Arc`]: emitted
    /// data need not be checked again when it is the reply.
    pub data: Arc<Schema>,
    /// The rooms that it may go to.
    pub rooms: Vec<RoomPattern>,
    /// Whether it may go to everyone.
    pub everyone: bool,
}

impl Outbound {
    /// Whether the event may go to `room`.
    pub fn names(&self, room: &str) -> bool {
        self.everyone || self.rooms.iter().any(|pattern| pattern.matches(room).is_some())
    }
}

/// A declared room, or a template for rooms, with its access rule and its owner.
pub struct RoomRule {
    /// The name or the template.
    pub pattern: RoomPattern,
    /// Who may join.
    pub access: Access,
    /// The plugin that declared it first.
    pub owner: String,
}

/// Why a client may not join a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// No loaded plugin declares the room.
    Unknown,
    /// The room's rule does not allow it.
    Forbidden,
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

    /// Whether the rooms and their rules are the same as in `other`.
    pub fn has_rooms_of(&self, other: &Self) -> bool {
        let rules = |generation: &Self| {
            generation
                .rooms
                .iter()
                .map(|rule| (rule.pattern.clone(), rule.access.clone()))
                .collect::<Vec<_>>()
        };
        rules(self) == rules(other)
    }

    /// The declared rooms.
    pub fn rooms(&self) -> &[RoomRule] {
        &self.rooms
    }

    /// Checks whether `identity` may join `room`.
    ///
    /// # Errors
    /// Returns why it may not join.
    pub fn may_join(&self, room: &str, identity: &Identity) -> Result<(), NotJoined> {
        let rule = self
            .rooms
            .iter()
            .find_map(|rule| rule.pattern.matches(room).map(|owner| (rule, owner)));
        match rule {
            None => Err(NotJoined::Unknown),
            Some((rule, owner)) if rule.access.allows(identity, owner) => Ok(()),
            Some(_) => Err(NotJoined::Forbidden),
        }
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
        let (name, registration) = (active.code.name(), &active.code.registration);
        if let Some(other) = self.plugins.iter().find(|other| other.code.name() == name) {
            return Err(AdmitError::NameTaken {
                name: name.to_owned(),
                file: other.code.file.clone(),
            });
        }
        for event in active.inbound.keys() {
            if let Some(route) = self.events.get(event) {
                return Err(AdmitError::EventTaken {
                    event: event.clone(),
                    by: route.plugin.code.name().to_owned(),
                });
            }
        }
        for (event, declared) in &active.outbound {
            if let Some(other) = self
                .plugins
                .iter()
                .find(|other| other.outbound.get(event).is_some_and(|o| o.data != declared.data))
            {
                return Err(AdmitError::SchemaDiffers {
                    event: event.clone(),
                    by: other.code.name().to_owned(),
                });
            }
        }
        for (pattern, access) in &registration.rooms {
            for rule in &self.rooms {
                let identical = rule.pattern == *pattern && rule.access == *access;
                if rule.pattern.overlaps(pattern) && !identical {
                    return Err(AdmitError::RoomTaken {
                        room: pattern.to_string(),
                        as_room: rule.pattern.to_string(),
                        by: rule.owner.clone(),
                    });
                }
            }
        }
        for (event, inbound) in &active.inbound {
            let route = EventRoute { plugin: Arc::clone(active), inbound: Arc::clone(inbound) };
            self.events.insert(event.clone(), route);
        }
        for (pattern, access) in &registration.rooms {
            if !self.rooms.iter().any(|rule| rule.pattern == *pattern) {
                self.rooms.push(RoomRule {
                    pattern: pattern.clone(),
                    access: access.clone(),
                    owner: name.to_owned(),
                });
            }
        }
        // A literal room precedes a template of the same plugin that matches it too.
        self.rooms.sort_by_key(|rule| rule.pattern.is_template());
        if is_disabled {
            self.disabled.insert(name.to_owned());
        }
        self.plugins.push(Arc::clone(active));
        Ok(())
    }
}

impl ActivePlugin {
    /// Prepares a candidate to serve, and compiles its schemas, once per load. `alarm` is notified
    /// when its breaker opens.
    ///
    /// # Errors
    /// Returns an error if one of the plugin's own schemas is not allowed.
    pub fn new(
        candidate: Candidate,
        settings: &PluginSettings,
        state: State,
        alarm: Arc<Notify>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, AdmitError> {
        let (inbound, outbound) = contract(&candidate, &settings.limits, metrics)?;
        let health = Health::new(&settings.limits, alarm);
        Ok(Arc::new(Self {
            code: Plugin::new(candidate, settings, Arc::clone(&state.memory)),
            inbound,
            outbound,
            state,
            health,
        }))
    }

    /// Returns the same version in its initial state, with a new breaker. Nothing is compiled
    /// again.
    #[must_use]
    pub fn fresh(&self) -> Arc<Self> {
        let code = self.code.fresh();
        let health = Health::new(code.limits(), Arc::clone(&self.health.alarm));
        let (inbound, outbound, state) =
            (self.inbound.clone(), self.outbound.clone(), self.state.clone());
        Arc::new(Self { code, inbound, outbound, state, health })
    }
}

type Contract = (BTreeMap<String, Arc<Inbound>>, BTreeMap<String, Outbound>);

/// Maximum number of patterns in all schemas of one plugin. A compiled pattern may take 256 KiB.
const MAX_PATTERNS: usize = 500;

/// Compiles the schemas of a candidate, once per load.
fn contract(
    candidate: &Candidate,
    limits: &Limits,
    metrics: &Metrics,
) -> Result<Contract, AdmitError> {
    let mut compiled: HashMap<String, Arc<Schema>> = HashMap::new();
    let mut patterns = 0;
    let mut compile = |event: &str, part: &'static str, text: &str| {
        if let Some(known) = compiled.get(text) {
            return Ok(Arc::clone(known));
        }
        let schema = Schema::compile(text, limits.schema_bytes.get());
        let schema = Arc::new(schema.map_err(|source| AdmitError::Schema {
            event: event.to_owned(),
            part,
            source,
        })?);
        patterns += schema.patterns();
        compiled.insert(text.to_owned(), Arc::clone(&schema));
        if patterns > MAX_PATTERNS { Err(AdmitError::TooManyPatterns) } else { Ok(schema) }
    };
    let mut inbound = BTreeMap::new();
    for handles in &candidate.registration.handles {
        let data = compile(&handles.event, "payload", &handles.data)?;
        let reply = handles
            .reply
            .as_deref()
            .map(|reply| compile(&handles.event, "reply", reply))
            .transpose()?;
        if reply.as_ref().is_some_and(|reply| reply.allows_top_level_property("error")) {
            return Err(AdmitError::ReplyHasError { event: handles.event.clone() });
        }
        let meter = metrics.meter(&candidate.registration.name, &handles.event);
        inbound.insert(
            handles.event.clone(),
            Arc::new(Inbound { data, reply, access: handles.access.clone(), meter }),
        );
    }
    let mut outbound = BTreeMap::new();
    for emits in &candidate.registration.emits {
        let data = compile(&emits.event, "data", &emits.data)?;
        outbound.insert(
            emits.event.clone(),
            Outbound { data, rooms: emits.rooms.clone(), everyone: emits.everyone },
        );
    }
    Ok((inbound, outbound))
}

impl AdmitError {
    /// Returns the name of the other plugin in the conflict. `None` if there is no other plugin.
    pub fn taken_by(&self) -> Option<&str> {
        match self {
            Self::EventTaken { by, .. }
            | Self::SchemaDiffers { by, .. }
            | Self::RoomTaken { by, .. } => Some(by),
            Self::NameTaken { name, .. } => Some(name),
            Self::Schema { .. } | Self::TooManyPatterns | Self::ReplyHasError { .. } => None,
        }
    }

    /// Returns the same conflict from the view of the plugin that was admitted first. It names
    /// `winner`, the second plugin, which gets the claim.
    #[must_use]
    pub fn seen_by_the_other(self, winner: &str) -> Self {
        let by = winner.to_owned();
        match self {
            Self::EventTaken { event, .. } => Self::EventTaken { event, by },
            Self::SchemaDiffers { event, .. } => Self::SchemaDiffers { event, by },
            Self::RoomTaken { room, as_room, .. } => {
                Self::RoomTaken { room: as_room, as_room: room, by }
            }
            other => other,
        }
    }
}

/// Why a plugin can't serve together with the others, or at all.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A schema is refused.
    #[error("event `{event}`: the schema of its {part} is refused")]
    Schema {
        /// The event.
        event: String,
        /// `payload`, `reply` or `data`.
        part: &'static str,
        /// Why it is refused.
        source: SchemaError,
    },
    /// The plugin has more patterns than the host compiles for one plugin.
    #[error("the schemas of the plugin have more than {MAX_PATTERNS} patterns in all")]
    TooManyPatterns,
    /// The schema of a reply allows a top-level property `error`, by which clients recognize a
    /// rejection.
    #[error(
        "event `{event}`: its reply may not have a property `error` at its top, by which clients tell a rejection; rename it"
    )]
    ReplyHasError {
        /// The event.
        event: String,
    },
    /// Another plugin handles the event.
    #[error("event `{event}` is taken by plugin `{by}`; an event has one handler")]
    EventTaken {
        /// The event.
        event: String,
        /// The plugin that handles it.
        by: String,
    },
    /// Another plugin emits the event with a different schema.
    #[error(
        "event `{event}` is emitted by plugin `{by}` too, with another schema; both must be identical"
    )]
    SchemaDiffers {
        /// The event.
        event: String,
        /// The other plugin.
        by: String,
    },
    /// Another plugin declares an overlapping room with another pattern or access rule.
    #[error(
        "room `{room}` is taken by plugin `{by}`, as `{as_room}`; a second declaration must be identical"
    )]
    RoomTaken {
        /// The room in the new declaration.
        room: String,
        /// The room in the earlier declaration.
        as_room: String,
        /// The plugin that declared it earlier.
        by: String,
    },
    /// Another file contains a plugin of this name.
    #[error("plugin `{name}` is served from {} already; a directory holds one file of each plugin", file.display())]
    NameTaken {
        /// The plugin's name.
        name: String,
        /// The other file.
        file: PathBuf,
    },
}
