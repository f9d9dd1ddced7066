//! One collection in one event, without the type of its records: reads and writes what is stored.

use std::borrow::Cow;

use super::envelope::Envelope;
use super::layout::{LAYOUT, Layout};
use super::names::{Names, SHARDS, check_entry};
use super::plan::{Write, replace};
use super::properties::{Properties, Shape};
use super::walk::Walk;
use crate::context::Context;
use crate::json::encode;
use crate::refusal::{Refusal, Result};
use crate::state::State;

/// Maximum number of keys that batches (migrations and sweeps) write in one event. The host allows
/// 256 effects; the others are left to the handler.
const BATCH_KEYS: usize = 192;

/// Maximum bytes of these keys and of their values. The host allows 1 MiB.
const BATCH_BYTES: usize = 512 * 1024;

/// Maximum number of keys of one record in all indexes. Another version may replace all of them:
/// twice as many writes, and a few more, must fit into one event.
const MAX_ENTRIES: usize = 100;

/// One collection in one event.
pub(super) struct Store<'a> {
    pub(super) ctx: &'a Context,
    pub(super) names: Names,
    pub(super) shape: Shape,
}

impl<'a> Store<'a> {
    pub(super) fn state(&self) -> State<'a> {
        self.ctx.state()
    }

    /// Returns the stored bytes of a record.
    pub(super) fn read(&self, id: &str) -> Result<Option<Vec<u8>>> {
        self.state().get_bytes(&self.names.record(id))
    }

    /// Reads what is stored around a record, whatever its format.
    ///
    /// # Errors
    /// `corrupt_state`: it is not a record, or a later SDK has stored it.
    pub(super) fn open<'b>(&self, id: &str, bytes: &'b [u8]) -> Result<Envelope<'b>> {
        let key = self.names.record(id);
        let parsed = serde_json::from_slice::<Envelope<'_>>(bytes);
        if let Ok(envelope) = parsed
            && envelope.layout <= LAYOUT
        {
            return Ok(envelope);
        }
        self.check_layout(&key, bytes)?;
        Err(corrupt(format!("`{key}` is not a record of the collection `{}`", self.names.0)))
    }

    /// Checks that this SDK knows the layout of a stored value.
    fn check_layout(&self, key: &str, bytes: &[u8]) -> Result {
        let Layout { layout } = self.state().decode(key, bytes)?;
        if layout <= LAYOUT {
            return Ok(());
        }
        Err(corrupt(format!(
            "`{key}` has layout {layout}, and the SDK of this version of the plugin knows layouts \
             up to {LAYOUT}: deploy the version that has stored it, or a later one"
        )))
    }

    /// Checks that this version can read the record.
    ///
    /// # Errors
    /// `corrupt_state`: its format is newer than that of this version.
    pub(super) fn check_format(&self, id: &str, record: &Envelope<'_>) -> Result {
        if !self.is_newer(record) {
            return Ok(());
        }
        Err(corrupt(format!(
            "the record `{}` of the collection `{}` has format {}, and this version of the plugin \
             reads formats up to {}: deploy the version that has stored it, or a later one",
            self.names.record(id),
            self.names.0,
            record.format,
            self.shape.format,
        )))
    }

    /// Whether only a later version of the plugin can read the record.
    pub(super) fn is_newer(&self, record: &Envelope<'_>) -> bool {
        record.format > self.shape.format
    }

    /// Returns the properties that the records have now: migrations change them. `None` if the
    /// collection is new: no version has stored anything yet.
    ///
    /// # Errors
    /// `corrupt_state`: a later SDK has stored them.
    pub(super) fn properties(&self) -> Result<Option<Properties>> {
        let key = self.names.properties();
        if let Some(bytes) = self.state().get_bytes(&key)? {
            self.check_layout(&key, &bytes)?;
            return self.state().decode(&key, &bytes).map(Some);
        }
        // Records without properties were copied from elsewhere, perhaps without their index
        // entries. So no property is known to hold for all of them.
        let mut records = Walk::new(self.state(), self.names.records()).of_large_values();
        let has_records = records.next(1)?.is_some();
        Ok(has_records.then(|| Properties::of(Default::default())))
    }

    /// Returns the writes that replace the record `old` by `new`, with the count.
    ///
    /// # Errors
    /// `limit`: the key of an index entry is too long, or there are too many.
    pub(super) fn replace(
        &self,
        id: &str,
        old: Option<&Envelope<'_>>,
        new: Option<&Envelope<'_>>,
    ) -> Result<Vec<Write>> {
        let number: usize = new.iter().flat_map(|new| new.keys.values()).map(Vec::len).sum();
        if number > MAX_ENTRIES {
            return Err(Refusal::new(
                "limit",
                format!(
                    "the record `{}` has {number} keys in indexes, and at most {MAX_ENTRIES} are \
                     allowed",
                    self.names.record(id)
                ),
            ));
        }
        for (index, keys) in new.iter().flat_map(|new| &new.keys) {
            for key in keys {
                check_entry(index, &self.names.entry(index, key, id))?;
            }
        }
        let stored = self.properties()?;
        let properties = match &stored {
            Some(stored) => Cow::Borrowed(stored),
            None => Cow::Owned(Properties::of(self.shape.properties())),
        };
        let mut writes = replace(self.names, &properties, id, old, new)?;
        if stored.is_none() && new.is_some() {
            writes.push((self.names.properties(), Some(encode(&*properties)?)));
        }
        match (old, new) {
            (None, Some(_)) => writes.push(self.add_to_count(id, 1)?),
            (Some(_), None) => writes.push(self.add_to_count(id, -1)?),
            _ => {}
        }
        Ok(writes)
    }

    /// Returns the write that changes the count for the record `id`.
    fn add_to_count(&self, id: &str, difference: i64) -> Result<Write> {
        let key = self.names.count(id);
        let count = self.state().get::<u64>(&key)?.unwrap_or(0);
        let count = count.checked_add_signed(difference).ok_or_else(|| {
            corrupt(format!("`{key}` is less than the number of records that it counts"))
        })?;
        Ok((key, (count > 0).then(|| count.to_string())))
    }

    /// Returns the number of stored records, including those that have expired and were not swept.
    pub(super) fn count(&self) -> Result<u64> {
        let mut counts = Walk::new(self.state(), self.names.counts());
        let mut count = 0_u64;
        while let Some((shard, value)) = counts.next(SHARDS as u32 + 1)? {
            let key = format!("{}{shard}", self.names.counts());
            count = count.saturating_add(self.state().decode(&key, &value)?);
        }
        Ok(count)
    }

    /// Makes writes that belong together. If the host refuses one after others, the event fails,
    /// whatever the handler returns.
    ///
    /// # Errors
    /// See [`State`].
    pub(super) fn write(&self, writes: &[Write]) -> Result {
        for (at, (key, value)) in writes.iter().enumerate() {
            let written = match value {
                Some(value) => self.state().set_bytes(key, value.as_bytes()),
                None => self.state().delete(key),
            };
            written.inspect_err(|refusal| {
                if at > 0 {
                    self.ctx.written().tear(refusal);
                }
            })?;
            self.ctx.written().add(bytes(key, value.as_ref()));
        }
        Ok(())
    }

    /// Whether a batch may make these writes too. Only writes of collections count. The first ones
    /// of an event always fit, so that no record is too large for a batch.
    pub(super) fn fits(&self, writes: &[Write]) -> bool {
        let written = self.ctx.written();
        let more: usize = writes.iter().map(|(key, value)| bytes(key, value.as_ref())).sum();
        written.keys() == 0
            || written.keys() + writes.len() <= BATCH_KEYS && written.bytes() + more <= BATCH_BYTES
    }
}

fn bytes(key: &str, value: Option<&String>) -> usize {
    key.len() + value.map_or(0, String::len)
}

/// A stored value that this version can't read. A handler that passes it on has failed, and the
/// operator sees the message.
pub(super) fn corrupt(message: String) -> Refusal {
    Refusal::new("corrupt_state", message)
}
