//! The queue between the threads that log and the writer's thread. It is bounded in bytes, and a
//! push never waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Lines that wait to be written.
pub(super) struct LineQueue {
    /// Limit in bytes.
    max_bytes: usize,
    state: Mutex<LineQueueState>,
    /// Signalled when a line is pushed or the queue is closed.
    changed: Condvar,
    /// Lines that were dropped since the start.
    dropped: AtomicU64,
    /// How many of them the log has reported.
    reported: AtomicU64,
}

#[derive(Default)]
struct LineQueueState {
    lines: VecDeque<Box<str>>,
    /// Bytes of the waiting lines, with [`LINE_OVERHEAD`] for each.
    bytes: usize,
    is_closed: bool,
}

/// The writer's next action.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Write this line.
    Line(Box<str>),
    /// No line came in time.
    Nothing,
    /// End: the queue is empty and closed.
    End,
}

/// Bytes that a line takes in addition to its text: its place in the queue and the allocator's
/// share. This bounds the number of short lines.
pub(super) const LINE_OVERHEAD: usize = 64;

/// Lines for which an idle queue keeps capacity. The memory of a burst is released.
const IDLE_LINES: usize = 16;

impl LineQueue {
    /// Creates a queue for at most `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { max_bytes, state, changed, dropped: AtomicU64::new(0), reported: AtomicU64::new(0) }
    }

    /// The lock is held briefly, never during a write. A panic leaves the queue consistent.
    fn state(&self) -> MutexGuard<'_, LineQueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a line, which ends with its line break. If the queue is full or closed, the line is
    /// dropped and counted.
    pub(super) fn push(&self, line: String) {
        let mut state = self.state();
        let bytes = state.bytes.saturating_add(line.len() + LINE_OVERHEAD);
        if state.is_closed || bytes > self.max_bytes {
            drop(state);
            self.count_dropped();
            return;
        }
        state.bytes = bytes;
        state.lines.push_back(line.into_boxed_str());
        drop(state);
        self.changed.notify_one();
    }

    /// Returns the next line. Waits for one until `until`, or without limit if `until` is `None`.
    pub(super) fn pop(&self, until: Option<Instant>) -> Next {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len() + LINE_OVERHEAD;
                if state.lines.is_empty() && state.lines.capacity() > IDLE_LINES {
                    state.lines = VecDeque::new();
                }
                return Next::Line(line);
            }
            if state.is_closed {
                return Next::End;
            }
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => return Next::Nothing,
                Some(left) => {
                    self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Waits until `until`, or until the queue is closed. Returns whether it is closed.
    pub(super) fn rest(&self, until: Instant) -> bool {
        let mut state = self.state();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.is_closed || left.is_zero() {
                return state.is_closed;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes the queue: it accepts no more lines.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_one();
    }

    /// Counts a line that was not written.
    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Returns the number of dropped lines that the log has not reported yet.
    pub(super) fn unreported(&self) -> u64 {
        self.dropped().saturating_sub(self.reported.load(Ordering::Relaxed))
    }

    /// Marks this many more dropped lines as reported.
    pub(super) fn report(&self, lines: u64) {
        self.reported.fetch_add(lines, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(text: &str) -> Next {
        Next::Line(text.into())
    }

    #[test]
    fn a_full_queue_drops_and_counts_what_comes_and_keeps_what_waits() {
        let queue = LineQueue::new(2 * (LINE_OVERHEAD + 4));
        for text in ["one\n", "two\n", "six\n", "ten\n"] {
            queue.push(text.to_owned());
        }
        assert_eq!((queue.dropped(), queue.unreported()), (2, 2));
        assert_eq!(queue.pop(None), line("one\n"));
        queue.push("new\n".to_owned());
        queue.report(2);
        assert_eq!((queue.pop(None), queue.pop(None)), (line("two\n"), line("new\n")));
        assert_eq!((queue.dropped(), queue.unreported()), (2, 0));
    }

    #[test]
    fn short_lines_are_bounded_by_what_each_takes_beside_its_text() {
        let queue = LineQueue::new(10 * LINE_OVERHEAD);
        for _ in 0..1_000 {
            queue.push(String::new());
        }
        assert_eq!(queue.dropped(), 990);
    }

    #[test]
    fn a_closed_queue_ends_after_its_last_line() {
        let queue = LineQueue::new(1_000);
        queue.push("last\n".to_owned());
        assert!(!queue.rest(Instant::now()));
        queue.close();
        queue.push("too late\n".to_owned());
        assert!(queue.rest(Instant::now() + Duration::from_secs(60)));
        assert_eq!((queue.pop(None), queue.pop(None)), (line("last\n"), Next::End));
    }

    #[test]
    fn waiting_for_a_line_ends_in_time() {
        let queue = LineQueue::new(1_000);
        assert_eq!(queue.pop(Some(Instant::now() + Duration::from_millis(1))), Next::Nothing);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.push("late\n".to_owned()));
            assert_eq!(queue.pop(None), line("late\n"));
        });
    }
}
