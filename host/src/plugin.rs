//! A version of a plugin: its compiled code and its registration, which are immutable and shared,
//! and the instances that run the code. This is the only module that knows wasmtime.
//!
//! It does not know sockets, rooms, schemas or other plugins. The caller of a handler passes the
//! functions that answer the handler's host calls (`HostCalls` in `effect`).

#[cfg(test)]
mod agreement;
mod bindings;
mod budget;
mod calls;
mod clock;
mod compiler;
mod engine;
pub(crate) mod fuzzing;
mod instance;
mod loader;
mod memory;
mod output;
mod pool;
mod retry;
mod standstill;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use wasmtime_wasi_config::WasiConfigVariables;

use sockhop_core::declarations::Registration;

use crate::config::{Limits, PluginSettings};

pub use budget::Budget;
pub use compiler::{COMPILE_COMMAND, CompileBounds, CompileError, Compiler, compile, this_program};
pub use engine::{Engine, EngineError};
pub use instance::{Failure, Handled};
pub use loader::{Candidate, LoadError, Source, load, read};
pub use pool::InstanceGuard;
pub use retry::Retry;

/// The data that all instances of one version of a plugin share.
#[derive(Clone)]
pub(crate) struct Code {
    engine: Arc<Engine>,
    pre: bindings::PluginPre<state::InstanceState>,
    /// Limits of each instance.
    limits: Arc<Limits>,
    /// The plugin's own settings.
    config: Arc<WasiConfigVariables>,
    output: Arc<output::Output>,
    /// Bytes of memory that all instances of the plugin use, in all its versions.
    memory: Arc<AtomicUsize>,
    /// Cancelled by [`Plugin::end`].
    ended: CancellationToken,
}

impl Code {
    fn new(
        engine: Arc<Engine>,
        pre: bindings::PluginPre<state::InstanceState>,
        registration: &Registration,
        settings: &PluginSettings,
        memory: Arc<AtomicUsize>,
    ) -> Self {
        let limits = Arc::new(settings.limits.clone());
        let version = Some(registration.version.clone());
        let output = Arc::new(output::Output::new(&registration.name, version, &limits));
        let config = Arc::new(state::variables(&settings.config));
        let ended = CancellationToken::new();
        Self { engine, pre, limits, config, output, memory, ended }
    }
}

/// A version of a plugin that can handle events.
pub struct Plugin {
    /// What the plugin declared in `register`.
    pub registration: Registration,
    /// The file that it was loaded from.
    pub file: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// When this `Plugin` was created, by a load or by [`Plugin::fresh`].
    pub loaded_at: SystemTime,
    pool: pool::Pool,
    calls: AtomicU64,
    failures: AtomicU64,
}

impl Plugin {
    /// Creates a plugin from `candidate`, with the settings for its name. `memory` counts the bytes
    /// that the instances of all versions of the plugin use.
    pub fn new(candidate: Candidate, settings: &PluginSettings, memory: Arc<AtomicUsize>) -> Self {
        let Candidate { registration, file, digest, engine, pre, .. } = candidate;
        let code = Code::new(engine, pre, &registration, settings, memory);
        let instances = code.engine.instances(&code.limits);
        let pool = pool::Pool::new(code, settings.instance_policy, instances);
        Self::with_pool(registration, file, digest, pool)
    }

    fn with_pool(
        registration: Registration,
        file: PathBuf,
        digest: String,
        pool: pool::Pool,
    ) -> Self {
        let (calls, failures) = (AtomicU64::new(0), AtomicU64::new(0));
        let loaded_at = SystemTime::now();
        Self { registration, file, digest, loaded_at, pool, calls, failures }
    }

    /// Creates a new plugin of the same version. Code and registration are shared; instances and
    /// counters start empty.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let code = Code { ended: CancellationToken::new(), ..self.pool.code().clone() };
        self.with_code(self.pool.fresh(code))
    }

    /// Same as [`fresh`](Self::fresh), with other settings.
    #[must_use]
    pub fn under(&self, settings: &PluginSettings) -> Self {
        let Code { engine, pre, memory, .. } = self.pool.code().clone();
        let code = Code::new(engine, pre, &self.registration, settings, memory);
        let instances = code.engine.instances(&code.limits);
        self.with_code(pool::Pool::new(code, settings.instance_policy, instances))
    }

    fn with_code(&self, pool: pool::Pool) -> Self {
        Self::with_pool(self.registration.clone(), self.file.clone(), self.digest.clone(), pool)
    }

    /// The plugin's name, which is also the name of its slot.
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    /// Waits for the permit to run one event. Returns `None` if the deadline of `budget` passes
    /// first. Without a budget there is no deadline: host events have none.
    pub async fn acquire(&self, budget: Option<&Budget>) -> Option<InstanceGuard> {
        self.pool.acquire(budget).await
    }

    /// Returns the deadline of the event with this budget. If it has passed, it is extended by the
    /// time in which the process stood still.
    pub fn deadline(&self, budget: &Budget) -> Instant {
        self.pool.code().engine.standstills.deadline(budget)
    }

    /// The maximum number of events that the plugin handles at the same time.
    pub fn instances_at_once(&self) -> usize {
        self.pool.max_concurrent()
    }

    /// The limits of the plugin's events and instances.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.pool.code().limits
    }

    /// Drops some of the idle instances that no event has needed since the last call. Call it about
    /// once a second.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// Drops the idle instances and keeps none from now on, because this version no longer serves.
    /// Running events continue, until [`Plugin::end`] at the latest.
    pub fn retire(&self) {
        self.pool.close();
    }

    /// Ends the events that still run on this version, each when it next yields to the host.
    pub fn end(&self) {
        self.pool.code().ended.cancel();
    }

    /// Awaits `future`. Returns `None` if [`Plugin::end`] is called first.
    pub async fn until_ended<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.pool.code().ended.run_until_cancelled(future).await
    }

    /// Returns the bytes that instances of all versions of the plugin use, and the number of
    /// instances of this version, idle ones included.
    pub fn memory_and_instances(&self) -> (usize, usize) {
        (self.pool.code().memory.load(Ordering::Relaxed), self.pool.instances())
    }

    /// Counts one event that was passed to the plugin, and one failure if `failed`.
    pub fn count(&self, failed: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a failure that the handler did not cause: the plugin's state could not be read or
    /// written, or is full.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of events that were passed to the plugin, and the number of failures.
    pub fn counts(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}
