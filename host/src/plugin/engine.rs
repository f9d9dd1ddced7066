//! The WebAssembly engine of a host: its limits, and the epoch ticker that interrupts guests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use wasmtime_wasi_config::WasiConfig;

use crate::config::Limits;
use crate::wall_clock::WallClock;

use super::bindings;
use super::standstill::Standstills;
use super::state::InstanceState;

/// Interval of epoch ticks while a guest runs for long. A guest exceeds its CPU limit by at most
/// two ticks, or until its first check (see [`QUIET_TICK`]).
///
/// A long-running guest also yields to other tasks at each tick. An event passes through three
/// tasks (reading, handling, writing), and waits once at each of them for the guests that spin.
const TICK: Duration = Duration::from_millis(1);

/// Interval of epoch ticks while no guest has run for long, because each tick takes CPU time from
/// the working threads. A guest that starts to run for long is first checked after at most two of
/// these intervals.
const QUIET_TICK: Duration = Duration::from_millis(4);

/// Ticks until the first check of a call. The first tick may come immediately after the call
/// begins. Only the second one shows that the guest has run for a while. A guest that has run only
/// for a moment must not yield in the middle of its event.
pub(super) const FIRST_CHECK: u64 = 2;

/// Maximum time that a guest runs before its first check. If the monotonic clock shows more, the
/// thread had no processor, or the guest was in a long host call.
pub(super) const UNCHECKED: Duration = QUIET_TICK.saturating_mul(FIRST_CHECK as u32);

/// Ticks without a check of any guest after which [`QUIET_TICK`] applies.
const TICKS_UNTIL_QUIET: u32 = 100;

/// Maximum number of instances of all plugins together. Each reserves address space (4 GiB). Only
/// instances that exist or have existed use memory.
const INSTANCES: u32 = 1_000;

/// Limits of one component. Guests in JavaScript and Python need them, because they contain an
/// interpreter.
const MEMORIES_OF_A_COMPONENT: u32 = 16;
const TABLES_OF_A_COMPONENT: u32 = 64;
const INSTANCE_METADATA_BYTES: usize = 10 << 20;

/// When an instance is dropped, the pages of its memory and tables that it has written are reset to
/// their initial content. Up to this many bytes stay resident for the next instance in the same
/// slot. Most of the cost of a new instance is to return this memory to the system and to request
/// it again.
///
/// These limits apply only if the system reports which pages were written (Linux 6.7). Otherwise
/// all pages would be reset and kept.
const KEPT_MEMORY_BYTES: usize = 1 << 20;
const KEPT_TABLE_BYTES: usize = 64 << 10;

/// Unused slots that stay reserved for the plugin that used them last. Beyond this number, an
/// instance of another plugin takes one of them. So memory is kept for at most this many slots,
/// plus the largest number of instances that existed at the same time.
const KEPT_SLOTS: u32 = 16;

/// Bytes of a guest's own stack, which is part of the fibre's stack. The host uses the rest for the
/// host calls that it handles there.
const WASM_STACK_BYTES: usize = 512 << 10;
const FIBRE_STACK_BYTES: usize = 2 << 20;

/// Maximum frames in the backtrace of a trap: enough to identify the handler. A guest with endless
/// recursion still gives only one log line.
const BACKTRACE_FRAMES: NonZeroUsize = match NonZeroUsize::new(16) {
    Some(frames) => frames,
    None => unreachable!(),
};

/// The wasmtime engine and linker that run plugins. Dropping it stops the epoch ticker.
pub struct Engine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) linker: Linker<InstanceState>,
    pub(super) workers: usize,
    /// Set by every check of a guest that has run for a while. The epoch ticker reads and clears
    /// it.
    pub(super) checked: Arc<AtomicBool>,
    /// Times in which the process stood still, as detected by the epoch ticker.
    pub(super) standstills: Arc<Standstills>,
    /// The time of day that guests read; `None` for the system's.
    pub(super) clock: Option<WallClock>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// Creates the engine for a host with `workers` worker threads. Each linear memory of an
    /// instance has at most `instance_memory` bytes.
    ///
    /// # Errors
    /// Returns an error if the system does not allow the host to reserve the address space, or to
    /// start the ticker thread.
    pub fn new(instance_memory: usize, workers: usize) -> Result<Self, EngineError> {
        let wasm = wasmtime::Engine::new(&config(instance_memory)).map_err(EngineError)?;
        let linker = linker(&wasm).map_err(EngineError)?;
        let stop = Arc::new(AtomicBool::new(false));
        // This is an OS thread: a tokio task would never run while guests keep every worker thread
        // busy, and that is when the ticks are needed.
        let (ticked, stopped) = (wasm.weak(), Arc::clone(&stop));
        let checked = Arc::new(AtomicBool::new(false));
        let was_checked = Arc::clone(&checked);
        let standstills = Arc::new(Standstills::new());
        let ticks = Arc::clone(&standstills);
        let ticker = thread::Builder::new().name("sockhop-epoch".to_owned()).spawn(move || {
            let mut unchecked = TICKS_UNTIL_QUIET;
            while !stopped.load(Ordering::Relaxed)
                && let Some(engine) = ticked.upgrade()
            {
                engine.increment_epoch();
                drop(engine);
                ticks.tick();
                unchecked = if was_checked.swap(false, Ordering::Relaxed) {
                    0
                } else {
                    unchecked.saturating_add(1)
                };
                thread::sleep(if unchecked < TICKS_UNTIL_QUIET { TICK } else { QUIET_TICK });
            }
        });
        ticker.map_err(|error| EngineError(error.into()))?;
        Ok(Self { wasm, linker, workers, checked, standstills, clock: None, stop })
    }

    /// Lets guests read the time of day from `clock`.
    #[must_use]
    pub(crate) fn with_clock(mut self, clock: WallClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Maximum number of instances of a plugin that run at the same time under `limits`.
    pub(super) fn instances(&self, limits: &Limits) -> usize {
        limits.instances.map_or(2 * self.workers, usize::from)
    }

    /// Identifies the engine version and settings. Compiled code runs here only if it was compiled
    /// with the same fingerprint.
    pub(super) fn fingerprint(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.wasm.precompile_compatibility_hash().hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn config(instance_memory: usize) -> Config {
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES)
        .total_core_instances(INSTANCES * 4)
        .total_memories(INSTANCES)
        .total_tables(INSTANCES * 4)
        .total_stacks(INSTANCES)
        .max_memory_size(instance_memory)
        .max_memories_per_component(MEMORIES_OF_A_COMPONENT)
        .max_tables_per_component(TABLES_OF_A_COMPONENT)
        .max_component_instance_size(INSTANCE_METADATA_BYTES)
        .max_core_instance_size(INSTANCE_METADATA_BYTES)
        .max_unused_warm_slots(KEPT_SLOTS);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
            .table_keep_resident(KEPT_TABLE_BYTES);
    }
    let mut config = code_config();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .async_stack_size(FIBRE_STACK_BYTES);
    config
}

/// Creates an engine that only compiles, for the compiler process. The host's engine runs its
/// output.
pub(super) fn for_compiling() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&code_config())
}

/// The settings that influence the compiled code. They must be the same in the compiler process and
/// in the host.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        // Component-model async is not used. Its bookkeeping would double the cost of a call.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        // The backtrace of a guest is for the log, and costs nothing until a trap.
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES));
    config
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut InstanceState| {
        WasiConfig::from(state.settings())
    })?;
    bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// The engine could not be created.
#[derive(Debug, thiserror::Error)]
#[error("can't start the WebAssembly engine")]
pub struct EngineError(#[source] wasmtime::Error);
