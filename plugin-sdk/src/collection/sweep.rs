//! Removes the records that have expired, and counts the others.

use sockhop_core::key::after_key;

use super::handle::Handle;
use super::migrate::check_batch;
use super::record::Record;
use super::store::corrupt;
use super::walk::Walk;
use crate::context::Context;
use crate::refusal::{Refusal, Result};

/// A count leaves out up to this many expired records that were not swept. The host remembers so
/// many reads of one event one by one.
const UNSWEPT: u64 = 4000;

/// Refuses a query that would have to pass over too many expired records.
pub(super) fn unswept(ctx: &Context, name: &str) -> Refusal {
    ctx.warn(format_args!(
        "more than {UNSWEPT} expired records of the collection `{name}` wait for \
         `Collection::sweep`"
    ));
    Refusal::new("unavailable", format!("`{name}` has too many expired records"))
}

/// What [`Collection::sweep`](super::Collection::sweep) has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The number of records that were removed.
    pub removed: u32,
    /// Whether no record is left that has expired.
    pub is_finished: bool,
}

impl<R: Record> Handle<'_, R> {
    /// The entries of the records that have expired.
    fn expired(&self) -> Walk<'_> {
        let end = after_key(&self.store.ctx.received_at());
        Walk::new(self.store.state(), self.store.names.expiring()).before(Some(end))
    }

    /// Returns the number of records that have not expired.
    pub(super) fn count(&self) -> Result<u64> {
        let (stored, mut passed) = (self.store.count()?, 0);
        let mut expired = self.expired();
        while expired.next(u32::MAX)?.is_some() {
            passed += 1;
            if passed > UNSWEPT {
                return Err(unswept(self.store.ctx, self.store.names.0));
            }
        }
        stored.checked_sub(passed).ok_or_else(|| {
            corrupt(format!("`{}` has more expired records than records", self.store.names.0))
        })
    }

    /// Removes up to `limit` records that have expired, whatever their format.
    pub(super) fn sweep(&self, limit: u32) -> Result<Sweep> {
        check_batch(limit)?;
        let store = &self.store;
        let mut expired = self.expired();
        let mut removed = 0;
        while let Some((text, value)) =
            expired.next(limit.saturating_sub(removed).saturating_add(1))?
        {
            let entry = format!("{}{text}", store.names.expiring());
            let id: String = store.state().decode(&entry, &value)?;
            let bytes = store.read(&id)?;
            let stored = bytes.as_deref().map(|bytes| store.open(&id, bytes)).transpose()?;
            let stored = stored.filter(|stored| {
                stored.expires_at.is_some_and(|time| store.names.expiry(time, &id) == entry)
            });
            let Some(stored) = stored else {
                return Err(corrupt(format!(
                    "the entry `{entry}` has no record: the keys of the collection were changed by \
                     other means"
                )));
            };
            let writes = store.replace(&id, Some(&stored), None)?;
            if removed == limit || !store.fits(&writes) {
                return Ok(Sweep { removed, is_finished: false });
            }
            store.write(&writes)?;
            removed += 1;
        }
        Ok(Sweep { removed, is_finished: true })
    }
}
