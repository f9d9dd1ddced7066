//! The time of day, by which timers fire.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The system's clock. A test can shift it, as an operator who sets the clock does.
#[derive(Debug, Clone, Default)]
pub(crate) struct WallClock(Arc<AtomicI64>);

impl WallClock {
    /// The time.
    pub(crate) fn now(&self) -> SystemTime {
        let shift = self.0.load(Ordering::Relaxed);
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
        self.0.store(by_ms, Ordering::Relaxed);
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
}
