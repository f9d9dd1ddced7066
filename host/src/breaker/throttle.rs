//! Throttled clients: their events are not passed to the plugin for a time, because they caused too
//! many failures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::BreakerLimits;
use super::client::{ClientKey, ClientKeys};

/// Largest number of records. Beyond it, the breaker opens for all clients.
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
    /// Of a user or an address: its client that was throttled last.
    offender: Option<ClientKey>,
}

impl Throttle {
    /// Returns until when `client` is throttled; `None` if it is not.
    pub(super) fn until(&self, client: &ClientKeys, now: Instant) -> Option<Instant> {
        // Called for each event: nearly always, no client is throttled.
        if self.records.is_empty() {
            return None;
        }
        client
            .keys()
            .filter_map(|key| self.records.get(key))
            .map(|record| record.until)
            .filter(|until| *until > now)
            .max()
    }

    /// Throttles `key` of `client`, each time for twice as long. If another client of the same user
    /// or address was throttled before, that user or address is throttled instead. This happens
    /// only while others are served well. Returns the throttled key and the time; `None` if there
    /// are too many records.
    pub(super) fn add(
        &mut self,
        client: &ClientKeys,
        key: ClientKey,
        others_are_well: bool,
        limits: &BreakerLimits,
        now: Instant,
    ) -> Option<(ClientKey, Duration)> {
        self.records.retain(|_, record| record.expires > now);
        let mut keys = client.keys().skip_while(|own| **own != key).peekable();
        let mut offender = keys.next()?;
        while let Some(wider) = keys.peek()
            && others_are_well
            && self.records.get(*wider).is_some_and(|record| {
                record.offender.as_ref().is_some_and(|other| other != offender)
            })
        {
            offender = wider;
            keys.next();
        }
        if self.records.len() + 2 > MAX_RECORDS {
            return None;
        }
        let time = self.records.get(offender).map_or(limits.open, |record| record.next);
        let next = (time * 2).min(limits.open_at_most);
        let expires = |until: Instant| until + next.max(limits.calls_within);
        let until = now + time;
        let within = self.records.remove(offender).and_then(|record| record.offender);
        self.records.insert(
            offender.clone(),
            ThrottleRecord { until, next, expires: expires(until), offender: within },
        );
        if let Some(wider) = keys.next() {
            // The record of the wider key is never shortened.
            let known = self.records.remove(wider);
            let until_wider = known.as_ref().map_or(now, |record| record.until);
            let next = known.map_or(next, |record| record.next.max(next));
            let record = ThrottleRecord {
                until: until_wider,
                next,
                expires: expires(until),
                offender: Some(offender.clone()),
            };
            self.records.insert(wider.clone(), record);
        }
        Some((offender.clone(), time))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
