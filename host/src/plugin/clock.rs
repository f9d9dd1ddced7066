//! How long a guest has run in one call. Pure but for reading the clocks; knows no instance and no budget.
//!
//! CPU time is what counts: a guest that waits for a processor, or whose process is stopped, does not run. But the thread's CPU clock
//! is a system call (about 0.3 µs), and nearly every event ends after some microseconds. So a call is measured by the monotonic clock
//! until it has run for [`UNSEEN`]; then the engine looks at it, and from that look on it is measured by the thread's CPU clock.
//!
//! What the runtime does to suspend and resume a call counts as well: a guest that waits for nothing again and again keeps a processor
//! busy by that alone, nearly as long as by its own instructions.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::engine::UNSEEN;

/// The time that a guest's call has run: from each resumption to the next suspension. Written by the worker that polls the call, and
/// read by the epoch callback within that poll, so plain loads and stores are enough.
pub(super) struct CpuClock {
    origin: Instant,
    /// Whether calls are measured by the thread's CPU clock from their start: for work of low priority, which may wait long for a processor.
    in_background: bool,
    /// Whether the current call is measured by the thread's CPU clock.
    by_thread: AtomicBool,
    /// The clock's nanoseconds at which the call was resumed.
    resumed: AtomicU64,
    /// The thread clock's nanoseconds at which it was suspended, and on which thread; none before the first look.
    suspended: AtomicU64,
    suspended_on: AtomicUsize,
    /// Nanoseconds that it ran before that.
    used: AtomicU64,
    /// Nanoseconds that it may run.
    limit: AtomicU64,
}

impl CpuClock {
    pub(super) fn new(in_background: bool) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            origin: Instant::now(),
            in_background,
            by_thread: AtomicBool::new(in_background),
            resumed: zero(),
            suspended: zero(),
            suspended_on: AtomicUsize::new(0),
            used: zero(),
            limit: zero(),
        }
    }

    /// A call begins that may run for `limit`.
    pub(super) fn begin(&self, limit: Duration) {
        self.by_thread.store(self.in_background, Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.suspended_on.store(0, Ordering::Relaxed);
        self.limit.store(nanoseconds(limit), Ordering::Relaxed);
    }

    /// The call is polled. Threads have clocks of their own, so each resumption reads the one that it is on.
    pub(super) fn resume(&self) {
        let now = self.now();
        if self.by_thread.load(Ordering::Relaxed) && self.suspended_on.load(Ordering::Relaxed) == this_thread() {
            // Of other tasks that ran meanwhile, no more than a suspension costs is taken for it.
            self.add(now.saturating_sub(self.suspended.load(Ordering::Relaxed)).min(SUSPENSION_NANOSECONDS));
        }
        self.resumed.store(now, Ordering::Relaxed);
    }

    /// The poll ends.
    pub(super) fn pause(&self) {
        let now = self.now();
        let ran = now.saturating_sub(self.resumed.load(Ordering::Relaxed));
        if self.by_thread.load(Ordering::Relaxed) {
            self.suspended.store(now, Ordering::Relaxed);
            self.suspended_on.store(this_thread(), Ordering::Relaxed);
            self.add(ran);
        } else {
            if ran > UNSEEN_NANOSECONDS {
                // Stopped, without a processor, or in one long host call: no look has told which.
                self.by_thread.store(true, Ordering::Relaxed);
            }
            self.add(ran.min(UNSEEN_NANOSECONDS));
        }
    }

    /// The engine looks at the call while it runs. Returns whether it has run for longer than it may.
    pub(super) fn look(&self) -> bool {
        if !self.by_thread.load(Ordering::Relaxed) {
            self.pause();
            self.by_thread.store(true, Ordering::Relaxed);
            self.resume();
        }
        let running = self.now().saturating_sub(self.resumed.load(Ordering::Relaxed));
        self.used.load(Ordering::Relaxed) + running > self.limit.load(Ordering::Relaxed)
    }

    /// Whether it had run for longer than it may when it was paused.
    pub(super) fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }

    /// How long it had run when it was paused.
    pub(super) fn used(&self) -> Duration {
        Duration::from_nanos(self.used.load(Ordering::Relaxed))
    }

    fn add(&self, nanoseconds: u64) {
        self.used.store(self.used.load(Ordering::Relaxed) + nanoseconds, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        let thread = if self.by_thread.load(Ordering::Relaxed) { thread_time() } else { None };
        nanoseconds(thread.unwrap_or_else(|| self.origin.elapsed()))
    }
}

const UNSEEN_NANOSECONDS: u64 = UNSEEN.as_nanos() as u64;

/// CPU time that suspending and resuming a call costs at most: some microseconds of the runtime, and of the system calls by which it looks
/// for other work.
const SUSPENSION_NANOSECONDS: u64 = 20_000;

/// Tells threads apart. Never zero.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// CPU time of this thread; `None` where the system does not tell, and then the monotonic clock counts. A poll stays on one thread.
#[cfg(target_os = "linux")]
fn thread_time() -> Option<Duration> {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().ok()
}

#[cfg(not(target_os = "linux"))]
fn thread_time() -> Option<Duration> {
    None
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    fn clock() -> CpuClock {
        let clock = CpuClock::new(false);
        clock.begin(LIMIT);
        clock.resume();
        clock
    }

    /// Uses CPU time of this thread, however long it waits for a processor.
    fn spin(time: Duration) {
        let until = thread_time().unwrap() + time;
        while thread_time().unwrap() < until {}
    }

    #[test]
    fn time_without_a_processor_does_not_count_before_or_after_the_first_look() {
        let clock = clock();
        std::thread::sleep(LIMIT);
        assert!(!clock.look());
        std::thread::sleep(LIMIT);
        assert!(!clock.look());
        clock.pause();
        assert!(!clock.is_over() && clock.used() < UNSEEN * 2, "{:?}", clock.used());
    }

    #[test]
    fn a_poll_that_is_never_looked_at_counts_no_more_than_a_look_would_have_found() {
        let clock = clock();
        std::thread::sleep(LIMIT * 2);
        clock.pause();
        assert_eq!(clock.used(), UNSEEN);
        // The next one is measured by the thread's clock.
        clock.resume();
        spin(LIMIT);
        clock.pause();
        assert!(clock.is_over());
    }

    #[test]
    fn what_suspending_costs_counts_and_what_other_tasks_do_meanwhile_does_not() {
        let clock = clock();
        clock.look();
        let before = clock.used();
        clock.pause();
        spin(LIMIT * 2);
        clock.resume();
        let counted = clock.used() - before;
        assert!(counted >= Duration::from_nanos(SUSPENSION_NANOSECONDS) && counted < LIMIT, "{counted:?}");
    }

    #[test]
    fn cpu_time_counts_over_all_polls_and_looks() {
        let clock = clock();
        assert!(!clock.look());
        spin(LIMIT / 2);
        assert!(!clock.look());
        clock.pause();
        clock.resume();
        spin(LIMIT * 2 / 3);
        assert!(clock.look());
        clock.pause();
        assert!(clock.is_over());
        clock.begin(LIMIT);
        clock.resume();
        assert!(!clock.look(), "the next call begins anew");
    }
}
