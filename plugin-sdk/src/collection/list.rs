//! Reads pages of records, in the order of their ids or of an index.

use super::envelope::Envelope;
use super::handle::Handle;
use super::properties::index_property;
use super::record::Record;
use super::select::{Page, Select, Source};
use super::store::corrupt;
use super::walk::Walk;
use crate::refusal::{Refusal, Result};

/// A page ends when its stored records have this many bytes. This is far below the 1 MiB that the
/// effects of one event can have, whatever the size of the records.
const PAGE_BYTES: usize = 256 * 1024;

/// A page ends after this many entries, also if they are those of expired records. It bounds the
/// time of an event.
const PAGE_ENTRIES: u32 = 1000;

/// A query of an index converts up to this many records that another version has stored without
/// their entries. There are some after two versions have served at the same time. It is few,
/// because the handler of the query needs its effects for itself.
const CONVERTED: u32 = 8;

impl<R: Record> Handle<'_, R> {
    /// Returns a page of `select`.
    pub(super) fn list(&self, select: &Select<R>) -> Result<Page<R>> {
        let max = Select::<R>::MAX_LIMIT;
        if !(1..=max).contains(&select.limit) {
            let message = format!("a page has 1 to {max} records, not {}", select.limit);
            return Err(Refusal::misuse(message));
        }
        let state = self.store.state();
        let mut walk = match &select.source {
            Source::Records => select.walk(state, self.store.names.records()).of_large_values(),
            Source::Index(index) => {
                if !self.is_complete(index)? {
                    return Ok(Page { items: Vec::new(), next: None });
                }
                select.walk(state, self.store.names.index(index))
            }
        };
        let mut page = Page { items: Vec::new(), next: None };
        let (mut left, mut bytes, mut entries) = (select.limit, 0, 0);
        let mut last = None;
        // One entry more than fits shows whether there is another page.
        while let Some((text, value)) = walk.next(left.saturating_add(1))? {
            if left == 0 || bytes >= PAGE_BYTES || entries >= PAGE_ENTRIES {
                page.next = last;
                break;
            }
            entries += 1;
            let record = match &select.source {
                Source::Records => self.visible(&text, &value, |_| Ok(()))?,
                Source::Index(index) => self.indexed(index, &text, &value)?,
            };
            if let Some((record, size)) = record {
                left -= 1;
                bytes += size;
                page.items.push(record);
            }
            last = Some(text);
        }
        Ok(page)
    }

    /// Returns the record with its size, or `None` if it has expired.
    fn visible(
        &self,
        id: &str,
        bytes: &[u8],
        check: impl FnOnce(&Envelope<'_>) -> Result,
    ) -> Result<Option<(R, usize)>> {
        let stored = self.store.open(id, bytes)?;
        check(&stored)?;
        if stored.is_expired(self.store.ctx.received_at()) {
            return Ok(None);
        }
        Ok(Some((self.decode(id, &stored)?, bytes.len())))
    }

    /// Returns the record to which the entry `text` of an index belongs.
    fn indexed(&self, index: &str, text: &str, value: &[u8]) -> Result<Option<(R, usize)>> {
        let entry = format!("{}{text}", self.store.names.index(index));
        let stray = || {
            corrupt(format!(
                "the index entry `{entry}` has no record: the keys of the collection were changed \
                 by other means"
            ))
        };
        let id: String = self.store.state().decode(&entry, value)?;
        let bytes = self.store.read(&id)?.ok_or_else(stray)?;
        self.visible(&id, &bytes, |stored| {
            let key = text.strip_suffix(&id).unwrap_or_default();
            let is_key = |keys: &Vec<String>| keys.iter().any(|known| known == key);
            if stored.keys.get(index).is_some_and(is_key) { Ok(()) } else { Err(stray()) }
        })
    }

    /// Returns whether the index has the entries of all records, and `false` if the collection is
    /// new. Adds the last few that are missing.
    ///
    /// # Errors
    /// `unavailable`: more are missing. `corrupt_state`: one is missing of a record that this
    /// version can't read. `misuse`: the collection does not declare the index.
    fn is_complete(&self, index: &str) -> Result<bool> {
        let (store, name) = (&self.store, self.store.names.0);
        if !store.shape.indexes.contains(index) {
            let message = format!("the collection `{name}` does not declare this index, `{index}`");
            return Err(Refusal::misuse(message));
        }
        let Some(properties) = store.properties()? else { return Ok(false) };
        let property = index_property(index);
        if !properties.holds.contains(&property) {
            return Err(self.incomplete(index));
        }
        let mut missing = Walk::new(store.state(), store.names.exceptions_of(&property));
        let mut ids = Vec::new();
        while let Some((id, _)) = missing.next(CONVERTED + 1)? {
            if ids.len() >= CONVERTED as usize {
                return Err(self.incomplete(index));
            }
            ids.push(id);
        }
        for id in ids {
            match self.resolve(&property, &id)? {
                Some(writes) => store.write(&writes)?,
                // Refuses, unless the record has expired: then no query returns it.
                None => drop(self.get(&id)?),
            }
        }
        Ok(true)
    }

    fn incomplete(&self, index: &str) -> Refusal {
        let name = self.store.names.0;
        self.store.ctx.warn(format_args!(
            "the index `{index}` of the collection `{name}` does not have all records yet: it can \
             be read when `Collection::migrate` has finished"
        ));
        Refusal::new("unavailable", format!("the index `{index}` of `{name}` is being built"))
    }
}
