//! Measures how long a guest has run in one call. It has no side effects except reading clocks, and
//! does not know instances or budgets.
//!
//! Only CPU time counts. A guest that waits for a processor, or whose process is stopped, does not
//! run. But reading the thread's CPU clock is a system call (about 0.3 µs), and nearly every event
//! ends after some microseconds. So a call is measured by the monotonic clock until its first
//! check. The engine checks it after at most [`UNCHECKED`] of running. From that check on, it is
//! measured by the thread's CPU clock.
//!
//! The time in which the runtime suspends and resumes a call counts as well. A guest that suspends
//! again and again without a reason keeps a processor busy by that alone. This uses nearly as much
//! time as its own instructions would.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::engine::UNCHECKED;

/// The time that a guest's call has run: the sum of the times from each resumption to the next
/// suspension. The worker that polls the call writes it. The epoch callback runs within that poll,
/// and calls [`check`](CpuClock::check), which reads and writes it. There is one access at a time,
/// so relaxed loads and stores are enough.
pub(super) struct CpuClock {
    origin: Instant,
    /// Whether calls are measured by the thread's CPU clock from their start: for work of low
    /// priority, which may wait long for a processor.
    in_background: bool,
    /// Whether the current call is measured by the thread's CPU clock.
    by_thread: AtomicBool,
    /// Clock reading at the last resumption, in nanoseconds.
    resumed: AtomicU64,
    /// Thread clock reading at the last suspension, in nanoseconds, and the thread of that
    /// suspension. The thread is 0 until a suspension is measured by the thread clock.
    suspended: AtomicU64,
    suspended_on: AtomicUsize,
    /// Nanoseconds that the call ran, as of the last [`resume`](CpuClock::resume) or
    /// [`pause`](CpuClock::pause).
    used: AtomicU64,
    /// Nanoseconds that the call may run.
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

    /// Begins a call that may run for `limit`.
    pub(super) fn begin(&self, limit: Duration) {
        self.by_thread.store(self.in_background, Ordering::Relaxed);
        self.used.store(0, Ordering::Relaxed);
        self.suspended_on.store(0, Ordering::Relaxed);
        self.limit.store(nanoseconds(limit), Ordering::Relaxed);
    }

    /// Called before each poll. Each thread has its own CPU clock, so each resumption reads the
    /// clock of its thread.
    pub(super) fn resume(&self) {
        let now = self.now();
        if self.by_thread.load(Ordering::Relaxed)
            && self.suspended_on.load(Ordering::Relaxed) == this_thread()
        {
            // Other tasks may have run on this thread meanwhile. At most the cost of a suspension
            // is added.
            self.add(
                now.saturating_sub(self.suspended.load(Ordering::Relaxed))
                    .min(SUSPENSION_NANOSECONDS),
            );
        }
        self.resumed.store(now, Ordering::Relaxed);
    }

    /// Called after each poll.
    pub(super) fn pause(&self) {
        let now = self.now();
        let ran = now.saturating_sub(self.resumed.load(Ordering::Relaxed));
        if self.by_thread.load(Ordering::Relaxed) {
            self.suspended.store(now, Ordering::Relaxed);
            self.suspended_on.store(this_thread(), Ordering::Relaxed);
            self.add(ran);
        } else {
            if ran > UNCHECKED_NANOSECONDS {
                // There was no check in this poll, so the cause is unknown: the process was
                // stopped, the thread had no processor, or the guest was in one long host call.
                self.by_thread.store(true, Ordering::Relaxed);
            }
            self.add(ran.min(UNCHECKED_NANOSECONDS));
        }
    }

    /// Checks the call while it runs. Returns whether it has exceeded its limit.
    pub(super) fn check(&self) -> bool {
        if !self.by_thread.load(Ordering::Relaxed) {
            self.pause();
            self.by_thread.store(true, Ordering::Relaxed);
            self.resume();
        }
        let running = self.now().saturating_sub(self.resumed.load(Ordering::Relaxed));
        self.used.load(Ordering::Relaxed) + running > self.limit.load(Ordering::Relaxed)
    }

    /// Whether the call had exceeded its limit when it was paused.
    pub(super) fn is_over(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit.load(Ordering::Relaxed)
    }

    /// How long the call had run when it was paused.
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

const UNCHECKED_NANOSECONDS: u64 = UNCHECKED.as_nanos() as u64;

/// Maximum CPU time of suspending and resuming a call: some microseconds of the runtime, and of the
/// system calls by which it looks for other work.
const SUSPENSION_NANOSECONDS: u64 = 20_000;

/// Identifies the current thread. Never zero.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// CPU time of this thread. Returns `None` if the system does not report it; then the monotonic
/// clock is used. A poll stays on one thread.
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

    /// Uses `time` of this thread's CPU time, no matter how long the thread waits for a processor.
    fn spin(time: Duration) {
        let until = thread_time().unwrap() + time;
        while thread_time().unwrap() < until {}
    }

    #[test]
    fn time_without_a_processor_does_not_count_before_or_after_the_first_check() {
        let clock = clock();
        std::thread::sleep(LIMIT);
        assert!(!clock.check());
        std::thread::sleep(LIMIT);
        assert!(!clock.check());
        clock.pause();
        assert!(!clock.is_over() && clock.used() < UNCHECKED * 2, "{:?}", clock.used());
    }

    #[test]
    fn a_poll_without_a_check_counts_no_more_than_the_longest_time_until_a_check() {
        let clock = clock();
        std::thread::sleep(LIMIT * 2);
        clock.pause();
        assert_eq!(clock.used(), UNCHECKED);
        // The next poll is measured by the thread's CPU clock.
        clock.resume();
        spin(LIMIT);
        clock.pause();
        assert!(clock.is_over());
    }

    #[test]
    fn what_suspending_costs_counts_and_what_other_tasks_do_meanwhile_does_not() {
        let clock = clock();
        clock.check();
        let before = clock.used();
        clock.pause();
        spin(LIMIT * 2);
        clock.resume();
        let counted = clock.used() - before;
        assert!(
            counted >= Duration::from_nanos(SUSPENSION_NANOSECONDS) && counted < LIMIT,
            "{counted:?}"
        );
    }

    #[test]
    fn cpu_time_counts_over_all_polls_and_checks() {
        let clock = clock();
        assert!(!clock.check());
        spin(LIMIT / 2);
        assert!(!clock.check());
        clock.pause();
        clock.resume();
        spin(LIMIT * 2 / 3);
        assert!(clock.check());
        clock.pause();
        assert!(clock.is_over());
        clock.begin(LIMIT);
        clock.resume();
        assert!(!clock.check(), "the next call begins anew");
    }
}
