//! The shutdown of a host: the order of its steps, and their time limits.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;

use super::Host;

/// Time limit for telling plugins of the last disconnects.
const LAST_HOST_EVENTS: Duration = Duration::from_secs(5);

/// Time limit for all steps after the running events have finished. A client that does not read
/// would keep its transport open without end.
const LAST_STEPS: Duration = Duration::from_secs(10);

/// Returns how long a stop takes at most that closes connections over the time `close`.
pub(super) fn longest(limits: &Limits, close: Duration) -> Duration {
    limits.shutdown_unready_ms + close + limits.shutdown_drain_ms + LAST_STEPS
}

impl Host {
    /// Serves until `stop`, and then stops in steps. The host reports that it is not ready, and
    /// then accepts no new clients. It handles the received events and tells plugins about every
    /// disconnect. Each client, also one that polls, receives its queued messages. At the end, the
    /// host closes the transports. `at_once` skips the waiting.
    ///
    /// An operator can stop the host too, with a time over which the connections of clients end
    /// (`POST /api/drain`). If `stop` comes within that time, the rest of them end over the time of
    /// a usual stop.
    pub async fn run(self, stop: CancellationToken, at_once: CancellationToken) {
        let usual = self.config.get().limits.shutdown_close_ms;
        let over = tokio::select! {
            () = stop.cancelled() => usual,
            over = self.drain.requested() => over,
        };
        self.ready.store(false, Ordering::Release);
        // The served plugins stay the same until the end.
        self.reloading.cancel();
        tracing::info!(connections = self.rooms.connections(), "stopping: no longer ready");
        if self.rooms.connections() > 0 {
            within(self.config.get().limits.shutdown_unready_ms, &at_once, std::future::pending())
                .await;
        }
        self.slots.close();
        if let Some(slots) = &self.admin_slots {
            slots.close();
        }
        let connections = self.rooms.connections();
        tracing::info!(connections, over_ms = over.as_millis(), "stopping: closing connections");
        if connections > 0 && self.socketio.closes_one_by_one() {
            let began = Instant::now();
            let leaving = async {
                // Also if `stop` was the reason of this stop.
                let is_cut =
                    stop.run_until_cancelled(self.sockets.leave_over(over)).await.is_none();
                if is_cut {
                    let rest = over.saturating_sub(began.elapsed()).min(usual);
                    self.sockets.leave_over(rest).await;
                }
            };
            within(Duration::MAX, &at_once, leaving).await;
        }
        tracing::info!("stopping: finishing running events");
        if !within(self.config.get().limits.shutdown_drain_ms, &at_once, self.sockets.stop()).await
        {
            tracing::warn!("some events did not finish in time");
        }
        let last = Instant::now() + LAST_STEPS;
        let left = || last.saturating_duration_since(Instant::now());
        // Events of timers that do not finish come again at the next start, as `$load` does, and
        // deliveries are sent again.
        let events = async {
            _ = tokio::join!(
                self.timers.stop(),
                self.deliveries.stop(),
                self.load_events.stop(),
                self.dispatcher.stop()
            );
        };
        if !within(LAST_HOST_EVENTS, &at_once, events).await {
            tracing::warn!("some host events, or events of timers, were not handled in time");
        }
        if !within(left(), &at_once, self.socketio.close()).await {
            tracing::warn!("some transports did not close in time");
        }
        self.accepting.cancel();
        let _ = self.accepted.await;
        self.tasks.close();
        within(left(), &at_once, self.tasks.wait()).await;
        self.loader.close();
        tracing::info!("stopped");
    }
}

/// Waits for `end` until `limit` has passed or `at_once` is cancelled. Returns whether `end`
/// completed.
async fn within(
    limit: Duration,
    at_once: &CancellationToken,
    end: impl Future<Output = ()>,
) -> bool {
    tokio::select! {
        () = end => true,
        () = tokio::time::sleep(limit) => false,
        () = at_once.cancelled() => false,
    }
}
