//! Group commit: the order in which the writers of one store commit and deliver. The first writer
//! also commits the changes of the writers behind it, in as few transactions as possible.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem::replace;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Instant;

use super::{Changes, CommitError, Store, lock};

/// The writers of one store, in the order in which they commit and deliver. To be the first of the
/// queue is to have the commit lock. There is no second lock, so there is no second order.
///
/// Invariants:
///
/// 1. **Commit order is queue order.** Only the first writer commits. An exclusive writer commits
///    its own changes alone. Any other commits a batch: its own changes and those of the writers
///    behind it, without a gap, up to the first exclusive writer. So all taken writers are before
///    all waiting ones.
/// 2. **Delivery order is queue order.** A writer gets its [`CommitGuard`] when it is the first. It
///    leaves the queue when the guard is dropped, which is after it has delivered its effects. 1
///    and 2 together: effects are delivered in the order of their commits.
/// 3. **No wake-up is lost.** A writer registers its waker under the lock under which it has seen
///    that it is not the first. The removal of the first writer wakes the next one, even if the
///    removed writer was woken and has not run yet.
/// 4. **A writer may be dropped at any time.** It then leaves the queue. If its changes were taken,
///    they may be stored, and nothing is delivered. (So the host lets each event run to its end,
///    also if its client has gone.) A commit on a blocking thread owns the guard, so no other
///    writer commits before it ends.
///
/// An event without writes is no writer: its effects have no order among those of writers.
///
/// The queue is bounded by the number of instances: each writer is an event that occupies one, or
/// the first writer, whose event was dropped while it commits.
///
/// Writes that are followed by no effects do not come here, and take only the connection of the
/// writer: numbers of sequences, timers and deliveries that the host changes, and imports.
#[derive(Debug, Default)]
pub(super) struct GroupCommit(Mutex<WriterQueue>);

#[derive(Debug, Default)]
struct WriterQueue {
    /// In ascending order of their tickets.
    writers: VecDeque<QueuedWriter>,
    /// The next ticket. A ticket is never used twice, so a late result finds no other writer.
    next: Ticket,
}

type Ticket = u64;

#[derive(Debug)]
struct QueuedWriter {
    ticket: Ticket,
    stage: WriterStage,
    /// Set while the writer waits to become the first.
    waker: Option<Waker>,
}

#[derive(Debug)]
enum WriterStage {
    /// The changes are to be committed.
    Waiting(Changes),
    /// The writer wants the lock before it has changes. Writers behind it are not committed before
    /// it.
    Exclusive,
    /// There is nothing to take: the changes were taken for a batch that has no result yet, or the
    /// writer has read its result and has not left. A writer that becomes the first in this stage
    /// gets no result any more: the commit of its batch has panicked.
    Taken,
    /// The result of the commit.
    Done(Result<(), CommitError>),
}

/// Changes to be committed together, each with its writer.
type Batch = Vec<(Ticket, Changes)>;

impl WriterQueue {
    fn push(&mut self, stage: WriterStage) -> Ticket {
        let ticket = self.next;
        self.next += 1;
        self.writers.push_back(QueuedWriter { ticket, stage, waker: None });
        ticket
    }

    fn is_first(&self, ticket: Ticket) -> bool {
        self.writers.front().is_some_and(|first| first.ticket == ticket)
    }

    /// Ready when the writer is the first. Until then, registers `waker`.
    fn poll_first(&mut self, ticket: Ticket, waker: &Waker) -> Poll<()> {
        if self.is_first(ticket) {
            return Poll::Ready(());
        }
        if let Some(writer) = self.writer(ticket) {
            writer.waker = Some(waker.clone());
        }
        Poll::Pending
    }

    /// Takes the changes of the first writers, up to one that has none to take: an exclusive one.
    /// Empty if the changes of the first writer were taken already.
    fn take_batch(&mut self) -> Batch {
        let take = |writer: &mut QueuedWriter| match replace(&mut writer.stage, WriterStage::Taken)
        {
            WriterStage::Waiting(changes) => Some((writer.ticket, changes)),
            other => {
                writer.stage = other;
                None
            }
        };
        self.writers.iter_mut().map_while(take).collect()
    }

    /// Records the result of a writer's commit, unless the writer has left.
    fn record_result(&mut self, ticket: Ticket, result: Result<(), CommitError>) {
        if let Some(writer) = self.writer(ticket) {
            writer.stage = WriterStage::Done(result);
        }
    }

    /// Returns a writer's result; [`CommitError::Unknown`] if it has none, because the commit has
    /// panicked.
    fn take_result(&mut self, ticket: Ticket) -> Result<(), CommitError> {
        match self.writer(ticket).map(|writer| replace(&mut writer.stage, WriterStage::Taken)) {
            Some(WriterStage::Done(result)) => result,
            _ => Err(CommitError::Unknown),
        }
    }

    fn was_taken(&mut self, ticket: Ticket) -> bool {
        self.writer(ticket)
            .is_some_and(|writer| matches!(writer.stage, WriterStage::Taken | WriterStage::Done(_)))
    }

    /// Removes a writer. Returns the waker of the writer that has become the first.
    #[must_use]
    fn remove(&mut self, ticket: Ticket) -> Option<Waker> {
        let index = self.index(ticket)?;
        self.writers.remove(index);
        if index == 0 { self.writers.front_mut()?.waker.take() } else { None }
    }

    fn writer(&mut self, ticket: Ticket) -> Option<&mut QueuedWriter> {
        let index = self.index(ticket)?;
        self.writers.get_mut(index)
    }

    fn index(&self, ticket: Ticket) -> Option<usize> {
        self.writers.binary_search_by_key(&ticket, |writer| writer.ticket).ok()
    }
}

/// A writer's place in the queue. Dropping it removes the writer.
struct QueuePlace {
    store: Arc<Store>,
    ticket: Ticket,
}

/// The commit lock of one store: the right to commit, and to deliver the effects of the commit.
/// Hold it until the effects are delivered. Dropping it passes the lock to the next writer.
pub(crate) struct CommitGuard(QueuePlace);

impl QueuePlace {
    fn new(store: &Arc<Store>, stage: WriterStage) -> Self {
        let ticket = lock(&store.group.0).push(stage);
        Self { store: Arc::clone(store), ticket }
    }

    /// Waits until this writer is the first. If it is not by `deadline`, leaves the queue and
    /// returns `None`. But if its changes were taken, it waits on without a limit: they may be
    /// stored, and then their effects must be delivered.
    async fn become_first(self, deadline: Option<Instant>) -> Option<CommitGuard> {
        let Self { store, ticket } = &self;
        // The common case needs no timer.
        let is_first = lock(&store.group.0).is_first(*ticket);
        if !is_first {
            let mut becomes_first =
                poll_fn(|context| lock(&store.group.0).poll_first(*ticket, context.waker()));
            match deadline {
                None => becomes_first.await,
                Some(until) => {
                    let is_late =
                        tokio::time::timeout_at(until.into(), &mut becomes_first).await.is_err();
                    if is_late && self.withdraw() {
                        return None;
                    }
                    becomes_first.await;
                }
            }
        }
        Some(CommitGuard(self))
    }

    /// Leaves the queue, unless the changes were taken. Returns whether it has left.
    fn withdraw(&self) -> bool {
        let mut queue = lock(&self.store.group.0);
        if queue.was_taken(self.ticket) {
            return false;
        }
        let next = queue.remove(self.ticket);
        drop(queue);
        next.into_iter().for_each(Waker::wake);
        true
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        let next = lock(&self.store.group.0).remove(self.ticket);
        next.into_iter().for_each(Waker::wake);
    }
}

impl Store {
    /// Stores `changes` as [`Store::commit`] does, together with other changes that wait. The order
    /// is that in which the futures are first polled. Hold the returned guard until the effects of
    /// the changes are delivered. If the future is dropped, the changes may be stored.
    ///
    /// # Errors
    /// Those of [`Store::commit`]. [`CommitError::Late`] if the commit could not begin before
    /// `deadline`: nothing is stored. [`CommitError::Unknown`] if the commit has panicked on
    /// another thread, or in the task of the writer that has committed the batch.
    pub(crate) async fn commit_in_group(
        self: &Arc<Self>,
        changes: Changes,
        deadline: Option<Instant>,
    ) -> Result<CommitGuard, CommitError> {
        let place = QueuePlace::new(self, WriterStage::Waiting(changes));
        let mut guard = place.become_first(deadline).await.ok_or(CommitError::Late)?;
        let batch = lock(&self.group.0).take_batch();
        if !batch.is_empty() {
            guard = guard.commit_batch(batch).await?;
        }
        let result = lock(&self.group.0).take_result(guard.0.ticket);
        result.map(|()| guard)
    }

    /// Takes the commit lock for a writer that has no changes yet. No other writer commits while
    /// the guard is held. Returns `None` if the lock is not free before `deadline`.
    pub(crate) async fn lock_exclusive(
        self: &Arc<Self>,
        deadline: Option<Instant>,
    ) -> Option<CommitGuard> {
        QueuePlace::new(self, WriterStage::Exclusive).become_first(deadline).await
    }
}

impl CommitGuard {
    /// Stores only `changes`, as [`Store::commit`] does. Returns the guard, to be held until their
    /// effects are delivered. Does not commit for the writers behind this one: they commit when
    /// they are the first.
    ///
    /// # Errors
    /// Those of [`Store::commit`]; [`CommitError::Unknown`] after a panic.
    pub(crate) async fn commit_exclusive(self, changes: Changes) -> Result<Self, CommitError> {
        // On this thread if `try_commit` decides by the size that this takes only microseconds. If
        // it returns `None`, nothing is stored, and the blocking pool commits.
        let done = self.0.store.try_commit(&[&changes]);
        if let Some(result) = done.and_then(|results| results.into_iter().next()) {
            return result.map(|()| self);
        }
        tokio::task::spawn_blocking(move || self.0.store.commit(&changes).map(|()| self))
            .await
            .unwrap_or(Err(CommitError::Unknown))
    }

    /// Commits a batch and records the results for its writers. If this takes only microseconds, it
    /// happens on this thread, because a thread of the blocking pool would take longer to wake.
    ///
    /// # Errors
    /// [`CommitError::Unknown`] after a panic on a thread of the blocking pool. The panic has
    /// dropped the guard, so the next writer is the first already.
    async fn commit_batch(self, batch: Batch) -> Result<Self, CommitError> {
        if let Some(results) = self.0.store.try_commit(&changes_of(&batch)) {
            self.record_results(&batch, results);
            return Ok(self);
        }
        let committing = tokio::task::spawn_blocking(move || {
            let results = self.0.store.commit_all(&changes_of(&batch));
            self.record_results(&batch, results);
            self
        });
        committing.await.map_err(|_| CommitError::Unknown)
    }

    fn record_results(&self, batch: &Batch, results: Vec<Result<(), CommitError>>) {
        let mut queue = lock(&self.0.store.group.0);
        for ((ticket, _), result) in batch.iter().zip(results) {
            queue.record_result(*ticket, result);
        }
    }
}

fn changes_of(batch: &Batch) -> Vec<&Changes> {
    batch.iter().map(|(_, changes)| changes).collect()
}

#[cfg(test)]
mod tests;
