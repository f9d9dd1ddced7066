//! Reports when something in the plugin directory may have changed. Only this module uses the
//! `notify` crate.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::directory;
use super::watched::{MAX_DIRECTORIES, PathEntry, Watched};

/// The shortest time after which a failed watch is tried again: this happens at the first scan
/// after it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The callback for each event of the system.
type Callback = Box<dyn FnMut(notify::Result<Event>) + Send>;

/// Creates a watcher: the system's, or a test's.
type Create = fn(Callback) -> notify::Result<Box<dyn Watcher + Send>>;

/// Watches a directory, and every symbolic link on which it or its files depend.
pub(super) struct Watch {
    dir: PathBuf,
    create: Create,
    /// A channel of capacity 1: it reports that something has changed, not what.
    changes: (mpsc::Sender<()>, mpsc::Receiver<()>),
    active: Option<Active>,
    /// When the system last refused a watch; `None` once it allows all of them.
    failed_at: Option<Instant>,
}

/// The current watches.
struct Active {
    watched: Arc<Watched>,
    /// The identity of each watched directory: another directory may later have the same name.
    directories: BTreeMap<PathBuf, Option<DirectoryId>>,
    /// Set when one of the directories was removed or renamed: the system no longer watches it, or
    /// does so under the wrong name.
    is_outdated: Arc<AtomicBool>,
    _watcher: Box<dyn Watcher + Send>,
}

/// Distinguishes directories of the same name: device and inode.
type DirectoryId = (u64, u64);

impl Watch {
    /// Creates a watch that watches nothing until [`update`](Self::update) is called.
    pub(super) fn new(dir: &Path) -> Self {
        Self::with(dir, |callback| {
            notify::recommended_watcher(callback)
                .map(|watcher| Box::new(watcher) as Box<dyn Watcher + Send>)
        })
    }

    fn with(dir: &Path, create: Create) -> Self {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Self { dir, create, changes: mpsc::channel(1), active: None, failed_at: None }
    }

    /// Brings the watches up to date. Call it before each scan, which then finds earlier changes.
    /// Returns whether another scan is needed soon, because links may have changed before they were
    /// watched.
    ///
    /// If the system refuses to watch the directory, this is logged once and tried again at a later
    /// call. Meanwhile, the slow rescan finds changes.
    pub(super) fn update(&mut self, now: Instant) -> bool {
        let watched = Watched::of(&self.dir, &directory::links(&self.dir), entry);
        let directories: BTreeMap<_, _> =
            watched.directories().map(|dir| (dir.to_owned(), id(dir))).collect();
        let is_current = self.active.as_ref().is_some_and(|active| {
            !active.is_outdated.load(Ordering::Relaxed)
                && *active.watched == watched
                && active.directories == directories
        });
        let is_due =
            self.failed_at.is_some_and(|at| now.saturating_duration_since(at) >= RETRY_AFTER);
        let is_failing = self.failed_at.is_some();
        if (is_current || (self.active.is_none() && is_failing)) && !is_due {
            return false;
        }
        let is_truncated = watched.is_truncated
            && self.active.as_ref().is_none_or(|active| !active.watched.is_truncated);
        // Drop the old watcher first: the system may have too few watches for both.
        self.active = None;
        let result = self.watch(watched, directories);
        match &result {
            Err(error) if !is_failing => {
                tracing::warn!(dir = %self.dir.display(), %error,
                    "the plugin directory can't be watched: changes are found by the slow rescan \
                     (plugins.rescan_s), which also tries again to watch");
            }
            Ok(()) if is_failing => {
                tracing::info!(dir = %self.dir.display(), "the plugin directory is watched again")
            }
            _ => {}
        }
        if is_truncated {
            tracing::warn!(dir = %self.dir.display(), limit = MAX_DIRECTORIES,
                "symbolic links lead to more directories than are watched: changes behind some are \
                 found by the slow rescan (plugins.rescan_s)");
        }
        self.failed_at = result.is_err().then_some(now);
        // If a failure continues, nothing new is watched.
        result.is_ok() || !is_failing
    }

    /// Watches each directory. If one can't be watched, the others still are.
    fn watch(
        &mut self,
        watched: Watched,
        directories: BTreeMap<PathBuf, Option<DirectoryId>>,
    ) -> notify::Result<()> {
        let (watched, is_outdated) = (Arc::new(watched), Arc::new(AtomicBool::new(false)));
        let (sender, callback_watched, callback_outdated) =
            (self.changes.0.clone(), Arc::clone(&watched), Arc::clone(&is_outdated));
        let callback = move |event: notify::Result<Event>| {
            let (concerns, outdates) =
                event.map_or((true, false), |event| classify(&callback_watched, &event));
            if outdates {
                callback_outdated.store(true, Ordering::Relaxed);
            }
            if concerns {
                // If the channel is full, a change is reported already.
                let _ = sender.try_send(());
            }
        };
        let mut watcher = (self.create)(Box::new(callback))?;
        let mut result = Ok(());
        for dir in watched.directories() {
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                // The parent of a missing directory is watched, and reports when it appears.
                Err(error) if is_missing(&error) => {}
                Err(error) => result = Err(error),
                Ok(()) => {}
            }
        }
        self.active = Some(Active { watched, directories, is_outdated, _watcher: watcher });
        result
    }

    /// Waits for a change. Cancel-safe.
    pub(super) async fn changed(&mut self) {
        // `self` also holds a sender: the channel is never closed.
        let _ = self.changes.1.recv().await;
    }

    /// Discards changes that were reported before.
    pub(super) fn discard(&mut self) {
        while self.changes.1.try_recv().is_ok() {}
    }
}

/// Returns whether an event may change a plugin, and whether it ends the watch of a directory.
fn classify(watched: &Watched, event: &Event) -> (bool, bool) {
    // Reads change nothing, and the host's own reads must not wake it again.
    if matches!(event.kind, EventKind::Access(_)) {
        return (false, false);
    }
    // An event without a path reports that events were lost.
    let concerns = event.paths.is_empty()
        || event.need_rescan()
        || event.paths.iter().any(|path| watched.concerns(path));
    let is_end =
        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    (concerns, is_end && event.paths.iter().any(|path| watched.is_directory(path)))
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(error) => error.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}

fn entry(path: &Path) -> PathEntry {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => {
            std::fs::read_link(path).map_or(PathEntry::Missing, PathEntry::Link)
        }
        Ok(_) => PathEntry::Other,
        Err(_) => PathEntry::Missing,
    }
}

#[cfg(unix)]
fn id(dir: &Path) -> Option<DirectoryId> {
    use std::os::unix::fs::MetadataExt;
    dir.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn id(_: &Path) -> Option<DirectoryId> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Number of attempts to create a watcher.
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    static IS_EXHAUSTED: AtomicBool = AtomicBool::new(true);

    /// Fails to create a watcher as long as `IS_EXHAUSTED` is set.
    fn scarce(callback: Callback) -> notify::Result<Box<dyn Watcher + Send>> {
        ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        if IS_EXHAUSTED.load(Ordering::Relaxed) {
            return Err(notify::Error::io(io::Error::other("too many open files")));
        }
        Ok(Box::new(notify::recommended_watcher(callback)?))
    }

    #[tokio::test]
    async fn a_watch_that_failed_is_retried_and_then_reports_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::with(dir.path(), scarce);
        let start = Instant::now();
        assert!(watch.update(start), "what changed before may have been missed");
        assert!(
            !watch.update(start) && ATTEMPTS.load(Ordering::Relaxed) == 1,
            "it is not tried at each of many scans"
        );
        let later = start + RETRY_AFTER;
        assert!(
            !watch.update(later) && ATTEMPTS.load(Ordering::Relaxed) == 2,
            "nothing new is watched"
        );
        IS_EXHAUSTED.store(false, Ordering::Relaxed);
        let later = later + RETRY_AFTER;
        assert!(watch.update(later) && ATTEMPTS.load(Ordering::Relaxed) == 3);
        assert!(
            !watch.update(later + RETRY_AFTER) && ATTEMPTS.load(Ordering::Relaxed) == 3,
            "and it keeps watching"
        );
        std::fs::write(dir.path().join("a.wasm"), "").unwrap();
        watch.changed().await;
    }
}
