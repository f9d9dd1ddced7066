//! One connection: puts its events into the mailbox, and handles them one at a time.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OnceCell};

use crate::event::{Caller, Connection, Event, EventId, Identity};
use crate::log;
use crate::memory::ANSWER_BYTES;
use crate::rejection::Rejection;
use crate::rooms::ReplyTo;
use crate::socketio::{self, Incoming, Link, Newcomer};
use crate::transport::SessionSlot;

use super::mailbox::{
    Busy, ConnectionState, Consumer, IDLE_QUEUE, Mailbox, PendingRejection, ReceivedEvent, Work,
    charge,
};
use super::{Sockets, packet};

/// One connection to one namespace.
pub(super) struct Client {
    /// Weak: a connection that an implementation never drops must not keep the whole host alive.
    sockets: Weak<Sockets>,
    connection: Arc<Connection>,
    /// For the log.
    address: Option<IpAddr>,
    mailbox: Mutex<Mailbox>,
    /// Notified when the mailbox is closed and the last event is handled.
    drained: Notify,
    /// Set when plugins have been told that the connection has ended. Only the first caller tells
    /// them.
    left: OnceCell<()>,
    /// Held until the last task of the client has ended: a session that is closing counts against
    /// the limit of connections.
    _slot: Option<SessionSlot>,
}

/// Maximum number of answers that wait for a client that sends without reading. A client with more
/// is disconnected.
const MAX_PENDING_REJECTIONS: usize = 16_384;

impl Client {
    pub(super) fn new(
        sockets: &Arc<Sockets>,
        newcomer: Newcomer,
        identity: Arc<Identity>,
    ) -> Arc<Self> {
        let Newcomer { sid, namespace, address, slot } = newcomer;
        let public_id = EventId::new(std::time::SystemTime::now()).to_string();
        let connection = Arc::new(Connection::new(sid, public_id, namespace, identity, address));
        let client = Arc::new(Self {
            sockets: Arc::downgrade(sockets),
            connection,
            address,
            mailbox: Mutex::default(),
            drained: Notify::new(),
            left: OnceCell::new(),
            _slot: slot,
        });
        sockets.clients().insert(client.connection.public_id.clone(), Arc::downgrade(&client));
        client
    }

    /// The lock is held for a few operations, and never across an await. A panic leaves the queue
    /// consistent.
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts one event. Handles it now if nothing waits and there is a `context`; otherwise
    /// queues it.
    fn take(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        incoming: ReceivedEvent,
        context: Option<&mut Context<'_>>,
    ) {
        let limits = &sockets.limits;
        let mut mailbox = self.mailbox();
        if sockets.is_stopping.load(Ordering::Acquire) {
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
        let busy = if mailbox.events.len() + mailbox.handling >= limits.mailbox_events.get()
            || bytes > limits.mailbox_bytes.get()
        {
            Busy::Mailbox
        } else if sockets.memory.take(charge(incoming.size), mailbox.memory()) {
            mailbox.bytes = bytes;
            mailbox.handles_now = context.is_some();
            match context {
                Some(context) if mailbox.is_idle() => {
                    mailbox.handling = 1;
                    drop(mailbox);
                    self.handle_now(sockets, incoming, context);
                }
                Some(_) | None => {
                    mailbox.events.push_back(incoming);
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
            let pending_rejections =
                PendingRejection { event: event.name.clone(), id: event.id, busy, to };
            if mailbox.pending_rejections.len() < MAX_PENDING_REJECTIONS
                && sockets.memory.take(ANSWER_BYTES, mailbox.memory())
            {
                mailbox.pending_rejections.push_back(pending_rejections);
                self.wake(sockets, mailbox);
            } else {
                drop(mailbox);
                pending_rejections.to.link.abort("the client does not read its answers");
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
        let (client, host, size) = (Arc::clone(self), Arc::clone(sockets), incoming.size);
        let mut handling: BoxFuture<'static, ()> =
            Box::pin(async move { client.handle(&host, incoming).await });
        if handling.as_mut().poll(context).is_pending() {
            self.mailbox().consumer = Consumer::Running;
            self.consume(sockets, Some((handling, size)));
            return;
        }
        let mut mailbox = self.mailbox();
        sockets.free(&mut mailbox, size);
        // Only the caller's task adds events, so none waits. But the connection may be closing.
        if mailbox.state == ConnectionState::Closing {
            mailbox.state = ConnectionState::Closed;
            drop(mailbox);
            self.drained.notify_one();
        }
    }

    /// Makes sure that a consumer handles what is in the mailbox, or notices that it is closed.
    fn wake(self: &Arc<Self>, sockets: &Arc<Sockets>, mut mailbox: MutexGuard<'_, Mailbox>) {
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

    /// Spawns a consumer that handles the mailbox until it is closed. It first finishes the event
    /// `begun`, given with its size in bytes.
    ///
    /// The task lives as long as the connection if every event needs it: spawning a task for each
    /// event costs more than the memory of this one.
    fn consume(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        begun: Option<(BoxFuture<'static, ()>, usize)>,
    ) {
        let (client, host) = (Arc::clone(self), Arc::clone(sockets));
        // Boxed from the start: the scheduler would otherwise move the future.
        sockets.tasks.spawn(Box::pin(async move {
            let mut handled = None;
            if let Some((handling, size)) = begun {
                handling.await;
                handled = Some(size);
            }
            while let Some(next) = client.next(&host, handled).await {
                handled = match next {
                    Work::Event(incoming) => {
                        let size = incoming.size;
                        client.handle(&host, incoming).await;
                        Some(size)
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
    /// no consumer. The mailbox space of an event of `handled` bytes is freed only now, because its
    /// answer has found space.
    async fn next(&self, sockets: &Sockets, mut handled: Option<usize>) -> Option<Work> {
        poll_fn(|context| self.poll_next(sockets, context, handled.take())).await
    }

    fn poll_next(
        &self,
        sockets: &Sockets,
        context: &Context<'_>,
        handled: Option<usize>,
    ) -> Poll<Option<Work>> {
        let mut mailbox = self.mailbox();
        if let Some(size) = handled {
            sockets.free(&mut mailbox, size);
        }
        // Pending rejections come first: there may be space for them now.
        if let Some(pending_rejections) = mailbox.pending_rejections.pop_front() {
            sockets.memory.give_back(ANSWER_BYTES);
            return Poll::Ready(Some(Work::PendingRejection(pending_rejections)));
        }
        if let Some(incoming) = mailbox.events.pop_front() {
            mailbox.handling = 1;
            return Poll::Ready(Some(Work::Event(incoming)));
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
        if mailbox.handles_now {
            mailbox.consumer = Consumer::None;
            return Poll::Ready(None);
        }
        mailbox.consumer = Consumer::Waiting(context.waker().clone());
        Poll::Pending
    }

    /// Handles one event to its end, and answers it.
    async fn handle(&self, sockets: &Arc<Sockets>, incoming: ReceivedEvent) {
        let ReceivedEvent { event, rejection, to, .. } = incoming;
        let answer = match rejection {
            // A panic of the host fails only this event: the event is answered, and the mailbox
            // continues.
            None => {
                // Pinned in place: passed by value, its 3 KiB would be copied for each event.
                let handling = pin!(sockets.dispatcher.handle(Arc::clone(&event)));
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
        let answer = answer.map(|reply| reply.json);
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
            to.link.abort("an answer could not be sent");
        }
    }

    /// Logs the rejection of an event for which no plugin was called.
    fn log(&self, event: &Event, rejection: &Rejection) {
        log::rejected(&event.name, event.id, Some(&self.connection), None, rejection, None);
    }

    /// Handles the events that have arrived, and then tells plugins that the client is gone, while
    /// its rooms are unchanged. Only the first caller does this.
    pub(super) async fn end(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        self.left.get_or_init(|| self.finish(sockets)).await;
    }

    async fn finish(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        if self.close(sockets) {
            self.drained.notified().await;
        }
        sockets.dispatcher.disconnected(&self.connection).await;
    }

    /// Stops accepting events. Returns whether some events are still to be handled.
    fn close(self: &Arc<Self>, sockets: &Arc<Sockets>) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.state == ConnectionState::Closed {
            return false;
        }
        if mailbox.state == ConnectionState::New {
            // The implementation has not called `begin` yet, but `$connect` must precede
            // `$disconnect`.
            sockets.dispatcher.connected(&self.connection);
        }
        mailbox.state = ConnectionState::Closing;
        if mailbox.is_inactive() && !mailbox.has_work() {
            mailbox.state = ConnectionState::Closed;
            return false;
        }
        self.wake(sockets, mailbox);
        true
    }
}

impl socketio::Client for Client {
    fn id(&self) -> &str {
        &self.connection.public_id
    }

    fn enter(&self, link: Link) {
        let (client, namespace) = (self.connection.public_id.as_str(), &*self.connection.namespace);
        let (address, transport) = (self.address.map(tracing::field::display), link.transport());
        tracing::debug!(client, address, namespace, transport, "client connected");
        if let Some(sockets) = self.sockets.upgrade() {
            sockets.rooms.enter(&self.connection, link);
        }
    }

    /// `$connect` comes first, then the events that have arrived since.
    fn begin(self: Arc<Self>) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let mut mailbox = self.mailbox();
        if mailbox.state == ConnectionState::New {
            mailbox.state = ConnectionState::Open;
            sockets.dispatcher.connected(&self.connection);
            if mailbox.has_work() {
                self.wake(&sockets, mailbox);
            }
        }
    }

    fn event(
        self: Arc<Self>,
        incoming: Incoming<'_>,
        link: Link,
        context: Option<&mut Context<'_>>,
    ) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let to = ReplyTo { link, ack: incoming.ack };
        let read = packet::read(incoming, &sockets.limits);
        let size = if read.rejection.is_some() { 0 } else { read.payload.size() };
        let caller = Caller::Connection(Arc::clone(&self.connection));
        let event = Arc::new(Event::now(read.name, read.payload, caller));
        self.take(&sockets, ReceivedEvent { event, rejection: read.rejection, to, size }, context);
    }

    fn leave(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            if let Some(sockets) = self.sockets.upgrade() {
                self.end(&sockets).await;
                sockets.rooms.leave(&self.connection);
            }
        })
    }
}

/// Removes the connection from the host, however it ended, even if it never began.
impl Drop for Client {
    fn drop(&mut self) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        // Events wait here only if the connection never began: no consumer has handled them.
        let mailbox = self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waiting: usize = mailbox.events.iter().map(|incoming| charge(incoming.size)).sum();
        sockets.memory.give_back(waiting + mailbox.pending_rejections.len() * ANSWER_BYTES);
        sockets.rooms.leave(&self.connection);
        sockets.clients().remove(&self.connection.public_id);
    }
}
