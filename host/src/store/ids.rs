//! Sequences: increasing numbers, each given out once.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use sockhop_core::state::{MAX_SEQUENCES, StateError, check_sequence};

use crate::error_chain::ErrorChain;

use super::connection::{integer, natural};
use super::wal::WriterGuard;
use super::{CommitError, FailureKind, Store, StoreError, ViewError, lock, try_lock};

/// Numbers of a sequence that are reserved in the file at once. A stop without [`Store::close`]
/// leaves a gap of at most this many; all but one of them need no commit to the file.
pub(super) const IDS_PER_BLOCK: u64 = 32;

/// The exclusive end of a sequence: JavaScript's numbers have gaps beyond it.
pub(super) const END_OF_IDS: u64 = 1 << 53;

/// The reserved numbers by sequence.
#[derive(Default)]
pub(super) struct Ids(HashMap<String, Block>);

/// Numbers that are reserved in the file and not given out yet.
struct Block {
    next: u64,
    end: u64,
}

impl Ids {
    /// The next reserved number of `sequence`; `None` if there is none.
    fn next(&mut self, sequence: &str) -> Option<u64> {
        let block = self.0.get_mut(sequence).filter(|block| block.next < block.end)?;
        block.next += 1;
        Some(block.next - 1)
    }

    /// Adds a block that was reserved for `sequence`, and gives out its first number.
    fn begin(&mut self, sequence: &str, Block { next, end }: Block) -> u64 {
        self.0.insert(sequence.to_owned(), Block { next: next + 1, end });
        next
    }

    /// The sequences with reserved numbers, and the next number of each.
    pub(super) fn reserved(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(sequence, block)| (sequence.as_str(), block.next))
    }

    /// Returns the numbers that were not given out to the file.
    pub(super) fn give_back(&mut self, writer: &mut WriterGuard<'_>) -> Result<(), StoreError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let transaction =
            writer.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (sequence, Block { next, end }) in &self.0 {
            let mut give_back = transaction
                .prepare_cached("UPDATE sequences SET next = ?2 WHERE name = ?1 AND next = ?3")?;
            give_back.execute(params![sequence, integer(*next), integer(*end)])?;
        }
        transaction.commit()?;
        self.0.clear();
        Ok(())
    }
}

impl Store {
    /// The next number of `sequence`: starts at 1, increases, stays below 2^53. The number is used
    /// up even if the caller fails afterwards. Blocks for other writers, for a full log, and for
    /// the disk.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for an empty name; [`ViewError::Limit`] for a name that is too long,
    /// too many sequences, or a sequence at its end; [`ViewError::Full`] if a new sequence does not
    /// fit into the quota; [`ViewError::Contended`] and [`ViewError::Store`] if the file can't be
    /// written.
    pub(crate) fn next_id(&self, sequence: &str) -> Result<u64, ViewError> {
        check_sequence(sequence)?;
        let mut ids = lock(&self.ids);
        if let Some(id) = ids.next(sequence) {
            return Ok(id);
        }
        let reserved = self.reserve(sequence);
        match &reserved {
            Err(ViewError::Store(error)) => {
                self.health.failed(FailureKind::Write, ErrorChain(error).to_string())
            }
            Err(error @ ViewError::Contended) => {
                self.health.failed(FailureKind::Contended, error.to_string())
            }
            _ => {}
        }
        Ok(ids.begin(sequence, reserved?))
    }

    /// Counts a failure of the store for an event that gave up waiting.
    pub(crate) fn count_fault(&self) {
        self.health.count_fault();
    }

    /// The same as [`Store::next_id`] if it takes only microseconds. Returns `None` if it may take
    /// longer or the file can't be written.
    pub(crate) fn next_id_at_once(&self, sequence: &str) -> Option<Result<u64, ViewError>> {
        if let Err(error) = check_sequence(sequence) {
            return Some(Err(error.into()));
        }
        let mut ids = try_lock(&self.ids)?;
        if let Some(id) = ids.next(sequence) {
            return Some(Ok(id));
        }
        match self.with_writer_at_once(|writer| self.reserve_by(writer, sequence))? {
            // The caller tries again with [`Store::next_id`], which may wait and reports the error.
            Err(ViewError::Store(_)) => None,
            reserved => Some(reserved.map(|block| ids.begin(sequence, block))),
        }
    }

    /// Reserves the next numbers of `sequence` in the file, before the first of them is given out.
    fn reserve(&self, sequence: &str) -> Result<Block, ViewError> {
        let mut writer = self.lock_writer();
        let writer = writer.connection()?;
        self.wait_for_space(writer).map_err(|error| match error {
            CommitError::Store(error) => ViewError::Store(error),
            _ => ViewError::Contended,
        })?;
        self.reserve_by(writer, sequence).map_err(|error| match error {
            ViewError::Store(StoreError::Sqlite(error)) => {
                match self.full_or(error, writer, 1, sequence.len()) {
                    CommitError::Full { used, quota } => ViewError::Full { used, quota },
                    CommitError::Store(error) => ViewError::Store(error),
                    _ => ViewError::Contended,
                }
            }
            other => other,
        })
    }

    fn reserve_by(&self, writer: &mut Connection, sequence: &str) -> Result<Block, ViewError> {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut select =
            transaction.prepare_cached("SELECT next FROM sequences WHERE name = ?1")?;
        let known = select.query_row([sequence], |row| row.get(0)).optional()?;
        drop(select);
        let next = match known {
            Some(next) => natural(next),
            None => {
                let sequences: u32 =
                    transaction
                        .query_row("SELECT count(*) FROM sequences", [], |row| row.get(0))?;
                if sequences >= MAX_SEQUENCES {
                    return Err(StateError::TooManySequences.into());
                }
                1
            }
        };
        let end = END_OF_IDS.min(next + IDS_PER_BLOCK);
        if next >= end {
            return Err(ViewError::Limit("the sequence has no numbers left".to_owned()));
        }
        transaction
            .prepare_cached("INSERT OR REPLACE INTO sequences VALUES (?1, ?2)")?
            .execute(params![sequence, integer(end)])?;
        transaction.commit()?;
        self.wake();
        self.health.stored();
        Ok(Block { next, end })
    }
}
