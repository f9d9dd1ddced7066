//! Metrics of each plugin: its versions, breaker, instances, memory and host events.

use super::load::LoadGauges;
use super::state::{StateGauges, StateMetrics};
use super::{Counter, Family, Gauge, Labels, Metrics, Registry, number, register, register_bytes};

/// Metrics of one plugin that are read at each scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// The plugin's name.
    pub(crate) plugin: String,
    /// Number of instances.
    pub(crate) instances: usize,
    /// Memory of all instances in bytes.
    pub(crate) memory: usize,
    /// Whether its breaker is open.
    pub(crate) is_open: bool,
    /// Host events that wait for it.
    pub(crate) host_events: usize,
    /// Acks of clients that it waits for.
    pub(crate) pending_acks: usize,
    /// Timers that are set.
    pub(crate) timers: u64,
    /// Timers that are dead.
    pub(crate) dead_timers: u64,
    /// Deliveries that wait, and that are dead.
    pub(crate) deliveries: [u64; 2],
    /// How far it is with `$load`; `None` if it does not handle it.
    pub(crate) load: Option<LoadGauges>,
    /// Metrics of its state.
    pub(crate) state: StateGauges,
}

/// The registered metrics of all plugins, except those of host events.
pub(super) struct PluginMetrics {
    reloads: Family<Labels, Counter>,
    breaker_trips: Family<Labels, Counter>,
    breaker_open: Family<Labels, Gauge>,
    instances: Family<Labels, Gauge>,
    memory: Family<Labels, Gauge>,
    state: StateMetrics,
}

/// The registered metrics of timers.
pub(super) struct TimerMetrics {
    timers: Family<Labels, Gauge>,
    fired: Family<Labels, Counter>,
}

/// The registered metrics of host events. The text shows them apart from the others.
pub(super) struct HostEventMetrics {
    waiting: Family<Labels, Gauge>,
    dropped: Family<Labels, Counter>,
    resyncs: Family<Labels, Counter>,
    resync_failures: Family<Labels, Counter>,
}

impl PluginMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            reloads: register(
                registry,
                "reloads",
                "Versions of plugins that were loaded, by what became of them",
            ),
            breaker_trips: register(
                registry,
                "breaker_trips",
                "Times that a plugin's breaker has opened",
            ),
            breaker_open: register(
                registry,
                "breaker_open",
                "Whether a plugin's breaker is open (1)",
            ),
            instances: register(
                registry,
                "plugin_instances",
                "Instances of a plugin, at work and waiting",
            ),
            memory: register_bytes(
                registry,
                "plugin_memory",
                "Memory of all instances of a plugin",
            ),
            state: StateMetrics::new(registry),
        }
    }

    /// Sets the metrics of `plugins`. Metrics of removed plugins are not shown any more.
    pub(super) fn show(&self, plugins: &[Gauges]) {
        self.breaker_open.clear();
        self.instances.clear();
        self.memory.clear();
        self.state.clear();
        for plugin in plugins {
            let labels = vec![("plugin", plugin.plugin.clone())];
            self.breaker_open.get_or_create(&labels).set(i64::from(plugin.is_open));
            self.instances.get_or_create(&labels).set(number(plugin.instances));
            self.memory.get_or_create(&labels).set(number(plugin.memory));
            self.state.show(&plugin.plugin, &plugin.state);
        }
    }
}

impl TimerMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            timers: register(
                registry,
                "timers",
                "Timers of a plugin that are set or dead, by state",
            ),
            fired: register(
                registry,
                "timer_events",
                "Events of timers that a plugin's handler was called for, by outcome",
            ),
        }
    }

    /// Sets the metrics of `plugins`. Metrics of removed plugins are not shown any more.
    pub(super) fn show(&self, plugins: &[Gauges]) {
        self.timers.clear();
        for plugin in plugins {
            for (state, number) in [("set", plugin.timers), ("dead", plugin.dead_timers)] {
                let labels = vec![("plugin", plugin.plugin.clone()), ("state", state.to_owned())];
                self.timers.get_or_create(&labels).set(i64::try_from(number).unwrap_or(i64::MAX));
            }
        }
    }
}

impl HostEventMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            waiting: register(
                registry,
                "host_events_waiting",
                "Host events that a plugin has not handled yet",
            ),
            dropped: register(
                registry,
                "host_events_dropped",
                "Host events that a plugin has missed: too many waited",
            ),
            resyncs: register(
                registry,
                "resyncs",
                "Times that a plugin was told to read the connections again",
            ),
            resync_failures: register(
                registry,
                "resync_failures",
                "Times that a plugin failed to do so, and is told again",
            ),
        }
    }

    /// Sets the metrics of `plugins`. Metrics of removed plugins are not shown any more.
    pub(super) fn show(&self, plugins: &[Gauges]) {
        self.waiting.clear();
        for plugin in plugins {
            let labels = vec![("plugin", plugin.plugin.clone())];
            self.waiting.get_or_create(&labels).set(number(plugin.host_events));
        }
    }
}

impl Metrics {
    /// Counts a change of `plugin`; `outcome` is `active`, `failed` or `removed`.
    pub(crate) fn reload(&self, plugin: &str, outcome: &'static str) {
        self.plugins
            .reloads
            .get_or_create(&vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())])
            .inc();
    }

    /// Counts an opening of the breaker of `plugin`.
    pub(crate) fn breaker_trip(&self, plugin: &str) {
        self.plugins.breaker_trips.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }

    /// Counts an event of a timer of `plugin`; `outcome` is `handled`, `failed` or `dead`.
    pub(crate) fn timer_event(&self, plugin: &str, outcome: &'static str) {
        self.timers
            .fired
            .get_or_create(&vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())])
            .inc();
    }

    /// Counts host events that `plugin` will not handle.
    pub(crate) fn host_events_dropped(&self, plugin: &str, events: usize) {
        self.host_events
            .dropped
            .get_or_create(&vec![("plugin", plugin.to_owned())])
            .inc_by(events as u64);
    }

    /// Counts a request to `plugin` to read the connections again.
    pub(crate) fn resync(&self, plugin: &str) {
        self.host_events.resyncs.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }

    /// Counts a failure of `plugin` to read the connections again.
    pub(crate) fn resync_failed(&self, plugin: &str) {
        self.host_events.resync_failures.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }
}
