//! The library's adapter for one namespace: its own local one, with a way to hand what is serialized already to one connection. What goes to
//! many is serialized once, and it is known for whom there was no room.

use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::Duration;

use serde::Serialize;
use socketioxide::SocketError;
use socketioxide::adapter::Emitter;
use socketioxide::socket::Sid;
use socketioxide_core::Value as Serialized;
use socketioxide_core::adapter::{BroadcastOptions, CoreAdapter, CoreLocalAdapter, DefinedAdapter, SocketEmitter};
use socketioxide_core::packet::{Packet, PacketData};
use socketioxide_core::parser::{Parse, ParserError};

/// Where the packets of one namespace leave.
pub(crate) struct Outlet {
    local: CoreLocalAdapter<Emitter>,
    outlets: Outlets,
}

/// The outlets of a host's namespaces. Weak: the library's namespaces own them.
#[derive(Clone, Default)]
pub(crate) struct Outlets(Arc<RwLock<Vec<Weak<Outlet>>>>);

impl Outlets {
    /// The outlet of `namespace`.
    pub(super) fn of(&self, namespace: &str) -> Option<Arc<Outlet>> {
        // Whoever panics under the lock leaves a list that is whole; a host has few namespaces.
        let outlets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        outlets.iter().filter_map(Weak::upgrade).find(|outlet| outlet.local.path().as_str() == namespace)
    }
}

impl Outlet {
    /// Serializes an argument list with attachments, as only the library knows how.
    ///
    /// # Errors
    /// Where the argument is none that can be serialized.
    pub(super) fn serialize(&self, event: &str, arguments: &impl Serialize) -> Result<Serialized, ParserError> {
        self.local.parser().encode_value(arguments, Some(event))
    }

    /// Hands an event to one connection; one that is gone takes it as well.
    ///
    /// # Errors
    /// Where its buffer is full, or its transport is closed.
    pub(super) fn event(&self, to: Sid, event: Serialized) -> Result<(), SocketError> {
        self.send(to, Packet::event(self.local.path().clone(), event))
    }

    /// The same with the ack `id`.
    ///
    /// # Errors
    /// As [`Outlet::event`].
    pub(super) fn ack(&self, to: Sid, id: i64, ack: Serialized) -> Result<(), SocketError> {
        self.send(to, Packet { inner: PacketData::EventAck(ack, id), ns: self.local.path().clone() })
    }

    fn send(&self, to: Sid, packet: Packet) -> Result<(), SocketError> {
        let sent = self.local.broadcast(packet, BroadcastOptions::new(to));
        sent.map_err(|errors| errors.into_iter().next().unwrap_or(SocketError::Closed))
    }
}

impl CoreAdapter<Emitter> for Outlet {
    type Error = Infallible;
    type State = Outlets;
    type AckStream = <Emitter as SocketEmitter>::AckStream;
    type InitRes = ();

    fn new(outlets: &Outlets, local: CoreLocalAdapter<Emitter>) -> Self {
        Self { local, outlets: outlets.clone() }
    }

    fn init(self: Arc<Self>, on_success: impl FnOnce() + Send + 'static) {
        self.outlets.0.write().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&self));
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

impl DefinedAdapter for Outlet {}
