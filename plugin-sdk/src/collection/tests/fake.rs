//! A host for tests of collections: a store with optimistic transactions, as that of the real host.
//! A transaction that has read something which was changed meanwhile is not committed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::Value;
use sockhop_core::ack::AckRequest;
use sockhop_core::delivery::Delivery;
use sockhop_core::effect::{EffectLimits, Target, Who};
use sockhop_core::outbound::{Request, Response};
use sockhop_core::{limits, state};

use crate::connection::{Connection, MemberCount};
use crate::context::Context;
use crate::event::Event;
use crate::host::{
    ConnectionCalls, DeliverCalls, EmitterCalls, Entry, HttpCalls, IdentityCalls, LogCalls,
    MemberCalls, ReplyCalls, RoomCalls, SettingCalls, StateCalls, TimerCalls,
};
use crate::level::Level;
use crate::refusal::{Refusal, Result};
use crate::timer::FiredTimer;

/// The stored entries. Each has the number of the commit that has written it.
#[derive(Debug, Clone, Default)]
pub(super) struct Db {
    entries: Rc<BTreeMap<String, (Vec<u8>, u64)>>,
    commits: u64,
    /// How often each key was set.
    pub(super) sets: BTreeMap<String, u32>,
}

/// What one run of a handler has read and wants to write.
pub(super) struct Transaction {
    snapshot: Db,
    writes: RefCell<BTreeMap<String, Option<Vec<u8>>>>,
    /// First and last key of each range that was read.
    reads: RefCell<Vec<(String, String)>>,
    now: u64,
    /// The number of writes after which the host refuses all others.
    pub(super) writes_left: Cell<usize>,
}

/// Greater than every key.
const LAST: &str = "\u{10ffff}";

impl Db {
    /// All values, which are JSON.
    pub(super) fn values(&self) -> BTreeMap<String, Value> {
        let value = |bytes: &[u8]| serde_json::from_slice(bytes).expect("JSON");
        self.entries.iter().map(|(key, (bytes, _))| (key.clone(), value(bytes))).collect()
    }

    /// Runs a handler at `now`. Nothing is stored before [`commit`](Self::commit).
    pub(super) fn run<T>(
        &self,
        now: u64,
        handler: impl FnOnce(&Context) -> Result<T>,
    ) -> (Result<T>, Rc<Transaction>) {
        self.run_with(now, usize::MAX, handler)
    }

    /// As [`run`](Self::run), with a host that refuses all writes after the first few.
    pub(super) fn run_with<T>(
        &self,
        now: u64,
        writes: usize,
        handler: impl FnOnce(&Context) -> Result<T>,
    ) -> (Result<T>, Rc<Transaction>) {
        let transaction = Rc::new(Transaction {
            snapshot: self.clone(),
            writes: RefCell::default(),
            reads: RefCell::default(),
            now,
            writes_left: Cell::new(writes),
        });
        let event = Event {
            name: "event".to_owned(),
            data: String::new(),
            attachments: Vec::new(),
            caller: None,
        };
        let mut value = None;
        let result = Context::run(event, Box::new(Rc::clone(&transaction)), |ctx, _| {
            value = Some(handler(ctx)?);
            Ok(None)
        });
        (result.map(|_| value.expect("the handler has returned `Ok`")), transaction)
    }

    /// Stores what a handler has written. Returns `false` and stores nothing if something that it
    /// has read was changed meanwhile.
    pub(super) fn commit(&mut self, transaction: &Transaction) -> bool {
        let seen = |db: &Self, from: &String, to: &String| -> Vec<(String, u64)> {
            if from > to {
                return Vec::new();
            }
            let range = db.entries.range(from.clone()..=to.clone());
            range.map(|(key, (_, commit))| (key.clone(), *commit)).collect()
        };
        let reads = transaction.reads.borrow();
        let is_valid = reads
            .iter()
            .all(|(from, to)| seen(self, from, to) == seen(&transaction.snapshot, from, to));
        let writes = transaction.writes.borrow();
        if writes.is_empty() {
            return true;
        }
        if !is_valid {
            return false;
        }
        self.commits += 1;
        let entries = Rc::make_mut(&mut self.entries);
        for (key, value) in writes.iter() {
            match value {
                Some(value) => {
                    *self.sets.entry(key.clone()).or_default() += 1;
                    entries.insert(key.clone(), (value.clone(), self.commits));
                }
                None => {
                    entries.remove(key);
                }
            }
        }
        true
    }

    /// Runs a handler at `now` and stores what it has written, if it has returned `Ok`.
    pub(super) fn handle<T>(
        &mut self,
        now: u64,
        handler: impl FnOnce(&Context) -> Result<T>,
    ) -> Result<T> {
        let (result, transaction) = self.run(now, handler);
        if result.is_ok() {
            assert!(self.commit(&transaction), "nothing has changed meanwhile");
        }
        result
    }
}

impl Transaction {
    /// Number of keys that were written.
    pub(super) fn writes(&self) -> usize {
        self.writes.borrow().len()
    }

    fn write(&self, key: &str, value: Option<&[u8]>) -> Result {
        let left = self.writes_left.get();
        if left == 0 {
            return Err(Refusal::new("limit", "the test refuses this write"));
        }
        self.writes_left.set(left - 1);
        check(state::check_key(key, limits::STATE_KEY_BYTES))?;
        check(state::check_value(value.map_or(0, <[u8]>::len), limits::STATE_VALUE_BYTES))?;
        let mut writes = self.writes.borrow_mut();
        writes.insert(key.to_owned(), value.map(<[u8]>::to_vec));
        let bytes =
            writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len));
        let checked = EffectLimits::default().check(writes.len(), bytes.sum::<usize>() as u64);
        checked.map_err(|refusal| Refusal::new(refusal.code, refusal.message))
    }
}

fn check(checked: Result<(), state::StateError>) -> Result {
    checked.map_err(|error| {
        let refusal = sockhop_core::rejection::Refusal::from(error);
        Refusal::new(refusal.code, refusal.message)
    })
}

impl StateCalls for Rc<Transaction> {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        check(state::check_key(key, limits::STATE_KEY_BYTES))?;
        if let Some(own) = self.writes.borrow().get(key) {
            return Ok(own.clone());
        }
        self.reads.borrow_mut().push((key.to_owned(), key.to_owned()));
        Ok(self.snapshot.entries.get(key).map(|(value, _)| value.clone()))
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        self.write(key, Some(value))
    }

    fn delete(&self, key: &str) -> Result {
        self.write(key, None)
    }

    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        check(state::check_scan(limit))?;
        let is_after = |key: &str| match cursor {
            Some(cursor) if backwards => key < cursor,
            Some(cursor) => key > cursor,
            None => true,
        };
        let below = prefix.to_owned()..=format!("{prefix}{LAST}");
        let own = self.writes.borrow();
        let stored = self.snapshot.entries.range(below.clone());
        let stored = stored.filter(|(key, _)| is_after(key) && !own.contains_key(*key));
        let mut found: Vec<Entry> =
            stored.map(|(key, (value, _))| (key.clone(), value.clone())).collect();
        let written = own.range(below).filter(|(key, _)| is_after(key));
        found.extend(written.filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
        found.sort();
        if backwards {
            found.reverse();
        }
        let is_cut = found.len() > limit as usize;
        found.truncate(limit as usize);
        let end = found.last().map(|(key, _)| key.clone()).filter(|_| is_cut);
        let (mut from, mut to) = (prefix.to_owned(), format!("{prefix}{LAST}"));
        if backwards {
            to = cursor.map_or(to.clone(), |cursor| to.min(cursor.to_owned()));
            from = end.unwrap_or(from);
        } else {
            from = cursor.map_or(from.clone(), |cursor| from.max(format!("{cursor}\0")));
            to = end.unwrap_or(to);
        }
        self.reads.borrow_mut().push((from, to));
        let bytes: usize = found.iter().map(|(key, value)| key.len() + value.len()).sum();
        let max = limits::HOST_CALL_BYTES;
        if bytes > max {
            check(Err(state::StateError::LargeScan { max }))?;
        }
        Ok(found)
    }

    fn next_id(&self, _: &str) -> Result<u64> {
        unreachable!("no test of this host calls it")
    }
}

impl IdentityCalls for Rc<Transaction> {
    fn has_role(&self, _: &str) -> bool {
        false
    }

    fn claims(&self) -> String {
        String::new()
    }

    fn auth(&self) -> Result<String> {
        unreachable!("{UNUSED}")
    }

    fn query(&self) -> Result<Option<Vec<(String, String)>>> {
        unreachable!("{UNUSED}")
    }

    fn sid(&self) -> String {
        String::new()
    }

    fn event_id(&self) -> String {
        String::new()
    }

    fn received_at(&self) -> u64 {
        self.now
    }

    fn disconnect(&self, _: &str) {}
}

impl LogCalls for Rc<Transaction> {
    fn log(&self, _: Level, _: &str) {}
}

/// A collection calls nothing of these.
const UNUSED: &str = "a collection does not call this";

impl EmitterCalls for Rc<Transaction> {
    fn emit(&self, _: Target, _: &str, _: &str, _: &[Vec<u8>]) -> Result {
        unreachable!("{UNUSED}")
    }

    fn emit_volatile(&self, _: Target, _: &str, _: &str, _: &[Vec<u8>]) -> Result {
        unreachable!("{UNUSED}")
    }

    fn emit_with_ack(&self, _: &str, _: &str, _: &[Vec<u8>], _: AckRequest) -> Result<String> {
        unreachable!("{UNUSED}")
    }
}

impl ReplyCalls for Rc<Transaction> {
    fn attach(&self, _: &[u8]) -> Result<u32> {
        unreachable!("{UNUSED}")
    }
}

impl RoomCalls for Rc<Transaction> {
    fn join(&self, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn leave(&self, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn room_size(&self, _: &str) -> u32 {
        unreachable!("{UNUSED}")
    }

    fn rooms(&self) -> Vec<String> {
        unreachable!("{UNUSED}")
    }
}

impl MemberCalls for Rc<Transaction> {
    fn member_ids(&self, _: &str, _: Option<&str>, _: u32) -> Result<Vec<String>> {
        unreachable!("{UNUSED}")
    }

    fn member_count(&self, _: &str) -> Result<MemberCount> {
        unreachable!("{UNUSED}")
    }

    fn join_member(&self, _: Who, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn remove_member(&self, _: Who, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn members(&self, _: &str, _: Option<&str>, _: u32) -> Result<Vec<Connection>> {
        unreachable!("{UNUSED}")
    }
}

impl ConnectionCalls for Rc<Transaction> {
    fn connections(&self, _: Option<&str>, _: u32) -> Result<Vec<Connection>> {
        unreachable!("{UNUSED}")
    }
}

impl SettingCalls for Rc<Transaction> {
    fn setting(&self, _: &str) -> Option<String> {
        unreachable!("{UNUSED}")
    }

    fn setting_names(&self) -> Vec<String> {
        unreachable!("{UNUSED}")
    }
}

impl TimerCalls for Rc<Transaction> {
    fn set_timer_after(&self, _: &str, _: u64, _: &str, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn set_timer_at(&self, _: &str, _: u64, _: &str, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn cancel_timer(&self, _: &str, _: &str) -> Result {
        unreachable!("{UNUSED}")
    }

    fn current_timer(&self) -> Option<FiredTimer> {
        unreachable!("{UNUSED}")
    }
}

impl HttpCalls for Rc<Transaction> {
    fn send(&self, _: Request) -> Result<Response> {
        unreachable!("{UNUSED}")
    }
}

impl DeliverCalls for Rc<Transaction> {
    fn deliver(&self, _: Delivery) -> Result<String> {
        unreachable!("{UNUSED}")
    }
}
