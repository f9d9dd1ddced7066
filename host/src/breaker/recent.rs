//! A bounded set of clients, with the time at which each was last added.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Maximum number of clients in a set: enough for shares that do not depend on single clients. A
/// set of this size takes about 25 KiB.
pub(super) const MAX_CLIENTS: usize = 512;

/// How often a full set is searched within the time for which clients are remembered.
const SEARCHES: u32 = 10;

/// A set of clients, each identified by a hash. It contains no more than [`MAX_CLIENTS`] of them.
/// If it is full, further clients are ignored: nobody can displace a client that is in the set.
#[derive(Debug)]
pub(super) struct Recent {
    added: HashMap<u64, Instant>,
    /// How long clients are remembered if the set is full.
    within: Duration,
    /// When the full set is searched for clients to forget. This bounds the time for the search.
    next_search: Option<Instant>,
}

impl Recent {
    pub(super) fn new(within: Duration) -> Self {
        Self { added: HashMap::new(), within, next_search: None }
    }

    pub(super) fn add(&mut self, client: u64, now: Instant) {
        if let Some(added) = self.added.get_mut(&client) {
            *added = now;
            return;
        }
        if self.added.len() >= MAX_CLIENTS {
            self.forget_old(now);
        }
        if self.added.len() < MAX_CLIENTS {
            self.added.insert(client, now);
        }
    }

    pub(super) fn remove(&mut self, client: u64) {
        self.added.remove(&client);
    }

    pub(super) fn contains(&self, client: u64, now: Instant, within: Duration) -> bool {
        // Called for each answer: nearly always, no client has failed.
        !self.added.is_empty()
            && self.added.get(&client).is_some_and(|added| is_within(*added, now, within))
    }

    /// Returns the number of clients that were added within `within`.
    pub(super) fn count(&self, now: Instant, within: Duration) -> u32 {
        let count = self.added.values().filter(|added| is_within(**added, now, within)).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    fn forget_old(&mut self, now: Instant) {
        if self.next_search.is_none_or(|at| at <= now) {
            self.next_search = Some(now + self.within / SEARCHES);
            self.added.retain(|_, added| is_within(*added, now, self.within));
        }
    }

    /// Number of clients in the set, also old ones.
    pub(super) fn len(&self) -> usize {
        self.added.len()
    }

    /// The clients in the set, also old ones.
    pub(super) fn clients(&self) -> impl Iterator<Item = u64> {
        self.added.keys().copied()
    }
}

fn is_within(at: Instant, now: Instant, within: Duration) -> bool {
    now.saturating_duration_since(at) <= within
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_keeps_its_clients_until_they_are_old() {
        let (within, now) = (Duration::from_secs(30), Instant::now());
        let mut recent = Recent::new(within);
        let full = MAX_CLIENTS as u64;
        (0..=full).for_each(|client| recent.add(client, now));
        assert!(recent.contains(0, now, within) && !recent.contains(full, now, within));
        let later = now + within * 2;
        recent.add(full, later);
        assert!(recent.contains(full, later, within));
        assert_eq!((recent.len(), recent.count(later, within)), (1, 1));
    }
}
