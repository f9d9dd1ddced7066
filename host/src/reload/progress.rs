//! Logs the progress of the first load: many plugins that were never compiled take a while. It has
//! no effects other than the log.

use std::time::Duration;

use tokio::time::Instant;

/// How often progress is logged, if there is any.
const EVERY: Duration = Duration::from_secs(1);

/// How often it is logged if there is none.
const UNCHANGED_EVERY: Duration = Duration::from_secs(10);

/// The progress of a number of files, each of which is loaded or fails.
#[derive(Debug)]
pub(super) struct Progress {
    total: usize,
    done: usize,
    failed: usize,
    began: Instant,
    /// The number of files done when progress was last logged, and when that was.
    logged: (usize, Instant),
}

impl Progress {
    /// Starts with `total` files, none of which is loaded yet.
    pub(super) fn of(total: usize, now: Instant) -> Self {
        if total > 0 {
            tracing::info!(loaded = 0, total, "loading plugins");
        }
        Self { total, done: 0, failed: 0, began: now, logged: (0, now) }
    }

    /// Counts one more file as done.
    pub(super) fn record(&mut self, is_loaded: bool) {
        self.done += 1;
        self.failed += usize::from(!is_loaded);
    }

    /// Returns when progress is to be logged next.
    pub(super) fn next_at(&self) -> Instant {
        let (done, at) = self.logged;
        at + if done == self.done { UNCHANGED_EVERY } else { EVERY }
    }

    /// Logs the progress if that is due. Returns whether it was.
    pub(super) fn log_if_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next_at();
        if is_due {
            tracing::info!(
                loaded = self.done,
                total = self.total,
                failed = self.failed,
                "loading plugins"
            );
            self.logged = (self.done, now);
        }
        is_due
    }

    /// Logs that all files are done.
    pub(super) fn end(self) {
        if self.total > 0 {
            let elapsed_ms = self.began.elapsed().as_millis();
            tracing::info!(
                loaded = self.done,
                total = self.total,
                failed = self.failed,
                elapsed_ms,
                "plugins loaded"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_logged_at_most_once_a_second_however_many_files_there_are() {
        let start = Instant::now();
        let mut progress = Progress::of(1_000, start);
        let mut logged = 0;
        for number in 1..=1_000 {
            progress.record(true);
            logged += usize::from(progress.log_if_due(start + Duration::from_millis(10) * number));
        }
        assert_eq!(logged, 10);
    }

    #[test]
    fn a_start_without_progress_is_logged_less_often() {
        let start = Instant::now();
        let mut progress = Progress::of(2, start);
        progress.record(false);
        let logged =
            (1..=60).filter(|second| progress.log_if_due(start + Duration::from_secs(*second)));
        assert_eq!(logged.collect::<Vec<_>>(), [1, 11, 21, 31, 41, 51]);
    }
}
