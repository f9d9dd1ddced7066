//! Throttled clients: their events are not passed to the plugin for a time, because they caused too
//! many failures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::BreakerLimits;
use super::client::{ClientKey, ClientKeys, PluginBit};

/// Maximum number of records. If there are more, the record that expires first is removed.
pub(super) const MAX_RECORDS: usize = 128;

/// Throttled clients, and the users and addresses to which they belong.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    records: HashMap<ClientKey, ThrottleRecord>,
}

#[derive(Debug)]
struct ThrottleRecord {
    /// End of the throttling.
    until: Instant,
    /// Duration of the next throttling.
    next: Duration,
    /// When the record is removed.
    expires: Instant,
    /// In the record of a user or an address: its connections that were throttled last. At most one
    /// fewer than the number for which the user or the address itself is throttled.
    offenders: Vec<ClientKey>,
}

impl Throttle {
    /// Whether no client is throttled: nearly always.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns until when `client` is throttled; `None` if it is not. A connection whose last event
    /// `plugin` answered is not throttled for others of its user or address.
    pub(super) fn until(
        &self,
        client: &ClientKeys,
        plugin: PluginBit,
        now: Instant,
    ) -> Option<Instant> {
        let is_answered = client.is_answered_by(plugin);
        client
            .keys()
            .filter(|key| !is_answered || matches!(key, ClientKey::Connection(_)))
            .filter_map(|key| self.records.get(key))
            .map(|record| record.until)
            .filter(|until| *until > now)
            .max()
    }

    /// Throttles `key` of `client`, each time for twice as long. If enough other connections of its
    /// user or address were throttled before, that user or address is throttled instead. Returns
    /// the throttled key and the time.
    pub(super) fn add(
        &mut self,
        client: &ClientKeys,
        key: ClientKey,
        limits: &BreakerLimits,
        now: Instant,
    ) -> (ClientKey, Duration) {
        self.records.retain(|_, record| record.expires > now);
        let offender = match client.party() {
            Some(party) if self.has_offenders(party, &key) => party.clone(),
            _ => key,
        };
        let party = client.party().filter(|party| **party != offender);
        let known = self.records.remove(&offender);
        let known_party = party.and_then(|party| self.records.remove(party));
        self.make_room_for_two();
        let time = known.as_ref().map_or(limits.open, |record| record.next);
        let next = (time * 2).min(limits.open_at_most);
        let until = now + time;
        let expires = until + next.max(limits.calls_within);
        if let Some(party) = party {
            // The record of the party is never shortened.
            let mut record = known_party.unwrap_or(ThrottleRecord {
                until: now,
                next,
                expires,
                offenders: Vec::new(),
            });
            record.next = record.next.max(next);
            record.expires = record.expires.max(expires);
            record.offenders.retain(|other| *other != offender);
            record.offenders.push(offender.clone());
            if record.offenders.len() >= party.min_connections() {
                record.offenders.remove(0);
            }
            self.records.insert(party.clone(), record);
        }
        let offenders = known.map_or_else(Vec::new, |record| record.offenders);
        self.records.insert(offender.clone(), ThrottleRecord { until, next, expires, offenders });
        (offender, time)
    }

    /// Whether so many connections of `party` were throttled, besides `offender`, that the party is
    /// throttled instead of `offender`.
    fn has_offenders(&self, party: &ClientKey, offender: &ClientKey) -> bool {
        self.records.get(party).is_some_and(|record| {
            let others = record.offenders.iter().filter(|other| *other != offender).count();
            others + 1 >= party.min_connections()
        })
    }

    fn make_room_for_two(&mut self) {
        while self.records.len() + 2 > MAX_RECORDS {
            let first = self.records.iter().min_by_key(|(_, record)| record.expires);
            let Some(key) = first.map(|(key, _)| key.clone()) else { return };
            self.records.remove(&key);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
