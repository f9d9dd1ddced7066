//! The end of a detached connection whose client does not return.

use std::sync::Arc;

use tracing::error;

use super::guard;
use crate::connection::{Connection, Context, DisconnectReason, Handler};
use crate::engineio::Batch;
use crate::hub::Hub;

/// Ends the connection when its time is over, unless its client returns before. `detachment`
/// distinguishes this detachment from others of the same connection.
pub(super) fn expire<H: Handler>(
    hub: &Arc<Hub<H>>,
    connection: Arc<Connection<H>>,
    detachment: u64,
) {
    let tasks = hub.tasks();
    let hub = Arc::clone(hub);
    tasks.spawn(async move {
        let Some(recovery) = hub.recovery() else { return };
        tokio::select! {
            () = recovery.expired() => {}
            () = connection.until_reattached(detachment) => {}
        }
        let Some(end) = connection.end_detached(detachment) else { return };
        let batch = Batch::default();
        let cx = Context::new(&connection, &batch);
        let reason = DisconnectReason::SessionEnded(end);
        let disconnected = async { hub.handler().disconnected(&cx, reason).await };
        if guard(&batch, disconnected).await.is_none() {
            let client = hub.handler().log_name(&connection);
            error!(client, "handler panicked, connection has ended");
        }
    });
}
