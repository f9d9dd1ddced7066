//! Commits the writes of handlers: under the plugin's commit lock, together with other waiting
//! writes, on the thread that handled the event or on a blocking thread.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::OwnedMutexGuard;

use crate::error_chain::ErrorChain;
use crate::registry::{ActivePlugin, State};
use crate::store::{Changes, CommitError, Store, Taken, Ticket};

/// The plugin's commit lock: the right to commit to its state, and to deliver the effects of the
/// commit.
pub(super) type CommitGuard = OwnedMutexGuard<()>;

/// Takes the commit lock for a handler that has not run yet. No other task commits while it is
/// held. Returns `None` if the lock is not free before `deadline`.
pub(super) async fn lock_exclusive(
    state: &State,
    deadline: Option<Instant>,
) -> Option<CommitGuard> {
    enqueue(state, None, deadline).await.map(|(guard, _)| guard)
}

/// Stores `changes` as soon as the plugin's commit lock is free. The returned lock must be held
/// until the effects are delivered. Returns `None`, and stores nothing, if the lock is not free
/// before `deadline`. A commit that has begun by then is waited for.
///
/// The task that holds the lock commits for all waiting tasks in one transaction. A waiting task
/// finds its result when it gets the lock.
pub(super) async fn commit(
    state: &State,
    changes: Changes,
    deadline: Option<Instant>,
) -> Option<(CommitGuard, Result<(), CommitError>)> {
    let (guard, ticket) = enqueue(state, Some(changes), deadline).await?;
    if let Some(result) = ticket.result() {
        return Some((guard, result));
    }
    let guard = commit_waiting(state, guard).await;
    Some((guard, ticket.result().unwrap_or(Err(CommitError::Unknown))))
}

/// Queues for the lock and in the commit queue, at the same position in both. So effects are
/// delivered in the order of their commits.
async fn enqueue(
    state: &State,
    changes: Option<Changes>,
    deadline: Option<Instant>,
) -> Option<(CommitGuard, Ticket)> {
    // Unconstrained: the first poll must queue for the lock, even if the task's tokio budget is
    // used up.
    let mut guard = pin!(tokio::task::unconstrained(Arc::clone(&state.commit).lock_owned()));
    let mut changes = Some(changes);
    let queued = poll_fn(|context| {
        let changes = changes.take().unwrap_or_default();
        Poll::Ready(state.store.queue.push(changes, || guard.as_mut().poll(context)))
    });
    let (ticket, has_lock) = queued.await;
    let guard = match (has_lock, deadline) {
        (Poll::Ready(guard), _) => guard,
        (Poll::Pending, None) => guard.await,
        (Poll::Pending, Some(until)) => {
            match tokio::time::timeout_at(until.into(), &mut guard).await {
                Ok(guard) => guard,
                Err(_) if ticket.withdraw() => return None,
                // Another task is committing the changes.
                Err(_) => guard.await,
            }
        }
    };
    Some((guard, ticket))
}

/// Stores `changes` under a lock that is already held. Waiting changes of other tasks are not
/// included, because they would make `changes` conflict.
pub(super) async fn commit_exclusive(
    store: &Arc<Store>,
    changes: Changes,
) -> Result<(), CommitError> {
    if let Some(committed) = store.try_commit(&[&changes]) {
        return committed.into_iter().next().unwrap_or(Ok(()));
    }
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || store.commit(&changes))
        .await
        .unwrap_or(Err(CommitError::Unknown))
}

/// Commits for all tasks in the queue. If this takes only microseconds, it happens here, because a
/// thread of the blocking pool would take longer to wake. Otherwise it happens in the pool. The
/// lock moves with the work, so that no other task gets it before the work ends.
async fn commit_waiting(state: &State, guard: CommitGuard) -> CommitGuard {
    let taken = state.store.queue.take();
    let group: Vec<_> = taken.iter().map(|taken| &taken.changes).collect();
    if let Some(committed) = state.store.try_commit(&group) {
        resolve(taken, committed);
        return guard;
    }
    let store = Arc::clone(&state.store);
    let committing = tokio::task::spawn_blocking(move || {
        let group: Vec<_> = taken.iter().map(|taken| &taken.changes).collect();
        let committed = store.commit_all(&group);
        resolve(taken, committed);
        guard
    });
    match committing.await {
        Ok(guard) => guard,
        // After a panic, the writers find no result and report `CommitError::Unknown`.
        Err(_) => Arc::clone(&state.commit).lock_owned().await,
    }
}

fn resolve(writers: Vec<Taken>, committed: Vec<Result<(), CommitError>>) {
    writers.into_iter().zip(committed).for_each(|(writer, result)| writer.done(result));
}

/// Starts a checkpoint of a plugin's state if one is due. No task waits for it: committed data is
/// safe in the write-ahead log.
pub(super) fn checkpoint_if_due(active: &ActivePlugin) {
    if active.state.store.checkpoint_is_due() {
        let (store, plugin) = (Arc::clone(&active.state.store), active.code.name().to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.checkpoint() {
                tracing::warn!(plugin, error = %ErrorChain(&error), "checkpoint of the state failed: its write-ahead log is not truncated");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::store::StoreLimits;

    fn state(dir: &tempfile::TempDir) -> State {
        let store = Store::open(
            &dir.path().join("state.sqlite"),
            &dir.path().join("state.json"),
            StoreLimits::default(),
        )
        .unwrap();
        State {
            store: Arc::new(store),
            commit: Arc::default(),
            numbers: Arc::default(),
            memory: Arc::default(),
        }
    }

    fn change(state: &State, key: &str) -> Changes {
        let mut view = state.store.view();
        view.set(key, vec![1]).unwrap();
        view.into_changes()
    }

    fn has(state: &State, key: &str) -> bool {
        state.store.view().get(key).unwrap().is_some()
    }

    #[tokio::test]
    async fn waiting_writers_share_one_commit() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let held = Arc::clone(&state.commit).lock_owned().await;
        let mut context = std::task::Context::from_waker(Waker::noop());
        let mut first = Box::pin(commit(&state, change(&state, "first"), None));
        let mut second = Box::pin(commit(&state, change(&state, "second"), None));
        let late = Some(Instant::now());
        assert!(
            first.as_mut().poll(&mut context).is_pending()
                && second.as_mut().poll(&mut context).is_pending()
        );
        assert!(commit(&state, change(&state, "late"), late).await.is_none(), "its time is over");
        assert!(!has(&state, "first"));
        drop(held);
        let (guard, committed) = first.await.unwrap();
        committed.unwrap();
        assert!(has(&state, "first") && has(&state, "second") && !has(&state, "late"));
        assert!(
            second.as_mut().poll(&mut context).is_pending(),
            "what follows from the first is delivered before"
        );
        drop(guard);
        second.await.unwrap().1.unwrap();
    }

    #[tokio::test]
    async fn a_writer_behind_an_exclusive_lock_is_not_committed_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let held = Arc::clone(&state.commit).lock_owned().await;
        let mut context = std::task::Context::from_waker(Waker::noop());
        let mut before = Box::pin(commit(&state, change(&state, "before"), None));
        let mut exclusive = Box::pin(lock_exclusive(&state, None));
        let mut behind = Box::pin(commit(&state, change(&state, "behind"), None));
        assert!(
            before.as_mut().poll(&mut context).is_pending()
                && exclusive.as_mut().poll(&mut context).is_pending()
        );
        assert!(behind.as_mut().poll(&mut context).is_pending());
        drop(held);
        let (guard, committed) = before.await.unwrap();
        committed.unwrap();
        assert!(has(&state, "before") && !has(&state, "behind"));
        drop(guard);
        let guard = exclusive.await.unwrap();
        commit_exclusive(&state.store, change(&state, "exclusive")).await.unwrap();
        assert!(has(&state, "exclusive") && !has(&state, "behind"));
        drop(guard);
        behind.await.unwrap().1.unwrap();
        assert!(has(&state, "behind"));
    }

    #[tokio::test]
    async fn a_dropped_writer_stores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state = state(&dir);
        let held = Arc::clone(&state.commit).lock_owned().await;
        let mut gone = Box::pin(commit(&state, change(&state, "gone"), None));
        assert!(
            gone.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())).is_pending()
        );
        drop(gone);
        drop(held);
        commit(&state, change(&state, "other"), None).await.unwrap().1.unwrap();
        assert!(has(&state, "other") && !has(&state, "gone"));
    }
}
