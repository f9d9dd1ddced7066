//! The store data of one instance: its limits, the host calls that are allowed in its current
//! phase, and the implementation of these calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Result};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;

use crate::config::Limits;
use crate::effect::{HostCalls, LogLevel, Target};
use crate::rejection::Refusal;

use super::bindings::sockhop::plugin::{
    connections, emitter, identity, log, registry, rooms, state, types,
};
use super::output::{CurrentEvent, LineStream, Output};
use super::registration::Declarations;

/// The data of one store.
pub(super) struct InstanceState {
    pub(super) phase: Phase,
    pub(super) memory: MemoryLimiter,
    /// The plugin's own settings.
    pub(super) config: Arc<WasiConfigVariables>,
    output: Arc<Output>,
    /// The event that the instance handles.
    pub(super) current: Arc<CurrentEvent>,
    /// The guest's standard error.
    pub(super) stderr: LineStream,
    wasi: WasiCtx,
    resources: ResourceTable,
}

/// What an instance executes now. This decides which host calls are allowed.
pub(super) enum Phase {
    /// Nothing. Every host call except `log` is refused or returns an empty value.
    Idle,
    /// `register`: collects declarations.
    Registering(Box<Declarations>),
    /// `handle`: one event.
    Handling(Box<dyn HostCalls>),
}

impl InstanceState {
    pub(super) fn new(
        limits: &Limits,
        config: &Arc<WasiConfigVariables>,
        output: &Arc<Output>,
        plugin_memory: &Arc<AtomicUsize>,
    ) -> Self {
        let current = Arc::default();
        let stderr = LineStream::stderr(output, &current);
        let wasi = WasiCtx::builder()
            .stdout(LineStream::stdout(output, &current))
            .stderr(stderr.clone())
            .max_random_size(limits.random_bytes.get())
            .allow_tcp(false)
            .allow_udp(false)
            .build();
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(limits.handles.get());
        let memory = MemoryLimiter::new(limits, plugin_memory);
        let (config, output) = (Arc::clone(config), Arc::clone(output));
        Self { phase: Phase::Idle, memory, config, output, current, stderr, wasi, resources }
    }

    fn handling(&mut self) -> std::result::Result<&mut dyn HostCalls, Refusal> {
        match &mut self.phase {
            Phase::Handling(calls) => Ok(calls.as_mut()),
            Phase::Registering(_) => {
                Err(Refusal::misuse("`register` may call nothing but `registry` and `log`"))
            }
            Phase::Idle => Err(Refusal::misuse("no event is being handled")),
        }
    }

    fn registering(&mut self) -> std::result::Result<&mut Declarations, Refusal> {
        match &mut self.phase {
            Phase::Registering(declarations) => Ok(declarations),
            Phase::Handling(_) | Phase::Idle => {
                Err(Refusal::misuse("`registry` can be called only while `register` runs"))
            }
        }
    }
}

impl WasiView for InstanceState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

/// Limits the bytes of all memories and tables of an instance, and of all instances of its plugin.
pub(super) struct MemoryLimiter {
    instance_bytes: usize,
    plugin_bytes: usize,
    /// Bytes used by this instance.
    pub(super) used: usize,
    /// Bytes used by all instances of the plugin.
    plugin_used: Arc<AtomicUsize>,
    /// Whether a request for more memory was refused. A trap that follows is attributed to that.
    pub(super) refused: bool,
    /// Whether a request was refused because of the limit for all instances of the plugin.
    pub(super) is_plugin_full: bool,
}

/// Bytes of one table element in the host's memory.
const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

impl MemoryLimiter {
    fn new(limits: &Limits, plugin_used: &Arc<AtomicUsize>) -> Self {
        Self {
            instance_bytes: limits.instance_memory_bytes.get(),
            plugin_bytes: limits.plugin_memory_bytes.get(),
            used: 0,
            plugin_used: Arc::clone(plugin_used),
            refused: false,
            is_plugin_full: false,
        }
    }

    fn grow(&mut self, bytes: usize) -> bool {
        if self.used.checked_add(bytes).is_none_or(|used| used > self.instance_bytes) {
            self.refused = true;
            return false;
        }
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.plugin_bytes);
        if self.plugin_used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            (self.refused, self.is_plugin_full) = (true, true);
            return false;
        }
        self.used += bytes;
        true
    }
}

impl Drop for MemoryLimiter {
    fn drop(&mut self) {
        self.plugin_used.fetch_sub(self.used, Ordering::Relaxed);
    }
}

impl ResourceLimiter for MemoryLimiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool> {
        let elements = desired.saturating_sub(current);
        Ok(maximum.is_none_or(|maximum| desired <= maximum)
            && self.grow(elements.saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

impl From<Refusal> for types::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

impl From<types::Refusal> for Refusal {
    fn from(refusal: types::Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

impl From<types::Target> for Target {
    fn from(target: types::Target) -> Self {
        match target {
            types::Target::Sender => Self::Sender,
            types::Target::Connection(id) => Self::Connection(id),
            types::Target::Rooms(rooms) => Self::Rooms(rooms),
            types::Target::RoomsButSender(rooms) => Self::RoomsButSender(rooms),
            types::Target::Everyone => Self::Everyone,
        }
    }
}

/// Result of a host call that can be refused.
type Answer<T> = std::result::Result<T, types::Refusal>;

impl types::Host for InstanceState {}

impl registry::Host for InstanceState {
    fn plugin(&mut self, name: String, version: String, description: String) -> Answer<()> {
        self.registering()?.plugin(&name, &version, description)?;
        Ok(())
    }

    fn handles(&mut self, event: String, data: String, reply: Option<String>) -> Answer<()> {
        self.registering()?.handles(&event, data, reply)?;
        Ok(())
    }

    fn requires(&mut self, event: String, access: String) -> Answer<()> {
        self.registering()?.requires(&event, &access)?;
        Ok(())
    }

    fn emits(&mut self, event: String, data: String, rooms: Vec<String>) -> Answer<()> {
        self.registering()?.emits(&event, data, &rooms)?;
        Ok(())
    }

    fn room(&mut self, pattern: String, access: String) -> Answer<()> {
        self.registering()?.room(&pattern, &access)?;
        Ok(())
    }

    fn listens(&mut self, event: String) -> Answer<()> {
        self.registering()?.listens(&event)?;
        Ok(())
    }
}

impl emitter::Host for InstanceState {
    fn emit(&mut self, to: types::Target, event: String, data: String) -> Answer<()> {
        self.handling()?.emit(to.into(), event, data, Vec::new())?;
        Ok(())
    }

    fn emit_binary(
        &mut self,
        to: types::Target,
        event: String,
        data: String,
        attachments: Vec<Vec<u8>>,
    ) -> Answer<()> {
        self.handling()?.emit(
            to.into(),
            event,
            data,
            attachments.into_iter().map(Into::into).collect(),
        )?;
        Ok(())
    }
}

impl rooms::Host for InstanceState {
    fn join(&mut self, room: String) -> Answer<()> {
        self.handling()?.join(room)?;
        Ok(())
    }

    fn leave(&mut self, room: String) -> Answer<()> {
        self.handling()?.leave(room)?;
        Ok(())
    }

    fn room_size(&mut self, room: String) -> u32 {
        self.handling().map_or(0, |calls| calls.room_size(&room))
    }

    fn rooms(&mut self) -> Vec<String> {
        self.handling().map_or_else(|_| Vec::new(), HostCalls::rooms)
    }
}

impl connections::Host for InstanceState {
    fn scan(&mut self, after: Option<String>, limit: u32) -> Answer<Vec<connections::Connection>> {
        let connections = self.handling()?.connections(after.as_deref(), limit)?;
        let lowered = connections.iter().map(|connection| connections::Connection {
            id: connection.public_id.clone(),
            user: connection.identity.user.clone(),
            namespace: connection.namespace.to_string(),
        });
        Ok(lowered.collect())
    }
}

impl identity::Host for InstanceState {
    fn has_role(&mut self, role: String) -> bool {
        self.handling().is_ok_and(|calls| calls.has_role(&role))
    }

    fn claims(&mut self) -> String {
        self.handling().map_or_else(|_| "null".to_owned(), |calls| calls.claims())
    }

    fn sid(&mut self) -> String {
        self.handling().map_or_else(|_| String::new(), |calls| calls.sid())
    }

    fn event_id(&mut self) -> String {
        self.handling().map_or_else(|_| String::new(), |calls| calls.event_id())
    }

    fn received_at(&mut self) -> u64 {
        self.handling().map_or(0, |calls| calls.received_at())
    }

    fn disconnect(&mut self, reason: String) {
        if let Ok(calls) = self.handling() {
            calls.disconnect(reason);
        }
    }
}

impl state::Host for InstanceState {
    fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        Ok(self.handling()?.get(&key)?)
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Answer<()> {
        self.handling()?.set(key, value)?;
        Ok(())
    }

    fn delete(&mut self, key: String) -> Answer<()> {
        self.handling()?.delete(&key)?;
        Ok(())
    }

    fn scan(
        &mut self,
        prefix: String,
        cursor: Option<String>,
        backwards: bool,
        limit: u32,
    ) -> Answer<Vec<state::Entry>> {
        let entries = self.handling()?.scan(&prefix, cursor.as_deref(), backwards, limit)?;
        Ok(entries.into_iter().map(|(key, value)| state::Entry { key, value }).collect())
    }

    async fn next_id(&mut self, sequence: String) -> Answer<u64> {
        Ok(self.handling()?.next_id(sequence).await?)
    }
}

impl log::Host for InstanceState {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => LogLevel::Trace,
            log::Level::Debug => LogLevel::Debug,
            log::Level::Info => LogLevel::Info,
            log::Level::Warn => LogLevel::Warn,
            log::Level::Error => LogLevel::Error,
        };
        self.output.write(level, &self.current, message);
    }
}
