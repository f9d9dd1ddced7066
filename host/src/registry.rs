//! What the host serves: every event with its schema and its plugin, every room with its rule. One immutable [`Routes`] per generation; the
//! cold path publishes it, the hot path takes a snapshot, so a schema is never paired with another generation's handler.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::{InstancePolicy, Limits};
use crate::event::Identity;
use crate::plugin::{Candidate, Plugin};
use crate::rule::{Access, RoomPattern};
use crate::schema::{Schema, SchemaError};
use crate::store::Store;

/// The published generation.
pub struct Registry {
    routes: ArcSwap<Routes>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { routes: ArcSwap::from_pointee(Routes::default()) }
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
    }
}

/// One generation: all that is served, and which files are not.
#[derive(Default)]
pub struct Routes {
    /// Counts publications, from 1.
    pub generation: u64,
    events: HashMap<String, Route>,
    rooms: Vec<RoomRule>,
    /// The plugins that serve, in file order.
    pub plugins: Vec<Arc<Served>>,
    /// The files that failed, in file order.
    pub failed: Vec<FailedFile>,
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
}

/// The durable state of one plugin, by its name.
#[derive(Clone)]
pub struct State {
    /// The records.
    pub store: Arc<Store>,
    /// Held from a commit until its effects are delivered, so that every receiver sees changes in the order of their commits. A
    /// [`tokio::sync::Mutex`], because a commit is awaited under it.
    pub commit: Arc<tokio::sync::Mutex<()>>,
}

/// An event that clients may send.
pub struct Inbound {
    /// Of the payload.
    pub data: Schema,
    /// Of the ack; nothing where the ack is `null`.
    pub reply: Option<Schema>,
    /// Who may send it.
    pub access: Access,
}

/// An event that a plugin emits.
pub struct Outbound {
    /// Of its argument.
    pub data: Schema,
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

/// A file that does not serve.
#[derive(Debug, Clone)]
pub struct FailedFile {
    /// Which.
    pub file: PathBuf,
    /// The name that it registered, where it came so far.
    pub name: Option<String>,
    /// SHA-256 of its bytes, where it could be read.
    pub digest: Option<String>,
    /// The whole reason.
    pub reason: String,
    /// When it failed.
    pub at: std::time::SystemTime,
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

    /// Who handles `event`.
    pub fn route(&self, event: &str) -> Option<&Route> {
        self.events.get(event)
    }

    /// The declaration of an event that some plugin emits. Where several do, all have the same schema; it may go wherever one of them says.
    pub fn outbound<'routes>(&'routes self, event: &'routes str) -> impl Iterator<Item = &'routes Outbound> {
        self.plugins.iter().filter_map(move |served| served.outbound.get(event))
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

    /// Adds a plugin to those that were admitted before; `open` gives the state that belongs to a name.
    ///
    /// # Errors
    /// Where it does not go with itself or with those; then nothing has changed.
    pub fn admit(
        &mut self,
        candidate: Candidate,
        policy: InstancePolicy,
        limits: &Limits,
        open: impl FnOnce(&str) -> Result<State, Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<Arc<Served>, AdmitError> {
        let registration = &candidate.registration;
        if let Some(other) = self.plugins.iter().find(|other| other.plugin.name() == registration.name) {
            return Err(AdmitError::NameTaken { name: registration.name.clone(), file: other.plugin.file.clone() });
        }
        let (inbound, outbound) = contract(&candidate, limits)?;
        for event in inbound.keys() {
            if let Some(route) = self.events.get(event) {
                return Err(AdmitError::EventTaken { event: event.clone(), by: route.plugin.plugin.name().to_owned() });
            }
        }
        for (event, declared) in &outbound {
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
        let state = open(&registration.name).map_err(AdmitError::State)?;
        let (name, rooms) = (registration.name.clone(), registration.rooms.clone());
        let served = Arc::new(Served { plugin: Plugin::new(candidate, policy), inbound, outbound, state });
        for (event, inbound) in &served.inbound {
            let route = Route { plugin: Arc::clone(&served), inbound: Arc::clone(inbound) };
            self.events.insert(event.clone(), route);
        }
        for (pattern, access) in rooms {
            if !self.rooms.iter().any(|rule| rule.pattern == pattern) {
                self.rooms.push(RoomRule { pattern, access, owner: name.clone() });
            }
        }
        // A literal room of the same plugin goes before a template that would match it too.
        self.rooms.sort_by_key(|rule| rule.pattern.is_template());
        self.plugins.push(Arc::clone(&served));
        Ok(served)
    }
}

type Contract = (BTreeMap<String, Arc<Inbound>>, BTreeMap<String, Outbound>);

/// Compiles the schemas of a candidate: once per load.
fn contract(candidate: &Candidate, limits: &Limits) -> Result<Contract, AdmitError> {
    let compile = |event: &str, part: &'static str, text: &str| {
        let schema = Schema::compile(text, limits.schema_bytes.get());
        schema.map_err(|source| AdmitError::Schema { event: event.to_owned(), part, source })
    };
    let mut inbound = BTreeMap::new();
    for handles in &candidate.registration.handles {
        let data = compile(&handles.event, "payload", &handles.data)?;
        let reply = handles.reply.as_deref().map(|reply| compile(&handles.event, "reply", reply)).transpose()?;
        if reply.as_ref().is_some_and(|reply| reply.allows_top_level_property("error")) {
            return Err(AdmitError::ReplyHasError { event: handles.event.clone() });
        }
        inbound.insert(handles.event.clone(), Arc::new(Inbound { data, reply, access: handles.access.clone() }));
    }
    let mut outbound = BTreeMap::new();
    for emits in &candidate.registration.emits {
        let data = compile(&emits.event, "data", &emits.data)?;
        outbound.insert(emits.event.clone(), Outbound { data, rooms: emits.rooms.clone(), everyone: emits.everyone });
    }
    Ok((inbound, outbound))
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
    /// Its state can't be opened.
    #[error("its state can't be opened")]
    State(#[source] Box<dyn std::error::Error + Send + Sync>),
}
