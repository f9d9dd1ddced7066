//! The host's metrics for Prometheus. Only this file uses prometheus-client.
//!
//! Clients can't choose the value of a label: plugins and events are registered names, and outcomes
//! are codes of rejections. Events without a handler are counted without a name.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The labels of one metric, names and values.
type Labels = Vec<(&'static str, String)>;

/// All metrics of one host.
pub struct Metrics {
    registry: Registry,
    events: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    reloads: Family<Labels, Counter>,
    breaker_trips: Family<Labels, Counter>,
    breaker_open: Family<Labels, Gauge>,
    instances: Family<Labels, Gauge>,
    memory: Family<Labels, Gauge>,
    state: Family<Labels, Gauge>,
    state_wal: Family<Labels, Gauge>,
    state_quota: Family<Labels, Gauge>,
    state_failing: Family<Labels, Gauge>,
    state_failures: Family<Labels, Counter>,
    connections: Gauge,
    mailbox_rejections: Counter,
    log_lines_dropped: Counter,
    host_events_waiting: Family<Labels, Gauge>,
    host_events_dropped: Family<Labels, Counter>,
    resyncs: Family<Labels, Counter>,
    resync_failures: Family<Labels, Counter>,
    generation: Gauge,
    directory_ok: Gauge,
    tcp_connections: Gauge,
    sessions: Gauge,
    connections_limit: Gauge,
    connections_refused: Counter,
    mailbox: Gauge,
    mailbox_limit: Gauge,
    overflow: Gauge,
    overflow_limit: Gauge,
    unfinished: Gauge,
    unfinished_limit: Gauge,
    detached: Gauge,
    recovery: Gauge,
    recovery_limit: Gauge,
}

/// The use of resources that all clients share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// TCP connections of clients.
    pub connections: usize,
    /// Engine.IO sessions, including those that are closing.
    pub sessions: usize,
    /// The limit of connections, and of sessions.
    pub limit: usize,
    /// Bytes that wait in all mailboxes.
    pub mailbox: usize,
    /// The limit of these bytes.
    pub mailbox_limit: usize,
    /// Bytes that wait for clients that are slow to read.
    pub overflow: usize,
    /// The limit of these bytes.
    pub overflow_limit: usize,
    /// Bytes of messages that are not complete.
    pub unfinished: usize,
    /// The limit of these bytes.
    pub unfinished_limit: usize,
    /// Connections that lost their transport and whose client may return.
    pub detached: usize,
    /// Bytes of events that are kept for clients that return.
    pub recovery: usize,
    /// The limit of these bytes.
    pub recovery_limit: usize,
}

/// The metrics of one event type, looked up once: counting a success allocates nothing.
#[derive(Clone)]
pub struct Meter {
    plugin: String,
    event: String,
    ok: Counter,
    seconds: Histogram,
    events: Family<Labels, Counter>,
}

/// Metrics of one plugin that are read at each scrape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauges {
    /// The plugin's name.
    pub plugin: String,
    /// Number of instances.
    pub instances: usize,
    /// Memory of all instances in bytes.
    pub memory: usize,
    /// Whether its breaker is open.
    pub is_open: bool,
    /// Host events that wait for it.
    pub host_events: usize,
    /// Metrics of its state.
    pub state: StateGauges,
}

/// Metrics of one plugin's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateGauges {
    /// Bytes on disk, including the write-ahead log.
    pub bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal: u64,
    /// The quota in bytes.
    pub quota: u64,
    /// For each kind of failure: its name, whether it occurs now, and the number of failures so
    /// far.
    pub failures: Vec<(&'static str, bool, u64)>,
}

/// Buckets from 100 µs, doubling, to 6.5 s: a handler's time limit is 5 s.
fn handler_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sockhop");
        let events = Family::default();
        registry.register(
            "events",
            "Events that plugins were asked to handle, by what became of them",
            events.clone(),
        );
        let seconds = Family::new_with_constructor(handler_seconds as fn() -> Histogram);
        registry.register_with_unit(
            "handler",
            "Time from an event's turn to its answer",
            Unit::Seconds,
            seconds.clone(),
        );
        let reloads = Family::default();
        registry.register(
            "reloads",
            "Versions of plugins that were loaded, by what became of them",
            reloads.clone(),
        );
        let breaker_trips = Family::default();
        registry.register(
            "breaker_trips",
            "Times that a plugin's breaker has opened",
            breaker_trips.clone(),
        );
        let breaker_open = Family::default();
        registry.register(
            "breaker_open",
            "Whether a plugin's breaker is open (1)",
            breaker_open.clone(),
        );
        let instances = Family::default();
        registry.register(
            "plugin_instances",
            "Instances of a plugin, at work and waiting",
            instances.clone(),
        );
        let memory = Family::default();
        registry.register_with_unit(
            "plugin_memory",
            "Memory of all instances of a plugin",
            Unit::Bytes,
            memory.clone(),
        );
        let (state, state_wal, state_quota) =
            (Family::default(), Family::default(), Family::default());
        registry.register_with_unit(
            "plugin_state",
            "Disk space of a plugin's state, its write-ahead log included",
            Unit::Bytes,
            state.clone(),
        );
        registry.register_with_unit(
            "plugin_state_wal",
            "The write-ahead log of a plugin's state",
            Unit::Bytes,
            state_wal.clone(),
        );
        registry.register_with_unit(
            "plugin_state_quota",
            "Disk space that a plugin's state may take",
            Unit::Bytes,
            state_quota.clone(),
        );
        let (state_failing, state_failures) = (Family::default(), Family::default());
        registry.register(
            "plugin_state_failing",
            "Whether a plugin's state fails (1), by kind: can't be read or written, waits for another process, or met its quota",
            state_failing.clone(),
        );
        registry.register(
            "plugin_state_failures",
            "Calls and commits that failed because of a plugin's state",
            state_failures.clone(),
        );
        let (connections, mailbox_rejections, generation) =
            (Gauge::default(), Counter::default(), Gauge::default());
        registry.register("connections", "Connections to all namespaces", connections.clone());
        registry.register(
            "mailbox_rejections",
            "Events that found their connection's mailbox full",
            mailbox_rejections.clone(),
        );
        let log_lines_dropped = Counter::default();
        let help =
            "Log lines that came faster than they could be written, or could not be written at all";
        registry.register("log_lines_dropped", help, log_lines_dropped.clone());
        registry.register(
            "generation",
            "The generation of plugins that is served",
            generation.clone(),
        );
        let (host_events_waiting, host_events_dropped, resyncs) =
            (Family::default(), Family::default(), Family::default());
        registry.register(
            "host_events_waiting",
            "Host events that a plugin has not handled yet",
            host_events_waiting.clone(),
        );
        registry.register(
            "host_events_dropped",
            "Host events that a plugin has missed: too many waited",
            host_events_dropped.clone(),
        );
        registry.register(
            "resyncs",
            "Times that a plugin was told to read the connections again",
            resyncs.clone(),
        );
        let resync_failures = Family::default();
        registry.register(
            "resync_failures",
            "Times that a plugin failed to do so, and is told again",
            resync_failures.clone(),
        );
        let directory_ok = Gauge::default();
        let help = "Whether the plugin directory can be read and is not suddenly empty (1); if not (0), its plugins keep serving";
        registry.register("plugin_directory_ok", help, directory_ok.clone());
        let (tcp_connections, sessions, connections_limit) =
            (Gauge::default(), Gauge::default(), Gauge::default());
        registry.register("tcp_connections", "TCP connections of clients", tcp_connections.clone());
        registry.register(
            "sessions",
            "Engine.IO sessions, those that are closing included",
            sessions.clone(),
        );
        registry.register(
            "connections_limit",
            "TCP connections, and sessions, that clients may have at once",
            connections_limit.clone(),
        );
        let connections_refused = Counter::default();
        let help = "Connections and handshakes refused because the host was at its limit";
        registry.register("connections_refused", help, connections_refused.clone());
        let (mailbox, mailbox_limit) = (Gauge::default(), Gauge::default());
        registry.register_with_unit(
            "mailbox",
            "Memory of the events that wait in all mailboxes",
            Unit::Bytes,
            mailbox.clone(),
        );
        registry.register_with_unit(
            "mailbox_limit",
            "The most of that memory",
            Unit::Bytes,
            mailbox_limit.clone(),
        );
        let (overflow, overflow_limit) = (Gauge::default(), Gauge::default());
        let help = "Memory of what waits for clients that are slow to read";
        registry.register_with_unit("overflow", help, Unit::Bytes, overflow.clone());
        registry.register_with_unit(
            "overflow_limit",
            "The most of that memory",
            Unit::Bytes,
            overflow_limit.clone(),
        );
        let (unfinished, unfinished_limit) = (Gauge::default(), Gauge::default());
        registry.register_with_unit(
            "unfinished",
            "Memory of messages whose end has not come",
            Unit::Bytes,
            unfinished.clone(),
        );
        registry.register_with_unit(
            "unfinished_limit",
            "The most of that memory",
            Unit::Bytes,
            unfinished_limit.clone(),
        );
        let [detached, recovery, recovery_limit] = [(); 3].map(|()| Gauge::default());
        registry.register(
            "detached_connections",
            "Connections whose transport was lost and whose client may return",
            detached.clone(),
        );
        registry.register_with_unit(
            "recovery",
            "Memory of the events that are kept for clients that return",
            Unit::Bytes,
            recovery.clone(),
        );
        registry.register_with_unit(
            "recovery_limit",
            "The most of that memory",
            Unit::Bytes,
            recovery_limit.clone(),
        );
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        registry.register("build_info", "The host's version", build);
        Self {
            registry,
            events,
            seconds,
            reloads,
            breaker_trips,
            breaker_open,
            instances,
            memory,
            state,
            state_wal,
            state_quota,
            state_failing,
            state_failures,
            connections,
            mailbox_rejections,
            log_lines_dropped,
            host_events_waiting,
            host_events_dropped,
            resyncs,
            resync_failures,
            generation,
            directory_ok,
            tcp_connections,
            sessions,
            connections_limit,
            connections_refused,
            mailbox,
            mailbox_limit,
            overflow,
            overflow_limit,
            unfinished,
            unfinished_limit,
            detached,
            recovery,
            recovery_limit,
        }
    }
}

impl Metrics {
    /// Returns the metrics of `event` of `plugin`.
    pub fn meter(&self, plugin: &str, event: &str) -> Meter {
        let ok = self.events.get_or_create_owned(&labels(plugin, event, "ok"));
        let seconds = self.seconds.get_or_create_owned(&vec![("plugin", plugin.to_owned())]);
        Meter {
            plugin: plugin.to_owned(),
            event: event.to_owned(),
            ok,
            seconds,
            events: self.events.clone(),
        }
    }

    /// Counts an event that no plugin handles.
    pub fn unknown_event(&self) {
        self.events.get_or_create(&labels("", "", "unknown_event")).inc();
    }

    /// Sets whether the plugin directory can be read and is not suddenly empty.
    pub fn directory(&self, is_ok: bool) {
        self.directory_ok.set(is_ok.into());
    }

    /// Counts an event that was rejected because its mailbox was full.
    pub fn mailbox_rejection(&self) {
        self.mailbox_rejections.inc();
    }

    /// Sets the number of lines that this process's log has dropped since its start.
    pub fn log_lines_dropped(&self, lines: u64) {
        self.log_lines_dropped.inner().fetch_max(lines, Ordering::Relaxed);
    }

    /// Counts a connection or a handshake that got no slot.
    pub fn connection_refused(&self) {
        self.connections_refused.inc();
    }

    /// Sets the gauges that are read at each scrape.
    pub fn show_usage(&self, usage: &Usage) {
        self.tcp_connections.set(number(usage.connections));
        self.sessions.set(number(usage.sessions));
        self.connections_limit.set(number(usage.limit));
        self.mailbox.set(number(usage.mailbox));
        self.mailbox_limit.set(number(usage.mailbox_limit));
        self.overflow.set(number(usage.overflow));
        self.overflow_limit.set(number(usage.overflow_limit));
        self.unfinished.set(number(usage.unfinished));
        self.unfinished_limit.set(number(usage.unfinished_limit));
        self.detached.set(number(usage.detached));
        self.recovery.set(number(usage.recovery));
        self.recovery_limit.set(number(usage.recovery_limit));
    }

    /// Counts a change of `plugin`; `outcome` is `active`, `failed` or `removed`.
    pub fn reload(&self, plugin: &str, outcome: &'static str) {
        self.reloads
            .get_or_create(&vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())])
            .inc();
    }

    /// Counts an opening of the breaker of `plugin`.
    pub fn breaker_trip(&self, plugin: &str) {
        self.breaker_trips.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }

    /// Counts host events that `plugin` will not handle.
    pub fn host_events_dropped(&self, plugin: &str, events: usize) {
        self.host_events_dropped
            .get_or_create(&vec![("plugin", plugin.to_owned())])
            .inc_by(events as u64);
    }

    /// Counts a request to `plugin` to read the connections again.
    pub fn resync(&self, plugin: &str) {
        self.resyncs.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }

    /// Counts a failure of `plugin` to read the connections again.
    pub fn resync_failed(&self, plugin: &str) {
        self.resync_failures.get_or_create(&vec![("plugin", plugin.to_owned())]).inc();
    }

    /// Returns all metrics as text in the OpenMetrics format.
    ///
    /// # Errors
    /// None is known: the text is written to memory.
    pub fn render(
        &self,
        connections: usize,
        generation: u64,
        plugins: &[Gauges],
    ) -> Result<String, fmt::Error> {
        self.connections.set(number(connections));
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        // Metrics of removed plugins are not shown any more.
        self.breaker_open.clear();
        self.instances.clear();
        self.memory.clear();
        self.host_events_waiting.clear();
        for family in [&self.state, &self.state_wal, &self.state_quota, &self.state_failing] {
            family.clear();
        }
        self.state_failures.clear();
        for plugin in plugins {
            let labels = vec![("plugin", plugin.plugin.clone())];
            self.breaker_open.get_or_create(&labels).set(i64::from(plugin.is_open));
            self.instances.get_or_create(&labels).set(number(plugin.instances));
            self.memory.get_or_create(&labels).set(number(plugin.memory));
            self.host_events_waiting.get_or_create(&labels).set(number(plugin.host_events));
            let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            self.state.get_or_create(&labels).set(bytes(plugin.state.bytes));
            self.state_wal.get_or_create(&labels).set(bytes(plugin.state.wal));
            self.state_quota.get_or_create(&labels).set(bytes(plugin.state.quota));
            for &(kind, is_failing, count) in &plugin.state.failures {
                let labels = vec![("plugin", plugin.plugin.clone()), ("kind", kind.to_owned())];
                self.state_failing.get_or_create(&labels).set(i64::from(is_failing));
                self.state_failures.get_or_create(&labels).inc_by(count);
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Meter {
    /// Records an event that was answered after `elapsed`: `rejection` is the code of its
    /// rejection, or `None` for a reply.
    pub fn record(&self, rejection: Option<&'static str>, elapsed: Duration) {
        self.seconds.observe(elapsed.as_secs_f64());
        match rejection {
            None => self.ok.inc(),
            Some(code) => self.events.get_or_create(&labels(&self.plugin, &self.event, code)).inc(),
        };
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

fn number(figure: usize) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}

fn labels(plugin: &str, event: &str, outcome: &str) -> Labels {
    vec![
        ("plugin", plugin.to_owned()),
        ("event", event.to_owned()),
        ("outcome", outcome.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_shown_by_plugin_event_and_outcome() {
        let metrics = Metrics::default();
        let meter = metrics.meter("lab", "echo");
        meter.record(None, Duration::from_millis(1));
        meter.record(Some("refused"), Duration::from_millis(1));
        metrics.unknown_event();
        metrics.log_lines_dropped(5);
        let failures = vec![("read", false, 0), ("write", true, 5), ("quota", true, 0)];
        let state = StateGauges { bytes: 300, wal: 200, quota: 1_000, failures };
        let lab = Gauges {
            plugin: "lab".to_owned(),
            instances: 2,
            memory: 100,
            is_open: true,
            host_events: 5,
            state,
        };
        let text = metrics.render(3, 4, &[lab]).unwrap();
        for line in [
            r#"sockhop_events_total{plugin="lab",event="echo",outcome="ok"} 1"#,
            r#"sockhop_events_total{plugin="lab",event="echo",outcome="refused"} 1"#,
            r#"sockhop_events_total{plugin="",event="",outcome="unknown_event"} 1"#,
            r#"sockhop_handler_seconds_count{plugin="lab"} 2"#,
            r#"sockhop_plugin_memory_bytes{plugin="lab"} 100"#,
            r#"sockhop_breaker_open{plugin="lab"} 1"#,
            "sockhop_log_lines_dropped_total 5",
            r#"sockhop_host_events_waiting{plugin="lab"} 5"#,
            r#"sockhop_plugin_state_bytes{plugin="lab"} 300"#,
            r#"sockhop_plugin_state_wal_bytes{plugin="lab"} 200"#,
            r#"sockhop_plugin_state_quota_bytes{plugin="lab"} 1000"#,
            r#"sockhop_plugin_state_failing{plugin="lab",kind="write"} 1"#,
            r#"sockhop_plugin_state_failing{plugin="lab",kind="read"} 0"#,
            r#"sockhop_plugin_state_failing{plugin="lab",kind="quota"} 1"#,
            r#"sockhop_plugin_state_failures_total{plugin="lab",kind="write"} 5"#,
            "sockhop_connections 3",
            "sockhop_generation 4",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}:\n{text}");
        }
        assert!(
            !metrics.render(0, 4, &[]).unwrap().contains("sockhop_plugin_memory_bytes{"),
            "a plugin that is gone"
        );
    }
}
