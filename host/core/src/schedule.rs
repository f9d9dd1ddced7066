//! Schedules: the times that a cron pattern names in a time zone. Only this module knows croner and
//! chrono.

use std::fmt;

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Maximum number of characters of a pattern.
const MAX_PATTERN: usize = 256;

/// The times at which something happens again and again.
#[derive(Clone, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
    pattern: String,
}

/// Why a schedule is not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The pattern is too long.
    #[error("a pattern has at most {MAX_PATTERN} characters")]
    LongPattern,
    /// The pattern can't be read.
    #[error(
        "`{pattern}` is not a cron pattern of five fields (minute, hour, day of month, month, day \
         of week), such as `30 9 * * MON-FRI`: {reason}"
    )]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        reason: String,
    },
    /// No time matches the pattern, such as February 30.
    #[error("no time matches the cron pattern `{0}`")]
    Never(String),
    /// There is no such time zone.
    #[error("`{0}` is not a time zone of the IANA database, such as `Europe/Berlin` or `UTC`")]
    Zone(String),
}

impl Schedule {
    /// Reads a cron pattern of five fields, in a time zone of the IANA database.
    ///
    /// # Errors
    /// The pattern or the zone is unknown, or no time matches.
    pub fn parse(pattern: &str, zone: &str) -> Result<Self, ScheduleError> {
        if pattern.len() > MAX_PATTERN {
            return Err(ScheduleError::LongPattern);
        }
        let zone: Tz = zone.parse().map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed);
        let cron = parser.build().parse(pattern).map_err(|error| ScheduleError::Pattern {
            pattern: pattern.to_owned(),
            reason: error.to_string(),
        })?;
        let schedule = Self { cron, zone, pattern: pattern.to_owned() };
        // The library accepts February 30, and notices only here that it never comes.
        match schedule.next(0) {
            Some(_) => Ok(schedule),
            None => Err(ScheduleError::Never(pattern.to_owned())),
        }
    }

    /// Returns the first matching time after `ms`. Both are in milliseconds since 1970.
    ///
    /// If the clock of the zone is set forward, a time that is left out comes when the clock is
    /// set. If it is set back, a fixed time comes once, and `*` in the hours matches both hours.
    pub fn next(&self, ms: u64) -> Option<u64> {
        let after = Utc.timestamp_millis_opt(i64::try_from(ms).ok()?).single()?;
        let next: DateTime<Tz> =
            self.cron.find_next_occurrence(&after.with_timezone(&self.zone), false).ok()?;
        u64::try_from(next.timestamp_millis()).ok()
    }
}

/// The pattern and the zone, as text.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pattern, self.zone)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{Datelike, Timelike};

    use super::*;

    /// Milliseconds since 1970 of a time such as `2026-03-29T00:30:00Z`.
    fn ms(time: &str) -> u64 {
        time.parse::<DateTime<Utc>>().unwrap().timestamp_millis().try_into().unwrap()
    }

    /// The first `count` times after `from`, in UTC.
    fn times(pattern: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(pattern, zone).unwrap();
        let mut last = ms(from);
        let next = || {
            last = schedule.next(last)?;
            let time = Utc.timestamp_millis_opt(last.try_into().ok()?).single()?;
            let (month, day) = (time.month(), time.day());
            let (hour, minute) = (time.hour(), time.minute());
            Some(format!("{month:02}-{day:02}T{hour:02}:{minute:02}"))
        };
        std::iter::from_fn(next).take(count).collect()
    }

    #[test]
    fn a_schedule_names_times_in_its_zone() {
        let weekdays = times("30 9 * * MON-FRI", "UTC", "2026-01-02T09:00:00Z", 3);
        assert_eq!(weekdays, ["01-02T09:30", "01-05T09:30", "01-06T09:30"]);
        let berlin = times("0 9 * * *", "Europe/Berlin", "2026-01-02T00:00:00Z", 1);
        assert_eq!(berlin, ["01-02T08:00"]);
        let exact = Schedule::parse("* * * * *", "UTC").unwrap();
        assert_eq!(exact.next(59_999), Some(60_000), "to the millisecond");
        assert_eq!(exact.next(60_000), Some(120_000), "strictly after");
        assert_eq!(exact.next(60_001), Some(120_000));
        assert_eq!(exact.next(u64::MAX), None);
    }

    /// In Berlin, 02:30 does not exist on 2026-03-29, and exists twice on 2026-10-25. In New York,
    /// the same happens on 2026-03-08 and 2026-11-01.
    #[test]
    fn a_fixed_time_comes_once_a_day_when_the_clock_is_set() {
        let forward = times("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2);
        assert_eq!(forward, ["03-29T01:00", "03-30T00:30"]);
        let back = times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2);
        assert_eq!(back, ["10-25T00:30", "10-26T01:30"]);
        let forward = times("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2);
        assert_eq!(forward, ["03-08T07:00", "03-09T06:30"]);
        let back = times("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2);
        assert_eq!(back, ["11-01T05:30", "11-02T06:30"]);
    }

    #[test]
    fn a_repeated_hour_matches_twice_for_a_pattern_of_every_hour() {
        let back = times("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 5);
        assert_eq!(
            back,
            ["10-25T00:30", "10-25T01:00", "10-25T01:30", "10-25T02:00", "10-25T02:30"]
        );
        let forward = times("*/30 * * * *", "America/New_York", "2026-03-08T06:15:00Z", 3);
        assert_eq!(forward, ["03-08T06:30", "03-08T07:00", "03-08T07:30"]);
    }

    #[test]
    fn a_wrong_schedule_is_refused_with_its_reason() {
        let wrong = |pattern: &str, zone: &str| {
            Schedule::parse(pattern, zone).map(|_| ()).unwrap_err().to_string()
        };
        assert!(wrong("61 * * * *", "UTC").contains("`61 * * * *`"));
        assert!(wrong("* * * * * *", "UTC").contains("five fields"));
        assert!(wrong("", "UTC").contains("five fields"));
        assert!(wrong("0 0 30 2 *", "UTC").contains("no time matches"));
        assert!(wrong("0 0 * * *", "Europe/Atlantis").contains("`Europe/Atlantis`"));
        assert!(wrong(&"1,".repeat(200), "UTC").contains("256"));
    }
}
