//! Scans the plugin directory: decides when the next scan is due, and what a scan has found: which
//! files have changed, and until when their loads are awaited to publish them together.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::PluginsConfig;
use crate::files::Stamp;
use crate::metrics::Metrics;

use super::directory::plugin_files;
use super::files::Files;
use super::loader::LoadFailure;
use super::slots::Digest;
use super::trust::{Doubt, ScanResult, ScanTrust, TrustChange};

/// Debounce delay: from a change to the scan, and how long a file must stay unchanged before it is
/// loaded. A copy takes many writes.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(50);

/// How long the results of one scan wait for the slowest of its files, so that all are published
/// together. It is longer than plugins in Rust take to compile; a larger plugin is published by
/// itself when it is ready.
const BATCH_WINDOW: Duration = Duration::from_millis(500);

/// The longest delay until a directory that can't be read, or is suddenly empty, is scanned again.
const UNREADABLE: Duration = Duration::from_secs(5);

/// Scans the plugin directory, and knows its files.
pub(super) struct Scanner {
    dir: PathBuf,
    /// The delay until the next scan if no change is reported.
    rescan: Duration,
    /// How long a plugin without a file waits for new files to be identified: one of them may be
    /// its own.
    identify_within: Duration,
    /// Whether the result of the last scan is trusted.
    trust: ScanTrust,
    pub(super) files: Files,
    /// When the next scan is due, apart from retries.
    next_at: Instant,
    /// Set while there are results that are not published: the deadline until which they wait for
    /// the other results of the same scan.
    batch_until: Option<Instant>,
    metrics: Arc<Metrics>,
}

/// The plugin directory can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ScanError(#[from] io::Error);

impl Scanner {
    /// Creates a scanner whose next scan is due.
    pub(super) fn new(settings: &PluginsConfig, metrics: Arc<Metrics>) -> Self {
        Self {
            dir: settings.dir.clone(),
            rescan: settings.rescan_s,
            identify_within: settings.empty_after_s,
            trust: ScanTrust::new(settings.empty_after_s),
            files: Files::default(),
            next_at: Instant::now(),
            batch_until: None,
            metrics,
        }
    }

    /// Returns the plugin directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Scans the directory for the first time: every file counts as settled.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub(super) fn first_scan(&mut self) -> Result<(), ScanError> {
        let found = plugin_files(&self.dir)?;
        self.metrics.directory(true);
        self.files.observe(found, true);
        Ok(())
    }

    /// Scans the directory. Returns the files that have changed or are gone. Returns `None` if the
    /// result is not trusted: the known files are still taken to be there.
    pub(super) fn scan(&mut self) -> Option<Vec<PathBuf>> {
        let found = plugin_files(&self.dir);
        let result =
            found.as_ref().map_or(ScanResult::Unreadable, |found| ScanResult::Files(found.len()));
        let known = self.files.iter().count();
        let judgement = self.trust.judge(result, known, Instant::now());
        self.metrics.directory(!self.trust.is_doubted());
        if let Some(change) = judgement.change {
            self.log(change, known, found.as_ref().err());
        }
        let changed = found
            .ok()
            .filter(|_| judgement.is_trusted)
            .map(|found| self.files.observe(found, false));
        if changed.is_some() {
            self.batch_until.get_or_insert_with(|| Instant::now() + BATCH_WINDOW);
        }
        self.schedule();
        changed
    }

    /// Sets when the next scan is due if no change is reported.
    fn schedule(&mut self) {
        let delay = if self.trust.is_doubted() {
            self.rescan.min(UNREADABLE)
        } else if self.files.any_unsettled() {
            DEBOUNCE
        } else {
            self.rescan
        };
        let now = Instant::now();
        let identified =
            self.files.unidentified_until(self.identify_within).filter(|until| *until > now);
        let earlier = self.trust.trusted_at().into_iter().chain(identified);
        self.next_at = earlier.fold(now + delay, Instant::min);
    }

    /// Returns when the next scan is due. Due retries bring it forward, unless the directory is in
    /// doubt.
    pub(super) fn next_scan_at(&self) -> Instant {
        let retry = self.files.next_retry().filter(|_| !self.trust.is_doubted());
        retry.map_or(self.next_at, |retry| retry.min(self.next_at))
    }

    /// Brings the next scan forward, so that it is due in at most `delay`.
    pub(super) fn scan_within(&mut self, delay: Duration) {
        self.next_at = self.next_at.min(Instant::now() + delay);
    }

    /// Whether a scan is due within the debounce delay. If so, further changes need not be known: a
    /// copy reports each of its writes.
    pub(super) fn is_due_soon(&self) -> bool {
        self.next_at <= Instant::now() + DEBOUNCE
    }

    /// Records the result of loading a file, which is a result to publish.
    pub(super) fn record_load(
        &mut self,
        path: &Path,
        stamp: &Stamp,
        result: Result<(String, Digest), LoadFailure>,
    ) {
        self.files.record_load(path, stamp, result);
        self.batch_until.get_or_insert_with(Instant::now);
    }

    /// Returns until when the results wait that are not published; `None` if all are published.
    pub(super) fn batch_until(&self) -> Option<Instant> {
        self.batch_until
    }

    /// Whether the results are to be published now: their time is over, or no file is awaited.
    pub(super) fn is_batch_complete(&self, is_loading: bool, now: Instant) -> bool {
        let is_waiting = is_loading || self.files.any_unsettled();
        self.batch_until.is_some_and(|until| until <= now || !is_waiting)
    }

    /// Records that the results are being published.
    pub(super) fn end_batch(&mut self) {
        self.batch_until = None;
    }

    /// Whether a new file may still turn out to be that of a plugin without a file.
    pub(super) fn is_identifying(&self) -> bool {
        let until = self.files.unidentified_until(self.identify_within);
        until.is_some_and(|until| until > Instant::now())
    }

    /// Logs that scans are no longer trusted, or are trusted again. Call it once for each change.
    fn log(&self, change: TrustChange, plugins: usize, error: Option<&io::Error>) {
        let dir = self.dir.display();
        match change {
            TrustChange::Doubted(Doubt::Empty) => {
                tracing::warn!(%dir, plugins, "the plugin directory is empty: its plugins keep \
                                        serving for now, and are removed if it stays empty");
            }
            TrustChange::Doubted(Doubt::Unreadable) => {
                tracing::error!(%dir, plugins, error = error.map(tracing::field::display), "the plugin directory can't be read: its plugins keep serving until it can be");
            }
            TrustChange::StayedEmpty => {
                tracing::warn!(%dir, plugins, "the plugin directory has stayed empty: its plugins \
                                        are removed");
            }
            TrustChange::Over(Doubt::Empty) => {
                tracing::info!(%dir, "the plugin directory holds plugins again");
            }
            TrustChange::Over(Doubt::Unreadable) => {
                tracing::info!(%dir, "the plugin directory can be read again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanner(dir: &Path) -> Scanner {
        let settings = PluginsConfig { dir: dir.to_owned(), ..PluginsConfig::default() };
        Scanner::new(&settings, Arc::default())
    }

    #[test]
    fn a_file_is_loaded_once_two_scans_have_found_it_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let (mut scanner, file) = (scanner(dir.path()), dir.path().join("a.wasm"));
        scanner.first_scan().unwrap();
        std::fs::write(&file, "1").unwrap();
        assert_eq!(scanner.scan(), Some(Vec::new()));
        assert!(scanner.files.take_due().is_empty() && scanner.is_due_soon());
        assert_eq!(scanner.scan(), Some(Vec::new()));
        assert_eq!(scanner.files.take_due().len(), 1);
        assert!(!scanner.is_due_soon());
        std::fs::write(&file, "22").unwrap();
        assert_eq!(scanner.scan(), Some(vec![file]));
        assert!(scanner.files.take_due().is_empty());
    }

    #[test]
    fn results_wait_for_the_files_of_their_scan_but_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.wasm"), "1").unwrap();
        let mut scanner = scanner(dir.path());
        scanner.first_scan().unwrap();
        let start = Instant::now();
        assert!(!scanner.is_batch_complete(false, start), "there are no results");
        scanner.scan().unwrap();
        assert!(scanner.is_batch_complete(false, start));
        assert!(!scanner.is_batch_complete(true, start), "a file is being loaded");
        let end = Instant::now() + BATCH_WINDOW;
        assert!(scanner.is_batch_complete(true, end), "it has taken too long");
        scanner.end_batch();
        assert!(!scanner.is_batch_complete(true, end));
    }
}
