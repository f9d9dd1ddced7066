//! Why a plugin was not compiled, and when another attempt may succeed.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use crate::plugin::retry::Retry;

use super::child::{CompileBounds, OUT_OF_MEMORY, OUT_OF_TIME, REFUSED};

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler does not accept the file. Contains its message.
    #[error("{0}")]
    Refused(String),
    /// The compiler exceeded its limit of CPU time. Contains the limit.
    #[error("takes too long to compile: more than {} ms of CPU time \
             (limits.compile_ms)", .0.as_millis())]
    OutOfTime(Duration),
    /// The compiler exceeded its wall-clock limit.
    #[error(
        "was not compiled within {} ms (limits.compile_wall_ms){}; the machine is too busy, or the \
         compiler was stopped",
        wall.as_millis(),
        used.map(|used| format!(", of which its compiler ran for {} \
                                 ms", used.as_millis())).unwrap_or_default()
    )]
    NotInTime {
        /// The limit.
        wall: Duration,
        /// CPU time that the compiler used, if the system reports it.
        used: Option<Duration>,
    },
    /// The compiler exceeded its limit of memory. Contains the limit in bytes.
    #[error("could not be compiled within {0} bytes of memory (limits.compile_memory_bytes)")]
    OutOfMemory(u64),
    /// The compiled code is larger than allowed. Contains the limit in bytes.
    #[error("compiles to more than {0} bytes")]
    TooMuch(u64),
    /// The process ended without a result.
    #[error("was not compiled: its compiler ended with \
             {status}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Died {
        /// Its exit status.
        status: ExitStatus,
        /// Its messages.
        said: String,
    },
    /// The process can't be run.
    #[error("the compiler {} can't be run", program.display())]
    NotRun {
        /// Path of the compiler program.
        program: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The compiler's output is not a component that this host can run.
    #[error("was compiled to code that this host can't load")]
    Unusable(#[source] wasmtime::Error),
}

impl CompileError {
    /// When another attempt may succeed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused(_) => Retry::Never,
            // Most likely the file is the cause, but a slow machine or one with little memory gives
            // the same errors. A hostile file costs as much at the next attempt.
            Self::OutOfTime(_)
            | Self::OutOfMemory(_)
            | Self::TooMuch(_)
            | Self::Died { .. }
            | Self::Unusable(_) => Retry::Later,
            // The machine is the cause: these errors say nothing about the file.
            Self::NotInTime { .. } | Self::NotRun { .. } => Retry::Soon,
        }
    }

    /// The error for a compiler process that ended with `status`, had the limits `bounds` and wrote
    /// the messages `said`.
    pub(super) fn of(status: ExitStatus, said: &str, bounds: CompileBounds) -> Self {
        let said = said.trim();
        match status.code() {
            Some(REFUSED) => Self::Refused(said.to_owned()),
            Some(OUT_OF_TIME) => Self::OutOfTime(bounds.cpu),
            Some(OUT_OF_MEMORY) => Self::OutOfMemory(bounds.memory),
            _ if is_by_cpu_limit(status) => Self::OutOfTime(bounds.cpu),
            // Rust's message before it aborts, and jemalloc's message. After the latter, the
            // process continues and uses memory that it did not get.
            _ if said.contains("memory allocation of")
                || said.contains("<jemalloc>: Failed to allocate") =>
            {
                Self::OutOfMemory(bounds.memory)
            }
            _ => Self::Died { status, said: said.to_owned() },
        }
    }
}

/// Whether the system ended the process because of its CPU time.
#[cfg(unix)]
fn is_by_cpu_limit(status: ExitStatus) -> bool {
    std::os::unix::process::ExitStatusExt::signal(&status)
        == Some(rustix::process::Signal::XCPU.as_raw())
}

#[cfg(not(unix))]
fn is_by_cpu_limit(_: ExitStatus) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_error_of_a_compiler_names_why_it_ended() {
        let bounds = CompileBounds { memory: 7, cpu: Duration::from_secs(2), niceness: 0 };
        let exited = |status: i32| ExitStatus::from_raw(status << 8);
        let signalled = |signal: rustix::process::Signal| ExitStatus::from_raw(signal.as_raw());
        let (xcpu, abort, kill) = (
            rustix::process::Signal::XCPU,
            rustix::process::Signal::ABORT,
            rustix::process::Signal::KILL,
        );
        let cases = [
            (exited(REFUSED), "not valid\n", "not valid", Retry::Never),
            (
                exited(OUT_OF_TIME),
                "",
                "takes too long to compile: more than 2000 ms of CPU time (limits.compile_ms)",
                Retry::Later,
            ),
            (
                signalled(xcpu),
                "",
                "takes too long to compile: more than 2000 ms of CPU time (limits.compile_ms)",
                Retry::Later,
            ),
            (
                exited(OUT_OF_MEMORY),
                "x",
                "could not be compiled within 7 bytes of memory (limits.compile_memory_bytes)",
                Retry::Later,
            ),
            (
                signalled(abort),
                "memory allocation of 9 bytes failed",
                "could not be compiled within 7 bytes of memory (limits.compile_memory_bytes)",
                Retry::Later,
            ),
            (
                signalled(rustix::process::Signal::SEGV),
                "<jemalloc>: Failed to allocate tcache data",
                "could not be compiled within 7 bytes of memory (limits.compile_memory_bytes)",
                Retry::Later,
            ),
            (
                signalled(kill),
                "",
                "was not compiled: its compiler ended with signal: 9 (SIGKILL)",
                Retry::Later,
            ),
            (
                exited(101),
                "a panic",
                "was not compiled: its compiler ended with exit status: 101: a panic",
                Retry::Later,
            ),
        ];
        for (status, said, reason, retry) in cases {
            let error = CompileError::of(status, said, bounds);
            assert_eq!((error.to_string(), error.retry()), (reason.to_owned(), retry), "{status}");
        }
    }
}
