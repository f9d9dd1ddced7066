//! The header `Retry-After` of a response: seconds, or a date.

use jiff::fmt::rfc2822::DateTimeParser;

/// Parses dates as HTTP writes them (`IMF-fixdate` of RFC 9110).
static DATES: DateTimeParser = DateTimeParser::new();

/// Returns the time in milliseconds for which the receiver asks at `now`, in milliseconds since
/// 1970. `None` if the value is neither seconds nor a date.
pub(super) fn parse(value: &[u8], now: u64) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number with too many digits is a very long time.
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(seconds.saturating_mul(1_000));
    }
    let date = DATES.parse_timestamp(text).ok()?.as_millisecond();
    Some(u64::try_from(date).unwrap_or(0).saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_asks_in_seconds_or_by_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let date = 784_111_777_000;
        for (value, expected) in [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7_000)),
            ("Sun, 06 Nov 1994 08:49:29 GMT", Some(0)),
            ("Sun, 06 Nov 1904 08:49:37 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("06 Foo 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(parse(value.as_bytes(), date - 7_000), expected, "{value:?}");
        }
        assert_eq!(parse(b"\xff", date), None);
    }
}
