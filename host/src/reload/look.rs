//! Scans the plugin directory: decides which files are new, have changed or are to be tried again,
//! and whether a scan is believed.

use std::io;
use std::path::Path;

use tokio::time::Instant;

use super::directory::{Doubt, Look, News};
use super::loads::Known;
use super::scan;
use super::slots::Verdict;
use super::{BATCH_WINDOW, DEBOUNCE, Reloader, UNREADABLE, stem};

impl Reloader {
    /// Returns when the next scan is due. Due retries bring it forward, unless the directory is in
    /// doubt.
    pub(super) fn next_scan(&self) -> Instant {
        self.files
            .next_retry()
            .filter(|_| !self.directory.is_doubted())
            .map_or(self.next_scan_at, |again| again.min(self.next_scan_at))
    }

    /// Scans the directory and starts the loads that are due.
    pub(super) fn look(&mut self) {
        let scanned = scan::scan(&self.dir);
        let look = scanned.as_ref().map_or(Look::Unreadable, |found| Look::Files(found.len()));
        let known = self.files.iter().count();
        let judgement = self.directory.judge(look, known, Instant::now());
        self.metrics.directory(!self.directory.is_doubted());
        self.tell_of_directory(judgement.news, known, scanned.as_ref().err());
        match scanned {
            Ok(found) if judgement.is_believed => {
                for changed in self.files.observe(found, false) {
                    self.loads.give_up(&changed);
                }
                self.lost.clear();
                // A version that could not be stored before may be stored now.
                for (_, slot) in self
                    .slots
                    .present()
                    .filter(|(_, slot)| slot.serving.as_ref() == Some(&slot.in_file))
                {
                    if !self.versions.file(&slot.in_file).exists() {
                        self.files.read_again(&slot.file);
                    }
                }
                self.look_into_due();
                self.batch_until.get_or_insert_with(|| Instant::now() + BATCH_WINDOW);
            }
            // The serving versions stay.
            _ => {}
        }
        let again = if self.directory.is_doubted() {
            self.rescan.min(UNREADABLE)
        } else if self.files.any_unsettled() {
            DEBOUNCE
        } else {
            self.rescan
        };
        let now = Instant::now();
        let waited = self.files.unknown_until(self.settled_after).filter(|until| *until > now);
        self.next_scan_at =
            self.directory.believed_at().into_iter().chain(waited).fold(now + again, Instant::min);
    }

    /// Logs, once per change, that the directory is no longer believed or is believed again.
    pub(super) fn tell_of_directory(
        &self,
        news: Option<News>,
        plugins: usize,
        error: Option<&io::Error>,
    ) {
        let dir = self.dir.display();
        match news {
            None => {}
            Some(News::Doubted(Doubt::Empty)) => {
                tracing::warn!(%dir, plugins, "the plugin directory is empty: its plugins keep serving for now, and are removed if it stays empty");
            }
            Some(News::Doubted(Doubt::Unreadable)) => {
                tracing::error!(%dir, plugins, error = error.map(tracing::field::display), "the plugin directory can't be read: its plugins keep serving until it can be");
            }
            Some(News::StayedEmpty) => {
                tracing::warn!(%dir, plugins, "the plugin directory has stayed empty: its plugins are removed")
            }
            Some(News::Over(Doubt::Empty)) => {
                tracing::info!(%dir, "the plugin directory holds plugins again")
            }
            Some(News::Over(Doubt::Unreadable)) => {
                tracing::info!(%dir, "the plugin directory can be read again")
            }
        }
    }

    /// Starts to load the files that are new, have changed, or are to be tried again.
    pub(super) fn look_into_due(&mut self) {
        let mut due = self.files.take_due();
        // Plugins that served before come first: the others wait for a permit after them.
        let has_served = |path: &Path| {
            self.slots
                .of_file(path)
                .and_then(|name| self.slots.get(name))
                .is_some_and(|slot| slot.serving.is_some())
        };
        due.sort_by_key(|(path, _)| !has_served(path));
        if due.is_empty() {
            return;
        }
        for (path, stamp) in due {
            let name = self.assumed_name(&path);
            let known = self.known(&name);
            self.loads.file(&path, stamp, name, known);
        }
        self.publish_status();
    }

    /// Returns the name that a file's plugin is assumed to have until it has registered.
    pub(super) fn assumed_name(&self, path: &Path) -> String {
        self.slots
            .of_file(path)
            .or_else(|| self.slots.was_of_file(path))
            .map_or_else(|| stem(path), str::to_owned)
    }

    /// Returns what is known of versions by digest, for a file that is expected to hold the plugin
    /// `name`: ready versions, bad versions, and versions that a breaker has rolled back. The
    /// latter are remembered over restarts.
    pub(super) fn known(&self, name: &str) -> Known {
        let taken_back =
            self.slots.iter().filter(|(_, slot)| slot.verdict == Verdict::AutoRolledBack);
        let taken_back = taken_back.map(|(name, slot)| (slot.in_file.clone(), Ok(name.to_owned())));
        let ready = self
            .ready
            .iter()
            .chain(&self.stand_by)
            .map(|(digest, active)| (digest.clone(), Ok(active.code.name().to_owned())));
        let bad = self.bad.iter().filter(|(under, _)| under == name);
        let bad =
            bad.filter_map(|(_, failure)| Some((failure.digest.clone()?, Err(failure.clone()))));
        taken_back.chain(ready).chain(bad).collect()
    }
}
