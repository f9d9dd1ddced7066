//! The compiler process: it limits itself, then reads one plugin and writes compiled code. Its exit
//! status says what went wrong; its standard error contains the message.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use crate::plugin::engine;
use crate::rejection::truncate;

/// The subcommand that makes the program run as compiler process.
pub const COMPILE_COMMAND: &str = "compile-plugin";

/// Exit status if the limits could not be set, the plugin could not be read, or the result could
/// not be written.
const FAILED: i32 = 1;

/// Exit status if the file is not valid.
pub(super) const REFUSED: i32 = 3;

/// Exit status if the CPU time is used up.
pub(super) const OUT_OF_TIME: i32 = 4;

/// Exit status if the memory is used up and the process could still report it. The process may also
/// be aborted.
pub(super) const OUT_OF_MEMORY: i32 = 5;

/// Bytes of the compiler's message. A hostile file determines a part of it, such as the names of
/// its exports. A message of this length fits into a pipe that nobody reads.
pub(super) const MAX_SAID: usize = 4 * 1024;

/// Limits of the compiler process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileBounds {
    /// Bytes of memory.
    pub memory: u64,
    /// Total CPU time of all its threads.
    pub cpu: Duration,
    /// Niceness: 0 for the priority of other processes, 19 for the lowest.
    pub niceness: i32,
}

impl CompileBounds {
    /// The arguments of [`COMPILE_COMMAND`], in the order of the fields; time in milliseconds.
    pub(super) fn arguments(self) -> [String; 3] {
        [self.memory.to_string(), self.cpu.as_millis().to_string(), self.niceness.to_string()]
    }
}

/// Reads a plugin from `input` and writes compiled code to `output`, within `bounds`. Messages go
/// to `errors`. `exit` must end the process with the given status. It is called on another thread
/// when the CPU time is used up.
///
/// # Errors
/// Returns the exit status to end with.
pub fn compile(
    bounds: CompileBounds,
    exit: fn(i32),
    mut input: impl Read,
    mut output: impl Write,
    mut errors: impl Write,
) -> Result<(), i32> {
    if let Err(error) = bound(bounds, exit) {
        let _ = writeln!(errors, "can't limit the resources of the compiler: {error}");
        return Err(FAILED);
    }
    let mut failed = |error: &wasmtime::Error, status| {
        let mut said = format!("{error:#}");
        truncate(&mut said, MAX_SAID);
        let _ = writeln!(errors, "{said}");
        if is_out_of_memory(error) { OUT_OF_MEMORY } else { status }
    };
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| failed(&error.into(), FAILED))?;
    let engine = engine::for_compiling().map_err(|error| failed(&error, FAILED))?;
    let code = engine.precompile_component(&bytes).map_err(|error| failed(&error, REFUSED))?;
    output
        .write_all(&code)
        .and_then(|()| output.flush())
        .map_err(|error| failed(&error.into(), FAILED))
}

/// Limits this process and lowers its priority below that of the host's events. All threads that
/// are started later have the same limits.
fn bound(bounds: CompileBounds, exit: fn(i32)) -> io::Result<()> {
    if rustix::process::getpriority_process(None)? < bounds.niceness {
        rustix::process::setpriority_process(None, bounds.niceness)?;
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // The system's CPU limit is in seconds. It is for the case that the thread below does not get a
    // processor in time.
    let seconds = bounds.cpu.as_secs().saturating_add(2);
    rlimit::Resource::CPU.set(seconds, seconds.saturating_add(1))?;
    // The thread is started before the memory limit is set, because its stack counts against that
    // limit.
    limit_cpu(bounds.cpu, exit)?;
    // Only data is limited: address space that is reserved but not used is not memory.
    rlimit::Resource::DATA.set(bounds.memory, bounds.memory)
}

/// Ends the process when all its threads together have used `limit` of CPU time.
fn limit_cpu(limit: Duration, exit: fn(i32)) -> io::Result<()> {
    /// Precision of the limit. A smaller value only costs more wake-ups at the very end of the
    /// time.
    const PRECISION: Duration = Duration::from_millis(1);
    let processors = thread::available_parallelism()
        .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    let watch = move || {
        loop {
            let used = Duration::try_from(rustix::time::clock_gettime(
                rustix::time::ClockId::ProcessCPUTime,
            ))
            .unwrap_or_default();
            let left = limit.saturating_sub(used);
            if left.is_zero() {
                exit(OUT_OF_TIME);
            }
            // Even on all processors at the same time, the process can't use up the remaining time
            // earlier.
            thread::sleep((left / processors).max(PRECISION));
        }
    };
    thread::Builder::new().name("cpu-limit".to_owned()).spawn(watch).map(drop)
}

fn is_out_of_memory(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime::OutOfMemory>()
        || error.chain().any(|cause| {
            cause
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::OutOfMemory)
                || cause.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
        })
}
