//! Detects that the whole process stood still: it was stopped, or its machine was. A thread that
//! ticks at a short interval then misses its ticks. No handler is at fault for this time.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::budget::Budget;

/// Minimum time between two ticks that is a standstill: many times the longest interval of the
/// ticks. If the ticking thread has no processor for so long, handlers have none either.
const MIN_STANDSTILL: Duration = Duration::from_millis(100);

/// Maximum number of standstills that are remembered. An event rarely outlasts more of them.
const REMEMBERED: usize = 16;

/// The standstills of this process, as far as events may still need them. One thread ticks.
pub(super) struct Standstills {
    began: Instant,
    /// The last tick, in nanoseconds since `began`. A tick after a standstill is set under the lock
    /// of `past`, so that the standstill counts once.
    last: AtomicU64,
    /// The newest one is last.
    past: Mutex<VecDeque<(Instant, Instant)>>,
}

impl Standstills {
    /// Begins to expect ticks.
    pub(super) fn new() -> Self {
        Self::beginning(Instant::now())
    }

    fn beginning(began: Instant) -> Self {
        Self { began, last: AtomicU64::new(0), past: Mutex::default() }
    }

    /// The lock is held for a few operations. A panic leaves the times consistent.
    fn past(&self) -> MutexGuard<'_, VecDeque<(Instant, Instant)>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> Instant {
        self.began + Duration::from_nanos(self.last.load(Ordering::Relaxed))
    }

    /// Notes that the ticking thread runs.
    pub(super) fn tick(&self) {
        self.tick_at(Instant::now());
    }

    /// Nearly always, the process did not stand still, and no lock is taken.
    fn tick_at(&self, now: Instant) {
        let last = self.last();
        let past = is_standstill(last, now).then(|| {
            let mut past = self.past();
            if past.len() >= REMEMBERED {
                past.pop_front();
            }
            past.push_back((last, now));
            past
        });
        let since_began = now.saturating_duration_since(self.began).as_nanos();
        self.last.store(u64::try_from(since_began).unwrap_or(u64::MAX), Ordering::Relaxed);
        drop(past);
    }

    /// Returns the deadline of `budget`. A deadline that has passed is extended by the time in
    /// which the process stood still since the event began.
    pub(super) fn deadline(&self, budget: &Budget) -> Instant {
        let (now, until) = (Instant::now(), budget.until());
        if now < until { until } else { until + self.stood_still(budget.began(), now) }
    }

    /// Awaits `future` until the deadline of `budget`. Returns `None` if the deadline passes first.
    pub(super) async fn within<T>(
        &self,
        budget: &Budget,
        future: impl Future<Output = T>,
    ) -> Option<T> {
        let mut future = pin!(future);
        let mut deadline = budget.until();
        loop {
            if let Ok(done) = tokio::time::timeout_at(deadline.into(), future.as_mut()).await {
                return Some(done);
            }
            // A timer may expire before the ticking thread notices the standstill, so the deadline
            // is computed now.
            let extended = self.deadline(budget);
            if extended <= deadline {
                return None;
            }
            deadline = extended;
        }
    }

    /// Returns how long the process stood still from `began` to `now`.
    fn stood_still(&self, began: Instant, now: Instant) -> Duration {
        let past = self.past();
        let last = self.last();
        let current = is_standstill(last, now).then_some((last, now));
        let overlap =
            |(from, to): (Instant, Instant)| to.min(now).saturating_duration_since(from.max(began));
        past.iter().copied().chain(current).map(overlap).sum()
    }
}

fn is_standstill(from: Instant, to: Instant) -> bool {
    to.saturating_duration_since(from) >= MIN_STANDSTILL
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_without_ticks_counts_once_and_only_within_the_event() {
        let start = Instant::now();
        let at = |seconds: u32| start + SECOND * seconds;
        let ticks = Standstills::beginning(start);
        assert_eq!(ticks.stood_still(start, at(6)), SECOND * 6, "not noticed by a tick yet");
        ticks.tick_at(at(6));
        assert_eq!(ticks.stood_still(start, at(6)), SECOND * 6);
        assert_eq!(ticks.stood_still(at(2), at(5)), SECOND * 3);
        assert_eq!(ticks.stood_still(at(6), at(6)), Duration::ZERO);
        ticks.tick_at(at(6) + MIN_STANDSTILL / 2);
        assert_eq!(ticks.stood_still(at(6), at(6) + MIN_STANDSTILL), Duration::ZERO);
    }

    #[test]
    fn a_bounded_number_of_standstills_is_remembered() {
        let start = Instant::now();
        let ticks = Standstills::beginning(start);
        for tick in 1..100 {
            ticks.tick_at(start + SECOND * tick);
        }
        assert_eq!(ticks.past().len(), REMEMBERED);
    }
}
