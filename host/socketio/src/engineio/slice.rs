//! How long one session's messages are handled before other tasks run.
use std::time::{Duration, Instant};

/// The time after which other tasks run. A client that sends thousands of messages at once delays
/// the other clients by about this time (or by four messages, if they take longer).
const SLICE: Duration = Duration::from_micros(200);

/// Number of messages after which the clock is read. A client that sends one message at a time
/// never makes the task read it.
const CHECK_EVERY: u32 = 2;

/// The current time slice of a session's task.
#[derive(Debug, Default)]
pub(crate) struct TimeSlice {
    handled: u32,
    since: Option<Instant>,
}

impl TimeSlice {
    /// A message was handled. Returns whether the slice is over: then other tasks must run, and the
    /// next slice begins.
    pub(crate) fn spend(&mut self) -> bool {
        self.handled = self.handled.wrapping_add(1);
        if !self.handled.is_multiple_of(CHECK_EVERY) {
            return false;
        }
        let now = Instant::now();
        let is_over = now.duration_since(*self.since.get_or_insert(now)) >= SLICE;
        if is_over {
            self.end();
        }
        is_over
    }

    /// The task waits for its client: other tasks run.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_messages_never_end_a_slice_and_long_work_does() {
        let mut slice = TimeSlice::default();
        for _ in 0..10 {
            std::thread::sleep(SLICE);
            assert!(!slice.spend());
            slice.end();
        }
        let ends = (0..12).filter(|_| {
            std::thread::sleep(SLICE);
            slice.spend()
        });
        assert_eq!(ends.count(), 3, "the first check of each slice only begins it");
    }
}
