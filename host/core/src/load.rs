//! The host event `$load`: what its handler replies, when the next call follows, and when a handler
//! that does not finish has failed.

use serde::Deserialize;

/// A handler that has replied so often in a row without a greater `done` has failed: it would take
/// CPU time without end. A migration can also visit records that it does not count, some hundred in
/// each call, so the number is not small.
pub const CALLS_WITHOUT_PROGRESS: u32 = 1_000;

/// Delay of the first call after a failure, in milliseconds. Each further delay is [`GROWTH`] times
/// as long as the one before, up to [`LONGEST_DELAY`].
const FIRST_DELAY: u64 = 1_000;
const GROWTH: u64 = 5;
const LONGEST_DELAY: u64 = 5 * 60 * 1_000;

/// The longest delay with its jitter, in milliseconds.
pub const MAX_DELAY: u64 = LONGEST_DELAY + LONGEST_DELAY / 10;

/// Maximum of both figures: JavaScript and the host's store hold greater numbers inexactly or not.
const MAX_FIGURE: u64 = 1 << 53;

/// How far a handler that has not finished is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Progress {
    /// What is done, in a unit of the plugin's own.
    pub done: u64,
    /// What there is to do in all.
    pub total: u64,
}

/// Reads the reply of a handler. Returns `None` if it has finished.
///
/// # Errors
/// Describes for the plugin's author what is wrong with the reply.
pub fn read_reply(reply: Option<&str>, attachments: usize) -> Result<Option<Progress>, String> {
    let wrong = |what: &str| {
        format!(
            "{what}: a handler of `$load` replies `null` if it has finished, else an object with \
             `done` and `total`, whole numbers, of which `done` is the smaller one"
        )
    };
    if attachments > 0 {
        return Err(wrong("the reply has attachments"));
    }
    let Some(reply) = reply else { return Ok(None) };
    let progress: Option<Progress> =
        serde_json::from_str(reply).map_err(|error| wrong(&format!("invalid reply: {error}")))?;
    match progress {
        Some(Progress { done, total }) if done >= total => {
            Err(wrong(&format!("invalid reply: {done} of {total} are done")))
        }
        Some(Progress { total, .. }) if total > MAX_FIGURE => {
            Err(wrong("invalid reply: `total` is greater than 2^53"))
        }
        progress => Ok(progress),
    }
}

/// Counts the calls of one handler that bring no progress.
#[derive(Debug, Default)]
pub struct Stall {
    /// The greatest `done`, plus 1; 0 before the first reply.
    best: u64,
    calls: u32,
}

/// What one reply means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// More is done than ever before.
    Forward,
    /// No more is done, which a few calls in a row may reply.
    Still,
    /// Too many calls in a row have replied that: the handler has failed, for this reason. It may
    /// then be called as often again.
    Stuck(String),
}

impl Stall {
    /// Takes the reply of a call.
    pub fn take(&mut self, progress: Progress) -> Step {
        if progress.done >= self.best {
            self.best = progress.done + 1;
            self.calls = 0;
            return Step::Forward;
        }
        self.calls += 1;
        if self.calls < CALLS_WITHOUT_PROGRESS {
            return Step::Still;
        }
        self.calls = 0;
        Step::Stuck(format!(
            "the last {CALLS_WITHOUT_PROGRESS} calls of `$load` have brought no progress: `done` \
             is {}, and was {} before",
            progress.done,
            self.best - 1
        ))
    }
}

/// Returns the time in milliseconds until the next call, after so many failures in a row. There is
/// always a next one. `random` is any number: the delay differs by it by up to a tenth, so that
/// plugins that have failed together are not all called together.
pub fn retry_delay(failures: u32, random: u32) -> u64 {
    let grown = GROWTH.saturating_pow(failures.saturating_sub(1)).saturating_mul(FIRST_DELAY);
    grown.min(LONGEST_DELAY) / 1_000 * (900 + u64::from(random) % 201)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_null_or_tells_that_less_is_done_than_there_is_to_do() {
        assert_eq!(read_reply(None, 0), Ok(None));
        assert_eq!(read_reply(Some("null"), 0), Ok(None));
        let progress = Some(Progress { done: 3, total: 10 });
        assert_eq!(read_reply(Some(r#"{"done": 3, "total": 10}"#), 0), Ok(progress));
        // A later SDK may tell more.
        assert_eq!(read_reply(Some(r#"{"done":3,"total":10,"newer":1}"#), 0), Ok(progress));
        for wrong in [
            "true",
            "{}",
            "[3]",
            r#"{"done":3}"#,
            r#"{"done":10,"total":10}"#,
            r#"{"done":11,"total":10}"#,
            r#"{"done":-1,"total":10}"#,
            r#"{"done":0.5,"total":10}"#,
            r#"{"done":1,"total":9007199254740993}"#,
            "{",
        ] {
            let reason = read_reply(Some(wrong), 0).unwrap_err();
            assert!(reason.contains("replies `null` if it has finished"), "{wrong}: {reason}");
        }
        assert!(read_reply(None, 1).is_err());
    }

    #[test]
    fn a_handler_that_brings_no_progress_for_long_has_failed() {
        let mut stall = Stall::default();
        let mut take = |done| stall.take(Progress { done, total: u64::MAX });
        for done in 0..5_000 {
            assert_eq!(take(done), Step::Forward, "the first call brings progress too");
        }
        for round in 0..2 {
            for _ in 1..CALLS_WITHOUT_PROGRESS {
                assert_eq!(take(round), Step::Still);
            }
            let Step::Stuck(reason) = take(round) else { panic!("one call more") };
            assert!(reason.contains("is ") && reason.contains("was 4999"), "{reason}");
        }
        assert_eq!(take(5_000), Step::Forward);
        assert_eq!(take(5_000), Step::Still);
    }

    #[test]
    fn a_failed_call_is_repeated_for_ever_after_delays_that_grow_to_five_minutes() {
        let delays: Vec<_> = (1..7).map(|failures| retry_delay(failures, 100)).collect();
        assert_eq!(delays, [1_000, 5_000, 25_000, 125_000, 300_000, 300_000]);
        assert_eq!(retry_delay(u32::MAX, 100), 300_000);
        for random in 0..1_000 {
            assert!((900..=1_100).contains(&retry_delay(1, random)));
            assert!(retry_delay(9, random) <= MAX_DELAY);
        }
        assert_ne!(retry_delay(1, 1), retry_delay(1, 2));
    }
}
