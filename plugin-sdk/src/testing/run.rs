//! One native run of a handler: it answers the handler's calls, with one file for each WIT
//! interface, and holds back its effects.

mod connections;
mod deliver;
mod emitter;
mod http;
mod identity;
mod log;
mod members;
mod replies;
mod rooms;
mod settings;
mod state;
mod timers;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sockhop_core::effect::{EffectLimits, require_caller};
use sockhop_core::handshake::Handshake;
use sockhop_core::identity::Identity;

use super::declared::Declared;
use super::deliveries::CommittedDelivery;
use super::outcome::{AskedAck, Effect, of_host};
use super::stubs::Stubs;
use super::timers::{Change, Timers};
use crate::connection::Connection;
use crate::http::Request;
use crate::level::Level;
use crate::refusal::Result;
use crate::timer::FiredTimer;

/// The data that the test host keeps between events.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) state: BTreeMap<String, Vec<u8>>,
    /// Pairs of room and connection.
    pub(super) members: BTreeSet<(String, String)>,
    /// The handshakes that tests have set, by connection; `None` if one is not kept.
    pub(super) handshakes: BTreeMap<String, Option<Handshake>>,
    /// Connections by id.
    pub(super) connected: BTreeMap<String, Connection>,
    pub(super) sequences: BTreeMap<String, u64>,
    pub(super) settings: BTreeMap<String, String>,
    pub(super) stubs: Stubs,
    pub(super) requests: Vec<Request>,
    /// Those that have not ended.
    pub(super) deliveries: Vec<CommittedDelivery>,
    /// Those whose outcome is not known.
    pub(super) acks: Vec<AskedAck>,
}

/// Who caused an event.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// `None` for an HTTP request.
    pub(super) connection: Option<String>,
    pub(super) identity: Identity,
}

/// The event of a run, without its data.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) caller: Option<Caller>,
    /// When it was received.
    pub(super) at: u64,
    /// Its number, for its id.
    pub(super) number: u64,
    /// The timer that has fired, if it is the event of one.
    pub(super) timer: Option<FiredTimer>,
}

/// One run of a handler, on its own copy of the world. The test host takes the copy over if the
/// handler returns `Ok` and a valid reply; otherwise only its sequences.
///
/// The handler owns its host, and the test host still needs the run afterwards: so an `Rc<Run>`
/// implements the calls.
pub(super) struct Run {
    declared: Rc<Declared>,
    event: Received,
    /// The identities of the connections, by id.
    identities: BTreeMap<String, Identity>,
    /// The timers before the event. No call reads timers, so only their changes are kept.
    timers: Rc<Timers>,
    /// The world before the event, for reads that do not include the handler's own changes.
    before: World,
    world: RefCell<World>,
    pending: RefCell<Pending>,
    /// The lines that the handler has written.
    log: RefCell<Vec<(Level, String)>>,
}

/// What counts against the limits of one event.
#[derive(Default)]
struct Pending {
    effects: Vec<Effect>,
    /// The attachments of the reply.
    attachments: Vec<Vec<u8>>,
    /// Bytes of the effects and the attachments.
    bytes: usize,
    /// The keys that were written, with the bytes of key and value.
    written: BTreeMap<String, usize>,
    /// The timers that were set or cancelled, each at most once. Each is among `effects` too.
    timers: Vec<Change>,
    /// Pairs of room and connection that join (`true`) or leave when the handler has returned.
    others: Vec<((String, String), bool)>,
}

/// What a run leaves behind.
pub(super) struct Finished {
    pub(super) world: World,
    pub(super) effects: Vec<Effect>,
    pub(super) attachments: Vec<Vec<u8>>,
    pub(super) timers: Vec<Change>,
    pub(super) log: Vec<(Level, String)>,
}

impl Pending {
    /// Checks whether `more` more effects with `bytes` more bytes are within the limits.
    fn check(&self, more: usize, bytes: usize) -> Result {
        let stored: usize = self.written.values().sum();
        let timers: usize = self.timers.iter().map(|change| change.bytes).sum();
        EffectLimits::default()
            .check(
                self.effects.len() + self.attachments.len() + self.written.len() + more,
                (self.bytes + bytes + stored + timers) as u64,
            )
            .map_err(of_host)
    }

    fn push(&mut self, effect: Effect, bytes: usize) -> Result {
        self.check(1, bytes)?;
        self.bytes += bytes;
        self.effects.push(effect);
        Ok(())
    }

    /// Checks whether a timer may be set or cancelled, which counts `bytes` bytes.
    fn check_timer(&self, timer: &str, key: &str, bytes: usize) -> Result {
        // The earlier change of the timer still counts here, as the old value of a key.
        let is_known = |change: &Change| change.id.0 == timer && change.id.1 == key;
        self.check(usize::from(!self.timers.iter().any(is_known)), bytes)
    }

    /// Records that a timer is set or cancelled. Of several changes of a timer, the last counts.
    fn change(&mut self, change: Change, effect: Effect) {
        self.timers.retain(|earlier| earlier.id != change.id);
        self.effects.retain(|earlier| match earlier {
            Effect::SetTimer { timer, key, .. } | Effect::CancelTimer { timer, key } => {
                (timer, key) != (&change.id.0, &change.id.1)
            }
            _ => true,
        });
        self.timers.push(change);
        self.effects.push(effect);
    }

    /// Records that `key` is written, with a value of `value_bytes` bytes.
    fn write(&mut self, key: &str, value_bytes: usize) {
        self.written.insert(key.to_owned(), key.len() + value_bytes);
    }
}

impl Run {
    pub(super) fn new(
        declared: Rc<Declared>,
        event: Received,
        identities: BTreeMap<String, Identity>,
        timers: Rc<Timers>,
        world: World,
    ) -> Self {
        Self {
            declared,
            event,
            identities,
            timers,
            before: world.clone(),
            world: RefCell::new(world),
            pending: RefCell::default(),
            log: RefCell::default(),
        }
    }

    /// Returns the world as the handler left it, and the handler's effects. Called once, after the
    /// handler: it empties the run.
    pub(super) fn finish(&self) -> Finished {
        let mut world = self.world.take();
        let Pending { effects, attachments, timers, others, .. } = self.pending.take();
        for (member, joins) in others {
            if joins {
                world.members.insert(member);
            } else {
                world.members.remove(&member);
            }
        }
        Finished { world, effects, attachments, timers, log: self.log.take() }
    }

    /// The caller's connection, if there is one.
    fn connection(&self) -> Option<&str> {
        self.event.caller.as_ref()?.connection.as_deref()
    }

    /// The caller's connection and identity, for a call that needs a connection.
    fn connected(&self) -> Result<(&str, &Identity)> {
        let connected = self
            .event
            .caller
            .as_ref()
            .and_then(|caller| Some((caller.connection.as_deref()?, &caller.identity)));
        require_caller(connected).map_err(of_host)
    }

    fn push(&self, effect: Effect, bytes: usize) -> Result {
        self.pending.borrow_mut().push(effect, bytes)
    }
}
