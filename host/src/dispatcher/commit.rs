//! Where what a handler stored is written: on the thread that handled it, or on one that may wait.

use std::sync::Arc;

use tokio::task::JoinError;

use crate::registry::Served;
use crate::store::{Changes, CommitError, Store};

use super::Cause;

/// Stores `changes`: here, where that takes microseconds, because a thread of the blocking pool would take longer to wake; else there.
pub(super) async fn commit(store: &Arc<Store>, changes: Changes) -> Result<Result<(), CommitError>, JoinError> {
    if let Some(committed) = store.commit_at_once(&changes) {
        return Ok(committed);
    }
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || store.commit(&changes)).await
}

/// Has the log of a plugin's state moved into its file, where it has grown long. Nobody waits for it: what is in the log is safe there.
pub(super) fn keep_log_short(served: &Served) {
    if served.state.store.has_long_log() {
        let (store, plugin) = (Arc::clone(&served.state.store), served.plugin.name().to_owned());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = store.move_log() {
                tracing::warn!(plugin, error = ?Cause(&error), "the log of the state was not moved into its file");
            }
        });
    }
}
