//! The clients whose events are not passed on for a while, because they caused too many failures.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::BreakerLimits;
use super::client::{ClientKey, ClientKeys};

/// Keys of clients that are remembered at once; beyond, the breaker opens for all.
pub(super) const MAX_RECORDS: usize = 128;

/// Throttled clients, and users and addresses of which one client was.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    records: HashMap<ClientKey, Record>,
}

#[derive(Debug)]
struct Record {
    /// Throttled until then.
    until: Instant,
    /// How long it is throttled the next time.
    next: Duration,
    /// When it is forgotten.
    expires: Instant,
    /// Of a user or an address: which of its clients was throttled last.
    offender: Option<ClientKey>,
}

impl Throttle {
    /// Until when `client` is throttled; `None` where it is not.
    pub(super) fn until(&self, client: &ClientKeys, now: Instant) -> Option<Instant> {
        // Asked for each event: nearly always nobody is throttled.
        if self.records.is_empty() {
            return None;
        }
        client.keys().filter_map(|key| self.records.get(key)).map(|record| record.until).filter(|until| *until > now).max()
    }

    /// Throttles `key` of `client`, each time for twice as long. Where another client of the same user or address was throttled before, it
    /// is the user or the address that is throttled, provided that others are served well. Returns who is throttled, and for how long;
    /// `None` where too many are.
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
            && self.records.get(*wider).is_some_and(|record| record.offender.as_ref().is_some_and(|other| other != offender))
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
        self.records.insert(offender.clone(), Record { until, next, expires: expires(until), offender: within });
        if let Some(wider) = keys.next() {
            // What is already known of the wider one is not made less.
            let known = self.records.remove(wider);
            let until_wider = known.as_ref().map_or(now, |record| record.until);
            let next = known.map_or(next, |record| record.next.max(next));
            let record = Record { until: until_wider, next, expires: expires(until), offender: Some(offender.clone()) };
            self.records.insert(wider.clone(), record);
        }
        Some((offender.clone(), time))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }
}
