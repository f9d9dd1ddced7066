//! The circuit breaker: decides whether events are passed to a plugin that keeps failing. It is
//! closed, open, or half-open (one event probes the plugin). Pure: time and outcomes are inputs,
//! decisions are outputs.
//!
//! ```text
//! closed -- too many failures --> open -- its time is over --> probing -- success --> closed
//!    ^ \__ caused by single clients, while                         \__ failure --> open, for
//!    |      others succeed: these are throttled                          twice as long
//! ```
//!
//! **When it opens.** Anybody can make new connections whose events fail. So their failures say
//! nothing about the plugin while it serves other connections well. The breaker opens if no
//! connection is served well, or if the plugin fails for many parties that it served before. A
//! party is a user, or an address for the clients without a user. So clients with short connections
//! are recognised, and all clients without a user behind one address count as one party.
//!
//! **Who is throttled.** A failure is attributed to its connection. It is attributed to the party
//! instead if enough connections of the party fail: two of a user, three of an address. So a client
//! that reconnects stays throttled. If a party is throttled, its new connections are denied, and
//! those whose last event failed. A connection whose last event was answered is never throttled for
//! its neighbours. There is no common limit for all new connections: with it, a few strangers could
//! shut out all new clients.
//!
//! **Who probes.** A client whose events always fail must not keep the breaker open for clients
//! that seldom send an event. This is decided by site: a user, or else an address; for IPv6, the
//! network of one customer. A site whose events failed may probe only when the breaker has been
//! open for twice its time. If the plugin answers a client's probe, the other sites whose events
//! failed become suspects, if they are at most nine. The failures of a suspect throttle it, and do
//! not alone open the breaker. After ten minutes without a failure, a site is no longer a suspect.

mod activity;
mod client;
mod recent;
mod suspects;
mod throttle;

use std::collections::{HashSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use activity::Activity;
use client::PluginBit;
use suspects::Suspects;
use throttle::Throttle;

pub(crate) use client::{ClientKey, ClientKeys};

/// The limits at which the breaker opens, and how long it stays open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// After this many failures within `failures_within`, the breaker opens, throttles a client, or
    /// waits for more failures.
    pub failures: u32,
    /// Time window for `failures`.
    pub failures_within: Duration,
    /// The same happens if half of the calls within `calls_within` fail, if there were at least
    /// this many calls.
    pub calls: u32,
    /// Time window for `calls`.
    pub calls_within: Duration,
    /// How long the breaker stays open at first. Each failed probe doubles the time.
    pub open: Duration,
    /// The longest time for which it stays open.
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

/// Failures that are remembered one by one, with the client that caused them: as many as open the
/// breaker, within these bounds. If more than the upper bound are needed, only the share of failing
/// calls opens the breaker.
const REMEMBERED: RangeInclusive<usize> = 256..=16_384;

/// [`BreakerLimits::failures`] times this factor is a number of sites. If the plugin fails for so
/// many sites with a party that it served before, the plugin itself is at fault, provided that
/// [`WELL_SERVED_PER_LET_DOWN`] is met.
const WIDESPREAD_FACTOR: u32 = 2;

/// Bounds of the number that [`WIDESPREAD_FACTOR`] requires. One stranger may have some addresses.
const WIDESPREAD: RangeInclusive<u32> = 10..=64;

/// Maximum number of well-served connections for each such site. If there are more, the plugin
/// works for most clients, and is not at fault.
const WELL_SERVED_PER_LET_DOWN: u32 = 4;

/// The breaker of one plugin.
#[derive(Debug)]
pub(crate) struct Breaker {
    plugin: PluginBit,
    limits: BreakerLimits,
    state: BreakerState,
    /// How long the breaker opens the next time.
    next_open: Duration,
    /// The last failures that have not led to a decision yet.
    failures: VecDeque<(Instant, Option<ClientKeys>)>,
    activity: Activity,
    throttle: Throttle,
    suspects: Suspects,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BreakerState {
    Closed,
    /// No event is passed before `until`. Then the next event is the probe. But a client that comes
    /// last ([`Suspects::comes_last`]) can probe only after `others_until`.
    Open {
        until: Instant,
        others_until: Instant,
    },
    /// One event probes the plugin; other events are denied. After `until`, another event becomes
    /// the probe: a probe without a recorded outcome does not block the plugin.
    Probing {
        until: Instant,
    },
}

/// Allows one event to be handled. The caller must record its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// A normal event.
    Normal,
    /// A probe: shows whether the plugin works again.
    Probe,
}

/// The outcome of an admitted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The handler answered, possibly with a refusal.
    Answered,
    /// The handler trapped, or ran out of time.
    Failed,
    /// The handler was not called, or the host could not do what it asked for. This says nothing
    /// about the plugin.
    Unknown,
}

/// Why an event may not be handled now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The breaker is open: no event is passed to the plugin.
    Open {
        /// Time after which a retry makes sense.
        retry_after: Duration,
    },
    /// The client is throttled: none of its events is passed to the plugin.
    Throttled {
        /// Time after which a retry makes sense.
        retry_after: Duration,
    },
}

/// The change that an outcome caused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The breaker has opened for this time.
    Opened(Duration),
    /// One client is throttled for this time.
    Throttled(ClientKey, Duration),
    /// The breaker has closed: the plugin works again.
    Closed,
}

/// The cause of too many failures.
enum FailureCause {
    /// One client causes them.
    Offender(ClientKey),
    /// The plugin causes them.
    Plugin,
    /// No client has enough failures for a decision.
    Undecided,
}

impl Breaker {
    /// Creates a closed breaker for a version of the plugin with this name.
    pub(crate) fn new(plugin: &str, limits: BreakerLimits) -> Self {
        Self::closed(PluginBit::of(plugin), limits)
    }

    fn closed(plugin: PluginBit, limits: BreakerLimits) -> Self {
        let remembered_for = limits.failures_within.max(limits.calls_within);
        let doubtful_for = limits.failures_within;
        Self {
            plugin,
            limits,
            state: BreakerState::Closed,
            next_open: limits.open,
            failures: VecDeque::new(),
            activity: Activity::new(remembered_for, doubtful_for),
            throttle: Throttle::default(),
            suspects: Suspects::default(),
        }
    }

    /// Whether the breaker is open or half-open.
    pub(crate) fn is_open(&self) -> bool {
        self.state != BreakerState::Closed
    }

    /// Whether [`admit`](Self::admit) admits every event and changes nothing: nearly always.
    pub(crate) fn admits_all(&self) -> bool {
        !self.is_open() && self.throttle.is_empty()
    }

    /// Decides whether an event of `client` may be handled at `now`. The host's own events have no
    /// client, so they are never throttled.
    ///
    /// # Errors
    /// Why the event may not be handled, and when to retry.
    pub(crate) fn admit(
        &mut self,
        client: Option<&ClientKeys>,
        now: Instant,
    ) -> Result<Permit, Denied> {
        if let Some(until) = client.and_then(|client| self.throttle.until(client, self.plugin, now))
        {
            return Err(Denied::Throttled { retry_after: until.saturating_duration_since(now) });
        }
        let until = match self.state {
            BreakerState::Closed => return Ok(Permit::Normal),
            BreakerState::Open { others_until, .. }
                if client.is_some_and(|client| self.suspects.comes_last(client, now)) =>
            {
                others_until
            }
            BreakerState::Open { until, .. } | BreakerState::Probing { until } => until,
        };
        if until > now {
            return Err(Denied::Open { retry_after: until.saturating_duration_since(now) });
        }
        self.state = BreakerState::Probing { until: now + self.next_open };
        Ok(Permit::Probe)
    }

    /// Records the outcome of an admitted event, also with the connection of `client`. Returns the
    /// change that it caused, or `None`.
    pub(crate) fn record(
        &mut self,
        permit: Permit,
        client: Option<&ClientKeys>,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Change> {
        let was_served = client.is_some_and(|client| client.is_answered_by(self.plugin));
        if let Some(client) = client
            && outcome != Outcome::Unknown
        {
            client.note(self.plugin, outcome == Outcome::Answered);
        }
        match (self.state, permit, outcome) {
            // In `Probing`, the outcome of any probe counts, also of one whose time was over.
            (BreakerState::Probing { .. }, Permit::Probe, Outcome::Failed) => {
                self.failures.push_back((now, client.cloned()));
                Some(self.open(now))
            }
            (BreakerState::Probing { .. }, Permit::Probe, Outcome::Answered) => {
                self.close(client, now);
                Some(Change::Closed)
            }
            // The next event is the probe.
            (BreakerState::Probing { .. }, Permit::Probe, Outcome::Unknown) => {
                self.state = BreakerState::Open { until: now, others_until: now };
                None
            }
            // In `Open`, the event began before the breaker opened, or is an earlier probe. In
            // `Probing`, it is a normal event that began before the breaker opened. None of them
            // says anything about the present.
            (BreakerState::Open { .. } | BreakerState::Probing { .. }, ..)
            | (BreakerState::Closed, _, Outcome::Unknown) => None,
            (BreakerState::Closed, _, Outcome::Failed) => {
                self.activity.add_failure(client, was_served, now);
                self.fail(client, now)
            }
            (BreakerState::Closed, _, Outcome::Answered) => {
                self.activity.add_answer(client, now);
                None
            }
        }
    }

    /// Closes the breaker and ends all throttling, by an operator's decision.
    pub(crate) fn reset(&mut self) {
        *self = Self::closed(self.plugin, self.limits);
    }

    /// Closes the breaker and ends all throttling, because the plugin has answered the probe of
    /// `client`. The other sites that failed become suspects if they are few.
    fn close(&mut self, client: Option<&ClientKeys>, now: Instant) {
        let mut suspects = std::mem::take(&mut self.suspects);
        // An answered host event says nothing about the events of clients.
        if let Some(client) = client {
            suspects.suspect_others_if_few(client, now);
        }
        self.reset();
        self.suspects = suspects;
        self.activity.add_answer(client, now);
    }

    /// Adds a failure to those that have not led to a decision yet, and decides if they are enough.
    fn fail(&mut self, client: Option<&ClientKeys>, now: Instant) -> Option<Change> {
        if let Some(client) = client {
            self.suspects.extend_suspicion(client, now);
        }
        if self.failures.len()
            >= (self.limits.failures as usize).clamp(*REMEMBERED.start(), *REMEMBERED.end())
        {
            self.failures.pop_front();
        }
        self.failures.push_back((now, client.cloned()));
        let (calls, failures) = self.activity.sums(now, self.limits.calls_within);
        let (within, threshold) = if self.recent(self.limits.failures_within, now).count()
            >= self.limits.failures as usize
        {
            (self.limits.failures_within, self.limits.failures)
        } else if calls >= self.limits.calls && failures.saturating_mul(2) >= calls {
            (self.limits.calls_within, self.limits.calls.div_ceil(2))
        } else {
            return None;
        };
        match self.judge(client, within, threshold as usize, now) {
            FailureCause::Undecided => None,
            FailureCause::Plugin => Some(self.open(now)),
            FailureCause::Offender(key) => Some(self.throttle(client?, key, now)),
        }
    }

    /// Returns the clients of the undecided failures within `within`.
    fn recent(
        &self,
        within: Duration,
        now: Instant,
    ) -> impl Iterator<Item = Option<&ClientKeys>> + Clone {
        let is_recent = move |(at, _): &&(Instant, Option<ClientKeys>)| {
            now.saturating_duration_since(*at) <= within
        };
        self.failures.iter().filter(is_recent).map(|(_, client)| client.as_ref())
    }

    /// Returns the cause of the failures within `within`. `client` caused the newest of them; an
    /// offender caused at least `threshold` of them.
    fn judge(
        &self,
        client: Option<&ClientKeys>,
        within: Duration,
        threshold: usize,
        now: Instant,
    ) -> FailureCause {
        let recent = self.recent(within, now);
        if self.fails_widely(within, threshold, now) {
            return FailureCause::Plugin;
        }
        let Some(client) = client else {
            // The failed event had no client.
            let own = recent.filter(Option::is_none).count();
            return if own >= threshold { FailureCause::Plugin } else { FailureCause::Undecided };
        };
        for key in client.keys() {
            let by_it = recent.clone().flatten().filter(|other| other.has(key));
            let connections: HashSet<_> =
                by_it.clone().map(|other| other.connection_hash).collect();
            if by_it.count() >= threshold && connections.len() >= key.min_connections() {
                return FailureCause::Offender(key.clone());
            }
        }
        FailureCause::Undecided
    }

    /// Whether the plugin serves no connection well and fails `threshold` times for others than
    /// suspects, or has failed for many sites with a party that it served before.
    fn fails_widely(&self, within: Duration, threshold: usize, now: Instant) -> bool {
        let is_of_suspect = |client: &Option<&ClientKeys>| {
            client.is_some_and(|client| self.suspects.is_suspect(client, now))
        };
        let of_others = || self.recent(within, now).filter(|client| !is_of_suspect(client)).count();
        let well_served = self.activity.well_served(now, within);
        let let_down = self.activity.let_down(now, within);
        let many = self.limits.failures.saturating_mul(WIDESPREAD_FACTOR);
        let many = many.clamp(*WIDESPREAD.start(), *WIDESPREAD.end());
        (well_served == 0 && of_others() >= threshold)
            || (let_down >= many
                && let_down.saturating_mul(WELL_SERVED_PER_LET_DOWN) >= well_served)
    }

    fn throttle(&mut self, client: &ClientKeys, key: ClientKey, now: Instant) -> Change {
        let (key, time) = self.throttle.add(client, key, &self.limits, now);
        // The failures of the throttled key need no further decision. Failures of other clients
        // still count, and well-served clients stay known.
        self.failures.retain(|(_, other)| other.as_ref().is_none_or(|other| !other.has(&key)));
        self.activity.forget_counts();
        Change::Throttled(key, time)
    }

    fn open(&mut self, now: Instant) -> Change {
        let time = self.next_open;
        let until = now + time;
        self.state = BreakerState::Open { until, others_until: until + time };
        self.next_open = (time * 2).min(self.limits.open_at_most);
        for (_, client) in self.failures.drain(..) {
            self.suspects.add_failed(client.as_ref(), now);
        }
        self.activity.clear();
        Change::Opened(time)
    }
}

#[cfg(test)]
mod tests;
