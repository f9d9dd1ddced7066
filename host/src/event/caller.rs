//! Who caused an event.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;

use crate::breaker::ClientKeys;

use super::{Connection, Identity};

/// Who caused an event. Access is checked by the caller's identity. The caller's connection, if
/// there is one, is the sender to which a handler can emit.
#[derive(Debug, Clone)]
pub enum Caller {
    /// A client, by its connection.
    Connection(Arc<Connection>),
    /// A user or an anonymous client that has no connection: one request.
    Request(Arc<Requester>),
    /// Nobody: the event is the host's own.
    None,
}

/// The caller of one request that does not belong to a connection.
#[derive(Debug)]
pub struct Requester {
    /// The namespace in which the handler emits.
    pub namespace: Arc<str>,
    /// The identity of the caller.
    pub identity: Arc<Identity>,
    /// The keys to which failures of the event are attributed.
    pub client: Arc<ClientKeys>,
}

impl Requester {
    /// Creates the caller of the request with this id, from `address` if it is known. Failures are
    /// attributed to a request as to a connection that has only one event.
    pub fn new(
        request: &str,
        namespace: Arc<str>,
        identity: Arc<Identity>,
        address: Option<IpAddr>,
    ) -> Self {
        let client = Arc::new(ClientKeys::new(request, identity.user.as_deref(), address));
        Self { namespace, identity, client }
    }
}

/// The identity of nobody.
static NOBODY: Identity = Identity { user: None, roles: Vec::new(), claims: Value::Null };

impl Caller {
    /// The connection, if the caller has one.
    pub fn connection(&self) -> Option<&Arc<Connection>> {
        match self {
            Self::Connection(connection) => Some(connection),
            Self::Request(_) | Self::None => None,
        }
    }

    /// The namespace in which the handler emits. `None` if nobody is the caller: then it emits in
    /// every namespace.
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Connection(connection) => Some(&connection.namespace),
            Self::Request(requester) => Some(&requester.namespace),
            Self::None => None,
        }
    }

    /// The identity by which access is checked. Nobody has that of an anonymous client.
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Connection(connection) => &connection.identity,
            Self::Request(requester) => &requester.identity,
            Self::None => &NOBODY,
        }
    }

    /// The keys to which failures of the event are attributed. `None` if nobody is the caller.
    pub fn client(&self) -> Option<Arc<ClientKeys>> {
        match self {
            Self::Connection(connection) => Some(connection.client()),
            Self::Request(requester) => Some(Arc::clone(&requester.client)),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_an_identity_and_a_namespace_but_no_connection() {
        let ada = Identity { user: Some("ada".to_owned()), ..Identity::default() };
        let requester = Requester::new("01JD", "/".into(), Arc::new(ada.clone()), None);
        let caller = Caller::Request(Arc::new(requester));
        assert_eq!((caller.identity(), caller.namespace()), (&ada, Some("/")));
        assert!(caller.connection().is_none() && caller.client().is_some());
    }

    #[test]
    fn nobody_is_anonymous_and_is_no_client() {
        assert_eq!(*Caller::None.identity(), Identity::default());
        assert!(Caller::None.client().is_none() && Caller::None.namespace().is_none());
    }
}
