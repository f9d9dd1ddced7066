//! The one WebAssembly engine of a host: its limits, and the clock that interrupts guests.

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

use super::bindings;
use super::state::InstanceState;

/// How often a guest that runs on and on is looked at. It overruns its CPU limit by at most twice this, or until the first look at it (see
/// [`QUIET_TICK`]), and yields to its neighbours as often: an event that takes three tasks (reading, handling, writing) waits at each for those that
/// spin, once.
const TICK: Duration = Duration::from_millis(1);

/// The same while no guest has run for long: each tick takes the processor from whoever is at work. Twice this passes at most until the first look
/// at one that will.
const QUIET_TICK: Duration = Duration::from_millis(4);

/// Ticks after which a call is looked at first. The first tick may come at once: only the second says that the guest has run for a
/// while, and a guest that has not must not give up the processor in the middle of its event.
pub(super) const FIRST_LOOK: u64 = 2;

/// The longest that a guest runs before the first look at it. A longer time by the monotonic clock is time without a processor, or one
/// long host call.
pub(super) const UNSEEN: Duration = QUIET_TICK.saturating_mul(FIRST_LOOK as u32);

/// Ticks without a look at any guest after which it is quiet.
const TICKS_UNTIL_QUIET: u32 = 100;

/// Instances of all plugins together: address space is reserved for each (4 GiB), memory is taken only by those that are or were there.
const INSTANCES: u32 = 1_000;

/// What guests in JavaScript and Python need of one component: they bring an interpreter.
const MEMORIES_OF_A_COMPONENT: u32 = 16;
const TABLES_OF_A_COMPONENT: u32 = 64;
const INSTANCE_METADATA_BYTES: usize = 10 << 20;

/// What an instance has written of its memory and of a table is put back to what it was at first, and kept for the next one in its place, up to
/// this: to give it to the system and ask for it again is most of what a new instance costs. Only where the
/// system says which pages were written (Linux 6.7): elsewhere all of it would be put back, and kept.
const KEPT_MEMORY_BYTES: usize = 1 << 20;
const KEPT_TABLE_BYTES: usize = 64 << 10;

/// Places without an instance that are kept so for the plugin that had them; beyond, another plugin's instance takes one of theirs. So what is kept
/// is at most as much for each of these, and for each instance that there has been at once.
const KEPT_PLACES: u32 = 16;

/// Bytes of a guest's own stack, within the fibre's; what is left is the host's, for the calls that it answers there.
const WASM_STACK_BYTES: usize = 512 << 10;
const FIBRE_STACK_BYTES: usize = 2 << 20;

/// Frames of a trap's backtrace: enough to see which handler it was, and one log line of a guest that recursed without end.
const BACKTRACE_FRAMES: NonZeroUsize = match NonZeroUsize::new(16) {
    Some(frames) => frames,
    None => unreachable!(),
};

/// Compiles and runs plugins. Dropping it stops the clock.
pub struct Engine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) linker: Linker<InstanceState>,
    pub(super) workers: usize,
    /// Set by every look at a guest that has run for a while.
    pub(super) looked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Engine {
    /// An engine for a host with `workers` threads, whose instances have at most `instance_memory` bytes each.
    ///
    /// # Errors
    /// Where the machine does not let the host reserve the address space that it needs.
    pub fn new(instance_memory: usize, workers: usize) -> Result<Self, EngineError> {
        let wasm = wasmtime::Engine::new(&config(instance_memory)).map_err(EngineError)?;
        let linker = linker(&wasm).map_err(EngineError)?;
        let stop = Arc::new(AtomicBool::new(false));
        // An OS thread: a task of the runtime would never run while guests keep every worker busy, which is when it is needed.
        let (ticked, stopped) = (wasm.weak(), Arc::clone(&stop));
        let looked = Arc::new(AtomicBool::new(false));
        let was_looked = Arc::clone(&looked);
        let ticker = thread::Builder::new().name("sockhop-epoch".to_owned()).spawn(move || {
            let mut unlooked = TICKS_UNTIL_QUIET;
            while !stopped.load(Ordering::Relaxed)
                && let Some(engine) = ticked.upgrade()
            {
                engine.increment_epoch();
                drop(engine);
                unlooked = if was_looked.swap(false, Ordering::Relaxed) { 0 } else { unlooked.saturating_add(1) };
                thread::sleep(if unlooked < TICKS_UNTIL_QUIET { TICK } else { QUIET_TICK });
            }
        });
        ticker.map_err(|error| EngineError(error.into()))?;
        Ok(Self { wasm, linker, workers, looked, stop })
    }

    /// Instances of a plugin that may run at once under these limits.
    pub(super) fn instances(&self, limits: &Limits) -> usize {
        limits.instances.map_or(2 * self.workers, usize::from)
    }

    /// What compiled code must have been made by to run here.
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
        .max_unused_warm_slots(KEPT_PLACES);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(KEPT_MEMORY_BYTES).table_keep_resident(KEPT_TABLE_BYTES);
    }
    let mut config = code_config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).async_stack_size(FIBRE_STACK_BYTES);
    config
}

/// An engine that only compiles, for a process that does nothing else: what it makes runs in the host's.
pub(super) fn for_compiling() -> wasmtime::Result<wasmtime::Engine> {
    wasmtime::Engine::new(&code_config())
}

/// What decides the compiled code, and so must be the same where it is made and where it runs.
fn code_config() -> Config {
    let mut config = Config::new();
    config
        // Component-model async is not used: without its bookkeeping a call costs half.
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK_BYTES)
        // What a guest's backtrace says is for the log, and costs nothing until a trap.
        .wasm_backtrace_max_frames(Some(BACKTRACE_FRAMES));
    config
}

fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<InstanceState>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |state: &mut InstanceState| WasiConfig::from(state.config.as_ref()))?;
    bindings::Plugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
    Ok(linker)
}

/// The engine can't be made.
#[derive(Debug, thiserror::Error)]
#[error("can't start the WebAssembly engine")]
pub struct EngineError(#[source] wasmtime::Error);
