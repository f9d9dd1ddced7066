//! The identities of a client to which failures are attributed: its connection, and its user or
//! else its address. Also which plugins answered the last event of the connection.

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One identity of a client. Failures are attributed to the narrowest one that explains them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientKey {
    /// One connection, by its public id.
    Connection(Arc<str>),
    /// All connections of an authenticated user.
    User(Arc<str>),
    /// All connections without a user from one IP address. For IPv6, only the first 64 bits count,
    /// because a client can choose the others.
    Address(IpAddr),
}

impl ClientKey {
    /// How many connections of this identity must fail often before failures are attributed to the
    /// identity. If fewer fail, they may be bad clients among others with the same user or address.
    pub(super) const fn min_connections(&self) -> usize {
        match self {
            Self::Connection(_) => 1,
            Self::User(_) => 2,
            Self::Address(_) => 3,
        }
    }
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
#[derive(Debug, Clone)]
pub struct ClientKeys {
    connection: ClientKey,
    /// The user, or else the address.
    party: Option<ClientKey>,
    /// Identifies the connection.
    pub(super) connection_hash: u64,
    /// Identifies the party, or the connection if there is none.
    pub(super) party_hash: u64,
    /// Like `party_hash`, but of an IPv6 address only the first 48 bits count: all networks that
    /// one customer of a provider may have. It tells independent clients apart.
    pub(super) site_hash: u64,
    /// The plugins that answered the last event that they got from the connection.
    answered_by: Arc<AtomicU64>,
}

/// Identifies a plugin, in all its versions, in the set of plugins that answered a connection: one
/// of 64 bits. If two plugins share a bit, what one of them did counts for the other too. This
/// only makes the breaker take a connection for one that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct PluginBit(u64);

impl PluginBit {
    pub(super) fn of(plugin: &str) -> Self {
        Self(1 << (hash(plugin) % u64::from(u64::BITS)))
    }
}

impl ClientKeys {
    /// Creates the identities of the connection with this public id.
    pub fn new(connection: &str, user: Option<&str>, address: Option<IpAddr>) -> Self {
        let connection = ClientKey::Connection(connection.into());
        let user = user.map(|user| ClientKey::User(user.into()));
        let connection_hash = hash(&connection);
        let without_address = Self {
            connection,
            party: user,
            connection_hash,
            party_hash: connection_hash,
            site_hash: connection_hash,
            answered_by: Arc::default(),
        };
        without_address.with_address(address)
    }

    /// Returns the identities of the same connection from another address.
    #[must_use]
    pub fn with_address(&self, address: Option<IpAddr>) -> Self {
        if let Some(user @ ClientKey::User(_)) = &self.party {
            let party_hash = hash(user);
            return Self { party_hash, site_hash: party_hash, ..self.clone() };
        }
        let key_of = |bits: u32| {
            let key = address.map(|address| ClientKey::Address(network(address, bits)));
            let key_hash = key.as_ref().map_or(self.connection_hash, hash);
            (key, key_hash)
        };
        let ((party, party_hash), (_, site_hash)) = (key_of(PARTY_BITS), key_of(SITE_BITS));
        Self { party, party_hash, site_hash, ..self.clone() }
    }

    /// Returns the user, or the address of a client without a user.
    pub(super) fn party(&self) -> Option<&ClientKey> {
        self.party.as_ref()
    }

    /// Whether `plugin` answered the last event that it got from the connection.
    pub(super) fn is_answered_by(&self, plugin: PluginBit) -> bool {
        self.answered_by.load(Ordering::Relaxed) & plugin.0 != 0
    }

    /// Notes whether `plugin` answered the newest event of the connection, or failed. Kept with
    /// the connection: it must last as long as the connection, which may be idle for long. A plugin
    /// would need an entry for each connection.
    pub(super) fn note(&self, plugin: PluginBit, is_answered: bool) {
        match (is_answered, self.is_answered_by(plugin)) {
            (true, false) => _ = self.answered_by.fetch_or(plugin.0, Ordering::Relaxed),
            (false, true) => _ = self.answered_by.fetch_and(!plugin.0, Ordering::Relaxed),
            // Nearly every event is answered, like the one before.
            (true, true) | (false, false) => {}
        }
    }

    /// Returns the identities, the narrowest first.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ClientKey> + Clone {
        std::iter::once(&self.connection).chain(&self.party)
    }

    /// Whether `key` is one of its identities.
    pub(super) fn has(&self, key: &ClientKey) -> bool {
        self.keys().any(|own| own == key)
    }
}

impl PartialEq for ClientKeys {
    fn eq(&self, other: &Self) -> bool {
        self.keys().eq(other.keys())
    }
}

fn hash(key: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
}

/// How many leading bits of an IPv6 address identify a network; its holder chooses the other 64.
const PARTY_BITS: u32 = 64;

/// The bits of an IPv6 address that a customer of a provider can't choose: many get all networks
/// with the same first 48 bits (RFC 6177).
const SITE_BITS: u32 = 48;

/// Returns an IPv4 address, or the first `bits` of an IPv6 address.
fn network(address: IpAddr, bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - bits))).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_counts_by_its_network_and_a_mapped_one_as_ipv4() {
        let key = |address: &str| {
            ClientKeys::new("c", None, Some(address.parse().unwrap())).party.unwrap().to_string()
        };
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), "address 192.0.2.1");
        let site =
            |address: &str| ClientKeys::new("c", None, Some(address.parse().unwrap())).site_hash;
        assert_eq!(site("2001:db8::1"), site("2001:db8:0:ffff::1"));
        assert_ne!(site("2001:db8::1"), site("2001:db8:1::1"));
        assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
        let user = |address: &str| {
            ClientKeys::new("c", Some("ada"), Some(address.parse().unwrap())).site_hash
        };
        assert_eq!(user("192.0.2.1"), user("2001:db8::1"));
    }
}
