//! Versions that were replaced or removed and still run their last events.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::ActivePlugin;

/// How often to check whether the last event has ended.
const CHECK_EVERY: Duration = Duration::from_millis(200);

/// Versions that were taken out of service.
#[derive(Default)]
pub(super) struct Draining {
    versions: Vec<DrainingVersion>,
    /// When the next check is due; `None` if there are no such versions.
    next_check: Option<Instant>,
}

struct DrainingVersion {
    name: String,
    file: PathBuf,
    active: Weak<ActivePlugin>,
    /// When the events that still run are ended.
    until: Instant,
}

impl Draining {
    /// Starts to drain a version that no longer serves: it keeps no idle instances, and its running
    /// events have `drain_ms` to end.
    pub(super) fn begin(&mut self, old: &Arc<ActivePlugin>) {
        old.code.retire();
        let until = Instant::now() + old.code.limits().drain_ms;
        let (name, file) = (old.code.name().to_owned(), old.code.file.clone());
        self.versions.push(DrainingVersion { name, file, active: Arc::downgrade(old), until });
    }

    /// Ends events that have exceeded their time, and drops the entries of versions that have
    /// drained.
    pub(super) fn step(&mut self) {
        let now = Instant::now();
        self.versions.retain(|version| match version.active.upgrade() {
            None => false,
            Some(active) if version.until <= now => {
                tracing::warn!(
                    plugin = version.name,
                    digest = active.code.digest,
                    "events of a replaced version have exceeded their time and are stopped"
                );
                active.code.end();
                // Its events end when they next yield to the host; the last holder then drops the
                // version.
                false
            }
            Some(_) => true,
        });
        self.next_check =
            self.versions.iter().map(|version| version.until.min(now + CHECK_EVERY)).min();
    }

    /// Returns when the next check is due, or `None` if no version is draining.
    pub(super) fn next_check_at(&self) -> Option<Instant> {
        self.next_check
    }

    /// Returns how many versions of `name` still run events.
    pub(super) fn count(&self, name: &str) -> usize {
        self.running().filter(|version| version.name == name).count()
    }

    /// Returns the plugins with draining versions, and their files; a plugin with several such
    /// versions appears several times.
    pub(super) fn plugins(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.running().map(|version| (version.name.as_str(), &version.file))
    }

    fn running(&self) -> impl Iterator<Item = &DrainingVersion> {
        self.versions.iter().filter(|version| version.active.strong_count() > 0)
    }
}
