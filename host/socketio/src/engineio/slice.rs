//! How long one session's messages are handled before other tasks run.
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::engine::Batch;
use super::session::Session;

/// The time after which other tasks run. A client that sends thousands of messages at once delays
/// the others by about this much (by four messages at least), and not until its last message.
const SLICE: Duration = Duration::from_micros(200);

/// The clock is read after so many messages. A client that sends one message at a time never makes
/// the task read it.
const LOOK: u32 = 2;

/// The current time slice of a session's task.
#[derive(Debug, Default)]
pub(crate) struct TimeSlice {
    handled: u32,
    since: Option<Instant>,
}

impl TimeSlice {
    /// A message was handled. If the slice is over, flushes the queue and lets other tasks run.
    pub(crate) async fn spend(&mut self, session: &Session, batch: &Batch) {
        if self.is_over() {
            session.flush();
            batch.flush();
            yield_now().await;
        }
    }

    /// The task waits for its client: other tasks run.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    fn is_over(&mut self) -> bool {
        self.handled = self.handled.wrapping_add(1);
        if !self.handled.is_multiple_of(LOOK) {
            return false;
        }
        let now = Instant::now();
        let is_over = now.duration_since(*self.since.get_or_insert(now)) >= SLICE;
        if is_over {
            self.end();
        }
        is_over
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
            assert!(!slice.is_over());
            slice.end();
        }
        let ends = (0..12).filter(|_| {
            std::thread::sleep(SLICE);
            slice.is_over()
        });
        assert_eq!(ends.count(), 3, "the first look of each slice only begins it");
    }
}
