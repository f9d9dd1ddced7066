//! What is known of the files of the plugin directory: which are settled, what each holds, and when
//! each is loaded again. Reads no files itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::plugin::Retry;

use super::loader::LoadFailure;
use super::slots::{Claim, Digest, LastError};
use crate::files::Stamp;

/// The delays between retries: each is twice as long as the one before.
struct Backoff {
    first: Duration,
    max: Duration,
}

/// The delays if the environment caused the failure.
const RETRY_SOON: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// The delays if each attempt may cost as much as `limits.compile_ms`: a file that always takes
/// that much uses a thirtieth of one processor.
const RETRY_LATER: Backoff =
    Backoff { first: Duration::from_secs(10), max: Duration::from_secs(900) };

/// The files of a directory, by path.
#[derive(Default)]
pub(super) struct Files {
    by_path: BTreeMap<PathBuf, KnownFile>,
}

/// What is known of a file of the directory.
pub(super) struct KnownFile {
    stamp: Stamp,
    /// When the file was first seen with that stamp.
    since: Instant,
    /// Whether the last scan found the file unchanged.
    is_settled: bool,
    /// Whether it is being loaded now.
    pub(super) is_loading: bool,
    /// The result of loading it with that stamp.
    pub(super) outcome: Option<LoadOutcome>,
    /// Why a valid plugin can't serve: another file has registered its name.
    pub(super) conflict: Option<LastError>,
}

/// The result of loading a file.
pub(super) enum LoadOutcome {
    /// It holds this version of this plugin.
    Plugin { name: String, digest: Digest },
    /// It can't be loaded.
    Failed { failure: LoadFailure, error: LastError, retry: Option<NextRetry> },
}

/// When a failed load is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextRetry {
    at: Instant,
    delay: Duration,
}

impl LoadOutcome {
    /// Creates a failure that happened now. `before` is the delay of the retry before it, if it was
    /// one.
    fn failed(failure: LoadFailure, before: Option<Duration>) -> Self {
        let after = |backoff: &Backoff| {
            let delay = before.map_or(backoff.first, |before| before * 2);
            let delay = delay.clamp(backoff.first, backoff.max);
            NextRetry { at: Instant::now() + delay, delay }
        };
        let retry = match failure.retry {
            Retry::Never => None,
            Retry::Soon => Some(after(&RETRY_SOON)),
            Retry::Later => Some(after(&RETRY_LATER)),
        };
        Self::Failed { error: failure.as_last_error(), failure, retry }
    }
}

impl Files {
    /// Records the result of a scan: which files exist and which are settled. Returns the files
    /// that have changed or are gone. At the start of the host all files count as settled. A file
    /// without a stamp keeps its previous state.
    pub(super) fn observe(
        &mut self,
        found: Vec<(PathBuf, Option<Stamp>)>,
        is_first: bool,
    ) -> Vec<PathBuf> {
        let is_there = |path: &Path| found.iter().any(|(found, _)| found == path);
        let mut changed: Vec<PathBuf> =
            self.by_path.keys().filter(|path| !is_there(path)).cloned().collect();
        self.by_path.retain(|path, _| is_there(path));
        for (path, stamp) in found {
            let since = Instant::now();
            let new = |stamp, is_settled| KnownFile {
                stamp,
                since,
                is_settled,
                is_loading: false,
                outcome: None,
                conflict: None,
            };
            let Some(stamp) = stamp else { continue };
            match self.by_path.get_mut(&path) {
                Some(known) if known.stamp == stamp => known.is_settled = true,
                Some(known) => {
                    *known = new(stamp, false);
                    changed.push(path);
                }
                None => {
                    self.by_path.insert(path, new(stamp, is_first));
                }
            }
        }
        changed
    }

    /// Returns the files to load now, and marks them as loading: new or changed files that are
    /// settled, and failed files whose retry is due.
    pub(super) fn take_due(&mut self) -> Vec<(PathBuf, Stamp)> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (path, known) in &mut self.by_path {
            let is_due = match &known.outcome {
                None => known.is_settled,
                Some(LoadOutcome::Plugin { .. }) => false,
                Some(LoadOutcome::Failed { retry, .. }) => {
                    retry.is_some_and(|retry| retry.at <= now)
                }
            };
            if is_due && !known.is_loading {
                known.is_loading = true;
                due.push((path.clone(), known.stamp.clone()));
            }
        }
        due
    }

    /// Records the result of loading a file, unless the file has changed since.
    pub(super) fn record_load(
        &mut self,
        path: &Path,
        stamp: &Stamp,
        result: Result<(String, Digest), LoadFailure>,
    ) {
        let Some(known) = self.by_path.get_mut(path).filter(|known| known.stamp == *stamp) else {
            return;
        };
        known.is_loading = false;
        let before = match known.outcome.take() {
            Some(LoadOutcome::Failed { retry, .. }) => retry.map(|retry| retry.delay),
            _ => None,
        };
        known.outcome = Some(match result {
            Ok((name, digest)) => LoadOutcome::Plugin { name, digest },
            Err(failure) => LoadOutcome::failed(failure, before),
        });
    }

    /// Returns what the files claim, in the order of their paths.
    pub(super) fn claims(&self) -> Vec<Claim<'_>> {
        let claims = self.by_path.iter().map(|(path, known)| {
            let content = match &known.outcome {
                Some(LoadOutcome::Plugin { name, digest }) => {
                    Some((name.as_str(), digest.as_str()))
                }
                _ => None,
            };
            Claim { file: path, content }
        });
        claims.collect()
    }

    /// Returns until when an unidentified file may belong to a slot without a file: `wait` after
    /// the newest such file appeared. Returns `None` if every file is identified.
    pub(super) fn unidentified_until(&self, wait: Duration) -> Option<Instant> {
        let unidentified = self.by_path.values().filter(|known| known.outcome.is_none());
        unidentified.map(|known| known.since + wait).max()
    }

    /// Records which files can't serve because another file has their name. Returns the conflicts
    /// that are new.
    pub(super) fn record_conflicts(
        &mut self,
        taken: &[(PathBuf, LastError)],
    ) -> Vec<(PathBuf, LastError)> {
        let mut new = Vec::new();
        for (path, known) in &mut self.by_path {
            let conflict = taken.iter().find(|(file, _)| file == path).map(|(_, error)| error);
            let is_unchanged = known.conflict.as_ref().map(|error| &error.reason)
                == conflict.map(|conflict| &conflict.reason);
            if !is_unchanged {
                known.conflict = conflict.cloned();
                new.extend(conflict.map(|conflict| (path.clone(), conflict.clone())));
            }
        }
        new
    }

    /// Makes failures with [`Retry::Soon`] due now: their environment may have changed.
    pub(super) fn retry_now(&mut self) {
        for known in self.by_path.values_mut() {
            if let Some(LoadOutcome::Failed { retry: Some(retry), failure, .. }) =
                &mut known.outcome
                && failure.retry == Retry::Soon
            {
                retry.at = Instant::now();
            }
        }
    }

    /// Makes every file due that is being loaded or could not be loaded: it is to be loaded under
    /// other settings. Returns those whose loads are to be aborted.
    pub(super) fn retry_failed(&mut self) -> Vec<PathBuf> {
        let mut loading = Vec::new();
        for (path, known) in &mut self.by_path {
            if known.is_loading {
                known.is_loading = false;
                loading.push(path.clone());
            }
            known.outcome.take_if(|outcome| matches!(outcome, LoadOutcome::Failed { .. }));
        }
        loading
    }

    /// Makes a file due for loading, though it has not changed, unless it is being loaded.
    pub(super) fn reload(&mut self, path: &Path) {
        if let Some(known) = self.by_path.get_mut(path).filter(|known| !known.is_loading) {
            known.outcome = None;
        }
    }

    /// Whether any file was not settled at the last scan.
    pub(super) fn any_unsettled(&self) -> bool {
        self.by_path.values().any(|known| !known.is_settled)
    }

    /// Returns when the next retry is due; `None` if there is none.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.by_path.values().filter(|known| !known.is_loading);
        let retries = waiting.filter_map(|known| match &known.outcome {
            Some(LoadOutcome::Failed { retry, .. }) => retry.map(|retry| retry.at),
            _ => None,
        });
        retries.min()
    }

    /// Iterates over the files, in the order of their paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &KnownFile)> {
        self.by_path.iter().map(|(path, known)| (path.as_path(), known))
    }

    /// Iterates over the versions in the files, as far as they are known.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.by_path.values().filter_map(|known| match &known.outcome {
            Some(LoadOutcome::Plugin { digest, .. }) => Some(digest),
            _ => None,
        })
    }
}

/// Returns the name of a file without its extension, which names it until its plugin has
/// registered.
pub(super) fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}
