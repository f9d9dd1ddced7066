//! The events that the load sends, and the check of their answers. Only prefixes are checked,
//! because a driver that parsed JSON would measure itself.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One kind of event with an ack.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    /// `ping` of the plugin `connection`, which sends one `pong` and one ack.
    Ping,
    /// `count` of the test plugin `chameleon`, which answers with the number and its version, 1 or
    /// 2. Holds the version that answered last.
    Count(Arc<AtomicU64>),
    /// Sends these arrays in turn. Any answer except a rejection is right.
    Texts(Vec<String>),
}

/// The kind of one received packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The ack of the event with this number, and whether its content is right.
    Ack(u64, bool),
    /// The `pong` of the event with this number.
    Pong(u64),
    /// Any other packet.
    Other,
}

/// Returns the number at the beginning and the bytes after it.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let digits = bytes.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(bytes.len());
    let (digits, rest) = bytes.split_at(digits);
    (
        digits.iter().fold(0_u64, |number, digit| {
            number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
        }),
        rest,
    )
}

/// Returns the bytes after the first `key`. The search is linear, so `key` should be near the
/// beginning.
pub(crate) fn after<'a>(bytes: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    bytes.windows(key.len()).position(|window| window == key).map(|at| &bytes[at + key.len()..])
}

/// Returns the number after the first `key`.
pub(crate) fn number_after(bytes: &[u8], key: &[u8]) -> Option<u64> {
    after(bytes, key).map(|rest| number(rest).0)
}

/// Whether an ack says that the event found no token in a bucket.
pub(crate) fn is_rate_limited(packet: &[u8]) -> bool {
    let arguments = packet.strip_prefix(b"43").map(|ack| number(ack).1).unwrap_or_default();
    arguments.starts_with(b"[{\"error\":{\"code\":\"rate_limited\"")
}

impl Question {
    /// Appends the packet with this number to `packet`.
    pub(crate) fn write(&self, number: u64, packet: &mut Vec<u8>) {
        // Writing into memory can't fail.
        let _ = match self {
            Self::Ping => write!(packet, "42{number}[\"ping\",{{\"timestamp\":{number}}}]"),
            Self::Count(_) => write!(packet, "42{number}[\"count\",{number}]"),
            Self::Texts(texts) => {
                write!(packet, "42{number}{}", texts[number as usize % texts.len()])
            }
        };
    }

    /// Whether the server sends a `pong` for each event, in addition to the ack.
    pub(crate) const fn has_pong(&self) -> bool {
        matches!(self, Self::Ping)
    }

    /// Classifies a packet from the server.
    pub(crate) fn answer(&self, packet: &[u8]) -> Answer {
        if let Some(ack) = packet.strip_prefix(b"43") {
            let (asked, arguments) = number(ack);
            let is_right = match self {
                Self::Ping => number_after(arguments, b"\"timestamp\":") == Some(asked),
                Self::Count(answered_by) => {
                    let (counted, version) =
                        arguments.strip_prefix(b"[[").map(number).unwrap_or_default();
                    let (version, end) =
                        version.strip_prefix(b",\"").map(number).unwrap_or_default();
                    answered_by.store(version, Ordering::Relaxed);
                    counted == asked && matches!(version, 1 | 2) && end == b"\"]]"
                }
                Self::Texts(_) => !arguments.starts_with(b"[{\"error\""),
            };
            return Answer::Ack(asked, is_right);
        }
        match packet.strip_prefix(b"42[\"pong\",") {
            Some(pong) if self.has_pong() => {
                number_after(pong, b"\"timestamp\":").map_or(Answer::Other, Answer::Pong)
            }
            _ => Answer::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_rejections_and_from_others() {
        let ping = |packet: &str| Question::Ping.answer(packet.as_bytes());
        assert_eq!(ping(r#"4312[{"timestamp":12,"server_time":"2026"}]"#), Answer::Ack(12, true));
        assert_eq!(ping(r#"4312[{"timestamp":13,"server_time":"2026"}]"#), Answer::Ack(12, false));
        assert_eq!(ping(r#"4312[{"error":{"code":"busy"}}]"#), Answer::Ack(12, false));
        let limited = |packet: &str| is_rate_limited(packet.as_bytes());
        assert!(limited(r#"4312[{"error":{"code":"rate_limited"}}]"#));
        assert!(!limited(r#"4312[{"error":{"code":"busy"}}]"#) && !limited("42[\"pong\"]"));
        assert_eq!(ping(r#"42["pong",{"timestamp":7,"server_time":"2026"}]"#), Answer::Pong(7));
        assert_eq!(ping(r#"42["connected",{"sid":"x"}]"#), Answer::Other);
        let answered_by = Arc::default();
        let count =
            |packet: &str| Question::Count(Arc::clone(&answered_by)).answer(packet.as_bytes());
        assert_eq!(
            [count(r#"437[[7,"3"]]"#), count(r#"430[[0,"2"]]"#)],
            [Answer::Ack(7, false), Answer::Ack(0, true)]
        );
        assert_eq!(answered_by.load(Ordering::Relaxed), 2);
    }
}
