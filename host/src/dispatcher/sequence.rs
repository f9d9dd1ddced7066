//! Waits for the next number of a sequence. The wait is bounded, and does not block a worker
//! thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;

use crate::registry::PluginState;
use crate::store::ViewError;

/// The longest wait for a number while another process locks the state's file, or a checkpoint
/// runs. After it, the event is answered `busy`. Far shorter than the time limit of an event, so
/// that the plugin is not treated as failed.
const NUMBER_WAIT: Duration = Duration::from_secs(2);

/// Waits for the next number of a sequence, at most [`NUMBER_WAIT`]. Per store, only one thread
/// waits. The other events wait for that one without a thread, so abandoned events do not
/// accumulate threads.
pub(super) async fn next_id(state: &PluginState, sequence: String) -> Result<u64, ViewError> {
    let waiting = async {
        let guard = Arc::clone(&state.numbers).lock_owned().await;
        let store = Arc::clone(&state.store);
        let next = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            store.next_id(&sequence)
        });
        match next.await.map_err(JoinError::try_into_panic) {
            Ok(next) => next,
            // Propagates the panic as if the call had been made here.
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime is shutting down.
            Err(Err(_)) => Err(ViewError::Contended),
        }
    };
    tokio::time::timeout(NUMBER_WAIT, waiting).await.unwrap_or_else(|_| {
        // A handler that needs the number may trap. Counting a fault of the store keeps this from
        // being a failure of the plugin.
        state.store.count_fault();
        Err(ViewError::Contended)
    })
}
