//! What the host serves: every event with its schema and its plugin, every room with its rule. One immutable [`Routes`] per generation; the
//! cold path publishes it, the hot path takes a snapshot, so a schema is never paired with another generation's handler.

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

/// The published generation.
pub struct Registry {
    routes: ArcSwap<Routes>,
    changes: watch::Sender<()>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { routes: ArcSwap::from_pointee(Routes::default()), changes: watch::Sender::default() }
    }
}

impl Registry {
    /// What is served now. One atomic load; whoever holds it keeps its generation.
    pub fn snapshot(&self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Serves `routes` from now on.
    pub fn publish(&self, routes: Routes) {
        self.routes.store(Arc::new(routes));
        self.tell_change();
    }

    /// Tells of each change from now on: another generation, or a plugin that serves again.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Wakes those who wait for a change.
    pub fn tell_change(&self) {
        self.changes.send_replace(());
    }
}

/// One generation: all that is served, and which files are not.
#[derive(Default)]
pub struct Routes {
    /// Counts publications, from 1.
    pub generation: u64,
    /// Hashed fast: plugins name the events, and clients only ask for them.
    events: HashMap<String, Route, foldhash::fast::RandomState>,
    rooms: Vec<RoomRule>,
    /// The plugins that serve, in file order.
    pub plugins: Vec<Arc<Served>>,
    /// Those of them that an operator has disabled: their events are still their own.
    disabled: HashSet<String>,
}

/// Who handles an event, and what it must look like.
#[derive(Clone)]
pub struct Route {
    /// Who.
    pub plugin: Arc<Served>,
    /// What.
    pub inbound: Arc<Inbound>,
}

/// A plugin that serves, with what the host must check for it.
pub struct Served {
    /// The code.
    pub plugin: Plugin,
    /// By event type.
    pub inbound: BTreeMap<String, Arc<Inbound>>,
    /// By event type.
    pub outbound: BTreeMap<String, Outbound>,
    /// What it stores.
    pub state: State,
    /// Whether it is asked.
    pub health: Health,
}

/// Whether a plugin that keeps failing is asked.
pub struct Health {
    breaker: Mutex<Breaker>,
    /// Set when the breaker has opened, for whoever decides what becomes of the version.
    has_tripped: AtomicBool,
    /// Woken then.
    alarm: Arc<Notify>,
    /// What failed last, for operators.
    last_failure: Mutex<Option<(String, SystemTime)>>,
}

/// Bytes of the reason of a failure that are remembered: enough for a sentence and a trap's message.
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

    /// The lock is held for a few moves; a panic leaves counters that are whole.
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event of `client` may be handled at `now`. Host events have no client here: they are never throttled.
    ///
    /// # Errors
    /// Where it may not.
    pub fn admit(&self, client: Option<&ClientKeys>, now: Instant) -> Result<Permit, Denied> {
        self.breaker().admit(client, now)
    }

    /// Records what became, by `now`, of an event that was admitted; what that changed.
    pub fn record(&self, permit: Permit, client: Option<&ClientKeys>, outcome: Outcome, now: Instant) -> Option<Change> {
        let change = self.breaker().record(permit, client, outcome, now);
        if matches!(change, Some(Change::Opened(_))) {
            self.has_tripped.store(true, Ordering::Release);
            self.alarm.notify_one();
        }
        change
    }

    /// Remembers why a handler failed, for operators: at most `MAX_FAILURE` bytes of it.
    pub fn note_failure(&self, mut reason: String) {
        truncate(&mut reason, MAX_FAILURE);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, SystemTime::now()));
    }

    /// Why a handler of this version failed last, and when.
    pub fn last_failure(&self) -> Option<(String, SystemTime)> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the breaker is open or half-open.
    pub fn is_open(&self) -> bool {
        self.breaker().is_open()
    }

    /// Whether the breaker has opened since this was asked last.
    pub fn take_trip(&self) -> bool {
        self.has_tripped.swap(false, Ordering::AcqRel)
    }

    /// An operator's word that the plugin is well.
    pub fn reset(&self) {
        self.breaker().reset();
    }
}

/// What all versions of one plugin share, by its name.
#[derive(Clone)]
pub struct State {
    /// The records.
    pub store: Arc<Store>,
    /// The turn: held until the effects of one's commit are delivered, so that every receiver sees changes in the order of their commits. A
    /// [`tokio::sync::Mutex`], because a commit is awaited under it.
    pub commit: Arc<tokio::sync::Mutex<()>>,
    /// Held by the one thread that waits for a sequence's next number; see [`Store::next_id`].
    pub numbers: Arc<tokio::sync::Mutex<()>>,
    /// Bytes that the instances take, those of versions whose last events run among them.
    pub memory: Arc<AtomicUsize>,
}

/// An event that clients may send.
pub struct Inbound {
    /// Of the payload.
    pub data: Arc<Schema>,
    /// Of the ack; nothing where the ack is `null`.
    pub reply: Option<Arc<Schema>>,
    /// Who may send it.
    pub access: Access,
    /// What is counted of it.
    pub meter: Meter,
}

/// An event that a plugin emits.
#[derive(Clone)]
pub struct Outbound {
    /// Of its argument. One that is the schema of a reply as well is the same [`Arc`]: what was emitted need not be checked again to be
    /// replied.
    pub data: Arc<Schema>,
    /// Where it may go.
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

/// A room, or all rooms of a form, with who may join and who declared it.
pub struct RoomRule {
    /// Which rooms.
    pub pattern: RoomPattern,
    /// Who may join.
    pub access: Access,
    /// The plugin that declared it first.
    pub owner: String,
}

/// Why a client may not join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotJoined {
    /// No loaded plugin declares the room.
    Unknown,
    /// The room's rule.
    Forbidden,
}

impl Routes {
    /// The generation that follows `previous`, without any plugin yet.
    pub fn after(previous: &Self) -> Self {
        Self { generation: previous.generation + 1, ..Self::default() }
    }

    /// Whether an operator has disabled the plugin.
    pub fn is_disabled(&self, plugin: &str) -> bool {
        self.disabled.contains(plugin)
    }

    /// Whether the same versions serve as in `other`, and the same of them are disabled.
    pub fn serves_what(&self, other: &Self) -> bool {
        let same = |(served, other): (&Arc<Served>, &Arc<Served>)| Arc::ptr_eq(served, other);
        self.plugins.len() == other.plugins.len() && self.plugins.iter().zip(&other.plugins).all(same) && self.disabled == other.disabled
    }

    /// Whether this version serves.
    pub fn serves(&self, version: &Arc<Served>) -> bool {
        self.plugins.iter().any(|served| Arc::ptr_eq(served, version))
    }

    /// Who handles `event`.
    pub fn route(&self, event: &str) -> Option<&Route> {
        self.events.get(event)
    }

    /// The declaration of an event that some plugin emits. Where several do, all have the same schema; it may go wherever one of them says.
    pub fn outbound<'routes>(&'routes self, event: &'routes str) -> impl Iterator<Item = &'routes Outbound> {
        self.plugins.iter().filter_map(move |served| served.outbound.get(event))
    }

    /// Whether the rooms and their rules are those of `other`.
    pub fn has_rooms_of(&self, other: &Self) -> bool {
        let rules = |routes: &Self| routes.rooms.iter().map(|rule| (rule.pattern.clone(), rule.access.clone())).collect::<Vec<_>>();
        rules(self) == rules(other)
    }

    /// The declared rooms.
    pub fn rooms(&self) -> &[RoomRule] {
        &self.rooms
    }

    /// Whether `identity` may join `room`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn may_join(&self, room: &str, identity: &Identity) -> Result<(), NotJoined> {
        let rule = self.rooms.iter().find_map(|rule| rule.pattern.matches(room).map(|owner| (rule, owner)));
        match rule {
            None => Err(NotJoined::Unknown),
            Some((rule, owner)) if rule.access.allows(identity, owner) => Ok(()),
            Some(_) => Err(NotJoined::Forbidden),
        }
    }

    /// Adds a plugin to those that were admitted before.
    ///
    /// # Errors
    /// Where it does not go with those; then nothing has changed.
    pub fn admit(&mut self, served: &Arc<Served>, is_disabled: bool) -> Result<(), AdmitError> {
        let (name, registration) = (served.plugin.name(), &served.plugin.registration);
        if let Some(other) = self.plugins.iter().find(|other| other.plugin.name() == name) {
            return Err(AdmitError::NameTaken { name: name.to_owned(), file: other.plugin.file.clone() });
        }
        for event in served.inbound.keys() {
            if let Some(route) = self.events.get(event) {
                return Err(AdmitError::EventTaken { event: event.clone(), by: route.plugin.plugin.name().to_owned() });
            }
        }
        for (event, declared) in &served.outbound {
            if let Some(other) = self.plugins.iter().find(|other| other.outbound.get(event).is_some_and(|o| o.data != declared.data)) {
                return Err(AdmitError::SchemaDiffers { event: event.clone(), by: other.plugin.name().to_owned() });
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
        for (event, inbound) in &served.inbound {
            let route = Route { plugin: Arc::clone(served), inbound: Arc::clone(inbound) };
            self.events.insert(event.clone(), route);
        }
        for (pattern, access) in &registration.rooms {
            if !self.rooms.iter().any(|rule| rule.pattern == *pattern) {
                self.rooms.push(RoomRule { pattern: pattern.clone(), access: access.clone(), owner: name.to_owned() });
            }
        }
        // A literal room of the same plugin goes before a template that would match it too.
        self.rooms.sort_by_key(|rule| rule.pattern.is_template());
        if is_disabled {
            self.disabled.insert(name.to_owned());
        }
        self.plugins.push(Arc::clone(served));
        Ok(())
    }
}

impl Served {
    /// Makes a candidate ready to serve: compiles its schemas, once per load. `alarm` is woken when its breaker opens.
    ///
    /// # Errors
    /// Where it does not go with itself.
    pub fn new(
        candidate: Candidate,
        settings: &PluginSettings,
        state: State,
        alarm: Arc<Notify>,
        metrics: &Metrics,
    ) -> Result<Arc<Self>, AdmitError> {
        let (inbound, outbound) = contract(&candidate, &settings.limits, metrics)?;
        let health = Health::new(&settings.limits, alarm);
        Ok(Arc::new(Self { plugin: Plugin::new(candidate, settings, Arc::clone(&state.memory)), inbound, outbound, state, health }))
    }

    /// The same version once more, as it was before its first event: nothing is compiled, and nothing is held against it.
    #[must_use]
    pub fn again(&self) -> Arc<Self> {
        let plugin = self.plugin.again();
        let health = Health::new(plugin.limits(), Arc::clone(&self.health.alarm));
        let (inbound, outbound, state) = (self.inbound.clone(), self.outbound.clone(), self.state.clone());
        Arc::new(Self { plugin, inbound, outbound, state, health })
    }
}

type Contract = (BTreeMap<String, Arc<Inbound>>, BTreeMap<String, Outbound>);

/// Patterns in all schemas of one plugin. A compiled one may take 256 KiB.
const MAX_PATTERNS: usize = 500;

/// Compiles the schemas of a candidate: once per load.
fn contract(candidate: &Candidate, limits: &Limits, metrics: &Metrics) -> Result<Contract, AdmitError> {
    let mut compiled: HashMap<String, Arc<Schema>> = HashMap::new();
    let mut patterns = 0;
    let mut compile = |event: &str, part: &'static str, text: &str| {
        if let Some(known) = compiled.get(text) {
            return Ok(Arc::clone(known));
        }
        let schema = Schema::compile(text, limits.schema_bytes.get());
        let schema = Arc::new(schema.map_err(|source| AdmitError::Schema { event: event.to_owned(), part, source })?);
        patterns += schema.patterns();
        compiled.insert(text.to_owned(), Arc::clone(&schema));
        if patterns > MAX_PATTERNS { Err(AdmitError::TooManyPatterns) } else { Ok(schema) }
    };
    let mut inbound = BTreeMap::new();
    for handles in &candidate.registration.handles {
        let data = compile(&handles.event, "payload", &handles.data)?;
        let reply = handles.reply.as_deref().map(|reply| compile(&handles.event, "reply", reply)).transpose()?;
        if reply.as_ref().is_some_and(|reply| reply.allows_top_level_property("error")) {
            return Err(AdmitError::ReplyHasError { event: handles.event.clone() });
        }
        let meter = metrics.meter(&candidate.registration.name, &handles.event);
        inbound.insert(handles.event.clone(), Arc::new(Inbound { data, reply, access: handles.access.clone(), meter }));
    }
    let mut outbound = BTreeMap::new();
    for emits in &candidate.registration.emits {
        let data = compile(&emits.event, "data", &emits.data)?;
        outbound.insert(emits.event.clone(), Outbound { data, rooms: emits.rooms.clone(), everyone: emits.everyone });
    }
    Ok((inbound, outbound))
}

impl AdmitError {
    /// Whose claim is in the way, where another plugin's is.
    pub fn taken_by(&self) -> Option<&str> {
        match self {
            Self::EventTaken { by, .. } | Self::SchemaDiffers { by, .. } | Self::RoomTaken { by, .. } => Some(by),
            Self::NameTaken { name, .. } => Some(name),
            Self::Schema { .. } | Self::TooManyPatterns | Self::ReplyHasError { .. } => None,
        }
    }

    /// The same conflict, told to the plugin that was admitted first: `winner`, which came second, has what both claim.
    #[must_use]
    pub fn seen_by_the_other(self, winner: &str) -> Self {
        let by = winner.to_owned();
        match self {
            Self::EventTaken { event, .. } => Self::EventTaken { event, by },
            Self::SchemaDiffers { event, .. } => Self::SchemaDiffers { event, by },
            Self::RoomTaken { room, as_room, .. } => Self::RoomTaken { room: as_room, as_room: room, by },
            other => other,
        }
    }
}

/// Why a plugin can't serve beside the others, or at all.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// A schema is wrong.
    #[error("event `{event}`: the schema of its {part} is refused")]
    Schema {
        /// Which event.
        event: String,
        /// `payload`, `reply` or `data`.
        part: &'static str,
        /// Why.
        source: SchemaError,
    },
    /// More patterns than the host compiles for one plugin.
    #[error("the schemas of the plugin have more than {MAX_PATTERNS} patterns in all")]
    TooManyPatterns,
    /// Clients tell a rejection by this property.
    #[error("event `{event}`: its reply may not have a property `error` at its top, by which clients tell a rejection; rename it")]
    ReplyHasError {
        /// Which event.
        event: String,
    },
    /// An event has one owner.
    #[error("event `{event}` is taken by plugin `{by}`; an event has one handler")]
    EventTaken {
        /// Which event.
        event: String,
        /// Whose it is.
        by: String,
    },
    /// Two schemas of one emitted event.
    #[error("event `{event}` is emitted by plugin `{by}` too, with another schema; both must be identical")]
    SchemaDiffers {
        /// Which event.
        event: String,
        /// Who else emits it.
        by: String,
    },
    /// A room has one owner.
    #[error("room `{room}` is taken by plugin `{by}`, as `{as_room}`; a second declaration must be identical")]
    RoomTaken {
        /// The room as it is declared now.
        room: String,
        /// The room as it was declared before.
        as_room: String,
        /// Whose it is.
        by: String,
    },
    /// Two files of one name.
    #[error("plugin `{name}` is served from {} already; a directory holds one file of each plugin", file.display())]
    NameTaken {
        /// The name.
        name: String,
        /// The other file.
        file: PathBuf,
    },
}
