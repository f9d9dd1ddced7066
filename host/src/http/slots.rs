//! The slots of connections: how many a listener has, and which of them are reserved for operators.
//!
//! A client's TCP connection takes one slot, and its Engine.IO session takes another, from pools of
//! the same size. A session keeps its slot until its last event is handled and `$disconnect` is
//! dispatched. Connections that are closing therefore count against the limit.
//!
//! Beyond the limit there are a few reserved slots for connections, and none for sessions. On such
//! a connection, the host serves only the paths of operators: `/healthz`, `/readyz`, `/metrics` and
//! `/api`. The path decides, and not the key (`admission`). The host may end such a connection for
//! a newer one while it waits for its client, also if it is an operator's (`reserve`).

mod networks;
mod pool;
mod reserve;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::Metrics;
use crate::transport::{AbortHandle, SessionSlot};

use super::proxy::TrustedProxies;

pub(super) use networks::network;
use networks::{NetworkPermit, Networks};
use pool::{SlotPermit, SlotPool};
use reserve::Reserve;

/// All slots of one listener: that of clients, or that of operators if they have their own.
pub(crate) struct ConnectionSlots {
    /// TCP connections of clients.
    connections: Arc<SlotPool>,
    /// Engine.IO sessions, including closing sessions.
    sessions: Arc<SlotPool>,
    /// The TCP connections of each network.
    of_networks: Arc<Networks>,
    /// The sessions of each network.
    sessions_of_networks: Arc<Networks>,
    reserve: Mutex<Reserve>,
    next_id: AtomicU64,
    /// Set when the host stops.
    is_closed: AtomicBool,
    metrics: Arc<Metrics>,
}

impl ConnectionSlots {
    /// Creates `limit` slots for client connections, as many for their sessions, and `reserved`
    /// slots for operators. One network has at most `of_network` connections and `of_network`
    /// sessions, unless it is one of `proxies`. Only `limit` can change later.
    pub(crate) fn new(
        limit: usize,
        of_network: Option<usize>,
        proxies: &Arc<TrustedProxies>,
        reserved: usize,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let reserve = Mutex::new(Reserve::new(reserved));
        let (connections, sessions) =
            (SlotPool::new("TCP connections", limit), SlotPool::new("sessions", limit));
        let (next_id, is_closed) = (AtomicU64::new(0), AtomicBool::new(false));
        let networks = || Networks::new(of_network, Arc::clone(proxies));
        let (of_networks, sessions_of_networks) = (networks(), networks());
        Arc::new(Self {
            connections,
            sessions,
            of_networks,
            sessions_of_networks,
            reserve,
            next_id,
            is_closed,
            metrics,
        })
    }

    /// Returns a slot for a new connection from `address`: one for clients, or else a reserved one.
    /// `abort_handle` ends this connection when another one takes its reserved slot; the rule is
    /// that of [`Reserve::admit`]. Returns `None` if there is no reserved slot for it either.
    pub(super) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        abort_handle: &AbortHandle,
    ) -> Option<Arc<ConnectionSlot>> {
        let kind = match self.take_client(address) {
            Some((network, slot)) => SlotKind::Client { _network: network, _slot: slot },
            None => {
                let id = self.next_id.fetch_add(1, Ordering::Relaxed);
                if !self.reserve().admit(id, address, abort_handle) {
                    self.refused();
                    return None;
                }
                SlotKind::Reserved(id)
            }
        };
        let state = Mutex::new(SlotState { address, kind });
        Some(Arc::new(ConnectionSlot { slots: Arc::clone(self), state }))
    }

    /// Takes a slot for a client's connection, if one is free and its network may have it.
    fn take_client(&self, address: IpAddr) -> Option<(NetworkPermit, SlotPermit)> {
        Some((self.of_networks.take(address)?, self.connections.take()?))
    }

    /// Takes a slot for a new session of a client with this address. (The host knows the address of
    /// each request; a session without one would count for no network.) Returns `None` if none is
    /// free, or its network may have no more: there are no reserved slots for sessions.
    pub(super) fn take_session(&self, address: Option<IpAddr>) -> Option<SessionSlot> {
        let of_network = match address {
            Some(address) => Some(self.sessions_of_networks.take(address)?),
            None => None,
        };
        Some(SessionSlot::new((of_network, self.sessions.take()?)))
    }

    /// Accepts no new clients from now on, because the host stops.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
    }

    /// Whether the host stops and accepts no new clients.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Counts a connection or a request that was refused because no slot is free.
    pub(super) fn refused(&self) {
        self.metrics.connection_refused();
    }

    /// Returns the client connections in use, the sessions in use, and the limit of each.
    pub(super) fn used(&self) -> (usize, usize, usize) {
        (self.connections.used(), self.sessions.used(), self.connections.limit())
    }

    /// Sets the limit for client connections and for sessions, because plugins need more or fewer
    /// file descriptors. Connections and sessions beyond the new limit continue.
    pub(crate) fn set_limit(&self, limit: usize) {
        for pool in [&self.connections, &self.sessions] {
            pool.set_limit(limit);
        }
    }

    /// The lock is held for a search in a short list, and only for a connection that needs or has a
    /// reserved slot.
    fn reserve(&self) -> MutexGuard<'_, Reserve> {
        self.reserve.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of one TCP connection. It is free when the connection is closed.
pub(super) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    state: Mutex<SlotState>,
}

struct SlotState {
    /// The address of the client.
    address: IpAddr,
    kind: SlotKind,
}

enum SlotKind {
    /// A slot for clients.
    Client { _network: NetworkPermit, _slot: SlotPermit },
    /// A reserved slot, with its id.
    Reserved(u64),
}

impl ConnectionSlot {
    /// Whether client requests are served on this connection. A reserved slot becomes a client slot
    /// if the pool has a free one by now.
    pub(super) fn serves_clients(&self) -> bool {
        let mut state = self.state();
        let SlotKind::Reserved(id) = state.kind else { return true };
        let Some((network, slot)) = self.slots.take_client(state.address) else { return false };
        state.kind = SlotKind::Client { _network: network, _slot: slot };
        // The reserve has not aborted the connection meanwhile: its request is being answered.
        self.slots.reserve().forget(id);
        true
    }

    /// Counts the slot for a client whose address its proxy has told. If the client's network may
    /// have no more, the slot becomes a reserved one. A reserved slot stays one: the first request
    /// tries to make it a client slot ([`ConnectionSlot::serves_clients`]). Returns `false` if the
    /// reserve has none for the client; the connection must then be closed.
    pub(super) fn give_to(&self, client: IpAddr, abort_handle: &AbortHandle) -> bool {
        let mut state = self.state();
        state.address = client;
        let id = match &mut state.kind {
            SlotKind::Client { _network: network, .. } => {
                if let Some(of_client) = self.slots.of_networks.take(client) {
                    *network = of_client;
                    return true;
                }
                self.slots.next_id.fetch_add(1, Ordering::Relaxed)
            }
            SlotKind::Reserved(id) => {
                self.slots.reserve().forget(*id);
                *id
            }
        };
        // The slot of a client is free from now on. If the reserve refuses the id, it does not know
        // it, and ignores it in `forget`.
        state.kind = SlotKind::Reserved(id);
        let is_admitted = self.slots.reserve().admit(id, client, abort_handle);
        if !is_admitted {
            self.slots.refused();
        }
        is_admitted
    }

    /// Whether the slot is reserved for operators.
    pub(super) fn is_reserved(&self) -> bool {
        matches!(self.state().kind, SlotKind::Reserved(_))
    }

    fn state(&self) -> MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let reserved = match self.state().kind {
            SlotKind::Client { .. } => None,
            SlotKind::Reserved(id) => Some(id),
        };
        if let Some(id) = reserved {
            self.slots.reserve().forget(id);
        }
    }
}
