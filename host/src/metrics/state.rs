//! Metrics of each plugin's state: its disk space and its failures.

use super::{Counter, Family, Gauge, Labels, Registry, register, register_bytes};

/// Metrics of one plugin's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StateGauges {
    /// Bytes on disk, including the write-ahead log.
    pub(crate) bytes: u64,
    /// Bytes of the write-ahead log.
    pub(crate) wal: u64,
    /// The quota in bytes.
    pub(crate) quota: u64,
    /// For each kind of failure: its name, whether it occurs now, and the number of failures so
    /// far.
    pub(crate) failures: Vec<(&'static str, bool, u64)>,
}

/// The registered metrics of the state of all plugins.
pub(super) struct StateMetrics {
    bytes: Family<Labels, Gauge>,
    wal: Family<Labels, Gauge>,
    quota: Family<Labels, Gauge>,
    failing: Family<Labels, Gauge>,
    failures: Family<Labels, Counter>,
}

impl StateMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            bytes: register_bytes(
                registry,
                "plugin_state",
                "Disk space of a plugin's state, its write-ahead log included",
            ),
            wal: register_bytes(
                registry,
                "plugin_state_wal",
                "The write-ahead log of a plugin's state",
            ),
            quota: register_bytes(
                registry,
                "plugin_state_quota",
                "Disk space that a plugin's state may take",
            ),
            failing: register(
                registry,
                "plugin_state_failing",
                "Whether a plugin's state fails (1), by kind: can't be read or written, waits for \
                 another process, or met its quota",
            ),
            failures: register(
                registry,
                "plugin_state_failures",
                "Calls and commits that failed because of a plugin's state",
            ),
        }
    }

    /// Removes the metrics of all plugins.
    pub(super) fn clear(&self) {
        for family in [&self.bytes, &self.wal, &self.quota, &self.failing] {
            family.clear();
        }
        self.failures.clear();
    }

    /// Sets the metrics of `plugin`, which were cleared before.
    pub(super) fn show(&self, plugin: &str, state: &StateGauges) {
        let labels = vec![("plugin", plugin.to_owned())];
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.bytes.get_or_create(&labels).set(bytes(state.bytes));
        self.wal.get_or_create(&labels).set(bytes(state.wal));
        self.quota.get_or_create(&labels).set(bytes(state.quota));
        for &(kind, is_failing, count) in &state.failures {
            let labels = vec![("plugin", plugin.to_owned()), ("kind", kind.to_owned())];
            self.failing.get_or_create(&labels).set(i64::from(is_failing));
            self.failures.get_or_create(&labels).inc_by(count);
        }
    }
}
