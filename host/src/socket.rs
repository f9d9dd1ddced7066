//! What clients say: one ordered, bounded mailbox for each connection, and at most one consumer of it.
//!
//! An implementation of Socket.IO calls [`Client::event`] in its reader task, in the order in which events arrive. Where it allows that and nothing
//! of the connection waits, the event is handled there and then; otherwise its raw payload waits in the mailbox. Events of a connection are handled
//! one at a time, each is answered, and `$disconnect` comes when all have been.

mod packet;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OnceCell};
use tokio_util::task::TaskTracker;

use crate::config::{EVENT_BYTES, Limits};
use crate::dispatcher::Dispatcher;
use crate::event::{Connection, Event, EventId, Identity};
use crate::log;
use crate::memory::{ANSWER_BYTES, QueueMemory};
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::rooms::{ReplyTo, Rooms};
use crate::socketio::{self, Clients, Incoming, Link, Newcomer, Refused};
use crate::transport::SessionSlot;

/// Takes connections and their events.
pub(crate) struct Sockets {
    /// For clients, which keep it while they live.
    itself: Weak<Self>,
    dispatcher: Arc<Dispatcher>,
    rooms: Arc<Rooms>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    memory: QueueMemory,
    /// Every connection, by its public id: who is to be told when the host stops.
    clients: Mutex<HashMap<String, Weak<Client>>>,
    /// Set when the host stops: what comes then is not handled any more.
    is_stopping: AtomicBool,
}

impl Sockets {
    /// Whose events go to `dispatcher`.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        rooms: Arc<Rooms>,
        limits: Arc<Limits>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
    ) -> Arc<Self> {
        let (clients, is_stopping) = (Mutex::default(), AtomicBool::new(false));
        let memory = QueueMemory::new(limits.mailboxes_bytes.get());
        Arc::new_cyclic(|itself| Self {
            itself: Weak::clone(itself),
            dispatcher,
            rooms,
            limits,
            metrics,
            tasks,
            memory,
            clients,
            is_stopping,
        })
    }

    /// The memory of all mailboxes.
    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// Handles no event that comes from now on, those that came to their end, and tells `$disconnect` for every connection.
    pub(crate) async fn stop(self: &Arc<Self>) {
        self.is_stopping.store(true, Ordering::Release);
        let clients: Vec<_> = self.clients().values().filter_map(Weak::upgrade).collect();
        let leaving = TaskTracker::new();
        for client in clients {
            let sockets = Arc::clone(self);
            leaving.spawn(async move { client.end(&sockets).await });
        }
        leaving.close();
        leaving.wait().await;
    }

    /// Frees the place in the mailbox of an event of `size` bytes, which was handled.
    fn free(&self, mailbox: &mut Mailbox, size: usize) {
        mailbox.bytes -= size;
        mailbox.handling = 0;
        self.memory.give_back(charge(size));
    }

    /// The lock guards a map that is whole between any two of its calls.
    fn clients(&self) -> MutexGuard<'_, HashMap<String, Weak<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients for Sockets {
    fn accept(&self, newcomer: Newcomer) -> BoxFuture<'_, Result<Arc<dyn socketio::Client>, Refused>> {
        let client = self.itself.upgrade().map(|sockets| Client::new(&sockets, newcomer) as Arc<dyn socketio::Client>);
        Box::pin(std::future::ready(client.ok_or(Refused("unavailable"))))
    }
}

/// One connection to one namespace.
struct Client {
    /// Weak: a connection that an implementation never gives up must not keep the whole host.
    sockets: Weak<Sockets>,
    connection: Arc<Connection>,
    /// For the log.
    address: Option<IpAddr>,
    mailbox: Mutex<Mailbox>,
    /// Signalled when the consumer has found the mailbox empty and closed.
    drained: Notify,
    /// Filled when the connection has been told to plugins as gone: once, whoever notices first.
    left: OnceCell<()>,
    /// Kept until the last task of the client has ended: a session that is closing counts against the limit of connections.
    _slot: Option<SessionSlot>,
}

#[derive(Default)]
struct Mailbox {
    events: VecDeque<Taken>,
    /// Events that are being handled: none or one.
    handling: usize,
    /// Who handles what is in the mailbox.
    consumer: Consumer,
    /// Whether events may be handled without a consumer, which need not live as long as the connection then.
    handles_now: bool,
    /// Of what waits and what is being handled.
    bytes: usize,
    /// Answers to events that found the mailbox full, for which the outgoing buffer had no room.
    overdue: VecDeque<Overdue>,
    stage: Stage,
}

/// Who handles what is in a mailbox.
#[derive(Debug, Default)]
enum Consumer {
    /// Nobody: the next event starts a consumer, or is handled without one.
    #[default]
    None,
    /// A task that is at work, or is woken already: it finds by itself what has come.
    AtWork,
    /// A task that waits for the next event.
    Asleep(Waker),
}

/// What becomes of the next event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits: CONNECT is not answered yet.
    #[default]
    New,
    /// It is handled in its turn.
    Open,
    /// It is too late: the client is gone, and the consumer handles what came before.
    Closing,
    /// It is too late, and nothing is left.
    Closed,
}

/// An event as it came, and why it can't be handled, where it can't.
struct Taken {
    event: Arc<Event>,
    rejection: Option<Rejection>,
    to: ReplyTo,
    size: usize,
}

/// The answer `busy` to an event that was not kept.
struct Overdue {
    event: String,
    id: EventId,
    busy: Busy,
    to: ReplyTo,
}

/// What a consumer is to do next.
enum Next {
    /// Handle an event.
    Event(Taken),
    /// Answer one that was not kept.
    Overdue(Overdue),
}

/// Events for which an idle mailbox keeps room.
const IDLE_QUEUE: usize = 4;

/// Answers that may wait for a client which sends without reading; beyond, it is cut.
const MAX_OVERDUE: usize = 16_384;

impl Client {
    fn new(sockets: &Arc<Sockets>, newcomer: Newcomer) -> Arc<Self> {
        let Newcomer { sid, namespace, address, slot } = newcomer;
        let identity = Arc::new(Identity::default());
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

    /// The lock is held for a few moves and never across an await; a panic leaves the queue whole.
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one event: handles it now if nothing waits and there is a `context`, or has it handled in its turn.
    fn take(self: &Arc<Self>, sockets: &Arc<Sockets>, incoming: Taken, context: Option<&mut Context<'_>>) {
        let limits = &sockets.limits;
        let mut mailbox = self.mailbox();
        if sockets.is_stopping.load(Ordering::Acquire) {
            drop(mailbox);
            let stopping = Rejection::Unavailable("the host is stopping".to_owned());
            self.log(&incoming.event, &stopping);
            let stopping = Err(stopping);
            // A full buffer's client learns of it by the end of its connection, which is next.
            let _ = sockets.rooms.try_answer(&incoming.to, &incoming.event.name, incoming.event.id, &stopping);
            return;
        }
        if matches!(mailbox.stage, Stage::Closing | Stage::Closed) {
            return;
        }
        let bytes = mailbox.bytes.saturating_add(incoming.size);
        let busy = if mailbox.events.len() + mailbox.handling >= limits.mailbox_events.get() || bytes > limits.mailbox_bytes.get() {
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
        let Taken { event, to, .. } = incoming;
        if sockets.rooms.try_answer(&to, &event.name, event.id, &Err(rejection)).is_err() {
            let overdue = Overdue { event: event.name.clone(), id: event.id, busy, to };
            if mailbox.overdue.len() < MAX_OVERDUE && sockets.memory.take(ANSWER_BYTES, mailbox.memory()) {
                mailbox.overdue.push_back(overdue);
                self.wake(sockets, mailbox);
            } else {
                drop(mailbox);
                overdue.to.link.abort("it sends without reading its answers");
            }
        }
    }

    /// Handles an event in the caller's task, until it is answered or has to wait for something: then it goes on in a task of its own.
    fn handle_now(self: &Arc<Self>, sockets: &Arc<Sockets>, incoming: Taken, context: &mut Context<'_>) {
        let (client, host, size) = (Arc::clone(self), Arc::clone(sockets), incoming.size);
        let mut handling: BoxFuture<'static, ()> = Box::pin(async move { client.handle(&host, incoming).await });
        if handling.as_mut().poll(context).is_pending() {
            self.mailbox().consumer = Consumer::AtWork;
            self.consume(sockets, Some((handling, size)));
            return;
        }
        let mut mailbox = self.mailbox();
        sockets.free(&mut mailbox, size);
        // Only the caller adds events, so nothing waits but the end of the connection.
        if mailbox.stage == Stage::Closing {
            mailbox.stage = Stage::Closed;
            drop(mailbox);
            self.drained.notify_one();
        }
    }

    /// Sees that somebody handles what is in the mailbox, or that nothing will be any more.
    fn wake(self: &Arc<Self>, sockets: &Arc<Sockets>, mut mailbox: MutexGuard<'_, Mailbox>) {
        match std::mem::replace(&mut mailbox.consumer, Consumer::AtWork) {
            // Before CONNECT is answered, and while the caller's task handles an event, it is started later.
            Consumer::None if mailbox.stage == Stage::New || mailbox.handling > 0 => mailbox.consumer = Consumer::None,
            Consumer::None => {
                drop(mailbox);
                self.consume(sockets, None);
            }
            Consumer::AtWork => {}
            Consumer::Asleep(waker) => {
                drop(mailbox);
                waker.wake();
            }
        }
    }

    /// Handles what comes into the mailbox until it is closed, in a task of its own, after an event that was `begun` with so many bytes.
    ///
    /// The task lives as long as the connection if every event needs it: to spawn one for each event costs more than its memory is worth.
    fn consume(self: &Arc<Self>, sockets: &Arc<Sockets>, begun: Option<(BoxFuture<'static, ()>, usize)>) {
        let (client, host) = (Arc::clone(self), Arc::clone(sockets));
        // In a box from the start: the scheduler would move it about.
        sockets.tasks.spawn(Box::pin(async move {
            let mut handled = None;
            if let Some((handling, size)) = begun {
                handling.await;
                handled = Some(size);
            }
            while let Some(next) = client.next(&host, handled).await {
                handled = match next {
                    Next::Event(incoming) => {
                        let size = incoming.size;
                        client.handle(&host, incoming).await;
                        Some(size)
                    }
                    Next::Overdue(Overdue { event, id, busy, to }) => {
                        host.rooms.answer(&to, &event, id, &Err(busy.into())).await;
                        None
                    }
                };
            }
        }));
    }

    /// What comes next, as soon as there is something; nothing when there will be no more, or when the next event needs no consumer. The place in
    /// the mailbox of an event of `handled` bytes is free only now, when its answer has found room.
    async fn next(&self, sockets: &Sockets, mut handled: Option<usize>) -> Option<Next> {
        poll_fn(|context| self.poll_next(sockets, context, handled.take())).await
    }

    fn poll_next(&self, sockets: &Sockets, context: &Context<'_>, handled: Option<usize>) -> Poll<Option<Next>> {
        let mut mailbox = self.mailbox();
        if let Some(size) = handled {
            sockets.free(&mut mailbox, size);
        }
        // Now that there may be room for them.
        if let Some(overdue) = mailbox.overdue.pop_front() {
            sockets.memory.give_back(ANSWER_BYTES);
            return Poll::Ready(Some(Next::Overdue(overdue)));
        }
        if let Some(incoming) = mailbox.events.pop_front() {
            mailbox.handling = 1;
            return Poll::Ready(Some(Next::Event(incoming)));
        }
        // A burst leaves its queue's memory behind; an idle connection needs no more than its next event does.
        if mailbox.events.capacity() > IDLE_QUEUE {
            mailbox.events = VecDeque::new();
        }
        if mailbox.stage == Stage::Closing {
            (mailbox.stage, mailbox.consumer) = (Stage::Closed, Consumer::None);
            drop(mailbox);
            self.drained.notify_one();
            return Poll::Ready(None);
        }
        if mailbox.handles_now {
            mailbox.consumer = Consumer::None;
            return Poll::Ready(None);
        }
        mailbox.consumer = Consumer::Asleep(context.waker().clone());
        Poll::Pending
    }

    /// Handles one event to its end, and answers it.
    async fn handle(&self, sockets: &Arc<Sockets>, incoming: Taken) {
        let Taken { event, rejection, to, .. } = incoming;
        let answer = match rejection {
            // A panic of the host's own is one event's failure: the mailbox goes on, and the event has its answer.
            None => {
                // Pinned where it is: handed on by value, its 3 KiB would be copied for each event.
                let handling = pin!(sockets.dispatcher.handle(Arc::clone(&event)));
                log::catch(handling).await.unwrap_or_else(|panic| {
                    let (caller, fault) = (Some(&*self.connection), panic.into());
                    log::rejected(&event.name, event.id, caller, None, &Rejection::PluginFailed, Some(&fault));
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
        // The same for its answer: whoever handles the mailbox goes on.
        let answering = pin!(async {
            sockets.rooms.answer(&to, &event.name, event.id, &answer).await;
            if ends {
                sockets.rooms.end(&self.connection);
            }
        });
        if let Err(panic) = log::catch(answering).await {
            let fault = log::Fault::from(panic);
            log::rejected(&event.name, event.id, Some(&self.connection), None, &Rejection::PluginFailed, Some(&fault));
            to.link.abort("its answer could not be sent");
        }
    }

    /// Logs why an event is not handled that no plugin was asked for.
    fn log(&self, event: &Event, rejection: &Rejection) {
        log::rejected(&event.name, event.id, Some(&self.connection), None, rejection, None);
    }

    /// Handles what was received, and then tells plugins that the client is gone, with the rooms as they were. Once, whoever notices first.
    async fn end(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        self.left.get_or_init(|| self.finish(sockets)).await;
    }

    async fn finish(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        if self.close(sockets) {
            self.drained.notified().await;
        }
        sockets.dispatcher.disconnected(&self.connection).await;
    }

    /// Takes no event from now on; returns whether some are still to be handled.
    fn close(self: &Arc<Self>, sockets: &Arc<Sockets>) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.stage == Stage::Closed {
            return false;
        }
        if mailbox.stage == Stage::New {
            // CONNECT was answered, and the implementation has not said so yet.
            sockets.dispatcher.connected(&self.connection);
        }
        mailbox.stage = Stage::Closing;
        if mailbox.has_nobody_at_work() && !mailbox.has_work() {
            mailbox.stage = Stage::Closed;
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

    /// `$connect` comes first, then whatever has come since.
    fn begin(self: Arc<Self>) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let mut mailbox = self.mailbox();
        if mailbox.stage == Stage::New {
            mailbox.stage = Stage::Open;
            sockets.dispatcher.connected(&self.connection);
            if mailbox.has_work() {
                self.wake(&sockets, mailbox);
            }
        }
    }

    fn event(self: Arc<Self>, incoming: Incoming<'_>, link: Link, context: Option<&mut Context<'_>>) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let to = ReplyTo { link, ack: incoming.ack };
        let read = packet::read(incoming, &sockets.limits);
        let size = if read.rejection.is_some() { 0 } else { read.payload.size() };
        let event = Arc::new(Event::now(read.name, read.payload, Some(Arc::clone(&self.connection))));
        self.take(&sockets, Taken { event, rejection: read.rejection, to, size }, context);
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

/// However a connection ends, and also where it never came to be, nobody finds it any more.
impl Drop for Client {
    fn drop(&mut self) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        // Events wait here only if the connection never came to be: then nobody has handled them.
        let mailbox = self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waiting: usize = mailbox.events.iter().map(|incoming| charge(incoming.size)).sum();
        sockets.memory.give_back(waiting + mailbox.overdue.len() * ANSWER_BYTES);
        sockets.rooms.leave(&self.connection);
        sockets.clients().remove(&self.connection.public_id);
    }
}

impl Mailbox {
    /// Whether nothing is handled or waits, so that an event may be handled at once.
    fn is_idle(&self) -> bool {
        self.stage == Stage::Open && self.has_nobody_at_work() && !self.has_work()
    }

    /// Whether nothing is handled now, and nobody will look for something to handle.
    fn has_nobody_at_work(&self) -> bool {
        self.handling == 0 && matches!(self.consumer, Consumer::None)
    }

    /// Whether something waits.
    fn has_work(&self) -> bool {
        !self.events.is_empty() || !self.overdue.is_empty()
    }

    /// Bytes of [`QueueMemory`] that it has.
    fn memory(&self) -> usize {
        self.bytes + (self.events.len() + self.handling) * EVENT_BYTES + self.overdue.len() * ANSWER_BYTES
    }
}

/// Bytes of [`QueueMemory`] that an event with a payload of `size` bytes takes.
const fn charge(size: usize) -> usize {
    size.saturating_add(EVENT_BYTES)
}

/// What has no space for an event.
#[derive(Debug, Clone, Copy)]
enum Busy {
    /// The connection's own mailbox.
    Mailbox,
    /// The memory of all mailboxes.
    Host,
}

impl From<Busy> for Rejection {
    fn from(busy: Busy) -> Self {
        let message = match busy {
            Busy::Mailbox => "too many events of this connection are waiting",
            Busy::Host => "too many events of all connections are waiting",
        };
        Self::Busy(message.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::{BodyExt, Full};
    use tower::{Layer, ServiceExt};

    use super::*;
    use crate::config::Config;
    use crate::registry::Registry;
    use crate::socketio::library;

    /// A host of whose connections none comes to be, though an event waits for each.
    struct Refusing(Arc<Sockets>);

    struct Waiting(Arc<dyn socketio::Client>);

    impl Clients for Refusing {
        fn accept(&self, newcomer: Newcomer) -> BoxFuture<'_, Result<Arc<dyn socketio::Client>, Refused>> {
            Box::pin(async {
                let client = self.0.accept(newcomer).await?;
                Ok(Arc::new(Waiting(client)) as Arc<dyn socketio::Client>)
            })
        }
    }

    impl socketio::Client for Waiting {
        fn id(&self) -> &str {
            self.0.id()
        }

        fn enter(&self, link: Link) {
            let incoming = Incoming { call: Some(("ping".into(), "")), bytes: 8, attachments: Vec::new(), ack: None };
            Arc::clone(&self.0).event(incoming, link.clone(), None);
            self.0.enter(link);
        }

        fn begin(self: Arc<Self>) {}

        fn event(self: Arc<Self>, _: Incoming<'_>, _: Link, _: Option<&mut Context<'_>>) {}

        fn leave(self: Arc<Self>) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_came_to_be_leaves_nothing_though_an_event_waits() {
        let (tasks, limits, metrics) = (TaskTracker::new(), Arc::new(Limits::default()), Arc::new(Metrics::default()));
        let rooms = Arc::new(Rooms::default());
        let dispatcher = Dispatcher::new(Arc::new(Registry::default()), Arc::clone(&rooms), Arc::clone(&limits), Arc::clone(&metrics));
        let sockets = Sockets::new(Arc::new(dispatcher), Arc::clone(&rooms), limits, metrics, tasks.clone());
        let clients: Arc<dyn Clients> = Arc::new(Refusing(Arc::clone(&sockets)));
        let server = library::Server::new(&Config::default(), &Arc::downgrade(&clients), tasks);
        let service = server
            .layer()
            .layer(tower::service_fn(async |_| Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::default()))));
        let ask = async |query: &str, body: Option<&'static str>| {
            let request = http::Request::builder().uri(format!("http://host/socket.io/?EIO=4&transport=polling{query}"));
            let request = request.method(if body.is_some() { "POST" } else { "GET" });
            let request = request.body(Full::new(bytes::Bytes::from(body.unwrap_or_default()))).unwrap();
            let body = service.clone().oneshot(request).await.unwrap().into_body();
            String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        let opened = ask("", None).await;
        let sid = opened.split('"').nth(3).unwrap();
        ask(&format!("&sid={sid}"), Some("40")).await;
        ask(&format!("&sid={sid}"), None).await;
        assert!(sockets.memory().usage().0 > 0 && rooms.connections() == 1);
        ask(&format!("&sid={sid}"), Some("41")).await;
        // The library drops the socket, which is held by nothing that it owns.
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while !sockets.clients().is_empty() {
            assert!(tokio::time::Instant::now() < until, "the client is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sockets.memory().usage().0 == 0 && rooms.connections() == 0);
    }
}
