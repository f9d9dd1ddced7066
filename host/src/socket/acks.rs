//! Passes the outcomes of emits with an ack to the connections that they are about, if their
//! clients have not answered.

use std::pin::pin;
use std::sync::{Arc, Weak};

use crate::dispatcher;
use crate::effect::EndedAck;
use crate::event::Caller;
use crate::log;

use super::Sockets;

impl Sockets {
    /// Passes on what ends otherwise than by an answer, without end.
    pub(crate) async fn watch_acks(self: Arc<Self>) {
        loop {
            let ended = self.rooms.next_ended_ack().await;
            let ack = Arc::clone(&ended.ack);
            let passing = pin!(async { self.pass_on(ended) });
            // A panic loses only this outcome.
            if let Err(panic) = log::catch(passing).await {
                dispatcher::ack_panicked(&ack, &panic);
            }
        }
    }

    fn pass_on(self: &Arc<Self>, ended: EndedAck) {
        let id = ended.caller.connection().map(|connection| connection.public_id.as_str());
        let client = id.and_then(|id| self.clients().get(id).and_then(Weak::upgrade));
        match client {
            Some(client) => client.take_ended_ack(self, ended),
            None => self.end_ack_apart(ended),
        }
    }

    /// Lets the plugin handle an outcome whose connection is gone. It is no event of the connection
    /// any more, because `$disconnect` is the last one: so the connection is not its caller.
    pub(super) fn end_ack_apart(self: &Arc<Self>, mut ended: EndedAck) {
        if let Caller::Connection(connection) = &ended.caller {
            ended.caller = Caller::Namespace(Arc::clone(&connection.namespace));
        }
        let sockets = Arc::clone(self);
        // A plugin waits only for so many acks, so there are only so many tasks.
        self.tasks.spawn(async move { sockets.acknowledge(ended).await });
    }

    /// Lets the plugin handle an outcome. A panic loses only this one.
    pub(super) async fn acknowledge(&self, ended: EndedAck) {
        let ack = Arc::clone(&ended.ack);
        let handling = pin!(self.dispatcher.acknowledge(ended));
        if let Err(panic) = log::catch(handling).await {
            dispatcher::ack_panicked(&ack, &panic);
        }
    }
}
