//! Metrics of the deliveries of plugins.

use super::{Counter, Family, Gauge, Gauges, Labels, Metrics, Registry, register};

/// The registered metrics of deliveries.
pub(super) struct DeliveryMetrics {
    deliveries: Family<Labels, Gauge>,
    attempts: Family<Labels, Counter>,
}

impl DeliveryMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            deliveries: register(
                registry,
                "deliveries",
                "Deliveries of a plugin that wait or are dead, by state",
            ),
            attempts: register(
                registry,
                "delivery_attempts",
                "Attempts to send a delivery of a plugin, by outcome",
            ),
        }
    }

    /// Sets the metrics of `plugins`. Metrics of removed plugins are not shown any more.
    pub(super) fn show(&self, plugins: &[Gauges]) {
        self.deliveries.clear();
        for plugin in plugins {
            let [waiting, dead] = plugin.deliveries;
            for (state, number) in [("waiting", waiting), ("dead", dead)] {
                let labels = vec![("plugin", plugin.plugin.clone()), ("state", state.to_owned())];
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                self.deliveries.get_or_create(&labels).set(number);
            }
        }
    }
}

impl Metrics {
    /// Counts an attempt to send a delivery of `plugin`; `outcome` is `delivered`, `failed` or
    /// `dead`.
    pub(crate) fn delivery_attempt(&self, plugin: &str, outcome: &'static str) {
        let labels = vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())];
        self.deliveries.attempts.get_or_create(&labels).inc();
    }
}
