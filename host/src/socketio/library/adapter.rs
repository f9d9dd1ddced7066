//! The library's adapter for one namespace. It wraps the local adapter, and hands a serialized
//! packet to one connection. So an event for many connections is serialized once, and the host
//! knows which of them had no space.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use serde::Serialize;
use socketioxide::SocketError;
use socketioxide::adapter::Emitter;
use socketioxide::socket::Sid;
use socketioxide_core::Value as Serialized;
use socketioxide_core::adapter::{
    BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, SocketEmitter,
};
use socketioxide_core::packet::Packet;
use socketioxide_core::parser::{Parse, ParserError};

/// Sends the packets of one namespace.
pub(crate) struct Adapter {
    local: CoreLocalAdapter<Emitter>,
    adapters: Adapters,
}

/// The adapters of a host's namespaces. Weak: the library's namespaces own them.
#[derive(Clone, Default)]
pub(crate) struct Adapters(Arc<RwLock<Vec<Weak<Adapter>>>>);

impl Adapters {
    /// Returns the adapter of `namespace`.
    pub(super) fn of(&self, namespace: &str) -> Option<Arc<Adapter>> {
        // A panic under the lock leaves the list consistent. A host has few namespaces.
        let adapters = self.0.read().unwrap_or_else(PoisonError::into_inner);
        adapters
            .iter()
            .filter_map(Weak::upgrade)
            .find(|adapter| adapter.local.path().as_str() == namespace)
    }
}

impl Adapter {
    /// Serializes an argument list with attachments, in the library's own format. An ack has no
    /// name of an event.
    ///
    /// # Errors
    /// Returns an error if the arguments can't be serialized.
    pub(super) fn serialize(
        &self,
        event: Option<&str>,
        arguments: &impl Serialize,
    ) -> Result<Serialized, ParserError> {
        self.local.parser().encode_value(arguments, event)
    }

    /// Hands an event to one connection. Also succeeds if the connection no longer exists.
    ///
    /// # Errors
    /// Returns an error if the connection's buffer is full, or its transport is closed.
    pub(super) fn event(&self, to: Sid, event: Serialized) -> Result<(), SocketError> {
        self.send(to, Packet::event(self.local.path().clone(), event))
    }

    /// Hands an event to one connection, with an id by which its client answers. The stream yields
    /// one item: the answer, or that the buffer was full. It yields none if there is no such
    /// connection.
    pub(super) fn event_with_ack(
        &self,
        to: Sid,
        event: Serialized,
        timeout: Duration,
    ) -> <Emitter as SocketEmitter>::AckStream {
        let packet = Packet::event(self.local.path().clone(), event);
        self.local.broadcast_with_ack(packet, BroadcastOptions::new(to), Some(timeout)).0
    }

    /// Like [`Adapter::event`], for the ack `id`.
    ///
    /// # Errors
    /// As [`Adapter::event`].
    pub(super) fn ack(&self, to: Sid, id: i64, ack: Serialized) -> Result<(), SocketError> {
        self.send(to, Packet::ack(self.local.path().clone(), ack, id))
    }

    fn send(&self, to: Sid, packet: Packet) -> Result<(), SocketError> {
        let sent = self.local.broadcast(packet, BroadcastOptions::new(to));
        sent.map_err(|errors| errors.into_iter().next().unwrap_or(SocketError::Closed))
    }
}

impl CoreAdapter<Emitter> for Adapter {
    type Error = Infallible;
    type State = Adapters;
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    fn new(adapters: &Adapters, local: CoreLocalAdapter<Emitter>) -> Self {
        Self { local, adapters: adapters.clone() }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        self.adapters.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&self));
        on_success();
    }

    async fn broadcast_with_ack(
        &self,
        packet: Packet,
        options: BroadcastOptions,
        timeout: Option<Duration>,
    ) -> Result<Self::AckStream, Infallible> {
        Ok(self.local.broadcast_with_ack(packet, options, timeout).0)
    }

    fn get_local(&self) -> &CoreLocalAdapter<Emitter> {
        &self.local
    }
}

impl DefinedAdapter for Adapter {}
