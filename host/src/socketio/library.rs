//! The Socket.IO implementation that uses the library socketioxide. Its buffers are counted in
//! packets. Packets that find no space wait in a queue of the host ([`queue`]).

mod adapter;
mod argument;
mod asks;
mod attendant;
pub(crate) mod fuzzing;
mod intake;
mod link;
mod outgoing;
mod owned;
mod queue;
mod reach;
mod upgrades;

use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socketioxide::extract::SocketRef;
use socketioxide::handler::{ConnectHandler, FromConnectParts, Value};
use socketioxide::socket::{DisconnectReason, Socket};
use socketioxide::{ParserConfig, SocketIo, TransportType};
use socketioxide_core::Value as Serialized;
use tokio_util::task::TaskTracker;

use crate::auth::{Credentials, kept_bearer};
use crate::config::{Config, Transport};
use crate::memory::QueueMemory;
use crate::transport::{AbortHandle, Peer, SessionSlot};

use super::{
    Client, Clients, ConnectRefusal, Newcomer, PROTOCOL_LIMIT, RequestKind, Share, Usage,
    kept_query, kind_of,
};

use adapter::{Adapter, Adapters};
use asks::Asks;
use intake::Intake;
use outgoing::Outgoing;
use queue::PacketQueue;
use reach::Reach;
use upgrades::Upgrades;

pub(crate) use asks::Asked;
pub(crate) use link::Link;

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
    /// Maximum number of acks of one connection that are waited for.
    max_asks: usize,
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
            max_asks: limits.connection_acks.get(),
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
        let prepare = move |ConnectingSocket { socket, auth }: ConnectingSocket| {
            let (name, shared, clients) =
                (Arc::clone(&name), Arc::clone(&shared), Weak::clone(&clients));
            async move {
                let clients = clients.upgrade().ok_or(ConnectRefusal::UNAVAILABLE)?;
                prepare(&shared, &*clients, socket, auth, name).await
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
    /// can abort it.
    pub(crate) fn note_upgrade<B>(&self, request: &http::Request<B>) {
        if let Some(abort_handle) = request.extensions().get::<AbortHandle>()
            && let Some(sid) = upgrading_sid(request)
            // A TCP connection can be upgraded for one client only. Requests that name more clients
            // would only fill the map.
            && abort_handle.claim()
        {
            self.shared.upgrades.remember(sid, abort_handle);
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

/// The library's own reference to a socket, and the `auth` of its client.
struct ConnectingSocket {
    socket: Arc<Socket<Adapter>>,
    auth: Option<Box<str>>,
}

impl FromConnectParts<Adapter> for ConnectingSocket {
    type Error = Infallible;

    fn from_connect_parts(
        socket: &Arc<Socket<Adapter>>,
        auth: &Option<Value>,
    ) -> Result<Self, Infallible> {
        let auth = match auth {
            Some(Value::Str(text, _)) => Some(text.as_str().into()),
            Some(Value::Bytes(_)) | None => None,
        };
        Ok(Self { socket: Arc::clone(socket), auth })
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
    auth: Option<Box<str>>,
    namespace: Arc<str>,
) -> Result<(), ConnectRefusal> {
    let handshake = &socket.req_parts().extensions;
    let bearer = kept_bearer(&socket.req_parts().headers);
    let newcomer = Newcomer {
        sid: socket.id.to_string(),
        namespace: Arc::clone(&namespace),
        address: handshake.get::<Peer>().map(|Peer(address)| *address),
        credentials: Credentials { auth, bearer },
        query: kept_query(clients, &socket.req_parts().uri),
        slot: handshake.get::<SessionSlot>().cloned(),
    };
    let client = clients.prepare(newcomer).await?;
    let adapter = shared.adapters.of(&namespace).ok_or(ConnectRefusal::UNAVAILABLE)?;
    let reach = Reach {
        socket: Arc::downgrade(&socket),
        adapter: Arc::downgrade(&adapter),
        sid: socket.id,
        client: client.id().to_owned(),
        shared: Arc::clone(shared),
    };
    let asks = Asks::new(&client, shared.max_asks);
    let link = Link(Arc::new(Outgoing { reach, queue: PacketQueue::default(), asks }));
    socket.on_fallback(Intake { client: Arc::clone(&client), link: link.clone() });
    let (leaving, gone) = (Arc::clone(&client), link.clone());
    socket.on_disconnect(async move |reason: DisconnectReason| {
        // Before `leave`, which handles what has come from the client.
        gone.end_acks();
        leaving.leave(word(reason)).await;
        gone.forget();
    });
    client.enter(super::Link::Library(link));
    socket.extensions.insert(Entered(client));
    Ok(())
}

/// Returns Socket.IO's own word for the end of a connection.
fn word(reason: DisconnectReason) -> &'static str {
    match reason {
        DisconnectReason::TransportClose => "transport close",
        DisconnectReason::TransportError | DisconnectReason::MultipleHttpPollingError => {
            "transport error"
        }
        DisconnectReason::PacketParsingError => "parse error",
        DisconnectReason::HeartbeatTimeout => "ping timeout",
        DisconnectReason::ClientNSDisconnect => "client namespace disconnect",
        DisconnectReason::ServerNSDisconnect => "server namespace disconnect",
        DisconnectReason::ClosingServer => "server shutting down",
    }
}

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
}
