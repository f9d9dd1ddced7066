//! Versions that were taken out, while their last events run.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::Served;

/// How often it is looked whether the last event has ended.
const LOOK: Duration = Duration::from_secs(1);

/// Versions that were taken out.
#[derive(Default)]
pub(super) struct Draining(Vec<Leaving>);

struct Leaving {
    name: String,
    file: PathBuf,
    served: Weak<Served>,
    /// When what still runs is ended.
    until: Instant,
}

impl Draining {
    /// A version does not serve any more: it keeps no instance, and what runs on it goes on for a while.
    pub(super) fn begin(&mut self, old: &Arc<Served>) {
        old.plugin.retire();
        let until = Instant::now() + old.plugin.limits().drain_ms;
        let (name, file) = (old.plugin.name().to_owned(), old.plugin.file.clone());
        self.0.push(Leaving { name, file, served: Arc::downgrade(old), until });
    }

    /// Ends what runs too long, and forgets those that have ended.
    pub(super) fn step(&mut self) {
        let now = Instant::now();
        self.0.retain(|leaving| match leaving.served.upgrade() {
            None => false,
            Some(served) if leaving.until <= now => {
                tracing::warn!(plugin = leaving.name, digest = served.plugin.digest, "events on a version that was replaced are ended");
                served.plugin.end();
                // Nothing of it runs after its next step; who still holds it drops it.
                false
            }
            Some(_) => true,
        });
    }

    /// When to look again; nothing where there is nothing to look at.
    pub(super) fn next_step(&self) -> Option<Instant> {
        let now = Instant::now();
        self.0.iter().map(|leaving| leaving.until.min(now + LOOK)).min()
    }

    /// Versions of `name` on which events run.
    pub(super) fn count(&self, name: &str) -> usize {
        self.running().filter(|leaving| leaving.name == name).count()
    }

    /// The plugins of which events run, with their files; one that has several versions is there several times.
    pub(super) fn plugins(&self) -> impl Iterator<Item = (&str, &PathBuf)> {
        self.running().map(|leaving| (leaving.name.as_str(), &leaving.file))
    }

    fn running(&self) -> impl Iterator<Item = &Leaving> {
        self.0.iter().filter(|leaving| leaving.served.strong_count() > 0)
    }
}
