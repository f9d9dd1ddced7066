//! Tells when something in a directory has changed. The only file that knows notify.

use std::path::Path;

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Watches a directory for as long as it lives.
pub(super) struct Watch {
    changes: mpsc::Receiver<()>,
    /// Which directory it is: another may come to have its name.
    directory: Option<DirectoryId>,
    _watcher: Option<RecommendedWatcher>,
}

/// What tells one directory from another of the same name.
type DirectoryId = (u64, u64);

impl Watch {
    /// Watches `dir`. Where the system can't, nothing is ever told, and the slow rescan finds what has changed.
    pub(super) fn new(dir: &Path) -> Self {
        // One place is enough: it says that something has changed, not what.
        let (sender, changes) = mpsc::channel(1);
        let told = move |event: notify::Result<Event>| {
            // Reading changes nothing, and the host's own reading must not wake it again.
            if !matches!(event, Ok(Event { kind: EventKind::Access(_), .. })) {
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(told).and_then(|mut watcher| {
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(dir = %dir.display(), %error, "the plugin directory can't be watched; it is looked at from time to time");
        }
        Self { changes, directory: id(dir), _watcher: watcher.ok() }
    }

    /// Watches `dir` anew where another directory has come to have that name.
    pub(super) fn follow(&mut self, dir: &Path) {
        if id(dir).is_some_and(|found| self.directory != Some(found)) {
            *self = Self::new(dir);
        }
    }

    /// Waits for a change.
    pub(super) async fn changed(&mut self) {
        if self.changes.recv().await.is_none() {
            std::future::pending().await
        }
    }

    /// Forgets changes that were told meanwhile.
    pub(super) fn forget(&mut self) {
        while self.changes.try_recv().is_ok() {}
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
