//! How many slots one network has, so that one client can't take them all.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::proxy::TrustedProxies;

/// The slots that each network has taken. A network is one IPv4 address or one IPv6 /64.
pub(super) struct Networks {
    /// `None`: each network may have all slots, and nothing is counted.
    limit: Option<usize>,
    /// Proxies, whose connections are those of many clients.
    exempt: Arc<TrustedProxies>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Networks {
    /// Each network may have `limit` slots, but proxies as many as they need.
    pub(super) fn new(limit: Option<usize>, exempt: Arc<TrustedProxies>) -> Arc<Self> {
        Arc::new(Self { limit, exempt, taken: Mutex::default() })
    }

    /// Counts a slot for `address`. Returns `None` if its network has as many as it may have.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<NetworkPermit> {
        let limit = self.limit.filter(|_| !self.exempt.trusts(address));
        let Some(limit) = limit else { return Some(NetworkPermit(None)) };
        let network = network(address);
        let mut taken = self.taken();
        let of_network = taken.get(&network).copied().unwrap_or_default();
        if of_network >= limit {
            return None;
        }
        taken.insert(network, of_network + 1);
        Some(NetworkPermit(Some((Arc::clone(self), network))))
    }

    /// The map has at most as many entries as there are slots. A panic leaves it consistent.
    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One slot of a network. Dropping it frees the slot.
pub(super) struct NetworkPermit(Option<(Arc<Networks>, IpAddr)>);

impl fmt::Debug for NetworkPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a slot of a network")
    }
}

impl Drop for NetworkPermit {
    fn drop(&mut self) {
        let Some((networks, network)) = self.0.take() else { return };
        let mut taken = networks.taken();
        match taken.get_mut(&network) {
            Some(more) if *more > 1 => *more -= 1,
            Some(_) | None => {
                taken.remove(&network);
            }
        }
    }
}

/// Returns the network from which one user can choose addresses: an IPv6 host has a whole /64.
pub(in crate::http) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    /// The networks of a host that trusts the proxy 10.9.9.9.
    fn networks(limit: Option<usize>) -> Arc<Networks> {
        let mut config = Config::default();
        config.server.trusted_proxies = vec!["10.9.9.9/32".parse().unwrap()];
        Networks::new(limit, TrustedProxies::new(&config))
    }

    #[test]
    fn a_network_has_so_many_slots_and_each_is_free_again() {
        let networks = networks(Some(2));
        let take = |address: &str| networks.take(address.parse().unwrap());
        let held = [take("2001:db8::1").unwrap(), take("2001:db8::ffff").unwrap()];
        assert!(take("2001:db8::2").is_none(), "the same /64");
        let other = take("2001:db8:0:1::1").unwrap();
        drop(held);
        drop(other);
        assert!(networks.taken().is_empty());
        let mapped = take("::ffff:10.0.0.1").unwrap();
        let plain = take("10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none() && take("10.0.0.2").is_some());
        drop((mapped, plain));
        let of_proxy: Vec<_> = (0..5).map(|_| take("10.9.9.9").unwrap()).collect();
        assert_eq!(of_proxy.len(), 5, "its connections are those of many clients");
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let networks = networks(None);
        let permits: Vec<_> =
            (0..10).map(|_| networks.take("10.0.0.1".parse().unwrap()).unwrap()).collect();
        assert!(networks.taken().is_empty());
        drop(permits);
    }
}
