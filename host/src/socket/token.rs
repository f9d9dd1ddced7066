//! The token of one connection, over time. Pure: the times are arguments.

use std::time::{Duration, Instant, SystemTime};

use crate::auth::LEEWAY;

/// The longest time until a token is looked at again: so soon is a change of the system's clock
/// noticed, also after the machine was suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The token of a connection.
#[derive(Debug, Default)]
pub(super) struct TokenState {
    /// When it expires; `None` for an anonymous client.
    expires_at: Option<SystemTime>,
    /// When it was issued, if it says so.
    issued_at: Option<SystemTime>,
    /// When the client was told that it has expired.
    told_at: Option<Instant>,
}

/// What is due for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, ever: the client is anonymous.
    Never,
    /// To look again after this time.
    Later(Duration),
    /// To tell the client that its token has expired.
    Tell,
    /// To close the transport.
    Close,
}

impl TokenState {
    /// The state of a token that was accepted.
    pub(super) fn new(expires_at: Option<SystemTime>, issued_at: Option<SystemTime>) -> Self {
        Self { expires_at, issued_at, told_at: None }
    }

    /// When the token was issued, if it says so.
    pub(super) fn issued_at(&self) -> Option<SystemTime> {
        self.issued_at
    }

    /// Whether the token was issued before `time`, or does not say when. An anonymous client has
    /// no token.
    pub(super) fn is_from_before(&self, time: SystemTime) -> bool {
        self.expires_at.is_some() && self.issued_at.is_none_or(|issued| issued < time)
    }

    /// Returns what is due now. [`Due::Tell`] is returned once, and [`Due::Close`] when `grace` has
    /// passed since.
    pub(super) fn due(&mut self, clock: SystemTime, now: Instant, grace: Duration) -> Due {
        let Some(expires_at) = self.expires_at else { return Due::Never };
        if let Some(told_at) = self.told_at {
            let left = grace.saturating_sub(now.saturating_duration_since(told_at));
            return if left.is_zero() { Due::Close } else { Due::Later(left) };
        }
        match (expires_at + LEEWAY).duration_since(clock) {
            Ok(left) if !left.is_zero() => Due::Later(left.min(LOOK_AGAIN)),
            _ => {
                self.told_at = Some(now);
                Due::Tell
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_told_once_and_has_a_time_of_grace() {
        let (clock, now) = (SystemTime::now(), Instant::now());
        let seconds = Duration::from_secs;
        let mut token = TokenState::new(Some(clock + seconds(70)), None);
        let mut due =
            |after: u64| token.due(clock + seconds(after), now + seconds(after), seconds(20));
        assert_eq!(due(0), Due::Later(LOOK_AGAIN));
        assert_eq!(due(60), Due::Later(seconds(10) + LEEWAY));
        assert_eq!(due(73), Due::Tell);
        assert_eq!(due(73), Due::Later(seconds(20)));
        assert_eq!(due(80), Due::Later(seconds(13)));
        assert_eq!(due(93), Due::Close);
        assert_eq!(TokenState::default().due(clock, now, seconds(20)), Due::Never);
    }

    #[test]
    fn a_clock_that_is_set_forward_or_back_is_obeyed() {
        let (clock, now) = (SystemTime::now(), Instant::now());
        let (seconds, grace) = (Duration::from_secs, Duration::from_secs(20));
        let mut token = TokenState::new(Some(clock + seconds(3_600)), None);
        assert_eq!(token.due(clock - seconds(86_400), now, grace), Due::Later(LOOK_AGAIN));
        assert_eq!(token.due(clock + seconds(3_700), now, grace), Due::Tell);
    }

    #[test]
    fn a_token_without_a_time_of_issue_is_from_before_any_time() {
        let clock = SystemTime::now();
        let old =
            |issued: Option<SystemTime>| TokenState::new(Some(clock), issued).is_from_before(clock);
        assert!(old(None) && old(Some(clock - Duration::from_secs(1))) && !old(Some(clock)));
        assert!(!TokenState::default().is_from_before(clock));
    }
}
