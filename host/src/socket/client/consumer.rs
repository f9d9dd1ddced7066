//! Handles the events in the mailbox of one connection, one at a time, and answers each.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::dispatcher::{EventResult, Reply};
use crate::event::{AUTHENTICATE, Event};
use crate::log;
use crate::memory::ANSWER_BYTES;
use crate::rejection::Rejection;
use crate::socket::Sockets;
use crate::socket::mailbox::{
    ConnectionState, Consumer, IDLE_QUEUE, Mailbox, PendingRejection, QueuedEvent, ReceivedEvent,
    Space, Work,
};

use super::{Client, authenticate};

impl Client {
    /// Makes sure that a consumer handles the work in the mailbox, or notices that the connection
    /// is closing.
    pub(super) fn wake(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        mut mailbox: MutexGuard<'_, Mailbox>,
    ) {
        match std::mem::replace(&mut mailbox.consumer, Consumer::Running) {
            // Not yet: CONNECT is not answered, or the caller's task is handling an event.
            Consumer::None if mailbox.state == ConnectionState::New || mailbox.handling > 0 => {
                mailbox.consumer = Consumer::None
            }
            Consumer::None => {
                drop(mailbox);
                self.consume(sockets, None);
            }
            Consumer::Running => {}
            Consumer::Waiting(waker) => {
                drop(mailbox);
                waker.wake();
            }
        }
    }

    /// Spawns a consumer that handles the work in the mailbox. It first finishes the event `begun`,
    /// given with its space.
    ///
    /// The task lives as long as the connection, unless events may be handled without it
    /// ([`Mailbox::intake_may_handle`]). To spawn a task for each event would cost more than the
    /// memory of this one.
    pub(super) fn consume(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        begun: Option<(BoxFuture<'static, ()>, Space)>,
    ) {
        let (client, host) = (Arc::clone(self), Arc::clone(sockets));
        // Boxed from the start: the scheduler would otherwise move the future.
        sockets.tasks.spawn(Box::pin(async move {
            let mut handled = None;
            if let Some((handling, space)) = begun {
                handling.await;
                handled = Some(space);
            }
            while let Some(next) = client.next(&host, handled).await {
                handled = match next {
                    Work::Event(queued) => {
                        let space = queued.space();
                        match queued {
                            QueuedEvent::Received(incoming) => client.handle(&host, incoming).await,
                            // Boxed: it is rare, and would make the task of each client larger.
                            QueuedEvent::Ack(ack) => {
                                Box::pin(client.handle_ack(&host, ack.ended)).await
                            }
                        }
                        Some(space)
                    }
                    Work::PendingRejection(PendingRejection { event, id, busy, to }) => {
                        host.rooms.answer(&to, &event, id, &Err(busy.into())).await;
                        None
                    }
                };
            }
        }));
    }

    /// Waits for the next work. Returns `None` if there will be no more, or if the next event needs
    /// no consumer. `handled` is the space of the event that was handled last. It is
    /// freed only now, because its answer has found space.
    async fn next(&self, sockets: &Sockets, mut handled: Option<Space>) -> Option<Work> {
        poll_fn(|context| self.poll_next(sockets, context, handled.take())).await
    }

    fn poll_next(
        &self,
        sockets: &Sockets,
        context: &Context<'_>,
        handled: Option<Space>,
    ) -> Poll<Option<Work>> {
        let mut mailbox = self.mailbox();
        if let Some(space) = handled {
            sockets.free(&mut mailbox, space);
        }
        // Pending rejections come first: there may be space for them now.
        if let Some(pending) = mailbox.pending_rejections.pop_front() {
            sockets.memory.give_back(ANSWER_BYTES);
            return Poll::Ready(Some(Work::PendingRejection(pending)));
        }
        if let Some(queued) = mailbox.events.pop_front() {
            mailbox.handling = 1;
            return Poll::Ready(Some(Work::Event(queued)));
        }
        // A burst leaves a large queue behind. An idle connection does not need its memory.
        if mailbox.events.capacity() > IDLE_QUEUE {
            mailbox.events = VecDeque::new();
        }
        if mailbox.state == ConnectionState::Closing {
            (mailbox.state, mailbox.consumer) = (ConnectionState::Closed, Consumer::None);
            drop(mailbox);
            self.drained.notify_one();
            return Poll::Ready(None);
        }
        if mailbox.intake_may_handle {
            mailbox.consumer = Consumer::None;
            return Poll::Ready(None);
        }
        mailbox.consumer = Consumer::Waiting(context.waker().clone());
        Poll::Pending
    }

    /// Handles one event to its end, and answers it.
    pub(super) async fn handle(self: &Arc<Self>, sockets: &Arc<Sockets>, incoming: ReceivedEvent) {
        let ReceivedEvent { event, rejection, to, .. } = incoming;
        let rejection = rejection.or_else(|| self.rejection(&event));
        let answer = match rejection {
            // A panic of the host fails only this event: the event is answered, and the mailbox
            // continues.
            None => {
                // Pinned in place: passed by value, its 3 KiB would be copied for each event.
                let handling = pin!(self.dispatch(sockets, &event));
                log::catch(handling).await.unwrap_or_else(|panic| {
                    let (caller, fault) = (Some(&*self.connection), panic.into());
                    log::rejected(
                        &event.name,
                        event.id,
                        caller,
                        None,
                        &Rejection::PluginFailed,
                        Some(&fault),
                    );
                    Err(Rejection::PluginFailed)
                })
            }
            Some(rejection) => {
                self.log(&event, &rejection);
                Err(rejection)
            }
        };
        let ends = answer.as_ref().is_ok_and(|reply| reply.ends);
        // A panic while answering must not stop the mailbox either.
        let answering = pin!(async {
            sockets.rooms.answer(&to, &event.name, event.id, &answer).await;
            if ends {
                sockets.rooms.end(&self.connection);
            }
        });
        if let Err(panic) = log::catch(answering).await {
            let fault = log::Fault::from(panic);
            log::rejected(
                &event.name,
                event.id,
                Some(&self.connection),
                None,
                &Rejection::PluginFailed,
                Some(&fault),
            );
            to.link.abort("answer_failed");
        }
    }

    /// Handles the events that are the host's own, and passes on all others.
    async fn dispatch(self: &Arc<Self>, sockets: &Sockets, event: &Arc<Event>) -> EventResult {
        if event.name != AUTHENTICATE {
            return sockets.dispatcher.handle(Arc::clone(event)).await;
        }
        // Boxed: it is rare, and would make the future of each event larger.
        match Box::pin(self.authenticate(sockets, event)).await {
            Ok(json) => Ok(Reply { json, attachments: Vec::new(), ends: false }),
            Err(rejection) => {
                self.log(event, &rejection);
                Err(rejection)
            }
        }
    }

    /// Returns why an event may not be handled now, if it may not.
    fn rejection(&self, event: &Event) -> Option<Rejection> {
        let is_refused = self.has_expired.load(Ordering::Acquire) && event.name != AUTHENTICATE;
        is_refused.then(authenticate::expired)
    }

    /// Logs the rejection of an event for which no plugin was called.
    pub(super) fn log(&self, event: &Event, rejection: &Rejection) {
        log::rejected(&event.name, event.id, Some(&self.connection), None, rejection, None);
    }
}
