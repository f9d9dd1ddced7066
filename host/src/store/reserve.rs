//! The reserve of a store's file: pages that handlers can't use. The host's own changes of rows use
//! them, which record what became of timers and deliveries. Even a change that makes a row smaller
//! needs pages, because SQLite writes the row anew before it frees the old one. Without a reserve,
//! a plugin that has filled its file would keep all its deliveries from ending.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, Transaction};

use super::connection::{integer, natural};
use super::{Store, limits};

impl Store {
    /// Whether the file has pages of the reserve. Texts that only operators read are then left out.
    pub(super) fn uses_reserve(&self) -> bool {
        self.uses_reserve.load(Ordering::Relaxed)
    }

    /// Makes a change that may use the reserve.
    pub(super) fn with_reserve<T>(
        &self,
        writer: &mut Connection,
        change: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, rusqlite::Error> {
        let pages = |bytes: u64| integer(bytes / self.page_bytes);
        let most = pages(self.limits.file_bytes(self.page_bytes));
        let of_handlers = pages(self.limits.file_bytes_of_handlers(self.page_bytes));
        writer.pragma_update(None, "max_page_count", most)?;
        let changed = change(writer);
        // If the file has more pages, SQLite uses their number as the limit.
        writer.pragma_update(None, "max_page_count", of_handlers)?;
        let count: i64 = writer.pragma_query_value(None, "page_count", |row| row.get(0))?;
        if count > of_handlers {
            self.uses_reserve.store(true, Ordering::Relaxed);
        }
        changed
    }

    /// Whether a change of so many keys and bytes may use free pages that belong to the reserve:
    /// then returns the bytes that the plugin uses. SQLite itself limits only the length of the
    /// file, so this is asked once the file has pages of the reserve.
    pub(super) fn exceeds_pages(
        &self,
        transaction: &Transaction<'_>,
        keys: usize,
        bytes: usize,
    ) -> Result<Option<u64>, rusqlite::Error> {
        if !self.uses_reserve() {
            return Ok(None);
        }
        let pragma = |name| {
            transaction.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(natural)
        };
        let used = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
        let limit = self.limits.file_bytes_of_handlers(self.page_bytes);
        let wanted = used.saturating_add(limits::pages(keys, bytes, self.page_bytes));
        let reserved = self.limits.quota.saturating_sub(limit);
        let exceeds = wanted.saturating_mul(self.page_bytes) > limit;
        Ok(exceeds.then_some(used * self.page_bytes + reserved))
    }
}
