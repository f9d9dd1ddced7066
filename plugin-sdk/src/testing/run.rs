//! One native run of a handler: it answers the handler's calls and holds back its effects.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use serde_json::Value;
use sockhop_core::effect::{
    EffectLimits, Target, check_page, check_room_count, emit_bytes, require_caller,
};
use sockhop_core::identity::Identity;
use sockhop_core::limits;
use sockhop_core::rejection::{Rejection, truncate};
use sockhop_core::state::{self, StateError};

use super::declared::Declared;
use super::outcome::{Effect, of_host};
use crate::connection::Connection;
use crate::host::{Entry, Host};
use crate::level::Level;
use crate::refusal::{Refusal, Result};

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

/// The connection that caused an event.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) connection: String,
    pub(super) identity: Identity,
}

/// One run of a handler. It has its own copy of the world, which the test host takes over if the
/// handler returns `Ok`.
pub(super) struct Run {
    declared: Rc<Declared>,
    caller: Option<Caller>,
    now: u64,
    number: u64,
    world: RefCell<World>,
    pending: RefCell<Pending>,
}

/// What a run holds back, for the limits of one event.
#[derive(Default)]
struct Pending {
    effects: Vec<Effect>,
    /// Bytes of the effects.
    bytes: usize,
    /// The keys that were written, with the bytes of key and value.
    written: BTreeMap<String, usize>,
}

impl Pending {
    /// Checks whether `more` effects of `bytes` may be held back.
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

    /// Records that `key` is written, with a value of `value` bytes.
    fn write(&mut self, key: &str, value: usize) {
        self.written.insert(key.to_owned(), key.len() + value);
    }
}

impl Run {
    pub(super) fn new(
        declared: Rc<Declared>,
        caller: Option<Caller>,
        now: u64,
        number: u64,
        world: World,
    ) -> Self {
        Self {
            declared,
            caller,
            now,
            number,
            world: RefCell::new(world),
            pending: RefCell::default(),
        }
    }

    /// Returns the world as the handler left it, and the handler's effects.
    pub(super) fn finish(&self) -> (World, Vec<Effect>) {
        (self.world.take(), self.pending.take().effects)
    }

    fn caller(&self) -> Result<&Caller> {
        require_caller(self.caller.as_ref()).map_err(of_host)
    }

    fn push(&self, effect: Effect, bytes: usize) -> Result {
        self.pending.borrow_mut().push(effect, bytes)
    }

    /// Checks a write of `key` with a value of `value` bytes, as a host does.
    fn check_write(&self, key: &str, value: usize) -> Result {
        let pending = self.pending.borrow();
        let new = usize::from(!pending.written.contains_key(key));
        pending.check(new, key.len() + value)?;
        check_key(key)?;
        state::check_value(value, limits::STATE_VALUE_BYTES).map_err(refused)
    }
}

impl Host for Rc<Run> {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        let attached = attachments.iter().map(Vec::len).sum();
        self.pending.borrow().check(1, data.len() + attached)?;
        let has_sender = self.caller.is_some();
        let value = self
            .declared
            .check_emit(event, &to, data, attachments.len(), has_sender)
            .map_err(of_host)?;
        let bytes = emit_bytes(&to, event, data, attached);
        let (event, attachments) = (event.to_owned(), attachments.to_vec());
        self.push(Effect::Emit { to, event, data: value, attachments }, bytes)
    }

    fn join(&self, room: &str) -> Result {
        let Caller { connection, identity } = self.caller()?;
        self.declared.check_join(room, identity).map_err(of_host)?;
        let member = (room.to_owned(), connection.clone());
        if self.world.borrow().members.contains(&member) {
            return Ok(());
        }
        check_room_count(self.rooms().len(), limits::ROOMS).map_err(of_host)?;
        self.push(Effect::Join(room.to_owned()), room.len())?;
        self.world.borrow_mut().members.insert(member);
        Ok(())
    }

    fn leave(&self, room: &str) -> Result {
        let member = (room.to_owned(), self.caller()?.connection.clone());
        if !self.world.borrow().members.contains(&member) {
            return Ok(());
        }
        self.push(Effect::Leave(room.to_owned()), room.len())?;
        self.world.borrow_mut().members.remove(&member);
        Ok(())
    }

    fn room_size(&self, room: &str) -> u32 {
        let count = self.world.borrow().members.iter().filter(|(name, _)| name == room).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn rooms(&self) -> Vec<String> {
        let world = self.world.borrow();
        let own = self.caller.as_ref().map(|caller| &caller.connection);
        let own = world.members.iter().filter(|(_, connection)| Some(connection) == own);
        own.map(|(room, _)| room.clone()).collect()
    }

    fn connections(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        check_page(limit).map_err(of_host)?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let world = self.world.borrow();
        let connections = world
            .connected
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, connection)| connection.clone());
        Ok(connections.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn has_role(&self, role: &str) -> bool {
        self.caller.as_ref().is_some_and(|caller| caller.identity.has_role(role))
    }

    fn claims(&self) -> String {
        self.caller
            .as_ref()
            .map_or_else(|| Value::Null.to_string(), |caller| caller.identity.claims.to_string())
    }

    fn sid(&self) -> String {
        self.caller.as_ref().map_or_else(String::new, |caller| format!("sid-{}", caller.connection))
    }

    fn event_id(&self) -> String {
        format!("01TEST{:020}", self.number)
    }

    fn received_at(&self) -> u64 {
        self.now
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.world.borrow().settings.get(name).cloned()
    }

    fn disconnect(&self, reason: &str) {
        let mut pending = self.pending.borrow_mut();
        // Only the first call counts, and it bypasses the limits of the other effects.
        let is_first =
            !pending.effects.iter().any(|effect| matches!(effect, Effect::Disconnect(_)));
        if is_first && self.caller.is_some() {
            let mut reason = reason.to_owned();
            truncate(&mut reason, Rejection::MAX_MESSAGE);
            pending.effects.push(Effect::Disconnect(reason));
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        Ok(self.world.borrow().state.get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        self.check_write(key, value.len())?;
        self.pending.borrow_mut().write(key, value.len());
        self.world.borrow_mut().state.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &str) -> Result {
        self.check_write(key, 0)?;
        self.pending.borrow_mut().write(key, 0);
        self.world.borrow_mut().state.remove(key);
        Ok(())
    }

    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        state::check_scan(limit).map_err(refused)?;
        let world = self.world.borrow();
        let cursor = cursor.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_owned()));
        let range = if backwards { (Bound::Unbounded, cursor) } else { (cursor, Bound::Unbounded) };
        let entries = world.state.range(range).filter(|(key, _)| key.starts_with(prefix));
        let entries = entries.map(|(key, value)| (key.clone(), value.clone()));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let entries: Vec<Entry> = if backwards {
            entries.rev().take(limit).collect()
        } else {
            entries.take(limit).collect()
        };
        let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        if bytes > limits::HOST_CALL_BYTES {
            return Err(refused(StateError::LargeScan { max: limits::HOST_CALL_BYTES }));
        }
        Ok(entries)
    }

    fn next_id(&self, sequence: &str) -> Result<u64> {
        state::check_sequence(sequence).map_err(refused)?;
        let mut world = self.world.borrow_mut();
        let is_full = world.sequences.len() >= state::MAX_SEQUENCES as usize;
        if is_full && !world.sequences.contains_key(sequence) {
            return Err(refused(StateError::TooManySequences));
        }
        let last = world.sequences.entry(sequence.to_owned()).or_default();
        *last += 1;
        Ok(*last)
    }

    fn log(&self, level: Level, message: &str) {
        self.world.borrow_mut().log.push((level, message.to_owned()));
    }
}

fn check_key(key: &str) -> Result {
    state::check_key(key, limits::STATE_KEY_BYTES).map_err(refused)
}

/// The refusal of a call of the state.
fn refused(error: StateError) -> Refusal {
    of_host(error.into())
}
