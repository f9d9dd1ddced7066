//! Compiles plugins in a child process, so that a hostile file can use only the time and memory of
//! that process, which are limited.

mod cache;
mod child;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use wasmtime::component::Component;

use crate::config::Limits;

use super::engine::Engine;
use super::retry::Retry;
use cache::{Cache, deserialize};
pub use child::{COMPILE_COMMAND, CompileBounds, compile};
use child::{OUT_OF_MEMORY, OUT_OF_TIME, REFUSED};

/// Compiles plugins in child processes of a program.
#[derive(Debug, Clone)]
pub struct Compiler {
    program: PathBuf,
    /// `None` if no directory could be trusted.
    cache: Option<Cache>,
    permits: Arc<Semaphore>,
    /// A lock for each content that is being compiled. Loads of the same content wait for it and
    /// then read the result from the cache.
    in_progress: Arc<Mutex<HashMap<String, Weak<AsyncMutex<()>>>>>,
    yields: Arc<AtomicBool>,
}

/// Compiler processes that run at the same time: the number of processors, within these bounds. At
/// least two, so that a file that takes long does not delay all others.
///
/// Each may use `limits.compile_memory_bytes`, so together they use at most that many times as
/// much. One process uses several processors itself if a plugin is large.
const AT_ONCE: RangeInclusive<usize> = 2..=4;

/// Niceness of compiler processes while events are served, because events are more important than a
/// reload.
const NICENESS: i32 = 10;

/// Maximum bytes of compiled code of one plugin. A file of the maximum size compiles to a quarter
/// of this.
const MAX_CODE: u64 = 512 << 20;

/// Bytes of the compiler's messages that are read.
const MAX_SAID: u64 = 4 * 1024;

/// Why there is no compiled code.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The compiler does not accept the file. Contains its message.
    #[error("{0}")]
    Refused(String),
    /// The compiler exceeded its limit of CPU time. Contains the limit.
    #[error("takes too long to compile: more than {} ms of CPU time (limits.compile_ms)", .0.as_millis())]
    OutOfTime(Duration),
    /// The compiler exceeded its wall-clock limit.
    #[error(
        "was not compiled within {} ms (limits.compile_wall_ms){}; the machine is too busy, or the compiler was stopped",
        wall.as_millis(),
        used.map(|used| format!(", of which its compiler ran for {} ms", used.as_millis())).unwrap_or_default()
    )]
    Starved {
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
    #[error("was not compiled: its compiler ended with {status}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
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
            Self::Starved { .. } | Self::NotRun { .. } => Retry::Soon,
        }
    }

    /// The error for a compiler process that ended with `status`, had the limits `bounds` and wrote
    /// the messages `said`.
    fn of(status: ExitStatus, said: &str, bounds: CompileBounds) -> Self {
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

/// Returns the path of the running program, for [`Compiler::new`]. It means the same program for
/// the whole life of this process. A program that has replaced it at its original path may be
/// another version, whose compiled code this host can't use.
///
/// # Errors
/// Returns the system's error if the path of the program is not known.
pub fn this_program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // The child process resolves this link just before it executes the program, when the link still
    // leads to its parent's program. The link leads to the file itself, so that removing or
    // replacing the file's name has no effect.
    Ok(if cfg!(target_os = "linux") { PathBuf::from("/proc/self/exe") } else { path })
}

impl Compiler {
    /// Creates a compiler that runs `program`. It keeps its results in the directory `cache`, if no
    /// other user can write to it; otherwise it keeps none and logs a warning.
    pub fn new(program: PathBuf, cache: PathBuf) -> Self {
        let cache = Cache::open(cache.clone())
            .inspect_err(|error| tracing::warn!(dir = %cache.display(), %error, "compiled plugins are not cached: loading them is slower"));
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let permits = Arc::new(Semaphore::new(processors.clamp(*AT_ONCE.start(), *AT_ONCE.end())));
        Self {
            program,
            cache: cache.ok(),
            permits,
            in_progress: Arc::default(),
            yields: Arc::default(),
        }
    }

    /// Gives compiler processes that are started from now on a lower priority, because events are
    /// served.
    pub(crate) fn yield_to_events(&self) {
        self.yields.store(true, Ordering::Relaxed);
    }

    /// Returns the compiled component of `bytes`, whose digest is `digest`: from the cache, or
    /// compiled within `limits`.
    pub(super) async fn compile(
        &self,
        engine: &Engine,
        digest: &str,
        bytes: Vec<u8>,
        limits: &Limits,
    ) -> Result<Component, CompileError> {
        let in_progress = self.in_progress(digest);
        let _alone = in_progress.lock().await;
        if let Some(component) = self.cache.as_ref().and_then(|cache| cache.get(engine, digest)) {
            return Ok(component);
        }
        let code = self.run(bytes, limits).await?;
        let component = deserialize(engine, &code).map_err(CompileError::Unusable)?;
        if let Some(cache) = &self.cache {
            cache.put(engine, digest, &code);
        }
        Ok(component)
    }

    /// Removes compiled code of other contents than `digests` from the cache, except the newest.
    pub(crate) fn keep_only(&self, engine: &Engine, digests: &HashSet<String>) {
        if let Some(cache) = &self.cache {
            cache.keep_only(engine, digests);
        }
    }

    /// The lock for compiling the content `digest`.
    fn in_progress(&self, digest: &str) -> Arc<AsyncMutex<()>> {
        let mut all = self.in_progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(digest).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, held| held.strong_count() > 0);
        let new = Arc::default();
        all.insert(digest.to_owned(), Arc::downgrade(&new));
        new
    }

    async fn run(&self, bytes: Vec<u8>, limits: &Limits) -> Result<Vec<u8>, CompileError> {
        // The semaphore is never closed, so the result can be ignored. The wall-clock limit begins
        // after the permit is acquired.
        let _permit = self.permits.acquire().await;
        let niceness = if self.yields.load(Ordering::Relaxed) { NICENESS } else { 0 };
        let bounds = CompileBounds {
            memory: limits.compile_memory_bytes.get(),
            cpu: limits.compile_ms,
            niceness,
        };
        let not_run = |source| CompileError::NotRun { program: self.program.clone(), source };
        let mut command = Command::new(&self.program);
        // The name in process lists, independent of the path.
        #[cfg(unix)]
        command.arg0("sockhop");
        let mut child = command
            .arg(COMPILE_COMMAND)
            .args(bounds.arguments())
            .env_clear()
            // The memory limit counts mapped memory, so the allocator must not keep free memory.
            .env("_RJEM_MALLOC_CONF", "retain:false,background_thread:false")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let (Some(mut input), Some(mut output), Some(mut errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(not_run(io::Error::other("it has no pipes")));
        };
        let id = child.id();
        let talk = async {
            let (mut code, mut said) = (Vec::new(), Vec::new());
            let mut limited = (&mut errors).take(MAX_SAID);
            let write = async {
                // Dropping `input` closes the pipe: the compiler reads until then. Write errors are
                // ignored: a compiler that died does not read, and its exit status says more.
                let _ = input.write_all(&bytes).await;
                drop(input);
            };
            let mut output = (&mut output).take(MAX_CODE + 1);
            let (_, read, _) =
                tokio::join!(write, output.read_to_end(&mut code), limited.read_to_end(&mut said));
            if read? as u64 > MAX_CODE {
                // Killed, because it would continue to write and nobody reads.
                child.start_kill()?;
            }
            Ok::<_, io::Error>((child.wait().await?, code, said))
        };
        let wall = limits.compile_wall_ms;
        let starved = |_| CompileError::Starved { wall, used: id.and_then(cpu_time) };
        let (status, code, said) =
            tokio::time::timeout(wall, talk).await.map_err(starved)?.map_err(not_run)?;
        match status.success() {
            _ if code.len() as u64 > MAX_CODE => Err(CompileError::TooMuch(MAX_CODE)),
            true => Ok(code),
            false => Err(CompileError::of(status, &String::from_utf8_lossy(&said), bounds)),
        }
    }
}

/// CPU time that all threads of a process have used. Returns `None` if the system does not report
/// it.
#[cfg(target_os = "linux")]
fn cpu_time(pid: u32) -> Option<Duration> {
    /// The duration of a tick of `USER_HZ`, the unit of these times in Linux on every machine.
    const MILLISECONDS_OF_A_TICK: u64 = 10;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may contain any character. After it, user and system time are the 12th and
    // the 13th field.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times =
        fields.split_ascii_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis((times.next()? + times.next()?) * MILLISECONDS_OF_A_TICK))
}

#[cfg(not(target_os = "linux"))]
fn cpu_time(_: u32) -> Option<Duration> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn the_end_of_a_compiler_is_told_by_its_true_reason() {
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
