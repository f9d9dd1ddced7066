//! Decides what becomes of a delivery by the answer of its receiver. No I/O.

use sockhop_core::delivery::{End, retry_delay};

use crate::outbound::{Receipt, SendError};
use crate::store::Attempted;

/// The status by which a receiver says that it takes no more deliveries.
const GONE: u16 = 410;

/// Decides what becomes of a delivery after its `attempt`th attempt, which has ended at `now`.
/// `random` varies the time of the next one.
pub(super) fn judge(
    answer: &Result<Receipt, SendError>,
    attempt: u32,
    now: u64,
    random: u32,
) -> Attempted {
    // `reason` is what the plugin may be told, `error` what operators are.
    let (status, retry_after, reason, error) = match answer {
        Ok(Receipt { status, .. }) if (200..300).contains(status) => {
            return Attempted::Ended { end: End::Delivered { status: *status }, error: None };
        }
        Ok(Receipt { status: GONE, .. }) => {
            let reason = format!("status {GONE}: the receiver takes no more deliveries");
            let end = End::Dead { status: Some(GONE), reason };
            return Attempted::Ended { end, error: None };
        }
        Ok(Receipt { status, retry_after }) => {
            // Other statuses do not say that the receiver is only busy.
            let asks = *status == 429 || *status >= 500;
            (Some(*status), retry_after.filter(|_| asks), reason(*status), reason(*status))
        }
        Err(error) => (None, None, error.message(), error.to_string()),
    };
    match retry_delay(attempt, retry_after, random) {
        Some(delay) => Attempted::Retry { next: now.saturating_add(delay), status, error },
        None => Attempted::Ended { end: End::Dead { status, reason }, error: Some(error) },
    }
}

fn reason(status: u16) -> String {
    match status {
        300..400 => format!("status {status}: redirects are not followed"),
        _ => format!("status {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    fn answered(status: u16) -> Result<Receipt, SendError> {
        Ok(Receipt { status, retry_after: Some(2 * HOUR) })
    }

    /// `delivered`, `dead`, or the milliseconds until the next attempt.
    fn verdict(answer: &Result<Receipt, SendError>, attempt: u32) -> String {
        match judge(answer, attempt, 1_000, 100) {
            Attempted::Ended { end: End::Delivered { .. }, .. } => "delivered".to_owned(),
            Attempted::Ended { end: End::Dead { .. }, .. } => "dead".to_owned(),
            Attempted::Retry { next, .. } => (next - 1_000).to_string(),
        }
    }

    #[test]
    fn each_class_of_answers_has_its_verdict() {
        for (status, expected) in [
            (200, "delivered"),
            (204, "delivered"),
            (299, "delivered"),
            (301, "5000"),
            (307, "5000"),
            (304, "5000"),
            (400, "5000"),
            (401, "5000"),
            (404, "5000"),
            (408, "5000"),
            (410, "dead"),
            (429, "7560000"),
            (500, "7560000"),
            (503, "7560000"),
            (599, "7560000"),
        ] {
            assert_eq!(verdict(&answered(status), 1), expected, "{status}");
        }
        for error in [
            SendError::Timeout,
            SendError::Unreachable("no".to_owned()),
            SendError::NotAllowed("no".to_owned()),
        ] {
            assert_eq!(verdict(&Err(error), 1), "5000");
        }
    }

    #[test]
    fn the_last_attempt_ends_a_delivery_whatever_the_receiver_asks_for() {
        let attempts: Vec<_> = (1..=10).map(|attempt| verdict(&answered(500), attempt)).collect();
        assert!(attempts[..9].iter().all(|verdict| verdict.parse::<u64>().is_ok()));
        assert_eq!(attempts[9], "dead");
        let last = judge(&answered(302), 10, 0, 0);
        let Attempted::Ended { end: End::Dead { status, reason }, .. } = last else {
            panic!("it is dead");
        };
        assert_eq!(
            (status, reason.as_str()),
            (Some(302), "status 302: redirects are not followed")
        );
    }

    #[test]
    fn a_plugin_is_told_no_detail_that_is_for_operators() {
        let refused = Err(SendError::NotAllowed("10.0.0.7: set `private`".to_owned()));
        let Attempted::Ended { end: End::Dead { reason, .. }, error } = judge(&refused, 10, 0, 0)
        else {
            panic!("it is dead");
        };
        assert!(!reason.contains("10.0.0.7") && error.is_some_and(|text| text.contains("private")));
    }
}
