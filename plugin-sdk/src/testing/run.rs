//! One native run of a handler: it answers the handler's calls, with one file for each WIT
//! interface, and holds back its effects.

mod connections;
mod emitter;
mod identity;
mod log;
mod members;
mod rooms;
mod settings;
mod state;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sockhop_core::effect::{EffectLimits, require_caller};
use sockhop_core::identity::Identity;

use super::declared::Declared;
use super::outcome::{Effect, of_host};
use crate::connection::Connection;
use crate::level::Level;
use crate::refusal::Result;

/// The data that the test host keeps between events.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) state: BTreeMap<String, Vec<u8>>,
    /// Pairs of room and connection.
    pub(super) members: BTreeSet<(String, String)>,
    /// Connections by id.
    pub(super) connected: BTreeMap<String, Connection>,
    pub(super) sequences: BTreeMap<String, u64>,
    pub(super) log: Vec<(Level, String)>,
    pub(super) settings: BTreeMap<String, String>,
}

/// Who caused an event.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// `None` for an HTTP request.
    pub(super) connection: Option<String>,
    pub(super) identity: Identity,
}

/// One run of a handler, on its own copy of the world. The test host takes the copy over if the
/// handler returns `Ok` and a valid reply; otherwise only its sequences and its log.
///
/// The handler owns its host, and the test host still needs the run afterwards: so an `Rc<Run>`
/// implements the calls.
pub(super) struct Run {
    declared: Rc<Declared>,
    caller: Option<Caller>,
    /// When the event was received.
    now: u64,
    /// The number of the event, for its id.
    event_number: u64,
    /// The identities of the connections, by id.
    identities: BTreeMap<String, Identity>,
    /// The world before the event, for reads that do not include the handler's own changes.
    before: World,
    world: RefCell<World>,
    pending: RefCell<Pending>,
}

/// What counts against the limits of one event.
#[derive(Default)]
struct Pending {
    effects: Vec<Effect>,
    /// Bytes of the effects.
    bytes: usize,
    /// The keys that were written, with the bytes of key and value.
    written: BTreeMap<String, usize>,
    /// Pairs of room and connection that join (`true`) or leave when the handler has returned.
    others: Vec<((String, String), bool)>,
}

impl Pending {
    /// Checks whether `more` more effects with `bytes` more bytes are within the limits.
    fn check(&self, more: usize, bytes: usize) -> Result {
        let stored: usize = self.written.values().sum();
        EffectLimits::default()
            .check(
                self.effects.len() + self.written.len() + more,
                (self.bytes + bytes + stored) as u64,
            )
            .map_err(of_host)
    }

    fn push(&mut self, effect: Effect, bytes: usize) -> Result {
        self.check(1, bytes)?;
        self.bytes += bytes;
        self.effects.push(effect);
        Ok(())
    }

    /// Records that `key` is written, with a value of `value_bytes` bytes.
    fn write(&mut self, key: &str, value_bytes: usize) {
        self.written.insert(key.to_owned(), key.len() + value_bytes);
    }
}

impl Run {
    pub(super) fn new(
        declared: Rc<Declared>,
        caller: Option<Caller>,
        now: u64,
        event_number: u64,
        identities: BTreeMap<String, Identity>,
        world: World,
    ) -> Self {
        Self {
            declared,
            caller,
            now,
            event_number,
            identities,
            before: world.clone(),
            world: RefCell::new(world),
            pending: RefCell::default(),
        }
    }

    /// Returns the world as the handler left it, and the handler's effects. Called once, after the
    /// handler: it empties the run.
    pub(super) fn finish(&self) -> (World, Vec<Effect>) {
        let (mut world, Pending { effects, others, .. }) = (self.world.take(), self.pending.take());
        for (member, joins) in others {
            if joins {
                world.members.insert(member);
            } else {
                world.members.remove(&member);
            }
        }
        (world, effects)
    }

    /// The caller's connection, if there is one.
    fn connection(&self) -> Option<&str> {
        self.caller.as_ref()?.connection.as_deref()
    }

    /// The caller's connection and identity, for a call that needs a connection.
    fn connected(&self) -> Result<(&str, &Identity)> {
        let connected = self
            .caller
            .as_ref()
            .and_then(|caller| Some((caller.connection.as_deref()?, &caller.identity)));
        require_caller(connected).map_err(of_host)
    }

    fn push(&self, effect: Effect, bytes: usize) -> Result {
        self.pending.borrow_mut().push(effect, bytes)
    }
}
