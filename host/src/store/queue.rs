//! Writers who wait for their turn to commit: whoever has it commits for all of them.

use std::collections::VecDeque;
use std::mem::replace;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Changes, CommitError, lock};

/// Writers in the order in which they will commit.
#[derive(Debug, Default)]
pub struct Queue(Mutex<VecDeque<Arc<Mutex<Stage>>>>);

/// What has become of one writer's changes.
#[derive(Debug)]
enum Stage {
    Waiting(Changes),
    /// For a turn of its own: whoever stands behind is not committed before it.
    Apart,
    /// By whoever commits them; or nobody wants them any more.
    Taken,
    Done(Result<(), CommitError>),
}

/// A writer's place. Who drops it wants nothing stored any more, unless that is being done.
#[derive(Debug)]
pub struct Ticket(Arc<Mutex<Stage>>);

/// Changes that are to be committed now, and whom to tell.
#[derive(Debug)]
pub struct Taken {
    /// What is wanted.
    pub changes: Changes,
    writer: Arc<Mutex<Stage>>,
}

impl Queue {
    /// Puts `changes` at the end, or one who has none yet and wants a turn apart; and does `meanwhile` before anybody else can come.
    pub fn push<T>(&self, changes: Option<Changes>, meanwhile: impl FnOnce() -> T) -> (Ticket, T) {
        let mut waiting = lock(&self.0);
        let writer = Arc::new(Mutex::new(changes.map_or(Stage::Apart, Stage::Waiting)));
        waiting.push_back(Arc::clone(&writer));
        (Ticket(writer), meanwhile())
    }

    /// Takes those who wait, in their order, up to the first who wants a turn apart.
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
    /// Tells the writer what became of it.
    pub fn done(self, result: Result<(), CommitError>) {
        *lock(&self.writer) = Stage::Done(result);
    }
}

impl Ticket {
    /// Takes the changes back, and leaves the queue; whether nobody had taken them to commit them.
    pub fn withdraw(&self) -> bool {
        let mut stage = self.stage();
        let is_waiting = matches!(*stage, Stage::Waiting(_) | Stage::Apart);
        if is_waiting {
            *stage = Stage::Taken;
        }
        is_waiting
    }

    /// What became of the changes, once; nothing where they still wait, or whoever took them has come to no end.
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
