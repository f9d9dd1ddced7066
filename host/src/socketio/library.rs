//! The Socket.IO implementation that uses the library socketioxide. Its buffers are counted in
//! packets. Packets that find no space wait in a queue of the host ([`queue`]).

mod adapter;
mod argument;
mod attendant;
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
use crate::transport::{AbortHandle, Peer, SessionSlot};

use super::{
    Answer, Client, Clients, ConnectRefusal, Full, Incoming, Newcomer, PROTOCOL_LIMIT, RequestKind,
    Share, Usage, kind_of,
};

use adapter::{Adapter, Adapters};
use attendant::Attendant;
use queue::{Handed, Packet, Queue};
use upgrades::Upgrades;

/// An event that is encoded once.
pub(crate) type Frame = Serialized;

/// The library's server.
#[derive(Clone)]
pub(crate) struct Server {
    io: SocketIo<Adapter>,
    layer: socketioxide::layer::SocketIoLayer<Adapter>,
    shared: Arc<Shared>,
}

/// The data that all connections share.
struct Shared {
    adapters: Adapters,
    /// Memory of the emits that wait for space in the outgoing buffers.
    memory: QueueMemory,
    /// Maximum number of packets that are sent to one client at once.
    largest_batch: usize,
    /// Connections whose transport began as long-polling.
    upgrades: Upgrades,
    /// How long a client may not read before it is disconnected.
    stalled: Duration,
    tasks: TaskTracker,
}

impl Server {
    /// Serves the namespaces of `config`. Connections and their events go to `clients`, which is
    /// weak because the library's sockets must not keep it alive.
    pub(crate) fn new(config: &Config, clients: &Weak<dyn Clients>, tasks: TaskTracker) -> Self {
        let limits = &config.limits;
        let shared = Arc::new(Shared {
            adapters: Adapters::default(),
            memory: QueueMemory::new(limits.overflow_bytes.get()),
            largest_batch: queue::largest_batch(limits.outgoing_packets.get()),
            upgrades: Upgrades::default(),
            stalled: limits.stalled_reader_ms,
            tasks,
        });
        let largest =
            PROTOCOL_LIMIT * limits.message_bytes.get().max(limits.attachment_bytes.get());
        let parser = ParserConfig::common()
            .max_incoming_binaries(PROTOCOL_LIMIT * limits.attachments)
            .max_incoming_binary_buf_size(PROTOCOL_LIMIT * limits.attachment_bytes.get());
        let builder = SocketIo::builder()
            .with_adapter::<Adapter>(shared.adapters.clone())
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
        // Each namespace is registered only once: a second registration would orphan its sockets.
        for namespace in &config.server.namespaces {
            server.serve(namespace, clients);
        }
        server
    }

    fn serve(&self, namespace: &str, clients: &Weak<dyn Clients>) {
        let (name, shared, clients): (Arc<str>, _, _) =
            (namespace.into(), Arc::clone(&self.shared), Weak::clone(clients));
        // Awaited before CONNECT is answered, so that the mailbox exists before the client's first
        // event.
        let prepare = move |Held(socket): Held| {
            let (name, shared, clients) =
                (Arc::clone(&name), Arc::clone(&shared), Weak::clone(&clients));
            async move {
                let clients = clients.upgrade().ok_or(ConnectRefusal::UNAVAILABLE)?;
                prepare(&shared, &*clients, socket, name).await
            }
        };
        // Spawned after CONNECT was sent, so that emits of `$connect` can't overtake it.
        let connected = async |socket: SocketRef<Adapter>| {
            if let Some(Entered(client)) = socket.extensions.get() {
                client.begin();
            }
        };
        self.io.ns(namespace.to_owned(), connected.with(prepare));
    }

    /// The library's layer of the HTTP service.
    pub(crate) fn layer(&self) -> socketioxide::layer::SocketIoLayer<Adapter> {
        self.layer.clone()
    }

    /// Remembers the TCP connection over which a client upgrades to a WebSocket, so that the host
    /// can cut it.
    pub(crate) fn note_upgrade<B>(&self, request: &http::Request<B>) {
        if let Some(cut) = request.extensions().get::<AbortHandle>()
            && let Some(sid) = upgrading_sid(request)
            // A TCP connection can be upgraded for one client only. Requests that name more clients
            // would only fill the map.
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

/// Returns the id of the client that asks by this request to upgrade to a WebSocket.
fn upgrading_sid<B>(request: &http::Request<B>) -> Option<&str> {
    match kind_of(request) {
        RequestKind::Upgrade(sid) if sid.len() <= MAX_SID => Some(sid),
        _ => None,
    }
}

/// Maximum length of a Socket.IO id, with room for the ids of later versions of the library.
const MAX_SID: usize = 64;

/// The library's own reference to a socket.
struct Held(Arc<Socket<Adapter>>);

impl FromConnectParts<Adapter> for Held {
    type Error = Infallible;

    fn from_connect_parts(
        socket: &Arc<Socket<Adapter>>,
        _: &Option<Value>,
    ) -> Result<Self, Infallible> {
        Ok(Self(Arc::clone(socket)))
    }
}

/// The client of a socket, stored in the socket's extensions.
#[derive(Clone)]
struct Entered(Arc<dyn Client>);

/// Creates the client of a socket. If CONNECT finds no space, the library drops the socket without
/// a notice. So nothing that the socket owns may own the socket, not even a waiting event.
async fn prepare(
    shared: &Arc<Shared>,
    clients: &dyn Clients,
    socket: Arc<Socket<Adapter>>,
    namespace: Arc<str>,
) -> Result<(), ConnectRefusal> {
    let handshake = &socket.req_parts().extensions;
    let newcomer = Newcomer {
        sid: socket.id.to_string(),
        namespace: Arc::clone(&namespace),
        address: handshake.get::<Peer>().map(|Peer(address)| *address),
        slot: handshake.get::<SessionSlot>().cloned(),
    };
    let client = clients.prepare(newcomer).await?;
    let adapter = shared.adapters.of(&namespace).ok_or(ConnectRefusal::UNAVAILABLE)?;
    let link = Link(Arc::new(Reach {
        socket: Arc::downgrade(&socket),
        adapter: Arc::downgrade(&adapter),
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

/// The handle by which the host reaches one socket.
#[derive(Clone)]
pub(crate) struct Link(Arc<Reach>);

struct Reach {
    /// Weak: the library owns the socket while its client can be answered. The socket owns the
    /// mailbox, in which answers wait with their link.
    socket: Weak<Socket<Adapter>>,
    adapter: Weak<Adapter>,
    sid: Sid,
    /// Its client's public id, for the log.
    client: String,
    queue: Queue,
    shared: Arc<Shared>,
}

impl Link {
    pub(super) fn encode(&self, emit: &Emit) -> Option<Frame> {
        argument::of_emit(&*self.0.adapter.upgrade()?, emit)
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
            // An error means that the connection has ended.
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

    /// Spawns a task that sends the waiting packets.
    fn attend(&self) {
        self.0.shared.tasks.spawn(Attendant(self.clone()).run(self.0.shared.stalled));
    }

    /// Drops the packets that wait for an ended connection. Its client may connect again in the
    /// same session.
    fn forget(&self) {
        self.0.queue.forget(&self.0.shared.memory);
    }
}

impl Reach {
    /// Returns the socket, unless it has ended.
    fn socket(&self) -> Option<SocketRef<Adapter>> {
        self.socket.upgrade().filter(|socket| socket.connected()).map(SocketRef::from)
    }

    /// Disconnects the socket, if its buffer has space for the DISCONNECT packet.
    fn try_disconnect(&self) -> Result<(), Full> {
        match self.socket().map(SocketRef::disconnect) {
            Some(Err(SocketError::InternalChannelFull)) => Err(Full),
            None | Some(Ok(()) | Err(SocketError::Closed)) => Ok(()),
        }
    }

    /// Cuts the TCP connection of a client's WebSocket. Does nothing for a client that polls.
    fn cut(&self) {
        let Some(socket) = self.socket.upgrade() else { return };
        // If the handshake opened a WebSocket itself, its TCP connection is the right one, whatever
        // a later request has claimed.
        let handshake = socket.req_parts();
        let was_upgraded = !handshake
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .any(|pair| pair == "transport=websocket");
        let cut = || {
            if was_upgraded {
                self.shared.upgrades.find(self.sid.as_str())
            } else {
                handshake.extensions.get::<AbortHandle>().cloned()
            }
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

/// The handler that the library calls in its reader task for every event of a connection. It is not
/// a closure: the library spawns closures as tasks, which lose the order.
struct Intake {
    client: Arc<dyn Client>,
    link: Link,
}

/// Marker that distinguishes this implementation from the library's blanket implementations for
/// closures.
struct InReaderTask;

impl MessageHandler<Adapter, InReaderTask> for Intake {
    fn call(&self, _: Arc<Socket<Adapter>>, value: Value, ack: Option<i64>) {
        let (text, attachments) = match value {
            Value::Str(text, attachments) => (text, attachments),
            // Only parsers that the host does not use produce this form.
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

/// Returns an attachment that keeps no more memory than is counted for it. A small attachment would
/// keep the far larger buffer into which its transport read it.
fn own(attachment: Bytes) -> Bytes {
    if attachment.len() < READ_BUFFER_BYTES {
        Bytes::copy_from_slice(&attachment)
    } else {
        attachment
    }
}

/// An attachment of at least this many bytes is about as large as the buffer into which it was
/// read.
const READ_BUFFER_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_remembered_only_by_an_id_of_a_plausible_length() {
        for (length, is_known) in [(MAX_SID, true), (MAX_SID + 1, false)] {
            let sid = "x".repeat(length);
            let request = http::Request::builder()
                .uri(format!("/socket.io/?transport=websocket&sid={sid}"))
                .header(http::header::UPGRADE, "websocket");
            let request = request.body(()).unwrap();
            assert_eq!(upgrading_sid(&request), is_known.then_some(&*sid), "{length}");
        }
    }

    #[test]
    fn a_small_attachment_does_not_keep_the_buffer_in_which_it_was_read() {
        for (length, is_copied) in
            [(1, true), (READ_BUFFER_BYTES - 1, true), (READ_BUFFER_BYTES, false)]
        {
            let buffer = Bytes::from(vec![7; 2 * READ_BUFFER_BYTES]);
            let owned = own(buffer.slice(..length));
            assert_eq!(owned, buffer.slice(..length));
            assert_eq!(owned.as_ptr() != buffer.as_ptr(), is_copied, "{length}");
        }
    }
}
