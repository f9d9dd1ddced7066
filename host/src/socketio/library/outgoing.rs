//! One socket and the queue of its packets, which its link and its attendant share.

use std::sync::Arc;

use super::asks::Asks;
use super::queue::PacketQueue;
use super::reach::Reach;

/// One socket, the packets that wait for it, and the answers that it owes.
pub(super) struct Outgoing {
    pub(super) reach: Reach,
    pub(super) queue: PacketQueue,
    pub(super) asks: Arc<Asks>,
}

impl Outgoing {
    /// Ends the connection, without the waiting packets. Calls `attend` as [`PacketQueue::send`]
    /// does.
    pub(super) fn abort(&self, reason: &'static str, attend: impl FnOnce()) {
        crate::socketio::cut::log_cut(&self.reach.client, reason, self.queue.waiting_bytes());
        self.queue.end(true, &self.reach.shared.memory, attend);
        self.reach.abort();
    }

    /// Drops the packets that wait for an ended connection. Its client may connect again in the
    /// same session.
    pub(super) fn forget(&self) {
        self.queue.forget(&self.reach.shared.memory);
    }
}
