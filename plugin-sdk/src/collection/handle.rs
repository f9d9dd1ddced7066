//! One collection in one event, with the type of its records.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use sockhop_core::key::{Key, encode_key};

use super::envelope::Envelope;
use super::index::AnyIndex;
use super::layout::LAYOUT;
use super::names::check_id;
use super::plan::Write;
use super::record::{Older, Record};
use super::store::{Store, corrupt};
use crate::refusal::{Refusal, Result};

/// One collection in one event.
pub(super) struct Handle<'a, R: 'static> {
    pub(super) store: Store<'a>,
    pub(super) indexes: Vec<&'static dyn AnyIndex<R>>,
    /// The time to live of a record, in milliseconds.
    pub(super) lifetime: Option<u64>,
}

/// Returns the text of an id.
///
/// # Errors
/// `limit`: it is too long.
pub(super) fn id_text<K: Key + ?Sized>(id: &K) -> Result<String> {
    let text = encode_key(id);
    check_id(&text)?;
    Ok(text)
}

impl<R: Record> Handle<'_, R> {
    /// Returns the record in `stored`, upgraded to the format of this version.
    ///
    /// # Errors
    /// `corrupt_state`: this version can't read it.
    pub(super) fn decode(&self, id: &str, stored: &Envelope<'_>) -> Result<R> {
        self.store.check_format(id, stored)?;
        let (key, json) = (self.store.names.record(id), stored.record.get());
        let state = self.store.state();
        let record = if stored.format == R::FORMAT {
            state.decode(&key, json.as_bytes())?
        } else {
            R::upgrade_from(&Older { format: stored.format, json, key: &key, state })?
        };
        if encode_key(&record.id()) == id {
            return Ok(record);
        }
        Err(corrupt(format!("the record `{key}` has another id, `{}`", encode_key(&record.id()))))
    }

    /// Returns the record with this id, or `None` if it does not exist or has expired.
    pub(super) fn get(&self, id: &str) -> Result<Option<R>> {
        let Some(bytes) = self.store.read(id)? else { return Ok(None) };
        let stored = self.store.open(id, &bytes)?;
        if stored.is_expired(self.store.ctx.received_at()) {
            return Ok(None);
        }
        self.decode(id, &stored).map(Some)
    }

    /// Stores `record` in the place of the one with its id. If `is_new`, there must be none.
    pub(super) fn put(&self, record: &R, is_new: bool) -> Result {
        let id = id_text(&record.id())?;
        let bytes = self.store.read(&id)?;
        let old = bytes.as_deref().map(|bytes| self.store.open(&id, bytes)).transpose()?;
        let now = self.store.ctx.received_at();
        if let Some(old) = &old {
            self.store.check_format(&id, old)?;
            if is_new && !old.is_expired(now) {
                let name = self.store.names.0;
                return Err(Refusal::new("already_exists", format!("`{name}` has this record")));
            }
        }
        let expires_at = self.lifetime.map(|lifetime| now.saturating_add(lifetime));
        self.store.write(&self.replace(&id, old.as_ref(), record, expires_at)?)
    }

    /// Removes the record with this id. Returns whether it was there and had not expired.
    pub(super) fn remove(&self, id: &str) -> Result<bool> {
        let Some(bytes) = self.store.read(id)? else { return Ok(false) };
        let stored = self.store.open(id, &bytes)?;
        self.store.write(&self.store.replace(id, Some(&stored), None)?)?;
        Ok(!stored.is_expired(self.store.ctx.received_at()))
    }

    /// Returns the writes that store the record `stored` as this version does. Nothing but its form
    /// changes: its time to live goes on. A record that has expired is removed, because this
    /// version may give its records no time to live.
    pub(super) fn convert(&self, id: &str, stored: &Envelope<'_>) -> Result<Vec<Write>> {
        if stored.is_expired(self.store.ctx.received_at()) {
            return self.store.replace(id, Some(stored), None);
        }
        let record = self.decode(id, stored)?;
        let expires_at = self.lifetime.map(|lifetime| {
            let now = self.store.ctx.received_at();
            stored.expires_at.unwrap_or_else(|| now.saturating_add(lifetime))
        });
        self.replace(id, Some(stored), &record, expires_at)
    }

    /// Returns the writes that store `record` in the place of `old`.
    fn replace(
        &self,
        id: &str,
        old: Option<&Envelope<'_>>,
        record: &R,
        expires_at: Option<u64>,
    ) -> Result<Vec<Write>> {
        let json: Box<RawValue> = to_raw_value(record).map_err(|error| {
            Refusal::new("misuse", format!("a record can't be written as JSON: {error}"))
        })?;
        let keys: BTreeMap<_, _> =
            self.indexes.iter().map(|index| (index.id(), index.keys(record))).collect();
        let new = Envelope { layout: LAYOUT, format: R::FORMAT, expires_at, keys, record: &json };
        self.store.replace(id, old, Some(&new))
    }
}
