//! The handle by which the host reaches one socket of the library. Packets that find no space in
//! the socket's buffer wait in its queue.

use std::sync::{Arc, Weak};

use socketioxide::extract::SocketRef;
use socketioxide::socket::{Sid, Socket};
use socketioxide::{SocketError, TransportType};

use crate::effect::Emit;
use crate::socketio::{Answer, Full};
use crate::transport::AbortHandle;

use super::adapter::Adapter;
use super::attendant::Attendant;
use super::queue::{Handed, Packet, PacketQueue};
use super::{Frame, Shared, argument};

/// The handle by which the host reaches one socket.
#[derive(Clone)]
pub(crate) struct Link(pub(super) Arc<Reach>);

/// One socket, and what the host keeps for it.
pub(super) struct Reach {
    /// Weak: the library owns the socket while its client can be answered. The socket owns the
    /// mailbox, in which answers wait with their link.
    pub(super) socket: Weak<Socket<Adapter>>,
    pub(super) adapter: Weak<Adapter>,
    pub(super) sid: Sid,
    /// Its client's public id, for the log.
    pub(super) client: String,
    pub(super) queue: PacketQueue,
    pub(super) shared: Arc<Shared>,
}

impl Link {
    pub(crate) fn encode(&self, emit: &Emit) -> Option<Frame> {
        argument::of_emit(&*self.0.adapter.upgrade()?, emit)
    }

    pub(crate) fn send(&self, frame: &Frame) -> bool {
        match self.hand(|| Packet::Emit(frame.clone())) {
            Handed::Sent | Handed::Waits(_) => true,
            Handed::NoMemory => {
                self.abort("no memory is left for the events that it does not read");
                false
            }
            Handed::Gone => false,
        }
    }

    pub(crate) async fn answer(&self, answer: Answer<'_>) {
        if let Handed::Waits(Some(sent)) = self.hand(|| packet(answer)) {
            // An error means that the connection has ended.
            let _ = sent.await;
        }
    }

    pub(crate) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        if self.0.queue.try_send(&self.0, &packet(answer)) { Ok(()) } else { Err(Full) }
    }

    pub(crate) fn close(&self) {
        let reach = &self.0;
        if reach.queue.has() || reach.try_disconnect().is_err() {
            reach.queue.end(false, &reach.shared.memory, || self.attend());
        }
    }

    pub(crate) fn abort(&self, reason: &str) {
        let reach = &self.0;
        tracing::warn!(client = reach.client, reason, "client cut");
        reach.queue.end(true, &reach.shared.memory, || self.attend());
        reach.abort();
    }

    pub(crate) fn transport(&self) -> &'static str {
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
    pub(super) fn forget(&self) {
        self.0.queue.forget(&self.0.shared.memory);
    }
}

impl Reach {
    /// Returns the socket, unless it has ended.
    pub(super) fn socket(&self) -> Option<SocketRef<Adapter>> {
        self.socket.upgrade().filter(|socket| socket.connected()).map(SocketRef::from)
    }

    /// Disconnects the socket, if its buffer has space for the DISCONNECT packet.
    pub(super) fn try_disconnect(&self) -> Result<(), Full> {
        match self.socket().map(SocketRef::disconnect) {
            Some(Err(SocketError::InternalChannelFull)) => Err(Full),
            None | Some(Ok(()) | Err(SocketError::Closed)) => Ok(()),
        }
    }

    /// Aborts the TCP connection of a client's WebSocket. Does nothing for a client that polls.
    pub(super) fn abort(&self) {
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
        let handle = || {
            if was_upgraded {
                self.shared.upgrades.find(self.sid.as_str())
            } else {
                handshake.extensions.get::<AbortHandle>().cloned()
            }
        };
        if socket.transport_type() == TransportType::Websocket
            && let Some(handle) = handle()
        {
            handle.abort();
        }
    }
}

fn packet(answer: Answer<'_>) -> Packet {
    match answer {
        Answer::Ack(id, arguments) => Packet::Ack(id.cast_signed(), argument::of_ack(arguments)),
        Answer::Event(name, argument) => Packet::Error(argument::of_event(name, argument)),
    }
}
