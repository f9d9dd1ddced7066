//! Whether events are passed on to a plugin that keeps failing: closed, open, or half-open (one event probes the plugin). Pure: time and
//! outcomes come in, decisions go out.
//!
//! ```text
//! closed -- too many failures --> open -- its time is over --> probing -- a probe succeeds --> closed
//!    ^ \__ caused by single clients, while others                   \__ it fails --> open, for twice as long
//!    |      are served well: these clients are throttled
//! ```
//!
//! A failure is attributed to its connection. It is attributed to the user, or else to the address, when a second connection of theirs
//! fails as often: so a client that reconnects stays throttled, and one client does not throttle its neighbours on a shared address.

mod activity;
mod client;
mod throttle;

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use activity::{Activity, Marks};
use throttle::Throttle;

pub use client::{ClientKey, ClientKeys};

/// How much failing is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// This many failures open the breaker…
    pub failures: u32,
    /// …within this time.
    pub failures_within: Duration,
    /// So does a half of the calls, where there were at least this many…
    pub calls: u32,
    /// …within this time.
    pub calls_within: Duration,
    /// How long it stays open at first; each time that a probe fails it is twice as long.
    pub open: Duration,
    /// The longest that it stays open.
    pub open_at_most: Duration,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            failures: 5,
            failures_within: Duration::from_secs(10),
            calls: 20,
            calls_within: Duration::from_secs(30),
            open: Duration::from_secs(1),
            open_at_most: Duration::from_secs(60),
        }
    }
}

/// Failures that are remembered one by one, with who caused them: as many as open the breaker, within these bounds. Where it takes more than
/// the last, only the share of failing calls opens it.
const REMEMBERED: RangeInclusive<usize> = 256..=16_384;

/// Connections of one address that must have failed before all of its connections are throttled: fewer may be single clients behind a
/// shared address.
const SEVERAL_CONNECTIONS: u32 = 3;

/// The plugin itself is at fault when this many times [`BreakerLimits::failures`] connections have failed…
const WIDESPREAD_FACTOR: u32 = 2;

/// …or this many, where that would be more…
const WIDESPREAD_AT_MOST: u32 = 64;

/// …and they are at least one for this many connections that are served well.
const WELL_SERVED_PER_FAILING: u32 = 4;

/// One plugin's breaker.
#[derive(Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    state: State,
    /// How long it opens next.
    next_open: Duration,
    /// The last failures that have led to no decision yet.
    failures: VecDeque<(Instant, Option<ClientKeys>)>,
    activity: Activity,
    throttle: Throttle,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    /// One event is asked; the others wait for what becomes of it. A probe that is never reported back does not hold the plugin for ever.
    Probing {
        until: Instant,
    },
}

/// An event may be handled; its outcome is to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// As any other.
    Normal,
    /// To see whether the plugin is well again.
    Probe,
}

/// What became of an event that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The handler answered, be it by its own no.
    Answered,
    /// It trapped, or ran out of time.
    Failed,
    /// It was never asked, or what it wanted could not be done: nothing is known of the plugin.
    Unknown,
}

/// An event may not be handled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// No event is passed on.
    Open {
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// No event of this client is passed on.
    Throttled {
        /// When asking again makes sense.
        retry_after: Duration,
    },
}

/// What an outcome changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The plugin is not asked for this long.
    Opened(Duration),
    /// One client's events are not passed on for this long.
    Throttled(ClientKey, Duration),
    /// The plugin is well again.
    Closed,
}

/// Why the failures of a plugin are too many.
enum Verdict {
    /// One client causes them.
    Offender(ClientKey),
    /// The plugin does.
    Plugin,
    /// Too few of each client's to tell.
    Undecided,
}

impl Breaker {
    /// A closed one.
    pub fn new(limits: BreakerLimits) -> Self {
        Self {
            limits,
            state: State::Closed,
            next_open: limits.open,
            failures: VecDeque::new(),
            activity: Activity::new(limits.failures_within.max(limits.calls_within)),
            throttle: Throttle::default(),
        }
    }

    /// Whether the breaker is open or half-open.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Whether an event of `client` may be handled at `now`. The host's own events have no client here: they are never throttled.
    ///
    /// # Errors
    /// Where it may not, and for how long.
    pub fn admit(&mut self, client: Option<&ClientKeys>, now: Instant) -> Result<Permit, Denied> {
        if let Some(until) = client.and_then(|client| self.throttle.until(client, now)) {
            return Err(Denied::Throttled { retry_after: until.saturating_duration_since(now) });
        }
        match self.state {
            State::Closed => Ok(Permit::Normal),
            State::Open { until } | State::Probing { until } if until > now => {
                Err(Denied::Open { retry_after: until.saturating_duration_since(now) })
            }
            State::Open { .. } | State::Probing { .. } => {
                self.state = State::Probing { until: now + self.next_open };
                Ok(Permit::Probe)
            }
        }
    }

    /// Records what became of an event that was admitted.
    pub fn record(&mut self, permit: Permit, client: Option<&ClientKeys>, outcome: Outcome, now: Instant) -> Option<Change> {
        match (self.state, permit, outcome) {
            (State::Probing { .. }, Permit::Probe, Outcome::Failed) => Some(self.open(now)),
            (State::Probing { .. }, Permit::Probe, Outcome::Answered) => {
                self.reset();
                Some(Change::Closed)
            }
            // The next event is the probe.
            (State::Probing { .. }, Permit::Probe, Outcome::Unknown) => {
                self.state = State::Open { until: now };
                None
            }
            // An event that began before the breaker opened says nothing about now, and neither does a probe of an earlier time.
            (State::Open { .. } | State::Probing { .. }, ..) | (State::Closed, _, Outcome::Unknown) => None,
            (State::Closed, _, Outcome::Failed) => {
                self.activity.add(client, true, now);
                self.fail(client, now)
            }
            (State::Closed, _, Outcome::Answered) => {
                self.activity.add(client, false, now);
                None
            }
        }
    }

    /// Closes it by an operator's decision, and throttles nobody any more.
    pub fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    fn fail(&mut self, client: Option<&ClientKeys>, now: Instant) -> Option<Change> {
        if self.failures.len() >= (self.limits.failures as usize).clamp(*REMEMBERED.start(), *REMEMBERED.end()) {
            self.failures.pop_front();
        }
        self.failures.push_back((now, client.cloned()));
        let (calls, failures) = self.activity.sums(now, self.limits.calls_within);
        let (within, most) = if self.recent(self.limits.failures_within, now).count() >= self.limits.failures as usize {
            (self.limits.failures_within, self.limits.failures)
        } else if calls >= self.limits.calls && failures.saturating_mul(2) >= calls {
            (self.limits.calls_within, self.limits.calls.div_ceil(2))
        } else {
            return None;
        };
        match self.judge(client, within, most as usize, now) {
            Verdict::Undecided => None,
            Verdict::Plugin => Some(self.open(now)),
            Verdict::Offender(key) => Some(self.throttle(client?, key, now)),
        }
    }

    fn recent(&self, within: Duration, now: Instant) -> impl Iterator<Item = Option<&ClientKeys>> + Clone {
        let is_recent = move |(at, _): &&(Instant, Option<ClientKeys>)| now.saturating_duration_since(*at) <= within;
        self.failures.iter().filter(is_recent).map(|(_, client)| client.as_ref())
    }

    /// Who is at fault for the failures of the last while, of which `client` caused the newest. An offender has `most` of them or more.
    fn judge(&self, client: Option<&ClientKeys>, within: Duration, most: usize, now: Instant) -> Verdict {
        let recent = self.recent(within, now);
        let well_served = self.activity.well_served(now, within);
        if well_served.connections == 0 {
            return Verdict::Plugin;
        }
        let Some(client) = client else {
            // Nobody sent these events.
            let own = recent.filter(Option::is_none).count();
            return if own >= most { Verdict::Plugin } else { Verdict::Undecided };
        };
        for key in client.keys() {
            let by_it = recent.clone().flatten().filter(|other| other.has(key));
            let is_single = matches!(key, ClientKey::Connection(_));
            let are_several = !matches!(key, ClientKey::Address(_)) || connections(by_it.clone()) >= SEVERAL_CONNECTIONS;
            if by_it.count() >= most && are_several && (is_single || well_served.parties > 0) {
                return Verdict::Offender(key.clone());
            }
        }
        let failing = connections(recent.flatten());
        let widespread = self.limits.failures.saturating_mul(WIDESPREAD_FACTOR).min(WIDESPREAD_AT_MOST);
        if failing >= widespread && failing.saturating_mul(WELL_SERVED_PER_FAILING) >= well_served.connections {
            Verdict::Plugin
        } else {
            Verdict::Undecided
        }
    }

    fn throttle(&mut self, client: &ClientKeys, key: ClientKey, now: Instant) -> Change {
        let others_are_well = self.activity.well_served(now, self.limits.calls_within).parties > 0;
        let Some((key, time)) = self.throttle.add(client, key, others_are_well, &self.limits, now) else { return self.open(now) };
        // What it did is dealt with. The failures of others still count, and so does who is served well.
        self.failures.retain(|(_, other)| other.as_ref().is_none_or(|other| !other.has(&key)));
        self.activity.forget_counts();
        Change::Throttled(key, time)
    }

    fn open(&mut self, now: Instant) -> Change {
        let time = self.next_open;
        self.state = State::Open { until: now + time };
        self.next_open = (time * 2).min(self.limits.open_at_most);
        self.failures.clear();
        self.activity.clear();
        Change::Opened(time)
    }
}

/// How many connections these are.
fn connections<'client>(clients: impl Iterator<Item = &'client ClientKeys>) -> u32 {
    let mut marks = Marks::NONE;
    clients.for_each(|client| marks.add(client.connection_mark));
    marks.count()
}

#[cfg(test)]
mod tests;
