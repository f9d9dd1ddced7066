//! Passes the outcomes of emits with an ack to the connections that they are about, if their
//! clients have not answered.

use std::sync::{Arc, Weak};

use crate::effect::EndedAck;

use super::Sockets;

impl Sockets {
    /// Passes on what ends otherwise than by an answer, without end.
    pub(crate) async fn watch_acks(self: Arc<Self>) {
        loop {
            let ended = self.rooms.next_ended_ack().await;
            let id = ended.caller.connection().map(|connection| connection.public_id.as_str());
            let client = id.and_then(|id| self.clients().get(id).and_then(Weak::upgrade));
            match client {
                Some(client) => client.take_ended_ack(&self, ended),
                None => self.end_ack_apart(ended),
            }
        }
    }

    /// Lets the plugin handle an outcome whose connection is gone. It has no order.
    pub(super) fn end_ack_apart(self: &Arc<Self>, ended: EndedAck) {
        let sockets = Arc::clone(self);
        // A plugin waits only for so many acks, so there are only so many tasks.
        self.tasks.spawn(async move { sockets.dispatcher.acknowledge(ended).await });
    }
}
