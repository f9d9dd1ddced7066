//! How long a connection may wait for its client.

use std::time::Duration;

use crate::config::Limits;
use crate::transport::Stage;

/// Longest wait of a connection in a reserved slot: such slots are few, and an operator's request
/// comes at once.
const RESERVED: Duration = Duration::from_secs(2);

/// Returns how long a connection may stay in `stage`; `None` if it waits for the host and not for
/// its client.
pub(super) fn deadline(limits: &Limits, stage: Stage, is_reserved: bool) -> Option<Duration> {
    let limit = match stage {
        Stage::Opened => limits.first_byte_ms,
        Stage::Head => limits.head_ms,
        Stage::Request => return None,
        Stage::Answer | Stage::AnswerEnd | Stage::Idle => limits.keep_alive_ms,
    };
    Some(if is_reserved { limit.min(RESERVED) } else { limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_waits_less_long_in_a_reserved_slot() {
        let limits = Limits { head_ms: Duration::from_secs(1), ..Limits::default() };
        let of = |is_reserved: bool| {
            [Stage::Opened, Stage::Head, Stage::Request, Stage::Answer, Stage::Idle]
                .map(|stage| deadline(&limits, stage, is_reserved))
        };
        let idle = Some(limits.keep_alive_ms);
        assert_eq!(of(false), [Some(limits.first_byte_ms), Some(limits.head_ms), None, idle, idle]);
        let reserved = Some(RESERVED);
        assert_eq!(of(true), [reserved, Some(limits.head_ms), None, reserved, reserved]);
    }
}
