//! One native run of a handler: it answers the handler's calls and holds back its effects.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;

use serde_json::Value;

use super::client::Client;
use super::declared::Declared;
use super::outcome::Effect;
use crate::connection::Connection;
use crate::context::Context;
use crate::host::{Entry, Host};
use crate::level::Level;
use crate::refusal::{Refusal, Result};
use crate::state::Scan;
use crate::target::Target;

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

/// One run of a handler. It has its own copy of the world, which the test host takes over if the
/// handler returns `Ok`.
pub(super) struct Run {
    declared: Rc<Declared>,
    connection: Option<String>,
    client: Client,
    now: u64,
    number: u64,
    world: RefCell<World>,
    effects: RefCell<Vec<Effect>>,
}

impl Run {
    pub(super) fn new(
        declared: Rc<Declared>,
        connection: Option<String>,
        client: Option<Client>,
        now: u64,
        number: u64,
        world: World,
    ) -> Self {
        let client = client.unwrap_or_default();
        Self {
            declared,
            connection,
            client,
            now,
            number,
            world: RefCell::new(world),
            effects: RefCell::default(),
        }
    }

    /// Returns the world as the handler left it, and the handler's effects.
    pub(super) fn finish(&self) -> (World, Vec<Effect>) {
        (self.world.take(), self.effects.take())
    }

    fn connection(&self) -> Result<&str> {
        self.connection.as_deref().ok_or_else(|| Refusal::misuse("no connection caused this event"))
    }

    fn done(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

impl Host for Rc<Run> {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        match &to {
            Target::Sender | Target::Connection(_) => self.declared.may_emit(event, &[])?,
            Target::Rooms(rooms) | Target::RoomsButSender(rooms) => {
                self.declared.may_emit(event, rooms)?
            }
            Target::Everyone => self.declared.may_emit(event, &["*".to_owned()])?,
        }
        if matches!(to, Target::Sender | Target::RoomsButSender(_)) {
            self.connection()?;
        }
        let data: Value = serde_json::from_str(data)
            .map_err(|error| Refusal::new("invalid_data", error.to_string()))?;
        self.done(Effect::Emit {
            to,
            event: event.to_owned(),
            data,
            attachments: attachments.to_vec(),
        });
        Ok(())
    }

    fn join(&self, room: &str) -> Result {
        let connection = self.connection()?;
        self.declared.may_join(room, self.client.user.as_deref(), &self.client.roles)?;
        if self.world.borrow_mut().members.insert((room.to_owned(), connection.to_owned())) {
            self.done(Effect::Join(room.to_owned()));
        }
        Ok(())
    }

    fn leave(&self, room: &str) -> Result {
        let connection = self.connection()?;
        if self.world.borrow_mut().members.remove(&(room.to_owned(), connection.to_owned())) {
            self.done(Effect::Leave(room.to_owned()));
        }
        Ok(())
    }

    fn room_size(&self, room: &str) -> u32 {
        let count = self.world.borrow().members.iter().filter(|(name, _)| name == room).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn rooms(&self) -> Vec<String> {
        let world = self.world.borrow();
        let mine = world
            .members
            .iter()
            .filter(|(_, connection)| Some(connection) == self.connection.as_ref());
        mine.map(|(room, _)| room.clone()).collect()
    }

    fn connections(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
        if !(1..=Context::MAX_CONNECTIONS).contains(&limit) {
            return Err(Refusal::misuse(format!(
                "a page has 1 to {} connections",
                Context::MAX_CONNECTIONS
            )));
        }
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let world = self.world.borrow();
        let connections = world
            .connected
            .range::<str, _>((from, Bound::Unbounded))
            .map(|(_, connection)| connection.clone());
        Ok(connections.take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn has_role(&self, role: &str) -> bool {
        self.client.user.is_some() && self.client.roles.contains(role)
    }

    fn claims(&self) -> String {
        self.client.claims.to_string()
    }

    fn sid(&self) -> String {
        self.connection.as_ref().map_or_else(String::new, |connection| format!("sid-{connection}"))
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
        if self.connection.is_some() {
            self.done(Effect::Disconnect(reason.to_owned()));
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check_key(key)?;
        Ok(self.world.borrow().state.get(key).cloned())
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        check_key(key)?;
        self.world.borrow_mut().state.insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    fn delete(&self, key: &str) -> Result {
        check_key(key)?;
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
        if !(1..=Scan::MAX_LIMIT).contains(&limit) {
            return Err(Refusal::misuse(format!(
                "a scan returns 1 to {} entries",
                Scan::MAX_LIMIT
            )));
        }
        let world = self.world.borrow();
        let cursor = cursor.map_or(Bound::Unbounded, |key| Bound::Excluded(key.to_owned()));
        let range = if backwards { (Bound::Unbounded, cursor) } else { (cursor, Bound::Unbounded) };
        let entries = world.state.range(range).filter(|(key, _)| key.starts_with(prefix));
        let entries = entries.map(|(key, value)| (key.clone(), value.clone()));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(if backwards {
            entries.rev().take(limit).collect()
        } else {
            entries.take(limit).collect()
        })
    }

    fn next_id(&self, sequence: &str) -> Result<u64> {
        if sequence.is_empty() || sequence.len() > 128 {
            return Err(Refusal::misuse("a sequence's name has 1 to 128 bytes"));
        }
        let mut world = self.world.borrow_mut();
        let last = world.sequences.entry(sequence.to_owned()).or_default();
        *last += 1;
        Ok(*last)
    }

    fn log(&self, level: Level, message: &str) {
        self.world.borrow_mut().log.push((level, message.to_owned()));
    }
}

fn check_key(key: &str) -> Result {
    if key.is_empty() { Err(Refusal::misuse("a key is not empty")) } else { Ok(()) }
}
