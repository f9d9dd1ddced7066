//! The time of day: of events, of timers, and of plugins that a scenario tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The system's clock. A test can shift it, as an operator who sets the clock does. For scenarios
/// it can also stand still, so that time only moves when the scenario says so.
#[derive(Debug, Clone, Default)]
pub(crate) struct WallClock(Arc<Times>);

#[derive(Debug, Default)]
struct Times {
    /// By how many milliseconds the clock differs from the system's.
    shift: AtomicI64,
    /// The time at which the clock stands, in milliseconds since 1970; 0 while it runs.
    stands_at: AtomicU64,
}

impl WallClock {
    /// The time.
    pub(crate) fn now(&self) -> SystemTime {
        let stands_at = self.0.stands_at.load(Ordering::Relaxed);
        if stands_at != 0 {
            return UNIX_EPOCH + Duration::from_millis(stands_at);
        }
        let shift = self.0.shift.load(Ordering::Relaxed);
        let by = Duration::from_millis(shift.unsigned_abs());
        let now = SystemTime::now();
        let shifted = if shift < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        shifted.unwrap_or(now)
    }

    /// The time in milliseconds since 1970.
    pub(crate) fn now_ms(&self) -> u64 {
        let since = self.now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Shifts the clock from the system's by so many milliseconds.
    pub(crate) fn shift(&self, by_ms: i64) {
        self.0.shift.store(by_ms, Ordering::Relaxed);
    }

    /// Lets the clock stand at this time, in milliseconds since 1970, which is not 0. From then on,
    /// only this function moves it.
    pub(crate) fn stop_at(&self, time_ms: u64) {
        self.0.stands_at.store(time_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_clock_differs_from_the_systems_by_that_time() {
        let clock = WallClock::default();
        for by in [86_400_000, -86_400_000, 0] {
            clock.clone().shift(by);
            let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
            let difference = i128::from(clock.now_ms()) - i128::try_from(system).unwrap();
            assert!((difference - i128::from(by)).abs() < 1_000, "{difference}");
        }
    }

    #[test]
    fn a_clock_that_stands_moves_only_when_it_is_told() {
        let clock = WallClock::default();
        for time in [1_767_225_600_000, 1_767_225_600_001, 1] {
            clock.clone().stop_at(time);
            assert_eq!((clock.now_ms(), clock.now_ms()), (time, time));
        }
    }
}
