//! The task that sends the waiting packets of one connection, and disconnects a client that does
//! not read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::outgoing::Outgoing;
use super::queue::Drained;

/// The first and the longest delay before a full buffer is tried again. Each attempt without
/// success doubles the delay. A buffer has no signal for free space, and many clients that do not
/// read must not keep a CPU busy.
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(160));

/// Sends the waiting packets of one client.
pub(super) struct Attendant(pub(super) Arc<Outgoing>);

impl Attendant {
    /// Runs until no packet waits or the connection has ended. A client that makes no space for
    /// `stalled` is disconnected.
    pub(super) async fn run(self, stalled: Duration) {
        let Outgoing { reach, queue, .. } = &*self.0;
        // While packets wait, this is the attendant that is needed.
        let abort = |reason: &'static str| self.0.abort(reason, || {});
        let (mut until, mut pause, mut is_told) = (Instant::now() + stalled, RETRY.0, false);
        loop {
            tokio::time::sleep(pause).await;
            let drained = queue.drain(reach);
            // A client that makes only little space is not polled more often.
            pause = match drained {
                Drained::Batch => RETRY.0,
                Drained::Some => pause,
                Drained::All | Drained::None | Drained::Ends => (pause * 2).min(RETRY.1),
            };
            let is_late = Instant::now() >= until;
            match drained {
                Drained::All => return,
                Drained::Batch | Drained::Some => until = Instant::now() + stalled,
                Drained::None if is_late => abort("reader_stalled"),
                Drained::None => {}
                // Runs until the connection is gone, so that nothing follows its DISCONNECT packet.
                Drained::Ends if reach.socket().is_none() => return self.0.forget(),
                Drained::Ends if !is_told => {
                    is_told = reach.try_disconnect().is_ok();
                    if !is_told && is_late {
                        abort("disconnect_unread");
                        // A polling client can't be aborted: if it never polls again, the heartbeat
                        // ends its session.
                        until = Instant::now() + stalled;
                    }
                }
                Drained::Ends => {}
            }
        }
    }
}

/// After a panic, no task would drain the queue, and its client would receive nothing more.
impl Drop for Attendant {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(outgoing) = self;
            outgoing.forget();
            outgoing.reach.abort();
            // If there is no space for the DISCONNECT packet, the heartbeat ends the session of a
            // client that polls.
            let _ = outgoing.reach.try_disconnect();
        }
    }
}
