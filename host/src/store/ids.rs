//! Sequences: numbers that grow, each given out once.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::wal::Held;
use super::{CommitError, FailureKind, Store, StoreError, ViewError, integer, lock, natural, try_lock};

/// Numbers of a sequence that are taken from the file at once. A stop without [`Store::close`] leaves a gap of at most that many; a commit
/// to the file is saved for all but one of them.
pub(super) const IDS_PER_BLOCK: u64 = 32;

/// The first number that a sequence does not reach: beyond it JavaScript's numbers have gaps.
pub(super) const END_OF_IDS: u64 = 1 << 53;

/// Bytes of a sequence's name.
const MAX_SEQUENCE_NAME: usize = 128;

/// Sequences of one plugin. They are for kinds of records, not for records; each costs memory for as long as the host runs.
pub(super) const MAX_SEQUENCES: u32 = 1000;

/// By sequence.
#[derive(Default)]
pub(super) struct Ids(HashMap<String, Block>);

/// Numbers that are taken from the file and not given out yet.
struct Block {
    next: u64,
    end: u64,
}

impl Ids {
    /// The next of the numbers of `sequence` that are taken already.
    fn next(&mut self, sequence: &str) -> Option<u64> {
        let block = self.0.get_mut(sequence).filter(|block| block.next < block.end)?;
        block.next += 1;
        Some(block.next - 1)
    }

    /// The first number of a block that was taken for `sequence`.
    fn begin(&mut self, sequence: &str, Block { next, end }: Block) -> u64 {
        self.0.insert(sequence.to_owned(), Block { next: next + 1, end });
        next
    }

    /// Gives back to the file what was not given out.
    pub(super) fn give_back(&mut self, writer: &mut Held<'_>) -> Result<(), StoreError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let transaction = writer.connection()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (sequence, Block { next, end }) in &self.0 {
            let mut give_back = transaction.prepare_cached("UPDATE sequences SET next = ?2 WHERE name = ?1 AND next = ?3")?;
            give_back.execute(params![sequence, integer(*next), integer(*end)])?;
        }
        transaction.commit()?;
        self.0.clear();
        Ok(())
    }
}

impl Store {
    /// The next number of `sequence`: from 1, growing, below 2^53. It is taken at once, whatever becomes of who asked. Waits for others who
    /// write, for a log that is full, and for the disk.
    ///
    /// # Errors
    /// [`ViewError::Misuse`] for a name that is empty, [`ViewError::Limit`] for one that is too long, a sequence too many, or one at its end;
    /// [`ViewError::Contended`] and [`ViewError::Store`] if the file can't be written.
    pub fn next_id(&self, sequence: &str) -> Result<u64, ViewError> {
        check_name(sequence)?;
        let mut ids = lock(&self.ids);
        if let Some(id) = ids.next(sequence) {
            return Ok(id);
        }
        let reserved = self.reserve(sequence);
        match &reserved {
            Err(ViewError::Store(error)) => self.health.failed(FailureKind::Write, error.chain()),
            Err(error @ ViewError::Contended) => self.health.failed(FailureKind::Contended, error.to_string()),
            _ => {}
        }
        Ok(ids.begin(sequence, reserved?))
    }

    /// Counts a failure of the store that an event has met which gave up waiting.
    pub fn count_fault(&self) {
        self.health.count_fault();
    }

    /// The same as [`Store::next_id`] where it takes microseconds; nothing where it may take longer.
    pub fn next_id_at_once(&self, sequence: &str) -> Option<Result<u64, ViewError>> {
        if let Err(error) = check_name(sequence) {
            return Some(Err(error));
        }
        let mut ids = try_lock(&self.ids)?;
        if let Some(id) = ids.next(sequence) {
            return Some(Ok(id));
        }
        match self.with_writer_at_once(|writer| self.reserve_by(writer, sequence))? {
            // It is tried again by one who may wait, and told then.
            Err(ViewError::Store(_)) => None,
            reserved => Some(reserved.map(|block| ids.begin(sequence, block))),
        }
    }

    /// Takes the next numbers of `sequence` from the file, for good, before the first of them is given out.
    fn reserve(&self, sequence: &str) -> Result<Block, ViewError> {
        let mut writer = self.hold_writer();
        let writer = writer.connection()?;
        self.make_room(writer).map_err(|error| match error {
            CommitError::Store(error) => ViewError::Store(error),
            _ => ViewError::Contended,
        })?;
        self.reserve_by(writer, sequence)
    }

    fn reserve_by(&self, writer: &mut Connection, sequence: &str) -> Result<Block, ViewError> {
        let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut select = transaction.prepare_cached("SELECT next FROM sequences WHERE name = ?1")?;
        let known = select.query_row([sequence], |row| row.get(0)).optional()?;
        drop(select);
        let next = match known {
            Some(next) => natural(next),
            None => {
                let sequences: u32 = transaction.query_row("SELECT count(*) FROM sequences", [], |row| row.get(0))?;
                if sequences >= MAX_SEQUENCES {
                    return Err(ViewError::Limit(format!("a plugin may have {MAX_SEQUENCES} sequences")));
                }
                1
            }
        };
        let end = END_OF_IDS.min(next + IDS_PER_BLOCK);
        if next >= end {
            return Err(ViewError::Limit("the sequence is at its end".to_owned()));
        }
        transaction.prepare_cached("INSERT OR REPLACE INTO sequences VALUES (?1, ?2)")?.execute(params![sequence, integer(end)])?;
        transaction.commit()?;
        self.wake();
        self.health.stored();
        Ok(Block { next, end })
    }
}

fn check_name(sequence: &str) -> Result<(), ViewError> {
    if sequence.is_empty() {
        return Err(ViewError::Misuse("a sequence needs a name".to_owned()));
    }
    if sequence.len() > MAX_SEQUENCE_NAME {
        return Err(ViewError::Limit(format!("a sequence's name may have {MAX_SEQUENCE_NAME} bytes")));
    }
    Ok(())
}
