//! A plugin: compiled code and what it registered, immutable and shared; the instances that run it. The only part that knows wasmtime.
//!
//! It refuses to know sockets, rooms, schemas and other plugins: what a handler asks is answered by whoever runs it
//! ([`crate::effect::HostCalls`]).

mod bindings;
mod clock;
mod compiler;
mod engine;
mod instance;
mod loader;
mod output;
mod pool;
mod registration;
mod retry;
mod state;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use wasmtime_wasi_config::WasiConfigVariables;

use crate::config::{Limits, PluginSettings};

pub use compiler::{COMPILE_COMMAND, CompileBounds, CompileError, Compiler, compile, this_program};
pub use engine::{Engine, EngineError};
pub use instance::{Budget, Failure, Handled};
pub use loader::{Candidate, LoadError, Source, load, read};
pub use pool::Seat;
pub use registration::{Emits, Handles, Registration};
pub use retry::Retry;

/// What all instances of a plugin share.
#[derive(Clone)]
pub(crate) struct Code {
    engine: Arc<Engine>,
    pre: bindings::PluginPre<state::InstanceState>,
    /// What an instance may take.
    limits: Arc<Limits>,
    /// The plugin's own settings.
    config: Arc<WasiConfigVariables>,
    output: Arc<output::Output>,
    /// Bytes that all instances of the plugin take, those of other versions too.
    memory: Arc<AtomicUsize>,
    /// Cancelled when what still runs on this version is to end.
    retired: CancellationToken,
}

/// A plugin that serves.
pub struct Plugin {
    /// What it registered.
    pub registration: Registration,
    /// Where it came from.
    pub file: PathBuf,
    /// SHA-256 of the file, hexadecimal.
    pub digest: String,
    /// Since when it serves.
    pub loaded_at: SystemTime,
    pool: pool::Pool,
    calls: AtomicU64,
    failures: AtomicU64,
}

impl Plugin {
    /// Makes a candidate serve, with the settings that its name has. `memory` counts what instances of all its versions take.
    pub fn new(candidate: Candidate, settings: &PluginSettings, memory: Arc<AtomicUsize>) -> Self {
        let Candidate { registration, file, digest, engine, pre } = candidate;
        let limits = Arc::new(settings.limits.clone());
        let instances = engine.instances(&limits);
        let output = Arc::new(output::Output::new(&registration.name, Some(registration.version.clone()), &limits));
        let config = settings.config.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let retired = CancellationToken::new();
        let code = Code { engine, pre, limits, config: Arc::new(config), output, memory, retired };
        let pool = pool::Pool::new(code, settings.instance_policy, instances);
        Self { registration, file, digest, loaded_at: SystemTime::now(), pool, calls: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    /// The same version once more, as new: its code and what it registered are shared, its instances are its own.
    #[must_use]
    pub fn again(&self) -> Self {
        let code = Code { retired: CancellationToken::new(), ..self.pool.code().clone() };
        Self {
            registration: self.registration.clone(),
            file: self.file.clone(),
            digest: self.digest.clone(),
            loaded_at: SystemTime::now(),
            pool: self.pool.again(code),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// The plugin's slot.
    pub fn name(&self) -> &str {
        &self.registration.name
    }

    /// A place to run one event; nothing when the event's time is over before there is one. Without a budget it waits as long as it takes.
    pub async fn seat(&self, budget: Option<&Budget>) -> Option<Seat> {
        self.pool.seat(budget).await
    }

    /// Events that it handles at once at most.
    pub fn instances_at_once(&self) -> usize {
        self.pool.most()
    }

    /// What its events may take.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.pool.code().limits
    }

    /// Gives back the memory of instances that events do not need any more. To be called about once a second.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// Another version serves: keeps no instance any more. Events that run go on until [`Plugin::end`].
    pub fn retire(&self) {
        self.pool.close();
    }

    /// Ends what still runs.
    pub fn end(&self) {
        self.pool.code().retired.cancel();
    }

    /// Bytes that instances of the plugin take, and how many there are of this version, those that wait for an event included.
    pub fn memory_and_instances(&self) -> (usize, usize) {
        (self.pool.code().memory.load(Ordering::Relaxed), self.pool.instances())
    }

    /// Counts one event that the plugin was asked to handle.
    pub fn count(&self, failed: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a failure that is not the handler's own: its state could not be read or written, or is full.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Events that the plugin was asked to handle, and those of them at which it failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.calls.load(Ordering::Relaxed), self.failures.load(Ordering::Relaxed))
    }
}
