//! Our own implementation of Socket.IO: the crate `sockhop-socketio`. Its limits are in bytes. It
//! handles an event in the task that reads the connection. Everything that the events of one read
//! send leaves in one write.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Body;
use sockhop_socketio::{
    Abort, Batch, ConnectError, ConnectRequest, Connection, Context, DisconnectReason, EmitError,
    End, Event, EventFrame, Handler, InvalidNamespace, Io, Layer, NoReply, Recovery, Reply,
    ReturnRequest, Socket, Stream, Transports,
};
use tokio::net::TcpStream;

use crate::auth::{Credentials, kept_bearer};
use crate::config::{AuthMode, Config, DEFAULT_CONNECTIONS, QUEUE_SHARE, Transport};
use crate::effect::Emit;
use crate::tls::{ClientStream, TlsSession};
use crate::transport::{Abortable, Peer, SessionSlot};

use super::{
    Answer, Client, ClientAnswer, Clients, ConnectRefusal, Full, Incoming, Newcomer, NotAsked,
    PROTOCOL_LIMIT, Share, Usage, kept_query,
};

/// A stream whose writes fail if its client accepts no bytes for a time.
pub(crate) use sockhop_socketio::WriteDeadline;

impl<P: Send + Unpin + 'static> Stream for Abortable<ClientStream, P> {
    type Guard = P;

    fn into_parts(self) -> (Socket, P) {
        let (stream, guard) = Self::into_parts(self);
        let socket = match stream.into_parts() {
            (tcp, None) => Socket::Tcp(tcp),
            (tcp, Some(tls)) => Socket::Layered(tcp, Box::new(tls)),
        };
        (socket, guard)
    }
}

impl Layer for TlsSession {
    fn read(&mut self, tcp: &TcpStream, buf: &mut Vec<u8>) -> io::Result<usize> {
        Self::read(self, tcp, buf)
    }

    fn write(&mut self, tcp: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::write(self, tcp, slices)
    }

    fn flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        Self::flush(self, tcp)
    }

    fn is_flushed(&self) -> bool {
        Self::is_flushed(self)
    }

    fn close(&mut self, tcp: &TcpStream) {
        Self::close(self, tcp);
    }
}

/// An event that is encoded once.
pub(crate) type Frame = EventFrame;

/// The server of our own implementation.
#[derive(Clone)]
pub(crate) struct Server(sockhop_socketio::Server<Bridge>);

impl Server {
    /// Serves the namespaces of `config`. Connections and their events go to `clients`.
    ///
    /// # Errors
    /// Returns an error if a namespace has a name that no client could ask for.
    pub(crate) fn new(
        config: &Config,
        clients: &Weak<dyn Clients>,
    ) -> Result<Self, InvalidNamespace> {
        let (server, limits) = (&config.server, &config.limits);
        let has = |transport| server.transports.contains(&transport);
        let transports = Transports {
            polling: has(Transport::Polling),
            websocket: has(Transport::Websocket),
            upgrade: server.upgrade,
        };
        let total = limits.overflow_bytes.get();
        let settings = sockhop_socketio::Config {
            transports,
            ping_interval: server.ping_interval_ms,
            ping_timeout: server.ping_timeout_ms,
            connect_timeout: limits.connect_ms,
            receive_timeout: limits.body_ms,
            stall_timeout: limits.stalled_reader_ms,
            delivery_timeout: limits.stalled_reader_ms,
            max_payload: PROTOCOL_LIMIT
                * limits.message_bytes.get().max(limits.attachment_bytes.get()),
            max_queued: total / QUEUE_SHARE,
            max_queued_total: total,
            max_unfinished_total: limits.unfinished_bytes.get(),
            max_pending_acks: limits.connection_acks.get(),
            max_attachments: PROTOCOL_LIMIT * limits.attachments,
            max_attachment_bytes: PROTOCOL_LIMIT * limits.attachment_bytes.get(),
            // Limits sessions and, separately, connections whose client may return. The host counts
            // sessions itself, and frees their slots shortly before the crate does.
            max_sessions: limits
                .connections
                .unwrap_or(DEFAULT_CONNECTIONS)
                .get()
                .saturating_add(MORE_SESSIONS),
            recovery: server
                .recovery
                .as_ref()
                .map(|kept| Recovery { duration: kept.seconds, max_bytes: kept.bytes.get() }),
            ..sockhop_socketio::Config::default()
        };
        let full_above = settings.max_queued / 2;
        let slow_above = limits.volatile_bytes.get();
        let namespaces = server.namespaces.iter().map(|name| name.as_str().into()).collect();
        let needs_tokens = config.auth.mode == AuthMode::Jwt;
        let clients = Weak::clone(clients);
        let bridge = Bridge { clients, namespaces, full_above, slow_above, needs_tokens };
        sockhop_socketio::Server::new(settings, bridge, server.namespaces.iter().cloned()).map(Self)
    }

    /// Whether requests for this path are for Socket.IO.
    pub(crate) fn serves(&self, path: &str) -> bool {
        self.0.serves(path)
    }

    /// Answers one request of a connection whose stream has the type `I`.
    ///
    /// # Errors
    /// Returns an error if the connection must be closed without an answer.
    pub(crate) async fn handle<I: Io, B>(
        &self,
        request: http::Request<B>,
    ) -> Result<sockhop_socketio::Answer, Abort>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.0.handle::<I, B>(request).await
    }

    pub(super) async fn close(&self) {
        self.0.close();
        self.0.wait().await;
    }

    pub(super) fn usage(&self) -> Usage {
        let (usage, config) = (self.0.usage(), self.0.config());
        Usage {
            queued: Share { used: usage.engine.queued_bytes, limit: config.max_queued_total },
            unfinished: Share {
                used: usage.engine.unfinished_bytes,
                limit: config.max_unfinished_total,
            },
            detached: usage.detached,
            recovery: Share {
                used: usage.recovery_bytes,
                limit: config.recovery.map_or(0, |recovery| recovery.max_bytes),
            },
        }
    }
}

/// How many more sessions the crate may count than the host.
const MORE_SESSIONS: usize = 256;

tokio::task_local! {
    /// The batch for everything that the events of one read send. Set while such an event is
    /// handled in the task that has read it.
    static BATCH: Batch;
}

/// Passes the callbacks of the crate on to the host.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// Weak: the host owns the server.
    clients: Weak<dyn Clients>,
    namespaces: Vec<Arc<str>>,
    /// If more bytes are queued, the sender of an answer waits for its client.
    full_above: usize,
    /// If more bytes are queued, volatile emits are skipped.
    slow_above: usize,
    /// Whether clients need tokens: otherwise, none is kept.
    needs_tokens: bool,
}

/// The host's data about a session.
pub(crate) struct Session {
    address: Option<IpAddr>,
    /// The token of its header.
    bearer: Option<Box<str>>,
    /// The query of its handshake's URL, if a plugin asks for it.
    query: Option<Box<str>>,
    /// Held until the session has ended. Connections whose client may return are counted
    /// separately.
    slot: Mutex<Option<SessionSlot>>,
}

impl Session {
    fn credentials(&self, auth: &str) -> Credentials {
        Credentials { auth: Some(auth.into()), bearer: self.bearer.clone() }
    }
}

impl Bridge {
    fn link(&self, connection: &Arc<Connection<Self>>) -> super::Link {
        super::Link::Builtin(Link {
            connection: Arc::downgrade(connection),
            full_above: self.full_above,
            slow_above: self.slow_above,
        })
    }
}

impl Handler for Bridge {
    type Session = Session;
    type Data = Arc<dyn Client>;

    fn open(&self, request: &Parts) -> Result<Session, sockhop_socketio::Refused> {
        let address = request.extensions.get::<Peer>().map(|Peer(address)| *address);
        let bearer = self.needs_tokens.then(|| kept_bearer(&request.headers)).flatten();
        let query = self.clients.upgrade();
        let query = query.and_then(|clients| kept_query(&*clients, &request.uri));
        let slot = Mutex::new(request.extensions.get::<SessionSlot>().cloned());
        Ok(Session { address, bearer, query, slot })
    }

    async fn connect(
        &self,
        request: &ConnectRequest<'_, Self>,
    ) -> Result<Arc<dyn Client>, ConnectError> {
        let clients = self.clients.upgrade().ok_or_else(|| refused(ConnectRefusal::UNAVAILABLE))?;
        let namespace = self.namespaces.iter().find(|name| ***name == *request.namespace).cloned();
        let newcomer = Newcomer {
            sid: request.id.to_string(),
            namespace: namespace.unwrap_or_else(|| request.namespace.into()),
            address: request.session.address,
            credentials: request.session.credentials(request.auth),
            query: request.session.query.clone(),
            // The session holds the slot until all events of its connections are handled.
            slot: None,
        };
        clients.prepare(newcomer).await.map_err(refused)
    }

    async fn connected(&self, cx: &Context<'_, Self>) {
        let client = cx.connection().data();
        client.enter(self.link(cx.connection()));
        Arc::clone(client).begin();
    }

    async fn event(&self, cx: &Context<'_, Self>, event: &Event<'_>) {
        let incoming = Incoming {
            call: Some((Cow::Borrowed(event.name), event.text)),
            bytes: event.name.len() + event.text.len() + PUNCTUATION,
            attachments: event.attachments.to_vec(),
            ack: event.ack,
        };
        let mut event =
            Some((Arc::clone(cx.connection().data()), incoming, self.link(cx.connection())));
        poll_fn(|context| {
            if let Some((client, incoming, link)) = event.take() {
                BATCH
                    .sync_scope(cx.batch().clone(), || client.event(incoming, link, Some(context)));
            }
            Poll::Ready(())
        })
        .await;
    }

    async fn may_recover(
        &self,
        connection: &Connection<Self>,
        request: &ReturnRequest<'_, Self>,
    ) -> bool {
        let credentials = request.session.credentials(request.auth);
        Arc::clone(connection.data()).may_return(credentials).await
    }

    async fn recovered(&self, cx: &Context<'_, Self>) {
        let (client, session) = (cx.connection().data(), cx.connection().session());
        client.recovered(session.address, &self.link(cx.connection()));
    }

    fn log_name<'a>(&'a self, connection: &'a Connection<Self>) -> Option<&'a str> {
        Some(connection.data().id())
    }

    fn closed(&self, session: &Session) {
        drop(session.slot.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    async fn disconnected(&self, cx: &Context<'_, Self>, reason: DisconnectReason) {
        let client = cx.connection().data();
        Arc::clone(client).leave(word(reason)).await;
    }
}

/// Returns Socket.IO's own word for the end of a connection:
/// <https://socket.io/docs/v4/server-socket-instance/#disconnect>. If the client or the host is to
/// blame, the record of the session's end says more.
fn word(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::Left => "client namespace disconnect",
        DisconnectReason::Server | DisconnectReason::SessionEnded(End::Server) => {
            "server namespace disconnect"
        }
        DisconnectReason::SessionEnded(End::PingTimeout) => "ping timeout",
        DisconnectReason::SessionEnded(End::Parse) => "parse error",
        DisconnectReason::SessionEnded(End::ReceiveTimeout | End::Overlap | End::TooBig) => {
            "transport error"
        }
        DisconnectReason::SessionEnded(End::Overflow | End::Overload | End::Aborted) => {
            "forced server close"
        }
        DisconnectReason::SessionEnded(End::ConnectTimeout) => "forced close",
        DisconnectReason::SessionEnded(End::Shutdown) => "server shutting down",
        DisconnectReason::SessionEnded(_) => "transport close",
    }
}

fn refused(ConnectRefusal { code, data }: ConnectRefusal) -> ConnectError {
    match data {
        Some(data) => ConnectError::with_data(code, &data.to_string()),
        None => ConnectError::new(code),
    }
}

/// Bytes of a packet's text besides its name and its arguments: `["` and `",` and `]`.
const PUNCTUATION: usize = 5;

/// The handle by which the host reaches one connection.
#[derive(Clone)]
pub(crate) struct Link {
    /// Weak: a connection owns a [`Client`], and answers that wait in its mailbox hold a link.
    connection: Weak<Connection<Bridge>>,
    full_above: usize,
    slow_above: usize,
}

/// An answer is waited for.
pub(crate) type Asked = sockhop_socketio::PendingAck<Bridge>;

impl Link {
    #[cfg(test)]
    pub(super) fn of_nobody() -> Self {
        Self { connection: Weak::new(), full_above: 0, slow_above: 0 }
    }

    pub(super) fn emit(&self, emit: &Emit) -> bool {
        let (name, data, attachments) =
            (emit.event.as_str(), emit.data.arguments(), emit.attachments.as_slice());
        self.connection
            .upgrade()
            .is_some_and(|connection| put_event(&connection, name, data, attachments))
    }

    pub(super) fn encode(&self, emit: &Emit) -> Option<Frame> {
        let connection = self.connection.upgrade()?;
        let (event, arguments, attachments) =
            (&emit.event, emit.data.arguments(), &emit.attachments);
        Some(if emit.is_volatile {
            connection.encode_volatile(event, arguments, attachments)
        } else {
            connection.encode(event, arguments, attachments)
        })
    }

    pub(super) fn emit_with_ack(&self, token: u64, emit: &Emit) -> Result<Asked, NotAsked> {
        let connection = self.connection.upgrade().ok_or(NotAsked::Disconnected)?;
        // Weak: the connection owns what waits for the answer.
        let client = Arc::downgrade(connection.data());
        let take = move |answer: Result<Reply, NoReply>| {
            let answer = answer.ok().map(|reply| ClientAnswer {
                text: reply.arguments.into(),
                attachments: reply.attachments,
            });
            if let Some(client) = client.upgrade() {
                client.answered(token, answer);
            }
        };
        let arguments = emit.data.arguments();
        let asked = connection.emit_with_callback(&emit.event, arguments, &emit.attachments, take);
        asked.map_err(|error| match error {
            EmitError::Disconnected => NotAsked::Disconnected,
            EmitError::TooManyAcks => NotAsked::TooManyAcks,
        })
    }

    pub(super) fn send_volatile(&self, frame: &Frame) -> bool {
        let Some(connection) = self.connection.upgrade() else { return false };
        let send = |batch: Option<&Batch>| connection.send_volatile(batch, frame, self.slow_above);
        BATCH.try_with(|batch| send(Some(batch))).unwrap_or_else(|_| send(None))
    }

    pub(super) fn send(&self, frame: &Frame) -> bool {
        let Some(connection) = self.connection.upgrade() else { return false };
        BATCH
            .try_with(|batch| connection.send_in(batch, frame))
            .unwrap_or_else(|_| connection.send(frame))
    }

    pub(super) async fn answer(&self, answer: Answer<'_>) {
        let Some(connection) = self.connection.upgrade() else { return };
        put(&connection, answer);
        if self.is_full(&connection) {
            connection.writable(self.full_above).await;
        }
    }

    pub(super) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        if self.is_full(&connection) {
            return Err(Full);
        }
        put(&connection, answer);
        Ok(())
    }

    fn is_full(&self, connection: &Connection<Bridge>) -> bool {
        connection.queued_bytes() > self.full_above
    }

    pub(super) fn close(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.disconnect();
        }
    }

    pub(super) fn session_key(&self) -> Option<u128> {
        self.connection.upgrade().map(|connection| connection.session_key())
    }

    pub(super) fn shut_down(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.shut_down();
        }
    }

    pub(super) fn abort(&self, reason: &'static str) {
        if let Some(connection) = self.connection.upgrade() {
            super::cut::log_cut(connection.data().id(), reason, connection.queued_bytes());
            connection.abort();
        }
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.connection.upgrade().map_or(0, |connection| connection.queued_bytes())
    }

    pub(super) fn transport(&self) -> &'static str {
        self.connection.upgrade().map_or("polling", |connection| transport(&connection))
    }
}

fn transport(connection: &Connection<Bridge>) -> &'static str {
    match connection.transport() {
        sockhop_socketio::Transport::Polling => "polling",
        sockhop_socketio::Transport::WebSocket => "websocket",
    }
}

/// Sends an answer. If the connection has ended, the answer is dropped.
fn put(connection: &Connection<Bridge>, answer: Answer<'_>) {
    match answer {
        Answer::Ack(id, arguments, attachments) => {
            let put = |batch: &Batch| connection.ack_in(batch, id, arguments, attachments);
            let in_batch = BATCH.try_with(put);
            in_batch.unwrap_or_else(|_| connection.ack(id, arguments, attachments));
        }
        Answer::Event(name, argument) => {
            put_event(connection, name, argument, &[]);
        }
    }
}

/// Sends an event, in the current batch if there is one. Returns whether the connection can receive
/// it.
fn put_event(
    connection: &Connection<Bridge>,
    name: &str,
    argument: &str,
    attachments: &[Bytes],
) -> bool {
    let in_batch = BATCH.try_with(|batch| connection.emit_in(batch, name, argument, attachments));
    in_batch.unwrap_or_else(|_| connection.emit(name, argument, attachments))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use futures_util::future::BoxFuture;
    use http_body_util::{BodyExt, Full};
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::{config, socketio};

    /// The addresses of which the host is told.
    #[derive(Clone, Default)]
    struct Host(Arc<Mutex<Vec<Option<IpAddr>>>>);

    impl Host {
        fn note(&self, address: Option<IpAddr>) {
            self.0.lock().unwrap().push(address);
        }
    }

    impl Clients for Host {
        fn handshake_bytes(&self) -> Option<usize> {
            None
        }

        fn prepare(
            &self,
            newcomer: Newcomer,
        ) -> BoxFuture<'_, Result<Arc<dyn Client>, ConnectRefusal>> {
            self.note(newcomer.address);
            Box::pin(std::future::ready(Ok(Arc::new(self.clone()) as Arc<dyn Client>)))
        }
    }

    impl Client for Host {
        fn id(&self) -> &str {
            "public"
        }

        fn enter(&self, _: socketio::Link) {}

        fn may_return(self: Arc<Self>, _: Credentials) -> BoxFuture<'static, bool> {
            Box::pin(std::future::ready(true))
        }

        fn recovered(&self, address: Option<IpAddr>, link: &socketio::Link) {
            assert_eq!(link.transport(), "polling");
            self.note(address);
        }

        fn begin(self: Arc<Self>) {}

        fn event(
            self: Arc<Self>,
            _: Incoming<'_>,
            _: socketio::Link,
            _: Option<&mut std::task::Context<'_>>,
        ) {
        }

        fn answered(self: Arc<Self>, _: u64, _: Option<ClientAnswer>) {}

        fn leave(self: Arc<Self>, _: &'static str) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    /// The answer to a request from an address.
    async fn ask(server: &Server, from: IpAddr, query: &str, body: Option<String>) -> String {
        let method = if body.is_some() { "POST" } else { "GET" };
        let uri = format!("/socket.io/?EIO=4&transport=polling{query}");
        let request = http::Request::builder().method(method).uri(uri).extension(Peer(from));
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).unwrap();
        let answer = server.handle::<TokioIo<TcpStream>, _>(request).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    /// Enters the main namespace in a new session. Returns the session's query and the answer.
    async fn enter(server: &Server, from: IpAddr, auth: &str) -> (String, String) {
        let opened = ask(server, from, "", None).await;
        let query = format!("&sid={}", opened.split('"').nth(3).unwrap());
        ask(server, from, &query, Some(format!("40{auth}"))).await;
        let entered = ask(server, from, &query, None).await;
        (query, entered)
    }

    #[tokio::test]
    async fn the_host_is_told_from_where_a_client_has_returned() {
        let (bytes, seconds) = ((1 << 20).try_into().unwrap(), Duration::from_secs(60));
        let mut config = Config::default();
        config.server.recovery = Some(config::Recovery { seconds, bytes });
        let host = Host::default();
        let clients: Arc<dyn Clients> = Arc::new(host.clone());
        let server = Server::new(&config, &Arc::downgrade(&clients)).unwrap();
        let [home, away] = [1, 2].map(|last| IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));

        let (query, entered) = enter(&server, home, "").await;
        let pid = entered.split('"').nth(7).unwrap();
        // A client that cancels a poll has lost its transport.
        let poll = ask(&server, home, &query, None);
        assert!(tokio::time::timeout(Duration::from_millis(20), poll).await.is_err());
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while server.usage().detached == 0 {
            assert!(tokio::time::Instant::now() < until, "the connection is not detached");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (_, again) = enter(&server, away, &format!(r#"{{"pid":"{pid}"}}"#)).await;
        assert_eq!(again, entered);
        assert_eq!(*host.0.lock().unwrap(), [Some(home), Some(away)]);
    }
}
