//! How far the versions of a plugin are with `$load`, in the plugin's file: the commit of a handler
//! records it together with the changes of the handler. A crash then repeats what is not recorded,
//! and nothing else.
//!
//! What a version has prepared holds until another version writes entries: one that is replaced and
//! runs its last events, or one that serves after a rollback. The commit that writes them also
//! records that.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use sockhop_core::load::Progress;
use tokio::sync::Notify;

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

/// What a store knows of its records.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// The version that has written the last entries, if all records of others say so. Then its
    /// next commit need not look at them.
    writer: Mutex<Option<Box<str>>>,
    /// Notified after a commit from which on a version is to be called again.
    outdated: Arc<Notify>,
}

impl Loads {
    fn writer(&self) -> MutexGuard<'_, Option<Box<str>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The records in a transaction that has not ended.
pub(super) struct LoadsAtWork {
    has_table: bool,
    writer: Option<Box<str>>,
    are_outdated: bool,
}

impl LoadsAtWork {
    /// Records how far a version is, and that what others than the version which writes entries
    /// have prepared is outdated.
    pub(super) fn write(
        &mut self,
        transaction: &Transaction<'_>,
        version: Option<&str>,
        mark: Option<&LoadMark>,
    ) -> Result<(), rusqlite::Error> {
        if let Some(version) = version
            && self.has_table
            && self.writer.as_deref() != Some(version)
        {
            self.are_outdated |= outdate_others(transaction, version)?;
            self.writer = Some(version.into());
        }
        if let Some(mark) = mark {
            write(transaction, mark)?;
            if self.writer.as_deref() != Some(&mark.digest) {
                // The writer's next commit finds a record that it has not seen.
                self.writer = None;
            }
        }
        Ok(())
    }
}

impl Store {
    /// Begins a transaction, which has created the table or not. Until it is committed, nothing is
    /// known of the last writer.
    pub(super) fn begin_loads(&self, is_new: bool) -> LoadsAtWork {
        let has_table = is_new || self.has_load_table.load(Ordering::Acquire);
        let writer = self.loads.writer().take();
        LoadsAtWork { has_table, writer, are_outdated: false }
    }

    /// Call this after the commit of the transaction.
    pub(super) fn loads_committed(&self, loads: LoadsAtWork) {
        *self.loads.writer() = loads.writer;
        if loads.are_outdated {
            self.loads.outdated.notify_one();
        }
    }

    /// Is notified, for one task, when a version that has finished is to be called again.
    pub(crate) fn loads_outdated(&self) -> Arc<Notify> {
        Arc::clone(&self.loads.outdated)
    }

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
                let finished = row.get::<_, Option<i64>>(2)?.filter(|at| *at >= 0);
                Ok(LoadRow { progress, finished: finished.map(natural) })
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

/// Lets all versions but this one begin again: those that have finished now, the others when they
/// finish. Returns whether one had finished.
fn outdate_others(transaction: &Transaction<'_>, version: &str) -> Result<bool, rusqlite::Error> {
    transaction
        .prepare_cached("UPDATE loads SET finished = -1 WHERE digest <> ?1 AND finished IS NULL")?
        .execute([version])?;
    let finished = transaction
        .prepare_cached("DELETE FROM loads WHERE digest <> ?1 AND finished >= 0")?
        .execute([version])?;
    Ok(finished > 0)
}

/// Records how far a version is. One whose work is outdated has no record once it has finished: it
/// begins again.
fn write(transaction: &Transaction<'_>, mark: &LoadMark) -> Result<(), rusqlite::Error> {
    if mark.progress.is_none() {
        let outdated = transaction
            .prepare_cached("DELETE FROM loads WHERE digest = ?1 AND finished < 0")?
            .execute([&mark.digest])?;
        if outdated > 0 {
            return Ok(());
        }
    }
    let Progress { done, total } = mark.progress.unwrap_or_default();
    let finished = mark.progress.is_none().then(|| integer(mark.at));
    transaction
        .prepare_cached(
            "INSERT INTO loads (digest, done, total, finished) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (digest) DO UPDATE SET done = excluded.done, total = excluded.total,
                                                finished = CASE WHEN finished < 0 THEN -1
                                                                ELSE excluded.finished END",
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
