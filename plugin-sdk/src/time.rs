//! The host's time, in milliseconds: durations, and times as text. The calendar is written here
//! because a library would be half of a plugin's file.

use std::time::Duration;

/// Milliseconds per day.
const DAY: u64 = 86_400_000;

/// The last millisecond of the year 9999, the last year with four digits.
const LAST: u64 = 253_402_300_799_999;

/// Returns the milliseconds of `duration`. A part of a millisecond counts as a whole one, so that a
/// timer never fires too early.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    let part = u64::from(duration.subsec_nanos().div_ceil(1_000_000));
    duration.as_secs().saturating_mul(1_000).saturating_add(part)
}

/// Formats `ms` since 1970 as RFC 3339 in UTC with milliseconds. A time after the year 9999 becomes
/// the last millisecond of that year.
pub(crate) fn rfc3339(ms: u64) -> String {
    let ms = ms.min(LAST);
    // 32 bits are enough for the days until the year 9999 and for the milliseconds of a day, and
    // 32-bit divisions are several times as fast.
    let (days, ms) = ((ms / DAY) as u32, (ms % DAY) as u32);
    let (year, month, day) = civil(days);
    let (seconds, millis) = (ms / 1000, ms % 1000);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    // Writes two digits at a time, because `format!` takes longer than all the rest of a small
    // handler.
    let pairs = [
        (0, year / 100),
        (2, year % 100),
        (5, month),
        (8, day),
        (11, seconds / 3600),
        (14, seconds / 60 % 60),
        (17, seconds % 60),
        (20, millis / 10),
    ];
    for (place, number) in pairs {
        if let Some([tens, ones]) = text.get_mut(place..place + 2) {
            *tens += (number / 10) as u8;
            *ones += (number % 10) as u8;
        }
    }
    text[22] += (millis % 10) as u8;
    String::from_utf8_lossy(&text).into_owned()
}

/// Returns year, month and day of the Gregorian calendar, `days` after 1970-01-01.
///
/// Years are counted from 1 March. The leap day is then the last day of a year, and a linear
/// formula (153 days per five months) gives the first day of each month.
fn civil(days: u32) -> (u32, u32, u32) {
    // Days since 0000-03-01, in cycles of 400 years, which have 146,097 days.
    let days = days + 719_468;
    let (cycle, day) = (days / 146_097, days % 146_097);
    // Without the leap days before it, every year of the cycle has 365 days.
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = cycle * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_rfc3339_in_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(rfc3339(1_769_851_800_007), "2026-01-31T09:30:00.007Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_part_of_a_millisecond_counts_as_a_whole_one() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds(Duration::from_micros(1_999_001)), 2_000);
        assert_eq!(milliseconds(Duration::from_secs(3)), 3_000);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let is_leap = |year: u32| {
            (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
        };
        let last_of = |year: u32, month: u32| match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let mut expected = (1970, 1, 1);
        for days in 0..=(LAST / DAY) as u32 {
            assert_eq!(civil(days), expected);
            let (year, month, day) = expected;
            expected = match (month, day == last_of(year, month)) {
                (_, false) => (year, month, day + 1),
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
            };
        }
    }
}
