//! Whether a plugin that keeps failing is asked: closed, open, or asked one event at a time to see whether it is well again. Pure: time and
//! outcomes come in, decisions go out.
//!
//! ```text
//! closed -- too many failures --> open -- its time is over --> probing -- a probe succeeds --> closed
//!    ^ \__ nearly all by one client: that client is held off       \__ it fails --> open, for twice as long
//! ```

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::{Duration, Instant};

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

/// Clients that are held off at once; beyond, the breaker opens for all.
const MAX_HELD: usize = 64;

/// A client that causes at least nine of ten failures causes nearly all.
const NEARLY_ALL: (usize, usize) = (9, 10);

/// Parts into which the time of [`BreakerLimits::calls_within`] is cut to count calls.
const BUCKETS: u32 = 10;

/// Who caused an event, as far as failures are counted by it: the user, else the address.
pub type Cause = Arc<str>;

/// One plugin's breaker.
#[derive(Debug)]
pub struct Breaker {
    limits: BreakerLimits,
    state: State,
    /// How long it opens next.
    next_open: Duration,
    failures: VecDeque<(Instant, Option<Cause>)>,
    calls: Calls,
    /// The two clients that were served well last, so that there is one beside any offender.
    served: [Option<(Instant, Option<Cause>)>; 2],
    held: HashMap<Cause, Held>,
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

#[derive(Debug, Clone, Copy)]
struct Held {
    until: Instant,
    next: Duration,
}

/// Calls and failures of the last while, by parts of it.
#[derive(Debug, Default)]
struct Calls {
    /// The beginning of each part, its calls and its failures; the newest is last.
    parts: VecDeque<(Instant, u32, u32)>,
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
    /// Nobody's is.
    Open {
        /// When asking again makes sense.
        retry_after: Duration,
    },
    /// This client's are not.
    HeldOff {
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
    HeldOff(Cause, Duration),
    /// The plugin is well again.
    Closed,
}

impl Breaker {
    /// A closed one.
    pub fn new(limits: BreakerLimits) -> Self {
        Self {
            limits,
            state: State::Closed,
            next_open: limits.open,
            failures: VecDeque::new(),
            calls: Calls::default(),
            served: [None, None],
            held: HashMap::new(),
        }
    }

    /// Whether the plugin is not asked, or only to see whether it is well again.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// Whether an event of `cause` may be handled at `now`.
    ///
    /// # Errors
    /// Where it may not, and for how long.
    pub fn admit(&mut self, cause: Option<&Cause>, now: Instant) -> Result<Permit, Denied> {
        let wait = |until: Instant| until.saturating_duration_since(now);
        if let Some(held) = cause.and_then(|cause| self.held.get(cause))
            && held.until > now
        {
            return Err(Denied::HeldOff { retry_after: wait(held.until) });
        }
        match self.state {
            State::Closed => Ok(Permit::Normal),
            State::Open { until } | State::Probing { until } if until > now => Err(Denied::Open { retry_after: wait(until) }),
            State::Open { .. } | State::Probing { .. } => {
                self.state = State::Probing { until: now + self.next_open };
                Ok(Permit::Probe)
            }
        }
    }

    /// Records what became of an event that was admitted.
    pub fn record(&mut self, permit: Permit, cause: Option<&Cause>, outcome: Outcome, now: Instant) -> Option<Change> {
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
                self.calls.add(true, now, self.limits.calls_within);
                self.fail(cause, now)
            }
            (State::Closed, _, Outcome::Answered) => {
                self.calls.add(false, now, self.limits.calls_within);
                self.succeed(cause, now);
                None
            }
        }
    }

    /// An operator's word that the plugin is well.
    pub fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    fn succeed(&mut self, cause: Option<&Cause>, now: Instant) {
        let [first, second] = &mut self.served;
        match first {
            Some((at, served)) if served.as_ref() == cause => *at = now,
            _ => {
                *second = first.take();
                *first = Some((now, cause.cloned()));
            }
        }
    }

    fn fail(&mut self, cause: Option<&Cause>, now: Instant) -> Option<Change> {
        if self.failures.len() >= self.remembered() {
            self.failures.pop_front();
        }
        self.failures.push_back((now, cause.cloned()));
        let recent = |within: Duration| self.failures.iter().filter(move |(at, _)| now.saturating_duration_since(*at) <= within);
        let (calls, failures) = self.calls.sums(now, self.limits.calls_within);
        let within = if recent(self.limits.failures_within).count() >= self.limits.failures as usize {
            self.limits.failures_within
        } else if calls >= self.limits.calls && failures.saturating_mul(2) >= calls {
            self.limits.calls_within
        } else {
            return None;
        };
        let offender = cause.filter(|cause| {
            let by_it = recent(within).filter(|(_, by)| by.as_ref() == Some(*cause)).count();
            let others_are_served = self
                .served
                .iter()
                .flatten()
                .any(|(at, served)| served.as_ref() != Some(*cause) && now.saturating_duration_since(*at) <= within);
            others_are_served && by_it * NEARLY_ALL.1 >= recent(within).count() * NEARLY_ALL.0
        });
        match offender.cloned() {
            Some(offender) => self.hold_off(offender, now),
            None => Some(self.open(now)),
        }
    }

    fn remembered(&self) -> usize {
        (self.limits.failures as usize).clamp(*REMEMBERED.start(), *REMEMBERED.end())
    }

    fn hold_off(&mut self, offender: Cause, now: Instant) -> Option<Change> {
        self.held.retain(|_, held| held.until + held.next > now);
        if self.held.len() >= MAX_HELD {
            return Some(self.open(now));
        }
        let time = self.held.get(&offender).map_or(self.limits.open, |held| held.next);
        let next = (time * 2).min(self.limits.open_at_most);
        self.held.insert(Arc::clone(&offender), Held { until: now + time, next });
        // What it did is dealt with: the failures of others begin to count anew.
        self.failures.clear();
        self.calls = Calls::default();
        Some(Change::HeldOff(offender, time))
    }

    fn open(&mut self, now: Instant) -> Change {
        let time = self.next_open;
        self.state = State::Open { until: now + time };
        self.next_open = (time * 2).min(self.limits.open_at_most);
        self.failures.clear();
        self.calls = Calls::default();
        Change::Opened(time)
    }
}

impl Calls {
    fn add(&mut self, failed: bool, now: Instant, within: Duration) {
        let part = within / BUCKETS;
        let failures = u32::from(failed);
        match self.parts.back_mut() {
            Some((at, calls, failed)) if now.saturating_duration_since(*at) < part => {
                *calls = calls.saturating_add(1);
                *failed = failed.saturating_add(failures);
            }
            _ => {
                self.parts.push_back((now, 1, failures));
                while self.parts.len() > BUCKETS as usize + 1 {
                    self.parts.pop_front();
                }
            }
        }
    }

    fn sums(&self, now: Instant, within: Duration) -> (u32, u32) {
        let recent = self.parts.iter().filter(|(at, ..)| now.saturating_duration_since(*at) <= within);
        recent.fold((0, 0), |(calls, failures), (_, more, failed)| (calls.saturating_add(*more), failures.saturating_add(*failed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cause(name: &str) -> Option<Cause> {
        Some(name.into())
    }

    fn fail(breaker: &mut Breaker, by: &str, now: Instant) -> Option<Change> {
        let permit = breaker.admit(cause(by).as_ref(), now).unwrap();
        breaker.record(permit, cause(by).as_ref(), Outcome::Failed, now)
    }

    fn succeed(breaker: &mut Breaker, by: &str, now: Instant) -> Option<Change> {
        let permit = breaker.admit(cause(by).as_ref(), now).unwrap();
        breaker.record(permit, cause(by).as_ref(), Outcome::Answered, now)
    }

    #[test]
    fn five_failures_in_ten_seconds_open_it_and_a_probe_that_succeeds_closes_it() {
        let (mut breaker, start) = (Breaker::new(BreakerLimits::default()), Instant::now());
        for second in 0..4 {
            assert_eq!(fail(&mut breaker, "a", start + SECOND * second), None);
        }
        assert_eq!(fail(&mut breaker, "b", start + SECOND * 4), Some(Change::Opened(SECOND)));
        let at = start + SECOND * 4;
        assert_eq!(breaker.admit(None, at), Err(Denied::Open { retry_after: SECOND }));
        assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Probe));
        assert!(breaker.admit(None, at + SECOND).is_err(), "one probe at a time");
        assert_eq!(breaker.record(Permit::Probe, None, Outcome::Unknown, at + SECOND), None, "a probe that was not asked tells nothing");
        assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Probe));
        assert_eq!(breaker.record(Permit::Probe, None, Outcome::Answered, at + SECOND), Some(Change::Closed));
        assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Normal));
    }

    #[test]
    fn failures_that_are_far_apart_do_not_open_it() {
        let (mut breaker, start) = (Breaker::new(BreakerLimits::default()), Instant::now());
        for turn in 0..100 {
            assert_eq!(fail(&mut breaker, "a", start + SECOND * 3 * turn), None);
        }
    }

    #[test]
    fn a_half_of_twenty_calls_opens_it() {
        let limits = BreakerLimits { failures: 1000, ..BreakerLimits::default() };
        let (mut breaker, now) = (Breaker::new(limits), Instant::now());
        for _ in 0..10 {
            assert_eq!(succeed(&mut breaker, "a", now), None);
        }
        for _ in 0..9 {
            assert_eq!(fail(&mut breaker, "b", now), None);
        }
        assert_eq!(fail(&mut breaker, "a", now), Some(Change::Opened(SECOND)));
    }

    #[test]
    fn each_probe_that_fails_doubles_the_time_up_to_its_most() {
        let (mut breaker, mut now) = (Breaker::new(BreakerLimits::default()), Instant::now());
        for _ in 0..5 {
            fail(&mut breaker, "a", now);
        }
        let mut times = Vec::new();
        for _ in 0..8 {
            now += Duration::from_secs(60);
            assert_eq!(breaker.admit(None, now), Ok(Permit::Probe));
            if let Some(Change::Opened(time)) = breaker.record(Permit::Probe, None, Outcome::Failed, now) {
                times.push(time.as_secs());
            }
        }
        assert_eq!(times, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn one_client_that_causes_nearly_all_failures_is_held_off_while_others_are_served() {
        let (mut breaker, now) = (Breaker::new(BreakerLimits::default()), Instant::now());
        succeed(&mut breaker, "good", now);
        for _ in 0..4 {
            fail(&mut breaker, "bad", now);
        }
        assert_eq!(fail(&mut breaker, "bad", now), Some(Change::HeldOff("bad".into(), SECOND)));
        assert_eq!(breaker.admit(cause("bad").as_ref(), now), Err(Denied::HeldOff { retry_after: SECOND }));
        assert_eq!(breaker.admit(cause("good").as_ref(), now), Ok(Permit::Normal));
        // It comes back and goes on: for longer.
        let later = now + SECOND;
        succeed(&mut breaker, "good", later);
        for _ in 0..4 {
            fail(&mut breaker, "bad", later);
        }
        assert_eq!(fail(&mut breaker, "bad", later), Some(Change::HeldOff("bad".into(), SECOND * 2)));
    }

    #[test]
    fn a_plugin_that_fails_its_only_client_is_at_fault_itself() {
        let (mut breaker, now) = (Breaker::new(BreakerLimits::default()), Instant::now());
        for _ in 0..10 {
            breaker.record(Permit::Normal, cause("only").as_ref(), Outcome::Answered, now);
        }
        for _ in 0..4 {
            assert_eq!(fail(&mut breaker, "only", now), None);
        }
        assert_eq!(fail(&mut breaker, "only", now), Some(Change::Opened(SECOND)));
    }

    proptest! {
        /// Whatever happens, an open breaker lets nobody pass before its time, lets one pass after it, and never keeps more than it may.
        #[test]
        fn it_is_never_open_for_longer_than_it_says(
            steps in proptest::collection::vec((0_u64..5_000, any::<bool>(), 0_u8..4), 1..300)
        ) {
            let mut breaker = Breaker::new(BreakerLimits::default());
            let mut now = Instant::now();
            let mut closed_until = now;
            for (ms, failed, by) in steps {
                now += Duration::from_millis(ms);
                let by = cause(&by.to_string());
                match breaker.admit(by.as_ref(), now) {
                    Ok(permit) => {
                        prop_assert!(now >= closed_until, "passed before its time");
                        if let Some(Change::Opened(time)) = breaker.record(permit, by.as_ref(), if failed { Outcome::Failed } else { Outcome::Answered }, now) {
                            prop_assert!(time <= Duration::from_secs(60));
                            closed_until = now + time;
                        }
                    }
                    Err(Denied::Open { retry_after } | Denied::HeldOff { retry_after }) => {
                        prop_assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(120));
                    }
                }
                prop_assert!(breaker.failures.len() <= *REMEMBERED.start() && breaker.held.len() <= MAX_HELD);
                prop_assert!(breaker.calls.parts.len() <= BUCKETS as usize + 1);
            }
        }
    }
}
