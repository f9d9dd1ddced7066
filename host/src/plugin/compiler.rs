//! Compiles plugins in a child process, so that a hostile file can use only the time and memory of
//! that process, which are limited.

mod cache;
mod child;
mod error;
mod parent;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use wasmtime::component::Component;

use crate::config::Limits;

use super::engine::Engine;

use cache::{Cache, deserialize};
pub use child::{COMPILE_COMMAND, CompileBounds, compile};
pub use error::CompileError;

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

/// Maximum bytes of compiled code of one plugin. A file of the maximum size compiles to a quarter
/// of this.
const MAX_CODE: u64 = 512 << 20;

/// Niceness of compiler processes while events are served, because events are more important than a
/// reload.
const NICENESS: i32 = 10;

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
        let cache = Cache::open(cache.clone()).inspect_err(|error| {
            tracing::warn!(dir = %cache.display(), %error, "compiled plugins \
                                        are not cached: loading them is slower")
        });
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

    /// Compiles `bytes` in a child process, when there is a permit for one.
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
        parent::run(&self.program, bytes, bounds, limits.compile_wall_ms, MAX_CODE).await
    }
}
