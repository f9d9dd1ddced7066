//! Metrics of `$load`.

use super::{Counter, Family, Gauge, Labels, Metrics, Registry, register};

/// How far a plugin is with `$load`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LoadGauges {
    /// Whether its version has finished.
    pub(crate) is_finished: bool,
    /// Whether the last call has failed.
    pub(crate) is_failing: bool,
    /// What the handler has done and what is left, in its own unit.
    pub(crate) items: [u64; 2],
}

/// The registered metrics of `$load`.
pub(super) struct LoadMetrics {
    finished: Family<Labels, Gauge>,
    failing: Family<Labels, Gauge>,
    items: Family<Labels, Gauge>,
    calls: Family<Labels, Counter>,
}

impl LoadMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            finished: register(
                registry,
                "load_finished",
                "Whether the version of a plugin that serves has finished with `$load` (1)",
            ),
            failing: register(
                registry,
                "load_failing",
                "Whether the last call of `$load` of a plugin has failed (1)",
            ),
            items: register(
                registry,
                "load_items",
                "How far a plugin that has not finished with `$load` is, in its own unit, by state",
            ),
            calls: register(registry, "load_calls", "Calls of `$load` of a plugin, by outcome"),
        }
    }

    /// Sets the metrics of the plugins that handle `$load`. Metrics of removed plugins are not
    /// shown any more.
    pub(super) fn show<'plugin>(&self, plugins: impl Iterator<Item = (&'plugin str, LoadGauges)>) {
        self.finished.clear();
        self.failing.clear();
        self.items.clear();
        for (plugin, load) in plugins {
            let labels = vec![("plugin", plugin.to_owned())];
            self.finished.get_or_create(&labels).set(load.is_finished.into());
            self.failing.get_or_create(&labels).set(load.is_failing.into());
            let [done, left] = load.items;
            for (state, number) in [("done", done), ("left", left)] {
                let labels = vec![("plugin", plugin.to_owned()), ("state", state.to_owned())];
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                self.items.get_or_create(&labels).set(number);
            }
        }
    }
}

impl Metrics {
    /// Counts a call of `$load` of `plugin`; `outcome` is `progressed`, `finished` or `failed`.
    pub(crate) fn load_event(&self, plugin: &str, outcome: &'static str) {
        let labels = vec![("plugin", plugin.to_owned()), ("outcome", outcome.to_owned())];
        self.load.calls.get_or_create(&labels).inc();
    }
}
