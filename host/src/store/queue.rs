//! The queue of writers that wait for their turn to commit. The writer that has the turn commits
//! for all of them.

use std::collections::VecDeque;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Changes, CommitError, lock};

/// Writers in the order of their commits.
#[derive(Debug, Default)]
pub struct Queue(Mutex<VecDeque<Arc<Mutex<Stage>>>>);

/// The state of one writer's changes.
#[derive(Debug)]
enum Stage {
    Waiting(Changes),
    /// The writer wants a turn of its own: the writers behind it are not committed before it.
    Apart,
    /// The changes were taken to be committed, or were withdrawn.
    Taken,
    Done(Result<(), CommitError>),
}

/// A writer's place in the queue. Dropping it withdraws the changes, unless they are being
/// committed already.
#[derive(Debug)]
pub struct Ticket(Arc<Mutex<Stage>>);

/// Changes to commit now, and the writer that gets the result.
#[derive(Debug)]
pub struct Taken {
    /// The changes.
    pub changes: Changes,
    writer: Arc<Mutex<Stage>>,
}

impl Queue {
    /// Appends a writer with `changes`, or, for `None`, a writer that has no changes yet and wants
    /// a turn of its own. Calls `meanwhile` under the lock, before another writer can be appended,
    /// and returns its result.
    pub fn push<T>(&self, changes: Option<Changes>, meanwhile: impl FnOnce() -> T) -> (Ticket, T) {
        let mut waiting = lock(&self.0);
        let writer = Arc::new(Mutex::new(changes.map_or(Stage::Apart, Stage::Waiting)));
        waiting.push_back(Arc::clone(&writer));
        (Ticket(writer), meanwhile())
    }

    /// Removes and returns the waiting writers in their order, up to the first that wants a turn of
    /// its own.
    pub fn take(&self) -> Vec<Taken> {
        let mut waiting = lock(&self.0);
        let is_apart = |writer: &Arc<Mutex<Stage>>| matches!(*lock(writer), Stage::Apart);
        let end = waiting.iter().position(is_apart).unwrap_or(waiting.len());
        let behind = waiting.split_off(end);
        let before = replace(&mut *waiting, behind);
        drop(waiting);
        let take = |writer: Arc<Mutex<Stage>>| {
            let stage = replace(&mut *lock(&writer), Stage::Taken);
            if let Stage::Waiting(changes) = stage { Some(Taken { changes, writer }) } else { None }
        };
        before.into_iter().filter_map(take).collect()
    }
}

impl Taken {
    /// Reports the result to the writer.
    pub fn done(self, result: Result<(), CommitError>) {
        *lock(&self.writer) = Stage::Done(result);
    }
}

impl Ticket {
    /// Withdraws the changes. Returns `false` if they were already taken to be committed.
    pub fn withdraw(&self) -> bool {
        let mut stage = self.stage();
        let is_waiting = matches!(*stage, Stage::Waiting(_) | Stage::Apart);
        if is_waiting {
            *stage = Stage::Taken;
        }
        is_waiting
    }

    /// Returns the result of the commit, once. Returns `None` if the changes still wait, or the
    /// writer that took them has not finished.
    pub fn result(&self) -> Option<Result<(), CommitError>> {
        let mut stage = self.stage();
        match replace(&mut *stage, Stage::Taken) {
            Stage::Done(result) => Some(result),
            other => {
                *stage = other;
                None
            }
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        lock(&self.0)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.withdraw();
    }
}
