//! Recent activity of a plugin: the number of calls and failures, and the clients that were
//! answered or failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::client::ClientKeys;
use super::marks::Marks;

/// Number of parts into which the remembered time is divided.
pub(super) const PARTS: u32 = 10;

/// Recent calls, failures and clients.
#[derive(Debug)]
pub(super) struct Activity {
    /// How long activity is remembered.
    within: Duration,
    /// The newest part is last.
    parts: VecDeque<Part>,
}

#[derive(Debug)]
struct Part {
    began: Instant,
    calls: u32,
    failures: u32,
    answered: ClientSets,
    failed: ClientSets,
}

/// Clients by connection, and by user or address.
#[derive(Debug, Clone, Copy)]
struct ClientSets {
    connections: Marks,
    parties: Marks,
}

impl ClientSets {
    const NONE: Self = Self { connections: Marks::NONE, parties: Marks::NONE };

    fn add(&mut self, client: &ClientKeys) {
        self.connections.add(client.connection_mark);
        self.parties.add(client.party_mark);
    }
}

/// Numbers of clients that were answered and never failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WellServed {
    pub(super) connections: u32,
    /// Users, and addresses of clients without a user.
    pub(super) parties: u32,
}

impl Activity {
    /// Creates an empty activity that remembers calls for `within`.
    pub(super) const fn new(within: Duration) -> Self {
        Self { within, parts: VecDeque::new() }
    }

    /// Adds one call.
    pub(super) fn add(&mut self, client: Option<&ClientKeys>, failed: bool, now: Instant) {
        let length = self.within / PARTS;
        if self.parts.back().is_none_or(|part| now.saturating_duration_since(part.began) >= length)
        {
            self.parts.push_back(Part {
                began: now,
                calls: 0,
                failures: 0,
                answered: ClientSets::NONE,
                failed: ClientSets::NONE,
            });
            if self.parts.len() > PARTS as usize + 1 {
                self.parts.pop_front();
            }
        }
        if let Some(part) = self.parts.back_mut() {
            part.calls = part.calls.saturating_add(1);
            part.failures = part.failures.saturating_add(u32::from(failed));
            if let Some(client) = client {
                if failed { &mut part.failed } else { &mut part.answered }.add(client);
            }
        }
    }

    /// Returns the numbers of calls and of failures within `within`.
    pub(super) fn sums(&self, now: Instant, within: Duration) -> (u32, u32) {
        let sum = |(calls, failures): (u32, u32), part: &Part| {
            (calls.saturating_add(part.calls), failures.saturating_add(part.failures))
        };
        self.recent(now, within).fold((0, 0), sum)
    }

    /// Returns the numbers of clients for which the plugin works.
    pub(super) fn well_served(&self, now: Instant, within: Duration) -> WellServed {
        let (mut answered, mut failed) = (ClientSets::NONE, ClientSets::NONE);
        for part in self.recent(now, within) {
            for (all, more) in [(&mut answered, &part.answered), (&mut failed, &part.failed)] {
                all.connections.add_all(&more.connections);
                all.parties.add_all(&more.parties);
            }
        }
        WellServed {
            connections: answered.connections.without(&failed.connections).count(),
            parties: answered.parties.without(&failed.parties).count(),
        }
    }

    /// Resets the counts of calls and failures. Answered and failed clients stay known.
    pub(super) fn forget_counts(&mut self) {
        self.parts.iter_mut().for_each(|part| (part.calls, part.failures) = (0, 0));
    }

    /// Removes all recorded activity.
    pub(super) fn clear(&mut self) {
        self.parts.clear();
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> usize {
        self.parts.len()
    }

    fn recent(&self, now: Instant, within: Duration) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| now.saturating_duration_since(part.began) <= within)
    }
}
