//! Events, their payloads, and the connections that send them. No I/O.

mod caller;
mod id;
mod pending_connects;

use std::any::Any;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::breaker::ClientKeys;
use crate::rate::ClientRate;

use pending_connects::PendingConnects;

pub use caller::{Caller, Requester};
pub use id::EventId;
pub(crate) use sockhop_core::handshake::Handshake;
pub use sockhop_core::identity::Identity;
pub use sockhop_core::json::Json;
pub(crate) use sockhop_core::name::AUTHENTICATE;
pub use sockhop_core::name::{host_event, is_event_name};

/// One client's connection to one namespace. It outlives its events.
#[derive(Debug)]
pub struct Connection {
    /// The client's own Socket.IO id. It is not shown to others: anyone who knows it can send as
    /// this client while it uses long-polling.
    pub sid: String,
    /// The public id, safe to show to others.
    pub public_id: String,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The identity of the connected client. It changes when the client sends a new token, between
    /// two of its events.
    identity: ArcSwap<Identity>,
    /// The keys to which failures of its events are attributed. They change when the client returns
    /// from another address.
    client: ArcSwap<ClientKeys>,
    /// The buckets from which its events take tokens.
    rate: ClientRate,
    /// What the client sent when it connected; `None` if that is not kept.
    handshake: Option<Box<Handshake>>,
    /// The plugins that have not handled its `$connect` yet.
    pub(crate) pending_connects: PendingConnects,
    /// Its entry among the members of rooms, whose type only `rooms` knows. Each event that a
    /// handler sends back to its caller needs it, so it is found without a lock.
    member: OnceLock<Weak<dyn Any + Send + Sync>>,
}

/// A snapshot of all connections, in the order of their public ids.
pub type Connections = Arc<[Arc<Connection>]>;

impl Connection {
    /// Creates a connection, with the client's `address` if it is known.
    pub fn new(
        sid: String,
        public_id: String,
        namespace: Arc<str>,
        identity: Arc<Identity>,
        address: Option<IpAddr>,
    ) -> Self {
        let client = ClientKeys::new(&public_id, identity.user.as_deref(), address);
        let client = ArcSwap::from_pointee(client);
        Self {
            sid,
            public_id,
            namespace,
            identity: ArcSwap::new(identity),
            client,
            rate: ClientRate::default(),
            handshake: None,
            pending_connects: PendingConnects::default(),
            member: OnceLock::new(),
        }
    }

    /// Returns the same connection, whose events take tokens from these buckets.
    #[must_use]
    pub(crate) fn with_rate(mut self, rate: ClientRate) -> Self {
        self.rate = rate;
        self
    }

    /// Returns the same connection, with what its client sent when it connected.
    #[must_use]
    pub(crate) fn with_handshake(mut self, handshake: Option<Handshake>) -> Self {
        self.handshake = handshake.map(Box::new);
        self
    }

    /// What the client sent when it connected. `None` if no plugin asked for it then, or if it was
    /// too large.
    pub(crate) fn handshake(&self) -> Option<&Handshake> {
        self.handshake.as_deref()
    }

    /// Returns the identity of the connected client.
    pub fn identity(&self) -> Arc<Identity> {
        self.identity.load_full()
    }

    /// Sets its entry among the members of rooms, unless it had one before.
    pub(crate) fn set_member(&self, member: Weak<dyn Any + Send + Sync>) {
        let _ = self.member.set(member);
    }

    /// Its first entry among the members of rooms, if that still exists.
    pub(crate) fn member<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.member.get()?.upgrade()?.downcast().ok()
    }

    /// Replaces the identity, because the same user has a new token.
    pub(crate) fn set_identity(&self, identity: Arc<Identity>) {
        self.identity.store(identity);
    }

    /// Returns the keys to which failures of its events are attributed.
    pub fn client_keys(&self) -> Arc<ClientKeys> {
        self.client.load_full()
    }

    /// Attributes failures to another `address`, because the client has returned from there.
    pub(crate) fn set_address(&self, address: Option<IpAddr>) {
        self.client.store(Arc::new(self.client.load().with_address(address)));
    }
}

/// Memory of an attachment besides its bytes: its reference and its allocation.
const ATTACHMENT_COST: usize = 64;

/// The arguments of an event: text that should be JSON, and the attachments to which it refers.
/// The dispatcher validates it, once.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The JSON texts of the arguments, separated by commas. Empty if the client sent none.
    pub text: Box<str>,
    /// The attachments in the order of their placeholders.
    pub attachments: Vec<Bytes>,
}

impl Payload {
    /// `null` without attachments: the payload of an event without arguments.
    pub fn null() -> Self {
        Self { text: "null".into(), attachments: Vec::new() }
    }

    /// Memory, in bytes, of the text and its attachments.
    pub fn size(&self) -> usize {
        let of_attachments = self.attachments.iter().map(|bytes| bytes.len() + ATTACHMENT_COST);
        self.text.len() + of_attachments.sum::<usize>()
    }
}

/// One event for a plugin to handle.
#[derive(Debug, Clone)]
pub struct Event {
    /// The id for logs and rejections.
    pub id: EventId,
    /// The event's name.
    pub name: String,
    /// The payload.
    pub payload: Payload,
    /// Who caused the event.
    pub caller: Caller,
    /// When the host received it.
    pub received_at: SystemTime,
    /// The connections at the time when the host sent the event; `None` if the current connections
    /// may be read.
    pub connections: Option<Connections>,
    /// The timer that has fired; `None` for other events.
    pub timer: Option<Box<FiredTimer>>,
}

/// A timer that has fired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FiredTimer {
    /// Its row in the plugin's store. A timer that is set again gets another one.
    pub id: i64,
    /// Its declared name.
    pub timer: String,
    /// Its key; empty for a timer that the host has set.
    pub key: String,
    /// Its deadline, in milliseconds since 1970.
    pub due: u64,
    /// 1 for the first time that its event is handled.
    pub attempt: u32,
    /// When the host sets the timer again; `None` for a timer that a handler has set.
    pub next: Option<u64>,
}

impl Event {
    /// Creates an event with the current time and a new id.
    pub fn now(name: impl Into<String>, payload: Payload, caller: Caller) -> Self {
        Self::at(SystemTime::now(), name, payload, caller)
    }

    /// Creates an event that was received at this time, with a new id.
    pub(crate) fn at(
        received_at: SystemTime,
        name: impl Into<String>,
        payload: Payload,
        caller: Caller,
    ) -> Self {
        Self {
            id: EventId::new(received_at),
            name: name.into(),
            payload,
            caller,
            received_at,
            connections: None,
            timer: None,
        }
    }

    /// When the host received it, in milliseconds since 1970.
    pub fn received_at_ms(&self) -> u64 {
        let since = self.received_at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_attachments_cost_what_they_take_in_memory() {
        let attachments = vec![Bytes::from_static(b"x"); 10_000];
        let payload = Payload { attachments, ..Payload::null() };
        assert!(payload.size() >= 10_000 * (1 + size_of::<Bytes>()));
    }

    #[test]
    fn failures_of_a_client_that_has_returned_count_for_its_new_address() {
        let [home, away] = [1, 2].map(|last| Some([192, 0, 2, last].into()));
        let new = |address| {
            let identity = Arc::new(Identity::default());
            Connection::new("sid".into(), "id".into(), "/".into(), identity, address)
        };
        let connection = new(home);
        assert_eq!(connection.client_keys(), new(home).client_keys());
        connection.set_address(away);
        assert_eq!(connection.client_keys(), new(away).client_keys());
        assert_ne!(connection.client_keys(), new(home).client_keys());
    }
}
