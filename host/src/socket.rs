//! What clients say: one ordered, bounded mailbox for each connection, and one consumer of it.
//!
//! The library calls [`Intake`] in its reader task, in the order in which events arrive; all that happens there is to put the raw payload
//! into the mailbox. Events are handled one at a time after that, each is answered, and `$disconnect` comes when all have been.

mod packet;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use socketioxide::SocketIo;
use socketioxide::extract::SocketRef;
use socketioxide::handler::{ConnectHandler, MessageHandler, Value};
use socketioxide::socket::{DisconnectReason, Socket};
use tokio::sync::{Notify, OnceCell};
use tokio_util::task::TaskTracker;

use crate::config::{EVENT_BYTES, Limits};
use crate::dispatcher::Dispatcher;
use crate::event::{Connection, Event, EventId, Identity};
use crate::log;
use crate::memory::{ANSWER_BYTES, QueueMemory};
use crate::metrics::Metrics;
use crate::rejection::Rejection;
use crate::rooms::{Outlet, ReplyTo, Rooms};
use crate::transport::{Peer, SessionSlot};

/// Takes connections and their events.
pub(crate) struct Sockets {
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
        Arc::new(Self { dispatcher, rooms, limits, metrics, tasks, memory, clients, is_stopping })
    }

    /// The memory of all mailboxes.
    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// Handles no event that comes from now on, those that came to their end, and tells `$disconnect` for every connection.
    pub(crate) async fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        let clients: Vec<_> = self.clients().values().filter_map(Weak::upgrade).collect();
        let leaving = TaskTracker::new();
        for client in clients {
            leaving.spawn(client.leave());
        }
        leaving.close();
        leaving.wait().await;
    }

    /// The lock guards a map that is whole between any two of its calls.
    fn clients(&self) -> MutexGuard<'_, HashMap<String, Weak<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the connections of `namespaces` from now on. Each is registered once: a second time would orphan its sockets.
    pub(crate) fn serve(self: &Arc<Self>, io: &SocketIo<Outlet>, namespaces: &[String]) {
        let sockets = self;
        for namespace in namespaces {
            let name: Arc<str> = namespace.as_str().into();
            // Weak: what holds the library's sockets is held by these, and would never end.
            let sockets = Arc::downgrade(sockets);
            // Awaited before CONNECT is answered: no event of the client can come before there is a mailbox for it.
            let prepare = move |socket: SocketRef<Outlet>| {
                let Some(sockets) = sockets.upgrade() else { return std::future::ready(Err(Stopped)) };
                Client::prepare(&sockets, &socket, &name);
                std::future::ready(Ok(()))
            };
            // Spawned after CONNECT was sent: what `$connect` emits can't overtake it.
            let connected = async |socket: SocketRef<Outlet>| {
                if let Some(client) = socket.extensions.get::<Arc<Client>>() {
                    client.begin();
                }
            };
            io.ns(namespace.clone(), connected.with(prepare));
        }
    }
}

/// Why a connection is refused where there is no host any more.
#[derive(Debug, thiserror::Error)]
#[error("unavailable")]
struct Stopped;

/// One connection to one namespace.
struct Client {
    sockets: Arc<Sockets>,
    connection: Arc<Connection>,
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
    events: VecDeque<Incoming>,
    /// Events that are being handled: none or one.
    handling: usize,
    /// Of what waits and what is being handled.
    bytes: usize,
    /// Answers to events that found the mailbox full, for which the outgoing buffer had no room.
    overdue: VecDeque<Overdue>,
    stage: Stage,
    /// The consumer, where it sleeps: to be woken when there is something, or nothing will be any more.
    asleep: Option<Waker>,
}

/// What becomes of the next event.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It waits: CONNECT is not answered yet, and there is no consumer.
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
struct Incoming {
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
    Event(Incoming),
    /// Answer one that was not kept.
    Overdue(Overdue),
}

/// Events for which an idle mailbox keeps room.
const IDLE_QUEUE: usize = 4;

/// Answers that may wait for a client which sends without reading; beyond, it is cut.
const MAX_OVERDUE: usize = 16_384;

impl Client {
    fn new(sockets: &Arc<Sockets>, socket: &SocketRef<Outlet>, namespace: &Arc<str>) -> Arc<Self> {
        let address = socket.req_parts().extensions.get::<Peer>().map(|Peer(address)| *address);
        let identity = Arc::new(Identity::default());
        let public_id = EventId::new(std::time::SystemTime::now()).to_string();
        let address_shown = address.map(tracing::field::display);
        tracing::debug!(client = public_id, address = address_shown, namespace = &**namespace, "client connected");
        let connection = Arc::new(Connection::new(socket.id.to_string(), public_id, Arc::clone(namespace), identity, address));
        sockets.rooms.enter(&connection, socket.id);
        let client = Arc::new(Self {
            sockets: Arc::clone(sockets),
            connection,
            mailbox: Mutex::default(),
            drained: Notify::new(),
            left: OnceCell::new(),
            _slot: socket.req_parts().extensions.get::<SessionSlot>().cloned(),
        });
        sockets.clients().insert(client.connection.public_id.clone(), Arc::downgrade(&client));
        client
    }

    /// Makes the client of a socket. The library may drop the socket without a word, where CONNECT finds no room: nothing that the socket
    /// owns may own the socket, also not an event that waits.
    fn prepare(sockets: &Arc<Sockets>, socket: &SocketRef<Outlet>, namespace: &Arc<str>) {
        let client = Self::new(sockets, socket, namespace);
        socket.on_fallback(Intake(Arc::clone(&client)));
        let leaving = Arc::clone(&client);
        socket.on_disconnect(async move |reason: DisconnectReason| {
            tracing::debug!(client = leaving.connection.public_id, %reason, "client disconnected");
            Arc::clone(&leaving).leave().await;
            leaving.sockets.rooms.leave(&leaving.connection);
        });
        socket.extensions.insert(Arc::clone(&client.connection));
        socket.extensions.insert(client);
    }

    /// The lock is held for a few moves and never across an await; a panic leaves the queue whole.
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// CONNECT was answered: `$connect` first, then whatever has come since.
    fn begin(self: Arc<Self>) {
        let mut mailbox = self.mailbox();
        if mailbox.stage == Stage::New {
            mailbox.stage = Stage::Open;
            drop(mailbox);
            self.consume();
        }
    }

    /// Takes one event of the client, in the library's reader task.
    fn take(self: &Arc<Self>, incoming: Incoming) {
        let limits = &self.sockets.limits;
        let mut mailbox = self.mailbox();
        if self.sockets.is_stopping.load(Ordering::Acquire) {
            drop(mailbox);
            let stopping = Rejection::Unavailable("the host is stopping".to_owned());
            self.log(&incoming.event, &stopping);
            let stopping = Err(stopping);
            // A full buffer's client learns of it by the end of its connection, which is next.
            let _ = self.sockets.rooms.try_answer(&incoming.to, &incoming.event.name, incoming.event.id, &stopping);
            return;
        }
        if matches!(mailbox.stage, Stage::Closing | Stage::Closed) {
            return;
        }
        let bytes = mailbox.bytes.saturating_add(incoming.size);
        let busy = if mailbox.events.len() + mailbox.handling >= limits.mailbox_events.get() || bytes > limits.mailbox_bytes.get() {
            Busy::Mailbox
        } else if self.sockets.memory.take(charge(incoming.size), mailbox.memory()) {
            mailbox.bytes = bytes;
            mailbox.events.push_back(incoming);
            wake(mailbox);
            return;
        } else {
            Busy::Host
        };
        self.sockets.metrics.mailbox_rejection();
        let rejection = Rejection::from(busy);
        self.log(&incoming.event, &rejection);
        let Incoming { event, to, .. } = incoming;
        if self.sockets.rooms.try_answer(&to, &event.name, event.id, &Err(rejection)).is_err() {
            let overdue = Overdue { event: event.name.clone(), id: event.id, busy, to };
            if mailbox.overdue.len() < MAX_OVERDUE && self.sockets.memory.take(ANSWER_BYTES, mailbox.memory()) {
                mailbox.overdue.push_back(overdue);
                wake(mailbox);
            } else {
                drop(mailbox);
                if let Some(socket) = overdue.to.socket.upgrade() {
                    self.sockets.rooms.cut(&SocketRef::from(socket), "it sends without reading its answers");
                }
            }
        }
    }

    /// Dispatches `$connect`, and then handles what comes into the mailbox until it is closed, in a task of its own. The task lives
    /// as long as the connection: to spawn one for each event costs more than its memory is worth.
    fn consume(self: Arc<Self>) {
        let tasks = self.sockets.tasks.clone();
        // In a box from the start: the scheduler would move it about.
        tasks.spawn(Box::pin(async move {
            self.sockets.dispatcher.connected(&self.connection);
            let mut handled = None;
            while let Some(next) = self.next(handled).await {
                handled = match next {
                    Next::Event(incoming) => {
                        let size = incoming.size;
                        self.handle(incoming).await;
                        Some(size)
                    }
                    Next::Overdue(Overdue { event, id, busy, to }) => {
                        self.sockets.rooms.answer(&to, &event, id, &Err(busy.into())).await;
                        None
                    }
                };
            }
            self.drained.notify_one();
        }));
    }

    /// What comes next, as soon as there is something; nothing when there will be no more. The place in the mailbox of an event of `handled`
    /// bytes is free only now, when its answer has found room.
    async fn next(&self, mut handled: Option<usize>) -> Option<Next> {
        poll_fn(|context| self.poll_next(context, handled.take())).await
    }

    fn poll_next(&self, context: &Context<'_>, handled: Option<usize>) -> Poll<Option<Next>> {
        let mut mailbox = self.mailbox();
        if let Some(size) = handled {
            mailbox.bytes -= size;
            mailbox.handling = 0;
            self.sockets.memory.give_back(charge(size));
        }
        // Now that there may be room for them.
        if let Some(overdue) = mailbox.overdue.pop_front() {
            self.sockets.memory.give_back(ANSWER_BYTES);
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
            mailbox.stage = Stage::Closed;
            return Poll::Ready(None);
        }
        mailbox.asleep = Some(context.waker().clone());
        Poll::Pending
    }

    /// Handles one event to its end, and answers it.
    async fn handle(&self, incoming: Incoming) {
        let Incoming { event, rejection, to, .. } = incoming;
        let answer = match rejection {
            // A panic of the host's own is one event's failure: the mailbox goes on, and the event has its answer.
            None => {
                // Pinned where it is: handed on by value, its 3 KiB would be copied for each event.
                let handling = pin!(self.sockets.dispatcher.handle(Arc::clone(&event)));
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
        self.sockets.rooms.answer(&to, &event.name, event.id, &answer).await;
        if ends {
            self.sockets.rooms.end(&self.connection);
        }
    }

    /// Logs why an event is not handled that no plugin was asked for.
    fn log(&self, event: &Event, rejection: &Rejection) {
        log::rejected(&event.name, event.id, Some(&self.connection), None, rejection, None);
    }

    /// The client is gone. What was received is handled; then `$disconnect`, with the rooms as they were; when this returns, the library
    /// takes the socket out of its rooms, so that no join of an earlier event can outlive it.
    async fn leave(self: Arc<Self>) {
        self.left.get_or_init(|| self.finish()).await;
    }

    /// Takes no event from now on; the stage until now.
    fn close(&self) -> Stage {
        let mut mailbox = self.mailbox();
        let stage = mailbox.stage;
        if stage != Stage::Closed {
            mailbox.stage = Stage::Closing;
        }
        wake(mailbox);
        stage
    }

    async fn finish(self: &Arc<Self>) {
        let stage = self.close();
        if stage == Stage::New {
            // The library's connect handler had not come so far.
            Arc::clone(self).consume();
        }
        if stage != Stage::Closed {
            self.drained.notified().await;
        }
        self.sockets.dispatcher.disconnected(&self.connection).await;
    }
}

/// However a connection ends, and also where it never came to be, nobody finds it any more.
impl Drop for Client {
    fn drop(&mut self) {
        // Events wait here only if the connection never came to be: then nobody has handled them.
        let mailbox = self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        let waiting: usize = mailbox.events.iter().map(|incoming| charge(incoming.size)).sum();
        self.sockets.memory.give_back(waiting + mailbox.overdue.len() * ANSWER_BYTES);
        self.sockets.rooms.forget(&self.connection.public_id);
        self.sockets.clients().remove(&self.connection.public_id);
    }
}

/// Wakes the consumer, where it sleeps: one that is at work, or is woken already, finds by itself what has come.
fn wake(mut mailbox: MutexGuard<'_, Mailbox>) {
    let asleep = mailbox.asleep.take();
    drop(mailbox);
    if let Some(consumer) = asleep {
        consumer.wake();
    }
}

impl Mailbox {
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

/// What the library calls for every event of a connection. Not a closure: those are spawned as tasks, and tasks lose the order.
struct Intake(Arc<Client>);

/// Tells the library's blanket implementations for closures from this one.
struct InReaderTask;

impl MessageHandler<Outlet, InReaderTask> for Intake {
    fn call(&self, socket: Arc<Socket<Outlet>>, value: Value, ack: Option<i64>) {
        let client = &self.0;
        let read = packet::read(value, &client.sockets.limits);
        let size = if read.rejection.is_some() { 0 } else { read.payload.size() };
        let event = Arc::new(Event::now(read.name, read.payload, Some(Arc::clone(&client.connection))));
        client.take(Incoming { event, rejection: read.rejection, to: ReplyTo { socket: Arc::downgrade(&socket), ack }, size });
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http_body_util::{BodyExt, Full};
    use socketioxide::handler::FromConnectParts;
    use tower::ServiceExt;

    use super::*;
    use crate::registry::Registry;

    /// The library's own reference to a socket.
    struct Held(Arc<Socket<Outlet>>);

    impl FromConnectParts<Outlet> for Held {
        type Error = Infallible;

        fn from_connect_parts(socket: &Arc<Socket<Outlet>>, _: &Option<Value>) -> Result<Self, Infallible> {
            Ok(Self(Arc::clone(socket)))
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_came_to_be_leaves_nothing_though_an_event_waits() {
        let (tasks, limits, metrics) = (TaskTracker::new(), Arc::new(Limits::default()), Arc::new(Metrics::default()));
        let rooms = Rooms::new(&limits, tasks.clone());
        let dispatcher = Dispatcher::new(Arc::new(Registry::default()), Arc::clone(&rooms), Arc::clone(&limits), Arc::clone(&metrics));
        let sockets = Sockets::new(Arc::new(dispatcher), Arc::clone(&rooms), limits, metrics, tasks);
        let (service, io) = SocketIo::builder().with_adapter::<Outlet>(rooms.outlets()).build_svc();
        let (tell, mut told) = tokio::sync::mpsc::channel(1);
        let serving = Arc::clone(&sockets);
        let refuse = move |Held(socket): Held| {
            Client::prepare(&serving, &SocketRef::from(Arc::clone(&socket)), &"/".into());
            let client = socket.extensions.get::<Arc<Client>>().unwrap();
            Intake(Arc::clone(&client)).call(Arc::clone(&socket), Value::Str("[\"ping\"]".to_owned().into(), None), None);
            tell.try_send((client.mailbox().events.len(), Arc::downgrade(&socket))).unwrap();
            std::future::ready(Err::<(), _>(Stopped))
        };
        io.ns("/", (async |_: SocketRef<Outlet>| {}).with(refuse));
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
        let (waiting, socket) = told.recv().await.unwrap();
        assert_eq!(waiting, 1);
        // The refusal is sent, and then the library drops the socket.
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while socket.strong_count() > 0 {
            assert!(tokio::time::Instant::now() < until, "the socket is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sockets.clients().is_empty() && sockets.memory().usage().0 == 0 && rooms.connections() == 0);
    }
}
