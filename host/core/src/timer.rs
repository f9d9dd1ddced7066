//! Timers: the names of their events, and the deadlines that a handler may set.

use crate::rejection::Refusal;

/// The name of a timer's event is this text and the name of the timer. No client can send it.
pub const EVENT_PREFIX: &str = "$timer:";

/// The latest deadline in milliseconds since 1970: the end of the year 9999.
pub const MAX_DEADLINE: u64 = 253_402_300_799_999;

/// Returns the name of the event by which `timer` fires.
pub fn event_name(timer: &str) -> String {
    format!("{EVENT_PREFIX}{timer}")
}

/// When a timer fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// So many milliseconds after the handled event was received.
    After(u64),
    /// At this time, in milliseconds since 1970.
    At(u64),
}

impl Deadline {
    /// Returns the deadline in milliseconds since 1970, for a handler of an event that was received
    /// at `received_at`. A time that is over is allowed: the timer then fires at once.
    ///
    /// # Errors
    /// `misuse`: it is after the year 9999.
    pub fn resolve(self, received_at: u64) -> Result<u64, Refusal> {
        let deadline = match self {
            Self::After(duration) => received_at.checked_add(duration),
            Self::At(time) => Some(time),
        };
        deadline.filter(|deadline| *deadline <= MAX_DEADLINE).ok_or_else(|| {
            Refusal::misuse("the deadline of a timer is in milliseconds, and before the year 10000")
        })
    }
}

/// How often the handler of a timer's event is called before the timer is dead.
pub const ATTEMPTS: u32 = 8;

/// Delay of the second attempt in milliseconds. Each further delay is [`GROWTH`] times as long as
/// the one before, up to [`MAX_DELAY`].
const FIRST_DELAY: u64 = 1_000;
const GROWTH: u64 = 5;
/// The longest delay of an attempt, in milliseconds.
pub const MAX_DELAY: u64 = 10 * 60 * 1_000;

/// Returns the time in milliseconds until the next attempt, after so many attempts that have
/// failed. `None` if there is none.
pub fn retry_delay(attempts: u32) -> Option<u64> {
    if attempts >= ATTEMPTS {
        return None;
    }
    let grown = GROWTH.saturating_pow(attempts.saturating_sub(1)).saturating_mul(FIRST_DELAY);
    Some(grown.min(MAX_DELAY))
}

/// Bytes that a timer counts against the limit of one event's effects.
pub fn bytes(timer: &str, key: &str, data: &str) -> usize {
    timer.len() + key.len() + data.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_is_repeated_after_growing_delays_and_the_last_one_is_not() {
        let delays: Vec<_> = (1..).map_while(retry_delay).collect();
        assert_eq!(delays, [1_000, 5_000, 25_000, 125_000, 600_000, 600_000, 600_000]);
        assert_eq!(delays.len() + 1, ATTEMPTS as usize);
    }

    #[test]
    fn a_deadline_follows_from_the_time_of_the_event_and_is_before_the_year_10000() {
        assert_eq!(Deadline::After(5).resolve(1_000), Ok(1_005));
        assert_eq!(Deadline::At(5).resolve(1_000), Ok(5), "a time that is over");
        assert_eq!(Deadline::At(MAX_DEADLINE).resolve(0), Ok(MAX_DEADLINE));
        for too_late in [Deadline::At(MAX_DEADLINE + 1), Deadline::After(u64::MAX)] {
            assert_eq!(too_late.resolve(1).unwrap_err().code, "misuse");
        }
    }
}
