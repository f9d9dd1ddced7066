//! Commits the result of a handler's run: stores its changes, and then delivers its effects. The
//! order of commits is decided in [`Store`]; this module keeps the guard of a commit until its
//! effects are delivered. The changes of several runs may be stored before the effects of the first
//! are delivered.

use std::sync::Arc;
use std::time::Instant;

use crate::effect::Effect;
use crate::error_chain::ErrorChain;
use crate::event::EventId;
use crate::registry::ActivePlugin;
use crate::store::{Changes, CommitError, CommitGuard, Store};

/// What a valid run of a handler wants to change, as one unit: all of it happens, or nothing.
#[derive(Debug)]
pub(super) struct CommitEntry {
    /// The event that was handled.
    pub(super) event: EventId,
    /// The generation on which it was handled.
    pub(super) generation: u64,
    /// The writes to the plugin's state, and the reads that they depend on.
    pub(super) changes: Changes,
    /// The effects, to be delivered after the changes are stored.
    pub(super) effects: Vec<Effect>,
}

/// An entry whose changes are stored.
pub(super) struct Committed {
    effects: Vec<Effect>,
    /// The commit lock, held until the effects are delivered. `None` if the handler wrote nothing
    /// and the run did not hold the lock. Such effects have no order among those of other handlers.
    guard: Option<CommitGuard>,
}

impl Committed {
    /// Delivers the effects by `deliver`, before the effects of any later commit.
    pub(super) fn deliver<T>(self, deliver: impl FnOnce(&[Effect]) -> T) -> T {
        let delivered = deliver(&self.effects);
        drop(self.guard);
        delivered
    }
}

/// Commits `entry` to the plugin's state. `lock` is the commit lock if the run has held it;
/// otherwise the commit waits for it, if there is something to store. The result decides the event:
/// its effects are delivered, its handler runs again ([`CommitError::Conflict`]), or it is
/// rejected.
///
/// # Errors
/// Nothing is stored, except perhaps after [`CommitError::Unknown`]. [`CommitError::Late`] if the
/// commit can't begin before `deadline`.
pub(super) async fn commit(
    store: &Arc<Store>,
    entry: CommitEntry,
    lock: Option<CommitGuard>,
    deadline: Option<Instant>,
) -> Result<Committed, CommitError> {
    let CommitEntry { event, generation, changes, effects } = entry;
    if !changes.has_writes() {
        return Ok(Committed { effects, guard: lock });
    }
    let committed = match lock {
        Some(guard) => guard.commit_exclusive(changes).await,
        None => store.commit_in_group(changes, deadline).await,
    };
    if let Err(error) = &committed {
        tracing::trace!(id = %event, generation, %error, "not committed");
    }
    Ok(Committed { effects, guard: Some(committed?) })
}

/// Starts a checkpoint of a plugin's state if one is due. No task waits for it: committed data is
/// safe in the write-ahead log.
pub(super) fn checkpoint_if_due(active: &ActivePlugin) {
    if active.state.store.claim_due_checkpoint() {
        let (store, plugin) = (Arc::clone(&active.state.store), active.code.name().to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.checkpoint() {
                tracing::warn!(plugin, error = %ErrorChain(&error), "checkpoint of the state \
                                        failed: its write-ahead log is not truncated");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreLimits;

    fn entry(changes: Changes, effect: &str) -> CommitEntry {
        let effects = vec![Effect::Join(effect.to_owned())];
        let event = EventId::new(std::time::SystemTime::UNIX_EPOCH);
        CommitEntry { event, generation: 1, changes, effects }
    }

    /// Whether the one effect is there.
    fn has(effects: &[Effect], effect: &str) -> bool {
        matches!(effects, [Effect::Join(room)] if room == effect)
    }

    #[tokio::test]
    async fn a_writer_waits_for_the_delivery_before_it_and_an_entry_without_changes_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (file, manifest) = (dir.path().join("state.sqlite"), dir.path().join("state.json"));
        let store = Arc::new(Store::open(&file, &manifest, StoreLimits::default()).unwrap());
        let change = |key: &str| {
            let mut view = store.view();
            view.set(key, vec![1]).unwrap();
            view.into_changes()
        };
        let is_stored = |key: &str| store.view().get(key).unwrap().is_some();

        let first = commit(&store, entry(change("first"), "first"), None, None).await.unwrap();
        assert!(is_stored("first"));
        let now = Some(Instant::now());
        let late = commit(&store, entry(change("late"), "late"), None, now).await;
        assert!(
            matches!(late, Err(CommitError::Late)),
            "the effects of the first are not delivered"
        );
        let none = commit(&store, entry(Changes::default(), "none"), None, now).await.unwrap();
        assert!(none.deliver(|effects| has(effects, "none")));
        assert!(first.deliver(|effects| has(effects, "first") && !is_stored("late")));

        let lock = store.lock_exclusive(now).await;
        assert!(lock.is_some());
        let alone = commit(&store, entry(change("alone"), "alone"), lock, now).await.unwrap();
        assert!(alone.deliver(|effects| has(effects, "alone") && is_stored("alone")));
        commit(&store, entry(change("last"), "last"), None, now).await.unwrap();
    }
}
