//! Metrics of emits with an ack, and of volatile emits.

use super::plugins::Gauges;
use super::{Counter, Family, Gauge, Labels, Metrics, Registry, number, register};

/// The registered metrics.
pub(super) struct AckMetrics {
    pending: Family<Labels, Gauge>,
    outcomes: Family<Labels, Counter>,
    skipped: Family<Labels, Counter>,
}

impl AckMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            pending: register(registry, "pending_acks", "Acks of clients that a plugin waits for"),
            outcomes: register(
                registry,
                "acks",
                "Emits with an ack of a plugin that have ended, by outcome",
            ),
            skipped: register(
                registry,
                "volatile_emits_skipped",
                "Volatile emits of a plugin that were skipped, once for each slow client",
            ),
        }
    }

    /// Sets the metrics of `plugins`. Metrics of removed plugins are not shown any more.
    pub(super) fn show(&self, plugins: &[Gauges]) {
        self.pending.clear();
        for plugin in plugins {
            let labels = vec![("plugin", plugin.plugin.clone())];
            self.pending.get_or_create(&labels).set(number(plugin.pending_acks));
        }
    }
}

impl Metrics {
    /// Counts an emit with an ack that has ended with this outcome.
    pub(crate) fn ack(&self, plugin: &str, outcome: &'static str) {
        let labels = vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())];
        self.acks.outcomes.get_or_create_owned(&labels).inc();
    }

    /// Counts volatile emits that were skipped: each client counts once for each event.
    pub(crate) fn volatile_skipped(&self, plugin: &str, number: usize) {
        let labels = vec![("plugin", plugin.to_owned())];
        self.acks.skipped.get_or_create_owned(&labels).inc_by(number as u64);
    }
}
