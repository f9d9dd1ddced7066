//! Takes the events of one connection: handles an event at once, puts it into the mailbox, or
//! rejects it if a bound is reached.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use futures_util::future::BoxFuture;

use crate::memory::ANSWER_BYTES;
use crate::rejection::Rejection;
use crate::socket::Sockets;
use crate::socket::mailbox::{
    Busy, ConnectionState, Consumer, PendingRejection, QueuedEvent, ReceivedEvent, Space, charge,
};

use super::Client;

/// Maximum number of answers that wait for a client that sends without reading. A client with more
/// is disconnected.
const MAX_PENDING_REJECTIONS: usize = 16_384;

impl Client {
    /// Accepts one event, or rejects it. `context` is that of the caller's task, if this task may
    /// handle the event. With it, the event is handled now if no other event waits or is being
    /// handled. Otherwise the event waits in the mailbox.
    pub(super) fn take(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        incoming: ReceivedEvent,
        context: Option<&mut Context<'_>>,
    ) {
        let config = sockets.config.get();
        let limits = &config.limits;
        let mut mailbox = self.mailbox();
        let is_stopping = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        if is_stopping(&sockets.is_stopping) || is_stopping(&self.moves_away) {
            drop(mailbox);
            let stopping = Rejection::Unavailable("the host is stopping".to_owned());
            self.log(&incoming.event, &stopping);
            let stopping = Err(stopping);
            // If the buffer is full, the client only sees the end of its connection, which follows.
            let _ = sockets.rooms.try_answer(
                &incoming.to,
                &incoming.event.name,
                incoming.event.id,
                &stopping,
            );
            return;
        }
        if matches!(mailbox.state, ConnectionState::Closing | ConnectionState::Closed) {
            return;
        }
        let bytes = mailbox.bytes.saturating_add(incoming.size);
        let busy = if mailbox.counted() >= limits.mailbox_events.get()
            || bytes > limits.mailbox_bytes.get()
        {
            Busy::Mailbox
        } else if sockets.memory.take(charge(incoming.size), mailbox.memory()) {
            mailbox.bytes = bytes;
            mailbox.intake_may_handle = context.is_some();
            match context {
                Some(context) if mailbox.is_idle() => {
                    mailbox.handling = 1;
                    drop(mailbox);
                    self.handle_now(sockets, incoming, context);
                }
                Some(_) | None => {
                    mailbox.events.push_back(QueuedEvent::Received(incoming));
                    self.wake(sockets, mailbox);
                }
            }
            return;
        } else {
            Busy::Host
        };
        sockets.metrics.mailbox_rejection();
        let rejection = Rejection::from(busy);
        self.log(&incoming.event, &rejection);
        let ReceivedEvent { event, to, .. } = incoming;
        if sockets.rooms.try_answer(&to, &event.name, event.id, &Err(rejection)).is_err() {
            let pending = PendingRejection { event: event.name.clone(), id: event.id, busy, to };
            if mailbox.pending_rejections.len() < MAX_PENDING_REJECTIONS
                && sockets.memory.take(ANSWER_BYTES, mailbox.memory())
            {
                mailbox.pending_rejections.push_back(pending);
                self.wake(sockets, mailbox);
            } else {
                drop(mailbox);
                pending.to.link.abort("answers_unread");
            }
        }
    }

    /// Handles an event in the caller's task until it is answered. If it has to wait for something,
    /// it continues in its own task.
    fn handle_now(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        incoming: ReceivedEvent,
        context: &mut Context<'_>,
    ) {
        let (client, host) = (Arc::clone(self), Arc::clone(sockets));
        let space = Space::of(incoming.size);
        let mut handling: BoxFuture<'static, ()> =
            Box::pin(async move { client.handle(&host, incoming).await });
        if handling.as_mut().poll(context).is_pending() {
            self.mailbox().consumer = Consumer::Running;
            self.consume(sockets, Some((handling, space)));
            return;
        }
        let mut mailbox = self.mailbox();
        sockets.free(&mut mailbox, space);
        // Only the caller's task adds events. But an outcome of an ack may wait, and the connection
        // may be closing.
        if mailbox.has_work() {
            self.wake(sockets, mailbox);
        } else if mailbox.state == ConnectionState::Closing {
            mailbox.state = ConnectionState::Closed;
            drop(mailbox);
            self.drained.notify_one();
        }
    }
}
