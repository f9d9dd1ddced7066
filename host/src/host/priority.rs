//! Who gets the processor first where there are few: threads that answer events, before those that load plugins.
//!
//! A nicety throughout: where the system refuses or has none of it, all threads take their shares alike.

/// Lets this thread be woken promptly: it takes the processor at once from threads that may keep it for longer.
///
/// Linux gives each thread the processor for a slice of a few milliseconds, and since 6.12 a thread may ask for shorter ones
/// (`sched_attr::sched_runtime`): one that wakes does not wait for the end of a longer slice than its own.
#[cfg(target_os = "linux")]
pub fn wake_promptly() {
    take_slices_of(SHORTEST);
}

/// Elsewhere threads are woken as the system thinks best.
#[cfg(not(target_os = "linux"))]
pub fn wake_promptly() {}

/// Lets this thread, and those that it starts, yield to the threads that serve events: a reload can wait.
#[cfg(target_os = "linux")]
pub(super) fn stand_back() {
    let _ = rustix::process::nice(NICENESS);
    take_slices_of(USUAL);
}

/// Elsewhere it is the whole process that would yield.
#[cfg(not(target_os = "linux"))]
pub(super) fn stand_back() {}

/// As far as the compiler does. A thread that stands back further would starve on a processor that others keep busy, and with it the plugin that
/// may end that: this one still has a tenth of it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Nanoseconds: the least that Linux knows.
#[cfg(target_os = "linux")]
const SHORTEST: u64 = 100_000;

/// Whatever the system's are: a thread has those of the thread that started it.
#[cfg(target_os = "linux")]
const USUAL: u64 = 0;

#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "rustix has no wrapper of these calls; see the safety comment")]
fn take_slices_of(nanoseconds: u64) {
    let mut attributes = libc::sched_attr {
        size: 0,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: 0 is this thread. The first call writes at most `size_of` bytes of the structure, the second reads as many as the first said.
    unsafe {
        let read = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>(), 0);
        if read == 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
            attributes.sched_runtime = nanoseconds;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
}
