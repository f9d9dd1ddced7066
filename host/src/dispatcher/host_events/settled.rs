//! Waits until plugins have handled all host events, for a host that tests plugins.

use std::time::Duration;

use crate::dispatcher::Dispatcher;

use super::backlog::Backlog;

/// The time between two looks. Only tests of plugins wait, so the path of host events has no signal
/// for them.
const LOOK: Duration = Duration::from_millis(1);

impl Dispatcher {
    /// Waits until no host event is being handled, and none waits that can be handled now. Those of
    /// a plugin that is not called now do not count.
    pub(crate) async fn host_events_settled(&self) {
        while !self.host_events.backlogs().values().all(Backlog::is_settled) {
            tokio::time::sleep(LOOK).await;
        }
    }
}
