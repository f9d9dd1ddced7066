//! Who caused an event.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use crate::breaker::ClientKeys;
use crate::rate::{ClientRate, Verdict};

use super::{Connection, Identity};

/// Who caused an event. The caller's identity decides access. If the caller has a connection, a
/// handler can emit to it as the sender.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A client, by its connection.
    Connection(Arc<Connection>),
    /// One request of a user, of a program or of an anonymous client, without a connection.
    Request(Arc<Requester>),
    /// No client, in one namespace: a host event that is about a room.
    Namespace(Arc<str>),
    /// No client: a host event that is about no connection (`$start`, `$resync`).
    None,
}

/// The caller of one request that does not belong to a connection.
#[derive(Debug)]
pub struct Requester {
    /// The namespace in which the handler emits.
    pub namespace: Arc<str>,
    /// The identity of the caller.
    pub identity: Arc<Identity>,
    /// Whom the breaker blames for failures of the event: the request and its user. Without a user,
    /// the address takes the user's place.
    pub client: Arc<ClientKeys>,
    /// The buckets from which the event takes tokens.
    pub(crate) rate: ClientRate,
}

impl Requester {
    /// Creates the caller of one request. `request` is its id, and `address` is its client's IP
    /// address if that is known, which counts only if there is no user. Failures count as if the
    /// request were a connection with one event.
    pub(crate) fn new(
        request: &str,
        namespace: Arc<str>,
        identity: Arc<Identity>,
        address: Option<IpAddr>,
        rate: ClientRate,
    ) -> Self {
        let client = Arc::new(ClientKeys::new(request, identity.user.as_deref(), address));
        Self { namespace, identity, client, rate }
    }
}

/// The identity if there is no client: that of an anonymous one.
static NOBODY: LazyLock<Arc<Identity>> = LazyLock::new(Arc::default);

impl Caller {
    /// The connection, if the caller has one.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        match self {
            Self::Connection(connection) => Some(connection),
            Self::Request(_) | Self::Namespace(_) | Self::None => None,
        }
    }

    /// The namespace in which the handler emits. `None` for [`Caller::None`]: its handler emits in
    /// every namespace.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Connection(connection) => Some(&connection.namespace),
            Self::Request(requester) => Some(&requester.namespace),
            Self::Namespace(namespace) => Some(namespace),
            Self::None => None,
        }
    }

    /// The identity that decides access. Without a client, it is that of an anonymous one.
    pub fn identity(&self) -> Arc<Identity> {
        match self {
            Self::Connection(connection) => connection.identity(),
            Self::Request(requester) => Arc::clone(&requester.identity),
            Self::Namespace(_) | Self::None => Arc::clone(&NOBODY),
        }
    }

    /// Takes a token for the event.
    pub(crate) fn take_token(&self, now: Instant) -> Verdict {
        match self {
            Self::Connection(connection) => connection.rate.take(now),
            Self::Request(requester) => requester.rate.take(now),
            Self::Namespace(_) | Self::None => Verdict::Allowed,
        }
    }

    /// Whom the breaker blames for failures of the event; `None` without a client. For a
    /// connection, this changes when the client returns from another address.
    pub fn client_keys(&self) -> Option<Arc<ClientKeys>> {
        match self {
            Self::Connection(connection) => Some(connection.client_keys()),
            Self::Request(requester) => Some(Arc::clone(&requester.client)),
            Self::Namespace(_) | Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_an_identity_and_a_namespace_but_no_connection() {
        let ada = Identity { user: Some("ada".to_owned()), ..Identity::default() };
        let (identity, rate) = (Arc::new(ada.clone()), ClientRate::default());
        let requester = Requester::new("01JD", "/".into(), identity, None, rate);
        let caller = Caller::Request(Arc::new(requester));
        assert_eq!((&*caller.identity(), caller.namespace()), (&ada, Some("/")));
        assert!(caller.connection().is_none() && caller.client_keys().is_some());
    }

    #[test]
    fn nobody_is_anonymous_and_is_no_client() {
        assert_eq!(*Caller::None.identity(), Identity::default());
        assert!(Caller::None.client_keys().is_none() && Caller::None.namespace().is_none());
        let of_room = Caller::Namespace("/chat".into());
        assert_eq!(
            (&*of_room.identity(), of_room.namespace()),
            (&Identity::default(), Some("/chat"))
        );
        assert!(of_room.client_keys().is_none() && of_room.connection().is_none());
    }
}
