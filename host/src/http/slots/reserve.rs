//! The few slots beyond the limit, which are for operators: who gets one, and whose connection is
//! ended for it.

use std::net::IpAddr;

use crate::transport::{AbortHandle, Stage};

use super::networks::network;

/// The connections in reserved slots, oldest first.
pub(super) struct Reserve {
    held: Vec<ReservedConnection>,
    max: usize,
}

struct ReservedConnection {
    id: u64,
    network: IpAddr,
    abort_handle: AbortHandle,
}

impl Reserve {
    /// A reserve of `max` slots.
    pub(super) fn new(max: usize) -> Self {
        Self { held: Vec::new(), max }
    }

    /// Takes a slot for the connection `id`. Its client has the IP address `address`. Returns
    /// whether there was a slot. `abort_handle` can end the connection later.
    ///
    /// If no slot is free, aborts the oldest connection that waits for its client. A client that
    /// sends no request, or does not read its answer, therefore can't keep an operator out. An
    /// operator's request comes within milliseconds.
    ///
    /// One network has at most half of the slots, rounded up: a single slot may go
    /// to any network. If it has them, only the oldest of
    /// its own connections can be aborted for a new one.
    pub(super) fn admit(&mut self, id: u64, address: IpAddr, abort_handle: &AbortHandle) -> bool {
        let held = ReservedConnection {
            id,
            network: network(address),
            abort_handle: abort_handle.clone(),
        };
        let of_network = self.held.iter().filter(|other| other.network == held.network).count();
        let max_of_network = self.max.div_ceil(2);
        if self.held.len() >= self.max || of_network >= max_of_network {
            let may_go = |other: &ReservedConnection| {
                other.abort_handle.stage().0 != Stage::Request
                    && (of_network < max_of_network || other.network == held.network)
            };
            let Some(at) = self.held.iter().position(may_go) else { return false };
            self.held.remove(at).abort_handle.abort();
        }
        self.held.push(held);
        true
    }

    /// Frees the slot of the connection `id`, if it has one.
    pub(super) fn forget(&mut self, id: u64) {
        self.held.retain(|held| held.id != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Reserve {
        fn admit_from(&mut self, id: u64, network: u8) -> bool {
            self.admit(id, IpAddr::from([10, 0, 0, network]), &AbortHandle::default())
        }
    }

    fn ids(reserve: &Reserve) -> Vec<u64> {
        reserve.held.iter().map(|held| held.id).collect()
    }

    #[test]
    fn a_reserved_slot_goes_from_the_oldest_that_only_waits_to_the_newest() {
        let mut reserve = Reserve::new(4);
        assert!(
            reserve.admit_from(1, 1)
                && reserve.admit_from(2, 1)
                && reserve.admit_from(3, 2)
                && reserve.admit_from(4, 3)
        );
        assert!(reserve.admit_from(5, 4), "any that waits");
        assert_eq!(ids(&reserve), [2, 3, 4, 5]);
        reserve.held.iter().for_each(|held| held.abort_handle.enter(Stage::Request));
        assert!(!reserve.admit_from(6, 5), "a request that is being answered is not aborted");
        reserve.forget(4);
        assert!(reserve.admit_from(6, 5));
        assert_eq!(ids(&reserve), [2, 3, 5, 6]);
        reserve.held.iter().for_each(|held| held.abort_handle.enter(Stage::Request));
        reserve.held[1].abort_handle.enter(Stage::Idle);
        assert!(reserve.admit_from(7, 6), "in the place of one that does not read its answer");
        assert_eq!(ids(&reserve), [2, 5, 6, 7]);
    }

    #[test]
    fn one_network_has_at_most_half_of_the_reserve() {
        let mut reserve = Reserve::new(4);
        assert!(reserve.admit_from(1, 1) && reserve.admit_from(2, 1));
        assert!(reserve.admit_from(3, 1), "in the place of its own network's oldest");
        assert_eq!(ids(&reserve), [2, 3]);
        reserve.held.iter().for_each(|held| held.abort_handle.enter(Stage::Request));
        assert!(!reserve.admit_from(4, 1));
        assert!(reserve.admit_from(5, 2));
    }

    #[test]
    fn an_ipv6_network_is_its_first_half_and_an_embedded_ipv4_address_itself() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2::1"));
        assert_ne!(of("2001:db8:1:3::1"), of("2001:db8:1:2::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
