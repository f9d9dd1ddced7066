//! What is known of the files of the plugin directory: which are settled, what each was found to
//! be, and when each is loaded again. Reads no files itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::plugin::Retry;

use super::load::Failure;
use super::scan::Stamp;
use super::slots::{Claim, Digest, LastError};

/// The first and the longest delay before a file is tried again whose surroundings were at fault;
/// the delay doubles each time.
const SOON: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The same if each attempt may cost as much as `limits.compile_ms`: a file that always takes that
/// much uses a thirtieth of one processor.
const LATER: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(900));

/// The files of a directory, by path.
#[derive(Default)]
pub(super) struct Files {
    by_path: BTreeMap<PathBuf, Seen>,
}

/// What is known of a file.
pub(super) struct Seen {
    stamp: Stamp,
    /// When the file was first seen with that stamp.
    since: Instant,
    /// Whether the last scan found the file unchanged.
    is_settled: bool,
    /// Whether it is being loaded now.
    pub(super) is_loading: bool,
    /// The result of loading it with that stamp.
    pub(super) outcome: Option<Outcome>,
    /// Why a valid plugin can't serve: another file has registered its name.
    pub(super) conflict: Option<LastError>,
}

/// The result of loading a file.
pub(super) enum Outcome {
    /// It holds this version of this plugin.
    Plugin { name: String, digest: Digest },
    /// It can't be loaded.
    Failed { failure: Failure, error: LastError, again: Option<Again> },
}

/// When a failed load is tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    at: Instant,
    delay: Duration,
}

impl Outcome {
    /// Creates a failure that happened now. `before` is the delay of the retry before it, if it was
    /// one.
    fn failed(failure: Failure, before: Option<Duration>) -> Self {
        let after = |(first, most): (Duration, Duration)| {
            let delay = before.map_or(first, |before| before * 2).clamp(first, most);
            Again { at: Instant::now() + delay, delay }
        };
        let again = match failure.retry {
            Retry::Never => None,
            Retry::Soon => Some(after(SOON)),
            Retry::Later => Some(after(LATER)),
        };
        Self::Failed { error: failure.now(), failure, again }
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
            let new = |stamp, is_settled| Seen {
                stamp,
                since,
                is_settled,
                is_loading: false,
                outcome: None,
                conflict: None,
            };
            let Some(stamp) = stamp else { continue };
            match self.by_path.get_mut(&path) {
                Some(seen) if seen.stamp == stamp => seen.is_settled = true,
                Some(seen) => {
                    *seen = new(stamp, false);
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
        for (path, seen) in &mut self.by_path {
            let is_due = match &seen.outcome {
                None => seen.is_settled,
                Some(Outcome::Plugin { .. }) => false,
                Some(Outcome::Failed { again, .. }) => again.is_some_and(|again| again.at <= now),
            };
            if is_due && !seen.is_loading {
                seen.is_loading = true;
                due.push((path.clone(), seen.stamp.clone()));
            }
        }
        due
    }

    /// Records the result of loading a file. Returns `false` and records nothing if the file has
    /// changed since.
    pub(super) fn note(
        &mut self,
        path: &Path,
        stamp: &Stamp,
        result: Result<(String, Digest), Failure>,
    ) -> bool {
        let Some(seen) = self.by_path.get_mut(path).filter(|seen| seen.stamp == *stamp) else {
            return false;
        };
        seen.is_loading = false;
        let before = match seen.outcome.take() {
            Some(Outcome::Failed { again, .. }) => again.map(|again| again.delay),
            _ => None,
        };
        seen.outcome = Some(match result {
            Ok((name, digest)) => Outcome::Plugin { name, digest },
            Err(failure) => Outcome::failed(failure, before),
        });
        true
    }

    /// Returns what the files claim, in the order of their paths.
    pub(super) fn claims(&self) -> Vec<Claim<'_>> {
        let claims = self.by_path.iter().map(|(file, seen)| {
            let holds = match &seen.outcome {
                Some(Outcome::Plugin { name, digest }) => Some((name.as_str(), digest.as_str())),
                _ => None,
            };
            Claim { file, holds }
        });
        claims.collect()
    }

    /// Returns until when an unidentified file may belong to a slot without a file: `patience`
    /// after the newest such file appeared. Returns `None` if every file is identified.
    pub(super) fn unknown_until(&self, patience: Duration) -> Option<Instant> {
        let unknown = self.by_path.values().filter(|seen| seen.outcome.is_none());
        unknown.map(|seen| seen.since + patience).max()
    }

    /// Records which files can't serve because another file has their name. Returns the conflicts
    /// that are new.
    pub(super) fn note_conflicts(
        &mut self,
        taken: &[(PathBuf, LastError)],
    ) -> Vec<(PathBuf, LastError)> {
        let mut new = Vec::new();
        for (path, seen) in &mut self.by_path {
            let conflict = taken.iter().find(|(file, _)| file == path).map(|(_, error)| error);
            let is_known = seen.conflict.as_ref().map(|known| &known.reason)
                == conflict.map(|conflict| &conflict.reason);
            if !is_known {
                seen.conflict = conflict.cloned();
                new.extend(conflict.map(|conflict| (path.clone(), conflict.clone())));
            }
        }
        new
    }

    /// Makes failures with [`Retry::Soon`] due now: their surroundings may have changed.
    pub(super) fn retry_now(&mut self) {
        for seen in self.by_path.values_mut() {
            if let Some(Outcome::Failed { again: Some(again), failure, .. }) = &mut seen.outcome
                && failure.retry == Retry::Soon
            {
                again.at = Instant::now();
            }
        }
    }

    /// Makes a file due for loading, though it has not changed, unless it is being loaded.
    pub(super) fn read_again(&mut self, path: &Path) {
        if let Some(seen) = self.by_path.get_mut(path).filter(|seen| !seen.is_loading) {
            seen.outcome = None;
        }
    }

    /// Whether any file was not settled at the last scan.
    pub(super) fn any_unsettled(&self) -> bool {
        self.by_path.values().any(|seen| !seen.is_settled)
    }

    /// Returns when the next retry is due; `None` if there is none.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.by_path.values().filter(|seen| !seen.is_loading);
        let again = waiting.filter_map(|seen| match &seen.outcome {
            Some(Outcome::Failed { again, .. }) => again.map(|again| again.at),
            _ => None,
        });
        again.min()
    }

    /// Iterates over the files, in the order of their paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &Seen)> {
        self.by_path.iter().map(|(path, seen)| (path.as_path(), seen))
    }

    /// Iterates over the versions in the files, as far as they are known.
    pub(super) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.by_path.values().filter_map(|seen| match &seen.outcome {
            Some(Outcome::Plugin { digest, .. }) => Some(digest),
            _ => None,
        })
    }
}
