//! Scheduling priorities for machines with few processors: threads that answer events run before
//! threads that load plugins.
//!
//! This is best effort: if the system refuses or lacks it, all threads get equal shares.

/// Makes this thread run promptly after it is woken, before threads with longer time slices.
///
/// Linux gives each thread a time slice of a few milliseconds. Since 6.12, a thread can request
/// shorter slices (`sched_attr::sched_runtime`): when it is woken, it does not wait for the end of
/// a longer slice.
#[cfg(target_os = "linux")]
pub fn shorten_time_slice() {
    take_slices_of(SHORTEST);
}

/// On other systems, this does nothing.
#[cfg(not(target_os = "linux"))]
pub fn shorten_time_slice() {}

/// Lets this thread, and the threads that it starts, yield to the threads that serve events: a
/// reload can wait.
#[cfg(target_os = "linux")]
pub(super) fn lower_priority() {
    let _ = rustix::process::nice(NICENESS);
    take_slices_of(USUAL);
}

/// On other systems, this does nothing: it would lower the priority of the whole process.
#[cfg(not(target_os = "linux"))]
pub(super) fn lower_priority() {}

/// The niceness of the compiler. With a higher value, this thread would starve on a busy processor,
/// and so would the plugin version that may end the load. With this value it still gets a tenth of
/// the processor.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// In nanoseconds: the shortest slice that Linux supports.
#[cfg(target_os = "linux")]
const SHORTEST: u64 = 100_000;

/// Selects the system's default. Otherwise a thread keeps the slices of the thread that started it.
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
    // SAFETY: 0 is this thread. The first call writes at most `size_of` bytes of the structure. The
    // second call reads as many bytes as the first one stored in `size`.
    unsafe {
        let read = libc::syscall(
            libc::SYS_sched_getattr,
            0,
            &raw mut attributes,
            size_of::<libc::sched_attr>(),
            0,
        );
        if read == 0 && attributes.sched_policy == libc::SCHED_OTHER as u32 {
            attributes.sched_runtime = nanoseconds;
            libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        }
    }
}
