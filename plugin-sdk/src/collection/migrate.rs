//! Migrations: batch by batch, all records get the properties of this version.
//!
//! Each batch is one event, so it is stored as a whole or not at all, together with the place where
//! the next one begins. A migration has two parts. The first visits each record, in the order of
//! the ids. The second visits the exceptions: the marks of records that lack a property
//! (`properties`). Marks are left by an older version that stores a record which the first part has
//! passed already, by the first part itself for records in a newer format, and by earlier
//! migrations.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::handle::Handle;
use super::plan::{Write, marks};
use super::properties::Properties;
use super::record::Record;
use super::walk::Walk;
use crate::json::encode;
use crate::progress::Progress;
use crate::refusal::{Refusal, Result};

/// A batch ends after its first part has read this many bytes of records. The exceptions do not
/// count: they are few, and only their number and their writes are bounded.
const BATCH_READS: usize = 4 * 1024 * 1024;

/// A migration that has begun, as it is stored between two batches.
#[derive(Debug, Serialize, Deserialize)]
struct Migration {
    /// The properties that it gives to the records. If they are not those of this version, another
    /// version has begun it, and this one begins anew.
    to: BTreeSet<String>,
    part: Part,
    /// The text of the last entry that was visited in this part.
    cursor: Option<String>,
    done: u64,
    total: u64,
    newer: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    Records,
    /// The exceptions after the records.
    Exceptions,
    /// Only the exceptions, because the records have the properties already.
    OnlyExceptions,
}

/// Checks the limit of a batch, which would never end without an entry.
///
/// # Errors
/// `misuse`.
pub(super) fn check_batch(limit: u32) -> Result {
    if limit > 0 { Ok(()) } else { Err(Refusal::misuse("the limit of a batch is at least 1")) }
}

/// What a batch may still do.
struct Batch {
    records: u32,
    bytes: usize,
}

impl Batch {
    /// Counts one visited entry.
    fn visit(&mut self, bytes: usize) {
        self.records = self.records.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn is_over(&self) -> bool {
        self.records == 0 || self.bytes == 0
    }
}

impl Migration {
    fn new(to: BTreeSet<String>, part: Part, total: u64) -> Self {
        Self { to, part, cursor: None, done: 0, total, newer: 0 }
    }

    /// Records that an entry was visited. An exception after the records does not count: its record
    /// was counted in the first part. If only exceptions are visited, each mark counts, and again
    /// if they are visited once more.
    fn visited(&mut self, text: String) {
        self.cursor = Some(text);
        if self.part != Part::Exceptions {
            self.done += 1;
        }
    }

    /// Lets the next batch visit all exceptions once more.
    fn begin_again(&mut self) {
        self.cursor = None;
        // After the records, `newer` has those that the first part has counted.
        if self.part == Part::OnlyExceptions {
            self.newer = 0;
        }
    }

    fn progress(&self) -> Progress {
        // Records are added and removed meanwhile, so the total is an estimate. It is more than
        // `done`, because the migration has not finished.
        let total = self.total.max(self.done.saturating_add(1));
        Progress { done: self.done, total, newer: self.newer }
    }

    fn finished(&self) -> Progress {
        Progress { done: self.done, total: self.done, newer: self.newer }
    }
}

impl<R: Record> Handle<'_, R> {
    /// Runs one batch, which visits up to `limit` records or exceptions.
    ///
    /// # Errors
    /// `misuse`, or the reason why something can't be read or written. If the handler ignores it,
    /// what was converted is stored, and the next batch begins where this one has begun.
    pub(super) fn migrate(&self, limit: u32) -> Result<Progress> {
        let store = &self.store;
        check_batch(limit)?;
        // `None`: no record was ever stored.
        let Some(mut properties) = store.properties()? else { return Ok(Progress::default()) };
        let wanted = store.shape.properties();
        let key = store.names.migration();
        let mut batch = Batch { records: limit, bytes: BATCH_READS };
        let begun: Option<Migration> = store.state().get(&key)?;
        let mut migration = match begun {
            Some(begun) if begun.to == wanted => begun,
            None if properties == Properties::of(wanted.clone()) => {
                let total = store.count()?;
                let mut exceptions = Walk::new(store.state(), store.names.exceptions());
                if exceptions.next(1)?.is_none() {
                    return Ok(Progress { done: total, total, newer: 0 });
                }
                Migration::new(wanted, Part::OnlyExceptions, 0)
            }
            // No migration has begun, and the records have other properties. Or another version has
            // begun one. This migration begins with the first part.
            _ => {
                properties = properties.begin(&wanted);
                self.set_properties(&properties)?;
                Migration::new(wanted, Part::Records, store.count()?)
            }
        };
        if migration.part == Part::Records
            && self.visit_records(&properties, &mut migration, &mut batch)?
        {
            properties = Properties::of(migration.to.clone());
            self.set_properties(&properties)?;
            migration = Migration { part: Part::Exceptions, cursor: None, ..migration };
        }
        // In the same batch, if anything is left of it.
        let is_over = migration.part != Part::Records
            && self.visit_exceptions(&properties, &mut migration, &mut batch)?;
        let stored = if is_over { None } else { Some(encode(&migration)?) };
        store.write(&[(key, stored)])?;
        Ok(if is_over { migration.finished() } else { migration.progress() })
    }

    fn set_properties(&self, properties: &Properties) -> Result {
        self.store.write(&[(self.store.names.properties(), Some(encode(properties)?))])
    }

    /// Visits records. Returns whether none is left.
    fn visit_records(
        &self,
        properties: &Properties,
        migration: &mut Migration,
        batch: &mut Batch,
    ) -> Result<bool> {
        let store = &self.store;
        let mut records = Walk::new(store.state(), store.names.records())
            .of_large_values()
            .after(migration.cursor.as_deref());
        while !batch.is_over() {
            let Some((id, bytes)) = records.next(batch.records)? else { return Ok(true) };
            let stored = store.open(&id, &bytes)?;
            let is_newer = store.is_newer(&stored);
            let writes = if is_newer {
                marks(store.names, properties, &id, None, Some(&stored))
            } else if stored.is_current(&store.shape) {
                Vec::new()
            } else {
                self.convert(&id, &stored)?
            };
            if !store.fits(&writes) {
                return Ok(false);
            }
            store.write(&writes)?;
            migration.newer += u64::from(is_newer);
            migration.visited(id);
            batch.visit(bytes.len());
        }
        Ok(false)
    }

    /// Visits exceptions. Returns whether all were visited since another version has last marked
    /// one. Those that are left belong to records in a newer format.
    fn visit_exceptions(
        &self,
        properties: &Properties,
        migration: &mut Migration,
        batch: &mut Batch,
    ) -> Result<bool> {
        let store = &self.store;
        let is_first = migration.cursor.is_none();
        // Without a mark, nothing is written: the first exception then fits whatever it takes.
        if is_first && store.state().get_bytes(&store.names.marked())?.is_some() {
            store.write(&[(store.names.marked(), None)])?;
        }
        let mut exceptions =
            Walk::new(store.state(), store.names.exceptions()).after(migration.cursor.as_deref());
        while !batch.is_over() {
            let Some((text, _)) = exceptions.next(batch.records)? else {
                // In one event, all exceptions are seen at the same time. Between two events,
                // another event may mark one in the part that was visited already. Whoever marks a
                // record also sets `marked`.
                let is_over = is_first || store.state().get_bytes(&store.names.marked())?.is_none();
                if !is_over {
                    migration.begin_again();
                }
                return Ok(is_over);
            };
            // The name of a property contains no `/`.
            let (property, id) = text.split_once('/').unwrap_or_default();
            let writes = if properties.holds.contains(property) {
                self.resolve(property, id)?
            } else {
                Some(vec![(store.names.exception(property, id), None)])
            };
            match writes {
                Some(writes) if !store.fits(&writes) => return Ok(false),
                Some(writes) => store.write(&writes)?,
                None if migration.part == Part::OnlyExceptions => {
                    migration.newer +=
                        u64::from(self.is_first_exception(properties, property, id)?);
                }
                None => {}
            }
            migration.visited(text);
            batch.visit(0);
        }
        Ok(false)
    }

    /// Whether `property` is the first that the record lacks. So a record with several marks counts
    /// once.
    fn is_first_exception(
        &self,
        properties: &Properties,
        property: &str,
        id: &str,
    ) -> Result<bool> {
        // The record exists: `resolve` removes the mark of one that does not.
        let Some(bytes) = self.store.read(id)? else { return Ok(false) };
        let stored = self.store.open(id, &bytes)?;
        Ok(properties
            .holds
            .iter()
            .find(|known| !stored.has(known))
            .is_some_and(|first| first == property))
    }

    /// Returns the writes that give a record a property for which it is marked as an exception, and
    /// remove the mark: `convert` removes all marks of properties that hold. Returns `None` if only
    /// a later version can read the record.
    pub(super) fn resolve(&self, property: &str, id: &str) -> Result<Option<Vec<Write>>> {
        let unmark = || Some(vec![(self.store.names.exception(property, id), None)]);
        let Some(bytes) = self.store.read(id)? else { return Ok(unmark()) };
        let stored = self.store.open(id, &bytes)?;
        if stored.has(property) {
            Ok(unmark())
        } else if self.store.is_newer(&stored) {
            Ok(None)
        } else {
            self.convert(id, &stored).map(Some)
        }
    }
}
