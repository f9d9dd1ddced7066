//! socketioxide, as an implementation of Socket.IO. Its buffers are counted in packets: what finds no space in them waits in a queue of the
//! host's own ([`queue`]).

mod argument;
mod attendant;
mod outlet;
mod queue;
mod upgrades;

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use socketioxide::extract::SocketRef;
use socketioxide::handler::{ConnectHandler, FromConnectParts, MessageHandler, Value};
use socketioxide::socket::{DisconnectReason, Sid, Socket};
use socketioxide::{ParserConfig, SocketError, SocketIo, TransportType};
use socketioxide_core::Value as Serialized;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Transport};
use crate::effect::Emit;
use crate::memory::QueueMemory;
use crate::transport::{Cut, Peer, SessionSlot};

use super::{Answer, Client, Clients, Full, Incoming, Newcomer, PROTOCOL_LIMIT, Refused, Share, Usage};

use attendant::Attendant;
use outlet::{Outlet, Outlets};
use queue::{Handed, Packet, Queue};
use upgrades::Upgrades;

/// An event that is encoded once.
pub(crate) type Frame = Serialized;

/// The library's server.
#[derive(Clone)]
pub(crate) struct Server {
    io: SocketIo<Outlet>,
    layer: socketioxide::layer::SocketIoLayer<Outlet>,
    shared: Arc<Shared>,
}

/// What all connections have in common.
struct Shared {
    outlets: Outlets,
    /// Of the emits that wait for space in the outgoing buffers.
    memory: QueueMemory,
    /// The most packets that are sent to one client at once.
    largest_batch: usize,
    /// Connections whose transport began as long-polling.
    upgrades: Upgrades,
    /// How long a client may not read before it is cut.
    stalled: Duration,
    tasks: TaskTracker,
}

impl Server {
    /// Serves the namespaces of `config`. Connections and their events go to `clients`, which the library's sockets must not keep.
    pub(crate) fn new(config: &Config, clients: &Weak<dyn Clients>, tasks: TaskTracker) -> Self {
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            outlets: Outlets::default(),
            memory: QueueMemory::new(limits.overflow_bytes.get()),
            largest_batch: queue::largest_batch(limits.outgoing_packets.get()),
            upgrades: Upgrades::default(),
            stalled: limits.stalled_reader_ms,
            tasks,
        });
        let largest = PROTOCOL_LIMIT * limits.message_bytes.get().max(limits.attachment_bytes.get());
        let parser = ParserConfig::common()
            .max_incoming_binaries(PROTOCOL_LIMIT * limits.attachments)
            .max_incoming_binary_buf_size(PROTOCOL_LIMIT * limits.attachment_bytes.get());
        let builder = SocketIo::builder()
            .with_adapter::<Outlet>(shared.outlets.clone())
            .with_parser(parser)
            .max_payload(largest as u64)
            .ws_max_message_size(largest)
            .ws_max_frame_size(largest)
            .max_buffer_size(limits.outgoing_packets.get())
            .ping_interval(config.server.ping_interval_ms)
            .ping_timeout(config.server.ping_timeout_ms)
            .connect_timeout(limits.connect_ms);
        let has = |transport| config.server.transports.contains(&transport);
        let builder = match (has(Transport::Polling), has(Transport::Websocket)) {
            (true, false) => builder.transports([TransportType::Polling]),
            (false, true) => builder.transports([TransportType::Websocket]),
            _ => builder,
        };
        let (layer, io) = builder.build_layer();
        let server = Self { io, layer, shared };
        // Each is registered once: a second time would orphan its sockets.
        for namespace in &config.server.namespaces {
            server.serve(namespace, clients);
        }
        server
    }

    fn serve(&self, namespace: &str, clients: &Weak<dyn Clients>) {
        let (name, shared, clients): (Arc<str>, _, _) = (namespace.into(), Arc::clone(&self.shared), Weak::clone(clients));
        // Awaited before CONNECT is answered: no event of the client can come before there is a mailbox for it.
        let prepare = move |Held(socket): Held| {
            let (name, shared, clients) = (Arc::clone(&name), Arc::clone(&shared), Weak::clone(&clients));
            async move {
                let clients = clients.upgrade().ok_or(Refused("unavailable"))?;
                prepare(&shared, &*clients, socket, name).await
            }
        };
        // Spawned after CONNECT was sent: what `$connect` emits can't overtake it.
        let connected = async |socket: SocketRef<Outlet>| {
            if let Some(Entered(client)) = socket.extensions.get() {
                client.begin();
            }
        };
        self.io.ns(namespace.to_owned(), connected.with(prepare));
    }

    /// The library's part of the HTTP service.
    pub(crate) fn layer(&self) -> socketioxide::layer::SocketIoLayer<Outlet> {
        self.layer.clone()
    }

    /// Remembers over which TCP connection a client asks to go on with a WebSocket, so that the host can cut it.
    pub(crate) fn note_upgrade<B>(&self, request: &http::Request<B>) {
        if let Some(cut) = request.extensions().get::<Cut>()
            && let Some(sid) = upgrading_sid(request)
            // A TCP connection goes on as one client's: whoever names more only wants to be remembered.
            && cut.claim()
        {
            self.shared.upgrades.remember(sid, cut);
        }
    }

    pub(super) async fn close(&self) {
        self.io.close().await;
    }

    pub(super) fn usage(&self) -> Usage {
        let (used, limit) = self.shared.memory.usage();
        Usage { queued: Share { used, limit }, ..Usage::default() }
    }
}

/// The client that asks by this request to go on over a WebSocket.
fn upgrading_sid<B>(request: &http::Request<B>) -> Option<&str> {
    let asks = request.uri().path().trim_end_matches('/') == "/socket.io" && request.headers().contains_key(http::header::UPGRADE);
    let query = request.uri().query().filter(|_| asks)?;
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    (value("transport")? == "websocket").then(|| value("sid")).flatten().filter(|sid| sid.len() <= MAX_SID)
}

/// Characters of a Socket.IO id, with room for those of a later library.
const MAX_SID: usize = 64;

/// The library's own reference to a socket.
struct Held(Arc<Socket<Outlet>>);

impl FromConnectParts<Outlet> for Held {
    type Error = Infallible;

    fn from_connect_parts(socket: &Arc<Socket<Outlet>>, _: &Option<Value>) -> Result<Self, Infallible> {
        Ok(Self(Arc::clone(socket)))
    }
}

/// The client of a socket, among the socket's extensions.
#[derive(Clone)]
struct Entered(Arc<dyn Client>);

/// Makes the client of a socket. The library may drop the socket without a word, where CONNECT finds no room: nothing that the socket owns may own
/// the socket, also not an event that waits.
async fn prepare(shared: &Arc<Shared>, clients: &dyn Clients, socket: Arc<Socket<Outlet>>, namespace: Arc<str>) -> Result<(), Refused> {
    let handshake = &socket.req_parts().extensions;
    let newcomer = Newcomer {
        sid: socket.id.to_string(),
        namespace: Arc::clone(&namespace),
        address: handshake.get::<Peer>().map(|Peer(address)| *address),
        slot: handshake.get::<SessionSlot>().cloned(),
    };
    let client = clients.accept(newcomer).await?;
    let outlet = shared.outlets.of(&namespace).ok_or(Refused("unavailable"))?;
    let link = Link(Arc::new(Reach {
        socket: Arc::downgrade(&socket),
        outlet: Arc::downgrade(&outlet),
        sid: socket.id,
        client: client.id().to_owned(),
        queue: Queue::default(),
        shared: Arc::clone(shared),
    }));
    socket.on_fallback(Intake { client: Arc::clone(&client), link: link.clone() });
    let (leaving, gone) = (Arc::clone(&client), link.clone());
    socket.on_disconnect(async move |reason: DisconnectReason| {
        tracing::debug!(client = leaving.id(), %reason, "client disconnected");
        leaving.leave().await;
        gone.forget();
    });
    client.enter(super::Link::Library(link));
    socket.extensions.insert(Entered(client));
    Ok(())
}

/// The way to one socket.
#[derive(Clone)]
pub(crate) struct Link(Arc<Reach>);

struct Reach {
    /// Weak: the library owns the socket while there is somebody to answer, and the socket owns the mailbox in which an answer's link waits.
    socket: Weak<Socket<Outlet>>,
    outlet: Weak<Outlet>,
    sid: Sid,
    /// Its client's public id, for the log.
    client: String,
    queue: Queue,
    shared: Arc<Shared>,
}

impl Link {
    pub(super) fn encode(&self, emit: &Emit) -> Option<Frame> {
        argument::of_emit(&*self.0.outlet.upgrade()?, emit)
    }

    pub(super) fn send(&self, frame: &Frame) -> bool {
        match self.hand(|| Packet::Emit(frame.clone())) {
            Handed::Sent | Handed::Waits(_) => true,
            Handed::NoMemory => {
                self.abort("no memory is left for the events that it does not read");
                false
            }
            Handed::Gone => false,
        }
    }

    pub(super) async fn answer(&self, answer: Answer<'_>) {
        if let Handed::Waits(Some(sent)) = self.hand(|| packet(answer)) {
            // An error says that the connection has ended.
            let _ = sent.await;
        }
    }

    pub(super) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        if self.0.queue.try_send(&self.0, &packet(answer)) { Ok(()) } else { Err(Full) }
    }

    pub(super) fn close(&self) {
        let reach = &self.0;
        if reach.queue.has() || reach.try_disconnect().is_err() {
            reach.queue.end(false, &reach.shared.memory, || self.attend());
        }
    }

    pub(super) fn abort(&self, reason: &str) {
        let reach = &self.0;
        tracing::warn!(client = reach.client, reason, "client cut");
        reach.queue.end(true, &reach.shared.memory, || self.attend());
        reach.cut();
    }

    pub(super) fn transport(&self) -> &'static str {
        match self.0.socket.upgrade().map(|socket| socket.transport_type()) {
            Some(TransportType::Websocket) => "websocket",
            _ => "polling",
        }
    }

    fn hand(&self, packet: impl Fn() -> Packet) -> Handed {
        self.0.queue.send(&self.0, packet, || self.attend())
    }

    /// Sees in a task of its own to what waits.
    fn attend(&self) {
        self.0.shared.tasks.spawn(Attendant(self.clone()).run(self.0.shared.stalled));
    }

    /// Drops what still waits for a connection that has ended: its client may connect again in the same session.
    fn forget(&self) {
        self.0.queue.forget(&self.0.shared.memory);
    }
}

impl Reach {
    /// The socket, unless it has ended.
    fn socket(&self) -> Option<SocketRef<Outlet>> {
        self.socket.upgrade().filter(|socket| socket.connected()).map(SocketRef::from)
    }

    /// Disconnects the socket, if its buffer has space for saying so.
    fn try_disconnect(&self) -> Result<(), Full> {
        match self.socket().map(SocketRef::disconnect) {
            Some(Err(SocketError::InternalChannelFull)) => Err(Full),
            None | Some(Ok(()) | Err(SocketError::Closed)) => Ok(()),
        }
    }

    /// Ends the WebSocket of a client. One that polls has none.
    fn cut(&self) {
        let Some(socket) = self.socket.upgrade() else { return };
        // Where the handshake was a WebSocket's own, that is the connection, whatever a later request has claimed.
        let handshake = socket.req_parts();
        let was_upgraded = !handshake.uri.query().unwrap_or_default().split('&').any(|pair| pair == "transport=websocket");
        let cut = || {
            if was_upgraded { self.shared.upgrades.find(self.sid.as_str()) } else { handshake.extensions.get::<Cut>().cloned() }
        };
        if socket.transport_type() == TransportType::Websocket
            && let Some(cut) = cut()
        {
            cut.now();
        }
    }
}

fn packet(answer: Answer<'_>) -> Packet {
    match answer {
        Answer::Ack(id, arguments) => Packet::Ack(id.cast_signed(), argument::of_ack(arguments)),
        Answer::Event(name, argument) => Packet::Error(argument::of_event(name, argument)),
    }
}

/// What the library calls for every event of a connection, in its reader task. Not a closure: those are spawned as tasks, and tasks lose the order.
struct Intake {
    client: Arc<dyn Client>,
    link: Link,
}

/// Tells the library's blanket implementations for closures from this one.
struct InReaderTask;

impl MessageHandler<Outlet, InReaderTask> for Intake {
    fn call(&self, _: Arc<Socket<Outlet>>, value: Value, ack: Option<i64>) {
        let (text, attachments) = match value {
            Value::Str(text, attachments) => (text, attachments),
            // Only another parser than the host's has this form.
            Value::Bytes(_) => (socketioxide_core::Str::default(), None),
        };
        let incoming = Incoming {
            call: argument::split(&text),
            bytes: text.len(),
            attachments: attachments.into_iter().flatten().map(own).collect(),
            ack: ack.map(i64::cast_unsigned),
        };
        Arc::clone(&self.client).event(incoming, super::Link::Library(self.link.clone()), None);
    }
}

/// An attachment that keeps no more memory than is counted for it: a small one would keep the buffer in which its transport read it, which
/// is larger by far.
fn own(attachment: Bytes) -> Bytes {
    if attachment.len() < READ_BUFFER_BYTES { Bytes::copy_from_slice(&attachment) } else { attachment }
}

/// Attachments of at least as many bytes are about as large as the buffer in which they were read.
const READ_BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_upgrade_names_its_client() {
        let sid = |uri: &str, upgrade: bool| {
            let request = http::Request::builder().uri(uri);
            let request = if upgrade { request.header(http::header::UPGRADE, "websocket") } else { request };
            upgrading_sid(&request.body(()).unwrap()).map(str::to_owned)
        };
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket&sid=abc", true), Some("abc".to_owned()));
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket&sid=abc", false), None);
        assert_eq!(sid("/elsewhere?EIO=4&transport=websocket&sid=abc", true), None);
        assert_eq!(sid("/socket.io/?EIO=4&transport=websocket", true), None);
        assert_eq!(sid("/socket.io/?EIO=4&transport=polling&sid=abc", true), None);
        assert_eq!(sid(&format!("/socket.io/?transport=websocket&sid={}", "x".repeat(65)), true), None);
    }

    #[test]
    fn a_small_attachment_does_not_keep_the_buffer_in_which_it_was_read() {
        for (length, is_copied) in [(1, true), (READ_BUFFER_BYTES - 1, true), (READ_BUFFER_BYTES, false)] {
            let buffer = Bytes::from(vec![7; 2 * READ_BUFFER_BYTES]);
            let owned = own(buffer.slice(..length));
            assert_eq!(owned, buffer.slice(..length));
            assert_eq!(owned.as_ptr() != buffer.as_ptr(), is_copied, "{length}");
        }
    }
}
