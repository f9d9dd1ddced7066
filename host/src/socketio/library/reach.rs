//! The way to one socket of the library: whether it still exists, and how it is disconnected.

use std::sync::{Arc, Weak};

use socketioxide::extract::SocketRef;
use socketioxide::socket::{Sid, Socket};
use socketioxide::{SocketError, TransportType};

use crate::socketio::Full;
use crate::transport::AbortHandle;

use super::Shared;
use super::adapter::Adapter;

/// One socket, with what is needed to send to it.
pub(super) struct Reach {
    /// Weak: the library owns the socket while its client can be answered. The socket owns the
    /// mailbox, in which answers wait with their link.
    pub(super) socket: Weak<Socket<Adapter>>,
    pub(super) adapter: Weak<Adapter>,
    pub(super) sid: Sid,
    /// Its client's public id, for the log.
    pub(super) client: String,
    pub(super) shared: Arc<Shared>,
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
