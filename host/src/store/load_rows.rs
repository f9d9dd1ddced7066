//! How far the versions of a plugin are with `$load`, in the plugin's file: the commit of a handler
//! records it together with the changes of the handler. A crash then repeats what is not recorded,
//! and nothing else.

use std::sync::atomic::Ordering;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sockhop_core::load::Progress;

use super::connection::{integer, natural};
use super::format::{LOAD_FORMAT, LOAD_TABLES};
use super::rows::Rows;
use super::{Store, StoreError};

/// How many versions are remembered, those that began last. An earlier version that serves again is
/// sent `$load` again. The rows of so many take some KiB, and do not count against the quota.
const VERSIONS: u32 = 64;

/// What a handler of `$load` has replied, to be stored with its changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoadMark {
    /// The digest of the version.
    pub(crate) digest: String,
    /// When the event was received, in milliseconds since 1970.
    pub(crate) at: u64,
    /// `None` if the version has finished.
    pub(crate) progress: Option<Progress>,
}

/// How far one version is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LoadRow {
    /// What it has replied last, if it has not finished.
    pub(crate) progress: Progress,
    /// When it has finished, in milliseconds since 1970.
    pub(crate) finished: Option<u64>,
}

impl Store {
    /// Returns how far this version is; `None` if nothing is recorded.
    ///
    /// # Errors
    /// The state can't be read.
    pub(crate) fn load_row(&self, digest: &str) -> Result<Option<LoadRow>, StoreError> {
        if !self.has_load_table.load(Ordering::Acquire) {
            return Ok(None);
        }
        self.read_rows(|reader| {
            let mut row = reader
                .prepare_cached("SELECT done, total, finished FROM loads WHERE digest = ?1")?;
            let row = row.query_row([digest], |row| {
                let progress = Progress { done: natural(row.get(0)?), total: natural(row.get(1)?) };
                Ok(LoadRow { progress, finished: row.get::<_, Option<i64>>(2)?.map(natural) })
            });
            row.optional()
        })
    }

    /// Creates the table if the file has none. Returns whether it has created it. An older host
    /// refuses the file from then on.
    pub(super) fn add_load_table(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<bool, rusqlite::Error> {
        if self.has_load_table.load(Ordering::Acquire) {
            return Ok(false);
        }
        // A file of this format has the tables of all earlier ones.
        self.add_tables(transaction, Rows::Deliveries)?;
        transaction.execute_batch(LOAD_TABLES)?;
        transaction.pragma_update(None, "user_version", LOAD_FORMAT)?;
        Ok(true)
    }

    /// Call this after the commit of a transaction that has created the table.
    pub(super) fn load_table_added(&self) {
        self.rows_changed(Rows::Deliveries);
        self.has_load_table.store(true, Ordering::Release);
    }

    /// Forgets how far all versions are, because entries that another version has written come
    /// into the state.
    pub(super) fn forget_loads(
        &self,
        transaction: &Transaction<'_>,
    ) -> Result<(), rusqlite::Error> {
        if self.has_load_table.load(Ordering::Acquire) {
            transaction.execute("DELETE FROM loads", [])?;
        }
        Ok(())
    }
}

/// Whether the file has the table.
pub(super) fn has_table(connection: &Connection) -> Result<bool, rusqlite::Error> {
    let format: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(format >= LOAD_FORMAT)
}

/// Records how far a version is.
pub(super) fn write(transaction: &Transaction<'_>, mark: &LoadMark) -> Result<(), rusqlite::Error> {
    let Progress { done, total } = mark.progress.unwrap_or_default();
    let finished = mark.progress.is_none().then(|| integer(mark.at));
    transaction
        .prepare_cached(
            "INSERT INTO loads (digest, done, total, finished) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (digest) DO UPDATE SET done = excluded.done, total = excluded.total,
                                                finished = excluded.finished",
        )?
        .execute(params![mark.digest, integer(done), integer(total), finished])?;
    transaction
        .prepare_cached(
            "DELETE FROM loads
             WHERE id NOT IN (SELECT id FROM loads ORDER BY id DESC LIMIT ?1)",
        )?
        .execute([VERSIONS])
        .map(drop)
}
