//! The host's metrics for Prometheus. Each file below owns one subject: its figures, their
//! registration, and the methods that count them. Only this file names prometheus-client; the files
//! below take its types from here.
//!
//! Clients can't choose the value of a label: plugins and events are registered names, and outcomes
//! are codes of rejections. Events without a handler are counted without a name.

mod acks;
mod deliveries;
mod events;
mod histogram;
mod load;
mod outbound;
mod plugins;
mod state;
mod usage;

use std::fmt;
use std::sync::atomic::Ordering;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Metric, Registry, Unit};

use acks::AckMetrics;
use deliveries::DeliveryMetrics;
use events::EventMetrics;
use load::LoadMetrics;
use outbound::OutboundMetrics;
use plugins::{HostEventMetrics, PluginMetrics, TimerMetrics};
use usage::UsageMetrics;

pub(crate) use events::Meter;
pub(crate) use load::LoadGauges;
pub(crate) use plugins::Gauges;
pub(crate) use state::StateGauges;
pub(crate) use usage::ResourceUsage;

/// The labels of one metric, names and values.
type Labels = Vec<(&'static str, String)>;

/// All metrics of one host.
pub struct Metrics {
    registry: Registry,
    events: EventMetrics,
    plugins: PluginMetrics,
    connections: Gauge,
    mailbox_rejections: Counter,
    observed_refusals: Family<Labels, Counter>,
    rate_limited: Family<Labels, Counter>,
    proxy_headers_refused: Counter,
    tls_handshakes: Family<Labels, Counter>,
    tls_expiry: Family<Labels, Gauge>,
    log_lines_dropped: Counter,
    generation: Gauge,
    host_events: HostEventMetrics,
    acks: AckMetrics,
    timers: TimerMetrics,
    outbound: OutboundMetrics,
    deliveries: DeliveryMetrics,
    load: LoadMetrics,
    directory_ok: Gauge,
    usage: UsageMetrics,
}

impl Default for Metrics {
    /// Registers all metrics. The text shows them in the order in which they are registered.
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sockhop");
        let events = EventMetrics::new(&mut registry);
        let plugins = PluginMetrics::new(&mut registry);
        let connections = register(&mut registry, "connections", "Connections to all namespaces");
        let mailbox_rejections = register(
            &mut registry,
            "mailbox_rejections",
            "Events that found their connection's mailbox full",
        );
        let observed_refusals = register(
            &mut registry,
            "observed_refusals",
            "Events and joins that a rule with `observe = true` would have refused",
        );
        let rate_limited = register(
            &mut registry,
            "rate_limited",
            "Events that found the token bucket of their connection or user empty",
        );
        let proxy_headers_refused = register(
            &mut registry,
            "proxy_headers_refused",
            "Connections of trusted proxies without a valid header of the PROXY protocol",
        );
        let tls_handshakes = register(
            &mut registry,
            "tls_handshakes",
            "TLS handshakes with clients, by their result",
        );
        let tls_expiry = Family::<Labels, Gauge>::default();
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When the certificate that is served expires, in seconds since 1970",
            Unit::Seconds,
            tls_expiry.clone(),
        );
        let log_lines_dropped = register(
            &mut registry,
            "log_lines_dropped",
            "Log lines that came faster than they could be written, or could not be written at all",
        );
        let generation =
            register(&mut registry, "generation", "The generation of plugins that is served");
        let host_events = HostEventMetrics::new(&mut registry);
        let acks = AckMetrics::new(&mut registry);
        let timers = TimerMetrics::new(&mut registry);
        let outbound = OutboundMetrics::new(&mut registry);
        let deliveries = DeliveryMetrics::new(&mut registry);
        let load = LoadMetrics::new(&mut registry);
        let directory_ok = register(
            &mut registry,
            "plugin_directory_ok",
            "Whether the plugin directory can be read and is not suddenly empty (1); if not (0), \
             its plugins keep serving",
        );
        let usage = UsageMetrics::new(&mut registry);
        let build: Family<Labels, Gauge> =
            register(&mut registry, "build_info", "The host's version");
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        Self {
            registry,
            events,
            plugins,
            connections,
            mailbox_rejections,
            observed_refusals,
            rate_limited,
            proxy_headers_refused,
            tls_handshakes,
            tls_expiry,
            log_lines_dropped,
            generation,
            host_events,
            acks,
            timers,
            outbound,
            deliveries,
            load,
            directory_ok,
            usage,
        }
    }
}

impl Metrics {
    /// Sets whether the plugin directory can be read and is not suddenly empty.
    pub(crate) fn directory(&self, is_ok: bool) {
        self.directory_ok.set(is_ok.into());
    }

    /// Counts an event that was rejected because its mailbox was full.
    pub(crate) fn mailbox_rejection(&self) {
        self.mailbox_rejections.inc();
    }

    /// Counts what a rule that is only tried would have refused. `name` is that of a rule.
    pub(crate) fn observed_refusal(&self, kind: &'static str, name: &str) {
        let labels = vec![(kind, name.to_owned())];
        self.observed_refusals.get_or_create_owned(&labels).inc();
    }

    /// Counts an event that found a bucket of this kind empty.
    pub(crate) fn rate_limited(&self, kind: &'static str) {
        self.rate_limited.get_or_create_owned(&vec![("bucket", kind.to_owned())]).inc();
    }

    /// Counts a connection of a trusted proxy without a valid header.
    pub(crate) fn proxy_header_refused(&self) {
        self.proxy_headers_refused.inc();
    }

    /// Counts a TLS handshake with this result: `ok`, `failed` or `timed_out`.
    pub(crate) fn tls_handshake(&self, result: &'static str) {
        self.tls_handshakes.get_or_create_owned(&vec![("result", result.to_owned())]).inc();
    }

    /// Sets when the certificate expires, in seconds since 1970; `None` if that is not known.
    pub(crate) fn tls_expiry(&self, seconds: Option<i64>) {
        match seconds {
            Some(seconds) => {
                self.tls_expiry.get_or_create(&Vec::new()).set(seconds);
            }
            None => self.tls_expiry.clear(),
        }
    }

    /// Sets the number of lines that this process's log has dropped since its start.
    pub(crate) fn log_lines_dropped(&self, lines: u64) {
        self.log_lines_dropped.inner().fetch_max(lines, Ordering::Relaxed);
    }

    /// Returns all metrics as text in the OpenMetrics format.
    ///
    /// # Errors
    /// None is known: the text is written to memory.
    pub(crate) fn render(
        &self,
        connections: usize,
        generation: u64,
        plugins: &[Gauges],
    ) -> Result<String, fmt::Error> {
        self.connections.set(number(connections));
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.plugins.show(plugins);
        self.host_events.show(plugins);
        self.acks.show(plugins);
        self.timers.show(plugins);
        self.deliveries.show(plugins);
        let loads = plugins.iter();
        self.load.show(loads.filter_map(|plugin| Some((plugin.plugin.as_str(), plugin.load?))));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Registers a new metric without a unit.
fn register<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// Registers a new metric whose unit is bytes.
fn register_bytes<M: Metric + Clone + Default>(
    registry: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
    metric
}

fn number(figure: usize) -> i64 {
    i64::try_from(figure).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_are_shown_by_plugin_event_and_outcome() {
        let metrics = Metrics::default();
        let meter = metrics.meter("lab", "echo");
        meter.record(None, Duration::from_millis(1));
        meter.record(Some("refused"), Duration::from_millis(1));
        metrics.unknown_event();
        metrics.ack("lab", "timeout");
        metrics.volatile_skipped("lab", 3);
        metrics.timer_event("lab", "failed");
        metrics.outbound_request("lab", "timeout", Some(Duration::from_millis(1)));
        metrics.outbound_request("lab", "not_allowed", None);
        metrics.delivery_attempt("lab", "failed");
        metrics.load_event("lab", "progressed");
        metrics.log_lines_dropped(5);
        metrics.tls_handshake("failed");
        metrics.tls_expiry(Some(1_800_000_000));
        let failures = vec![("read", false, 0), ("write", true, 5), ("quota", true, 0)];
        let state = StateGauges { bytes: 300, wal: 200, quota: 1_000, failures };
        let lab = Gauges {
            plugin: "lab".to_owned(),
            instances: 2,
            memory: 100,
            is_open: true,
            host_events: 5,
            pending_acks: 4,
            timers: 7,
            dead_timers: 1,
            deliveries: [6, 2],
            load: Some(LoadGauges { is_finished: false, is_failing: true, items: [3, 4] }),
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
            r#"sockhop_tls_handshakes_total{result="failed"} 1"#,
            "sockhop_tls_certificate_expiry_timestamp_seconds{} 1800000000",
            r#"sockhop_host_events_waiting{plugin="lab"} 5"#,
            r#"sockhop_pending_acks{plugin="lab"} 4"#,
            r#"sockhop_acks_total{plugin="lab",outcome="timeout"} 1"#,
            r#"sockhop_volatile_emits_skipped_total{plugin="lab"} 3"#,
            r#"sockhop_timers{plugin="lab",state="set"} 7"#,
            r#"sockhop_timers{plugin="lab",state="dead"} 1"#,
            r#"sockhop_timer_events_total{plugin="lab",outcome="failed"} 1"#,
            r#"sockhop_outbound_requests_total{plugin="lab",outcome="timeout"} 1"#,
            r#"sockhop_outbound_requests_total{plugin="lab",outcome="not_allowed"} 1"#,
            r#"sockhop_outbound_seconds_count{plugin="lab"} 1"#,
            r#"sockhop_deliveries{plugin="lab",state="waiting"} 6"#,
            r#"sockhop_deliveries{plugin="lab",state="dead"} 2"#,
            r#"sockhop_delivery_attempts_total{plugin="lab",outcome="failed"} 1"#,
            r#"sockhop_load_finished{plugin="lab"} 0"#,
            r#"sockhop_load_failing{plugin="lab"} 1"#,
            r#"sockhop_load_items{plugin="lab",state="done"} 3"#,
            r#"sockhop_load_items{plugin="lab",state="left"} 4"#,
            r#"sockhop_load_calls_total{plugin="lab",outcome="progressed"} 1"#,
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
