//! The entries and sequences of a store for operators: they read pages as of one commit, and import
//! what was exported. A handler uses a [`View`](super::View) instead.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use sockhop_core::state::{MAX_SEQUENCES, StateError, check_key, check_sequence, check_value};

use super::connection::{ENTRY_BYTES, entry_bytes, integer, meta, natural, stored_bytes};
use super::ids::END_OF_IDS;
use super::{CommitError, FailureKind, Store, StoreError, lock};
use crate::error_chain::ErrorChain;

/// A key and its value.
pub type Entry = (String, Vec<u8>);

/// What a store has in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentSummary {
    /// Number of commits. It changes with every change of an entry.
    pub commits: u64,
    /// Number of entries.
    pub entries: u64,
    /// The next number of each sequence.
    #[serde(default)]
    pub sequences: BTreeMap<String, u64>,
}

/// Some entries of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentPage {
    /// Number of commits when they were read.
    pub commits: u64,
    /// In the order of the bytes of their keys.
    pub entries: Vec<Entry>,
    /// The key to continue after, if there are more.
    pub next: Option<String>,
}

/// Which entries a page has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageQuery {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys that follow this one.
    pub after: Option<String>,
    /// Maximum number of entries.
    pub limit: usize,
    /// Maximum bytes of their keys and values. The first entry may have more.
    pub max_bytes: usize,
}

/// How an import begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportMode {
    /// The store must have no entries.
    Empty,
    /// The entries that the store has are removed.
    Replace,
    /// The entries that the store has stay, except those with an imported key.
    Merge,
}

/// Why nothing, or not all, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The store has entries, and [`ImportMode::Empty`] was asked for.
    #[error("the plugin has {entries} entries; use `--replace` or `--merge`")]
    NotEmpty {
        /// Number of entries.
        entries: u64,
    },
    /// A key, a value or a sequence is not allowed under the limits of the plugin.
    #[error("{name}: {source}")]
    Invalid {
        /// The key, or the name of the sequence.
        name: String,
        /// What is wrong.
        source: StateError,
    },
    /// It could not be stored.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<rusqlite::Error> for ImportError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Commit(error.into())
    }
}

impl Store {
    /// Returns what the store has in all.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn content_summary(&self) -> Result<ContentSummary, StoreError> {
        // Locked first, as `import` does, so that no block is reserved in between.
        let ids = lock(&self.ids);
        let mut summary = self.read_rows(|reader| {
            // One transaction, so that the numbers are those of one commit.
            let reader = reader.unchecked_transaction()?;
            let entries = count_entries(&reader)?;
            let mut sequences = reader.prepare_cached("SELECT name, next FROM sequences")?;
            let sequences =
                sequences.query_map([], |row| Ok((row.get(0)?, natural(row.get(1)?))))?;
            let sequences = sequences.collect::<Result<_, _>>()?;
            let commits = natural(meta(&reader)?.commits);
            Ok(ContentSummary { commits, entries, sequences })
        })?;
        let reserved = ids.reserved().map(|(name, next)| (name.to_owned(), next));
        summary.sequences.extend(reserved);
        Ok(summary)
    }

    /// Returns a page of the entries.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn content_page(&self, query: &PageQuery) -> Result<ContentPage, StoreError> {
        let from = query.after.as_deref().unwrap_or(&query.prefix);
        let (from, prefix) = (from.max(&query.prefix).as_bytes(), query.prefix.as_bytes());
        let page = self.read_rows(|reader| {
            let reader = reader.unchecked_transaction()?;
            let commits = natural(meta(&reader)?.commits);
            let mut rows = reader
                .prepare_cached("SELECT key, value FROM entries WHERE key >= ?1 ORDER BY key")?;
            let mut rows = rows.query([from])?;
            let (mut entries, mut bytes, mut has_more) =
                (Vec::<(Vec<u8>, Vec<u8>)>::new(), 0, false);
            while let Some(row) = rows.next()? {
                let key: Vec<u8> = row.get(0)?;
                if !key.starts_with(prefix) {
                    break;
                }
                if query.after.as_ref().is_some_and(|after| after.as_bytes() == key) {
                    continue;
                }
                let length = key.len() + row.get_ref(1)?.as_blob().map_or(0, <[u8]>::len);
                bytes += length;
                has_more = entries.len() >= query.limit
                    || (bytes > query.max_bytes && !entries.is_empty());
                if has_more {
                    break;
                }
                entries.push((key, row.get(1)?));
            }
            Ok((commits, entries, has_more))
        });
        let (commits, rows, has_more) = page?;
        let mut entries = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let key =
                String::from_utf8(key).map_err(|_| StoreError::Damaged("a key is not UTF-8"))?;
            entries.push((key, value));
        }
        let next = entries.last().filter(|_| has_more).map(|(key, _)| key.clone());
        Ok(ContentPage { commits, entries, next })
    }

    /// Returns the value of one key.
    ///
    /// # Errors
    /// The state can't be read.
    pub fn content_of(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read_rows(|reader| {
            let mut value = reader.prepare_cached("SELECT value FROM entries WHERE key = ?1")?;
            value.query_row([key.as_bytes()], |row| row.get(0)).optional()
        })
    }

    /// Sets entries, and lets sequences begin at these numbers at least. A handler that has read
    /// what this changes conflicts, as with another handler. All versions of the plugin get `$load`
    /// again. All keys and values are checked before the first is stored. They are stored in
    /// transactions of limited size. Blocks.
    ///
    /// # Errors
    /// [`ImportError::NotEmpty`] and [`ImportError::Invalid`]: nothing was changed. Otherwise some
    /// entries may have been stored.
    pub fn import(
        &self,
        mode: ImportMode,
        entries: &[Entry],
        sequences: &BTreeMap<String, u64>,
    ) -> Result<(), ImportError> {
        for (key, value) in entries {
            check_key(key, self.limits.key)
                .and_then(|()| check_value(value.len(), self.limits.value))
                .map_err(|source| ImportError::Invalid { name: key.clone(), source })?;
        }
        for sequence in sequences.keys() {
            check_sequence(sequence)
                .map_err(|source| ImportError::Invalid { name: sequence.clone(), source })?;
        }
        // Until the end, so that no number is given out that an imported record may have.
        let mut ids = lock(&self.ids);
        ids.give_back(&mut self.lock_writer()).map_err(CommitError::from)?;
        self.import_transaction(|transaction, bytes| {
            begin(transaction, mode, bytes)?;
            self.forget_loads(transaction)?;
            raise(transaction, sequences)
        })?;
        let mut rest = entries;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(self.import_size(rest));
            rest = others;
            self.import_transaction(|transaction, bytes| {
                // Handlers commit between the transactions, and perhaps saw only a part.
                self.forget_loads(transaction)?;
                let commits = meta(transaction)?.commits + 1;
                for (key, value) in part {
                    let key = key.as_bytes();
                    *bytes = bytes.saturating_sub(stored_bytes(transaction, key)?)
                        + entry_bytes(key, value.len() as u64);
                    let mut upsert = transaction.prepare_cached(
                        "INSERT INTO entries (key, value, version) VALUES (?1, ?2, ?3)
                         ON CONFLICT (key) DO UPDATE SET value = excluded.value,
                                                         version = excluded.version",
                    )?;
                    upsert.execute(params![key, value, commits])?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// How many of the first entries fit into one transaction: at least one.
    fn import_size(&self, entries: &[Entry]) -> usize {
        let mut bytes = 0;
        let fits = |(number, (key, value)): &(usize, &Entry)| {
            bytes += key.len() + value.len();
            *number < self.limits.transaction_keys && bytes <= self.limits.transaction_bytes
        };
        entries.iter().enumerate().take_while(fits).count().max(1)
    }

    /// Changes the entries in one commit. `change` gets the bytes that count against the quota, and
    /// changes them too. A failure is shown to operators.
    fn import_transaction(
        &self,
        change: impl FnOnce(&Transaction<'_>, &mut u64) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        let mut writer = self.lock_writer();
        let changed = writer.connection().map_err(|error| CommitError::from(error).into());
        let changed = changed.and_then(|writer| {
            self.try_import_transaction(writer, change).map_err(|error| match error {
                ImportError::Commit(CommitError::Store(StoreError::Sqlite(error))) => {
                    let limits = &self.limits;
                    let (keys, bytes) = (limits.transaction_keys, limits.transaction_bytes);
                    self.full_or(error, writer, keys, bytes).into()
                }
                other => other,
            })
        });
        match &changed {
            Ok(()) => self.health.stored(),
            Err(ImportError::Commit(CommitError::Store(error))) => {
                self.health.failed(FailureKind::Write, ErrorChain(error).to_string());
            }
            Err(_) => {}
        }
        changed
    }

    fn try_import_transaction(
        &self,
        writer: &mut Connection,
        change: impl FnOnce(&Transaction<'_>, &mut u64) -> Result<(), ImportError>,
    ) -> Result<(), ImportError> {
        self.wait_for_space(writer)?;
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut totals = self.totals(&transaction)?;
        let before = totals.bytes;
        change(&transaction, &mut totals.bytes)?;
        let quota = self.limits.quota;
        let exceeds = (totals.bytes > quota && totals.bytes > before).then_some(totals.bytes);
        let grows = totals.bytes > before;
        let full = if grows { self.exceeds_pages(&transaction, 0, 0)? } else { None };
        if let Some(used) = exceeds.or(full) {
            return Err(self.record_full(used).into());
        }
        totals.commits += 1;
        transaction
            .prepare_cached("UPDATE meta SET commits = ?1, bytes = ?2")?
            .execute(params![totals.commits, integer(totals.bytes)])?;
        transaction.commit()?;
        self.record_totals(totals);
        self.wake();
        Ok(())
    }
}

fn count_entries(connection: &Connection) -> Result<u64, rusqlite::Error> {
    connection.query_row("SELECT count(*) FROM entries", [], |row| row.get(0)).map(natural)
}

/// Removes the entries that are replaced, or checks that there are none.
fn begin(
    transaction: &Transaction<'_>,
    mode: ImportMode,
    bytes: &mut u64,
) -> Result<(), ImportError> {
    match mode {
        ImportMode::Merge => Ok(()),
        ImportMode::Empty => match count_entries(transaction)? {
            0 => Ok(()),
            entries => Err(ImportError::NotEmpty { entries }),
        },
        ImportMode::Replace => {
            let entries = count_entries(transaction)?;
            let content: i64 = transaction.query_row(
                "SELECT coalesce(sum(length(key) + length(value)), 0) FROM entries",
                [],
                |row| row.get(0),
            )?;
            transaction.execute("DELETE FROM entries", [])?;
            *bytes = bytes.saturating_sub(natural(content) + entries * ENTRY_BYTES);
            Ok(())
        }
    }
}

/// Lets sequences begin at these numbers, unless they have come further.
fn raise(
    transaction: &Transaction<'_>,
    sequences: &BTreeMap<String, u64>,
) -> Result<(), ImportError> {
    for (name, next) in sequences {
        let mut raise = transaction.prepare_cached(
            "INSERT INTO sequences VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET next = max(next, excluded.next)",
        )?;
        raise.execute(params![name, integer((*next).clamp(1, END_OF_IDS))])?;
    }
    let number: u32 =
        transaction.query_row("SELECT count(*) FROM sequences", [], |row| row.get(0))?;
    match sequences.keys().next() {
        Some(name) if number > MAX_SEQUENCES => {
            let source = StateError::TooManySequences;
            Err(ImportError::Invalid { name: name.clone(), source })
        }
        _ => Ok(()),
    }
}
