//! The data of one instance in its wasmtime store: its limits, and the host calls that are allowed
//! in its current phase.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use sockhop_core::declarations::Declarations;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;

use crate::config::{Config, Limits};
use crate::effect::HostCalls;
use crate::rejection::Refusal;
use crate::wall_clock::WallClock;

use super::memory::MemoryLimiter;
use super::output::{CurrentEvent, LineStream, Output};

/// The data of one wasmtime store. Not the store of a plugin's state.
pub(super) struct InstanceState {
    pub(super) phase: Phase,
    pub(super) memory: MemoryLimiter,
    /// The plugin's own settings.
    pub(super) config: Arc<WasiConfigVariables>,
    pub(super) output: Arc<Output>,
    /// The event that the instance handles.
    pub(super) current: Arc<CurrentEvent>,
    /// The guest's standard output and standard error.
    pub(super) stdout: LineStream,
    pub(super) stderr: LineStream,
    wasi: WasiCtx,
    resources: ResourceTable,
}

/// What an instance executes now. This decides which host calls are allowed.
pub(super) enum Phase {
    /// Nothing. Every host call except `log` is refused or returns an empty value.
    Idle,
    /// `register`: collects declarations.
    Registering(Box<Registering>),
    /// `handle`: one event.
    Handling(Box<dyn HostCalls>),
}

/// What `register` has done so far.
pub(super) struct Registering {
    pub(super) declarations: Declarations,
    /// Has the settings of all plugins.
    pub(super) settings: Arc<Config>,
    /// Whether the plugin has read its settings: then its declarations may depend on them.
    pub(super) has_read_settings: bool,
}

impl InstanceState {
    pub(super) fn new(
        limits: &Limits,
        config: &Arc<WasiConfigVariables>,
        output: &Arc<Output>,
        plugin_memory: &Arc<AtomicUsize>,
        clock: Option<&WallClock>,
    ) -> Self {
        let current = Arc::default();
        let (stdout, stderr) =
            (LineStream::stdout(output, &current), LineStream::stderr(output, &current));
        let mut wasi = WasiCtx::builder();
        wasi.stdout(stdout.clone())
            .stderr(stderr.clone())
            .max_random_size(limits.random_bytes.get())
            .allow_tcp(false)
            .allow_udp(false);
        if let Some(clock) = clock {
            wasi.wall_clock(GuestClock(clock.clone()));
        }
        let wasi = wasi.build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(limits.handles.get());
        let memory = MemoryLimiter::new(limits, plugin_memory);
        let (config, output) = (Arc::clone(config), Arc::clone(output));
        let phase = Phase::Idle;
        Self { phase, memory, config, output, current, stdout, stderr, wasi, resources }
    }

    /// Logs what the guest has written in a call that ends now. If the call has failed, its
    /// standard error is kept for the record of the failure.
    pub(super) fn end_call(&self, has_failed: bool) {
        self.stdout.release();
        if !has_failed {
            self.stderr.release();
        }
    }

    /// The calls of the event that the instance handles.
    ///
    /// # Errors
    /// Returns `misuse` if it handles no event.
    pub(super) fn handling(&mut self) -> Result<&mut dyn HostCalls, Refusal> {
        match &mut self.phase {
            Phase::Handling(calls) => Ok(calls.as_mut()),
            Phase::Registering(_) => Err(Refusal::misuse(
                "`register` may call nothing but `registry`, `log` and the plugin's settings",
            )),
            Phase::Idle => Err(Refusal::misuse("no event is being handled")),
        }
    }

    /// Gives a plugin that registers the settings of the name that it has declared.
    pub(super) fn read_settings_of(&mut self, name: &str) {
        if let Phase::Registering(registering) = &self.phase {
            self.config = Arc::new(variables(&registering.settings.of_plugin(name).config));
        }
    }

    /// The plugin's own settings, for a call that reads them.
    pub(super) fn settings(&mut self) -> &WasiConfigVariables {
        if let Phase::Registering(registering) = &mut self.phase {
            registering.has_read_settings = true;
        }
        &self.config
    }

    /// The declarations that `register` has made.
    ///
    /// # Errors
    /// Returns `misuse` if `register` does not run.
    pub(super) fn registering(&mut self) -> Result<&mut Declarations, Refusal> {
        match &mut self.phase {
            Phase::Registering(registering) => Ok(&mut registering.declarations),
            Phase::Handling(_) | Phase::Idle => {
                Err(Refusal::misuse("`registry` can be called only while `register` runs"))
            }
        }
    }
}

/// Returns settings in the form of `wasi:config/store`.
pub(super) fn variables(settings: &BTreeMap<String, String>) -> WasiConfigVariables {
    settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The time of day of a host that tests plugins, as guests read it.
struct GuestClock(WallClock);

impl HostWallClock for GuestClock {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.0.now_ms())
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}
