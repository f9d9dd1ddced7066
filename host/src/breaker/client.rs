//! The identities of a client to which failures are attributed: connection, user, address.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::marks::Mark;

/// One identity of a client. Failures are attributed to the narrowest one that explains them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// One connection, by its public id.
    Connection(Arc<str>),
    /// All connections of an authenticated user.
    User(Arc<str>),
    /// All connections from one IP address. For IPv6, only the first 64 bits count, because a
    /// client can choose the others.
    Address(IpAddr),
}

impl fmt::Display for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(id) => write!(f, "connection {id}"),
            Self::User(user) => write!(f, "user {user}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

/// The identities of one client. Created once for each connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientKeys {
    connection: ClientKey,
    user: Option<ClientKey>,
    address: Option<ClientKey>,
    /// The connection's mark.
    pub(super) connection_mark: Mark,
    /// The mark of the connection's owner: the user, else the address, else the connection.
    pub(super) party_mark: Mark,
}

impl ClientKeys {
    /// Creates the identities of the connection with this public id.
    pub fn new(connection: &str, user: Option<&str>, address: Option<IpAddr>) -> Self {
        let connection = ClientKey::Connection(connection.into());
        let user = user.map(|user| ClientKey::User(user.into()));
        let address = address.map(|address| ClientKey::Address(network(address)));
        let mark = |key: &ClientKey| {
            Mark::of(BuildHasherDefault::<DefaultHasher>::default().hash_one(key))
        };
        let (connection_mark, party_mark) =
            (mark(&connection), mark(user.as_ref().or(address.as_ref()).unwrap_or(&connection)));
        Self { connection, user, address, connection_mark, party_mark }
    }

    /// Returns the identities, the narrowest first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ClientKey> + Clone {
        [Some(&self.connection), self.user.as_ref(), self.address.as_ref()].into_iter().flatten()
    }

    /// Whether `key` is one of its identities.
    pub(super) fn has(&self, key: &ClientKey) -> bool {
        self.keys().any(|own| own == key)
    }
}

/// Returns the part of an address that its holder can't choose.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_counts_by_its_network_and_a_mapped_one_as_ipv4() {
        let key = |address: &str| {
            ClientKeys::new("c", None, Some(address.parse().unwrap())).address.unwrap().to_string()
        };
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), "address 192.0.2.1");
    }
}
