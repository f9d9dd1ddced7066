//! Tries to read all records.

use super::handle::Handle;
use super::record::Record;
use super::walk::Walk;
use crate::refusal::Result;

/// Takes what was tried, record by record.
pub(crate) trait Attempts {
    /// Whether enough was tried for one event.
    fn is_over(&self) -> bool;

    /// Takes the attempt to read what is stored under `key`, with so many bytes.
    fn took(&mut self, key: &str, bytes: usize, read: Result);
}

impl<R: Record> Handle<'_, R> {
    /// Tries to read the records whose id follows `after`, as text. Returns the last one if there
    /// are more.
    pub(super) fn check(
        &self,
        after: Option<String>,
        attempts: &mut impl Attempts,
    ) -> Result<Option<String>> {
        let (store, now) = (&self.store, self.store.ctx.received_at());
        let mut records = Walk::new(store.state(), store.names.records())
            .of_large_values()
            .after(after.as_deref());
        let mut last = after;
        while let Some((id, bytes)) = records.next(u32::MAX)? {
            if attempts.is_over() {
                return Ok(Some(last.unwrap_or_default()));
            }
            let read = store.open(&id, &bytes).and_then(|stored| {
                // No handler sees it any more.
                if stored.is_expired(now) { Ok(()) } else { self.decode(&id, &stored).map(drop) }
            });
            attempts.took(&store.names.record(&id), bytes.len(), read);
            last = Some(id);
        }
        Ok(None)
    }
}
