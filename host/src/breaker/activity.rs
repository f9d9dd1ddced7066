//! Recent activity of a plugin: the number of calls and failures, and the clients that were
//! answered or failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::client::ClientKeys;
use super::recent::Recent;

/// Number of parts into which the remembered time is divided.
pub(super) const PARTS: u32 = 10;

/// Recent calls, failures and clients.
#[derive(Debug)]
pub(super) struct Activity {
    /// How long activity is remembered.
    within: Duration,
    /// For this time after a failure, a connection does not count as well served, even if it is
    /// answered again.
    doubtful_for: Duration,
    /// The newest part is last.
    parts: VecDeque<Part>,
    /// Connections that were answered, and have not failed since or shortly before.
    answered: Recent,
    /// Connections that failed.
    failed: Recent,
    /// Parties that were answered.
    answered_parties: Recent,
    /// Sites of which a party failed after it was answered.
    let_down_sites: Recent,
}

#[derive(Debug)]
struct Part {
    began: Instant,
    calls: u32,
    failures: u32,
}

impl Activity {
    /// Creates an empty activity that remembers calls for `within`. A connection that failed counts
    /// as well served again if it is answered after `doubtful_for`.
    pub(super) fn new(within: Duration, doubtful_for: Duration) -> Self {
        let recent = || Recent::new(within);
        Self {
            within,
            doubtful_for,
            parts: VecDeque::new(),
            answered: recent(),
            failed: recent(),
            answered_parties: recent(),
            let_down_sites: recent(),
        }
    }

    /// Adds one event that was answered.
    pub(super) fn add_answer(&mut self, client: Option<&ClientKeys>, now: Instant) {
        self.count(false, now);
        let Some(client) = client else { return };
        if !self.failed.contains(client.connection_hash, now, self.doubtful_for) {
            self.answered.add(client.connection_hash, now);
        }
        self.answered_parties.add(client.party_hash, now);
    }

    /// Adds one event that failed. `was_served` says whether the plugin answered the previous event
    /// of this connection.
    pub(super) fn add_failure(
        &mut self,
        client: Option<&ClientKeys>,
        was_served: bool,
        now: Instant,
    ) {
        self.count(true, now);
        let Some(client) = client else { return };
        self.answered.remove(client.connection_hash);
        self.failed.add(client.connection_hash, now);
        if was_served || self.answered_parties.contains(client.party_hash, now, self.within) {
            self.let_down_sites.add(client.site_hash, now);
        }
    }

    fn count(&mut self, failed: bool, now: Instant) {
        let length = self.within / PARTS;
        if self.parts.back().is_none_or(|part| now.saturating_duration_since(part.began) >= length)
        {
            self.parts.push_back(Part { began: now, calls: 0, failures: 0 });
            if self.parts.len() > PARTS as usize + 1 {
                self.parts.pop_front();
            }
        }
        if let Some(part) = self.parts.back_mut() {
            part.calls = part.calls.saturating_add(1);
            part.failures = part.failures.saturating_add(u32::from(failed));
        }
    }

    /// Returns the numbers of calls and of failures within `within`.
    pub(super) fn sums(&self, now: Instant, within: Duration) -> (u32, u32) {
        let sum = |(calls, failures): (u32, u32), part: &Part| {
            (calls.saturating_add(part.calls), failures.saturating_add(part.failures))
        };
        let is_recent = |part: &&Part| now.saturating_duration_since(part.began) <= within;
        self.parts.iter().filter(is_recent).fold((0, 0), sum)
    }

    /// Returns the number of connections for which the plugin works: it answered their last event,
    /// within `within`.
    pub(super) fn well_served(&self, now: Instant, within: Duration) -> u32 {
        self.answered.count(now, within)
    }

    /// Returns the number of sites with a party that was served before, and for which the plugin
    /// failed within `within`.
    pub(super) fn let_down(&self, now: Instant, within: Duration) -> u32 {
        self.let_down_sites.count(now, within)
    }

    /// Resets the counts of calls and failures. Answered and failed clients stay known.
    pub(super) fn forget_counts(&mut self) {
        self.parts.iter_mut().for_each(|part| (part.calls, part.failures) = (0, 0));
    }

    /// Removes all recorded activity.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.within, self.doubtful_for);
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Returns the size of the largest set of clients.
    #[cfg(test)]
    pub(super) fn largest(&self) -> usize {
        let sets = [&self.answered, &self.failed, &self.answered_parties, &self.let_down_sites];
        sets.iter().map(|set| set.len()).max().unwrap_or_default()
    }
}
