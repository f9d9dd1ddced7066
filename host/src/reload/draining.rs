//! Versions that were taken out, while their last events run.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::registry::Served;

/// How often it is looked whether the last event has ended.
const LOOK: Duration = Duration::from_millis(200);

/// Versions that were taken out.
#[derive(Default)]
pub(super) struct Draining {
    leaving: Vec<Leaving>,
    /// Set while there are any.
    next_look: Option<Instant>,
}

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
        self.leaving.push(Leaving { name, file, served: Arc::downgrade(old), until });
    }

    /// Ends what runs too long, and forgets those that have ended.
    pub(super) fn step(&mut self) {
        let now = Instant::now();
        self.leaving.retain(|leaving| match leaving.served.upgrade() {
            None => false,
            Some(served) if leaving.until <= now => {
                tracing::warn!(plugin = leaving.name, digest = served.plugin.digest, "events on a version that was replaced are ended");
                served.plugin.end();
                // Nothing of it runs after its next step; who still holds it drops it.
                false
            }
            Some(_) => true,
        });
        self.next_look = self.leaving.iter().map(|leaving| leaving.until.min(now + LOOK)).min();
    }

    /// When to look again; nothing where there is nothing to look at.
    pub(super) fn next_step(&self) -> Option<Instant> {
        self.next_look
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
        self.leaving.iter().filter(|leaving| leaving.served.strong_count() > 0)
    }
}
