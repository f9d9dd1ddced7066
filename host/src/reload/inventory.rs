//! The versions that the host has: those in memory, those on the disk, and those being loaded.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::metrics::Metrics;

use super::blobs::BlobStore;
use super::directory::Stamp;
use super::files::stem;
use super::loader::{LoadFailure, Loader};
use super::loads::{LoadJob, LoadQueue, Loaded};
use super::slots::{Digest, Slots, Verdict};
use super::versions::{Known, Versions};

/// The versions that the host has.
pub(super) struct Inventory {
    pub(super) versions: Versions,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) loads: LoadQueue,
    loader: Arc<Loader>,
    metrics: Arc<Metrics>,
    /// The versions that the last clean-up left on the disk; `None` if others may have been written
    /// since.
    on_disk: Option<HashSet<Digest>>,
}

impl Inventory {
    /// Creates an inventory of which nothing is in memory.
    pub(super) fn new(loader: Arc<Loader>, blobs: BlobStore, metrics: Arc<Metrics>) -> Self {
        let (versions, blobs) = (Versions::default(), Arc::new(blobs));
        let loads = LoadQueue::new(Arc::clone(&loader), Arc::clone(&blobs));
        Self { versions, blobs, loads, loader, metrics, on_disk: None }
    }

    /// Lets compilations that start from now on yield to events.
    pub(super) fn yield_to_events(&self) {
        self.loader.yield_to_events();
    }

    /// Starts to load files of the plugin directory. Plugins that served before come first: the
    /// others wait for a permit after them.
    pub(super) fn load_files(&mut self, mut due: Vec<(PathBuf, Stamp)>, slots: &Slots) {
        due.sort_by_key(|(path, _)| !slots.has_served(path));
        for (path, stamp) in due {
            let name = assumed_name(&path, slots);
            let known = self.known(&name, slots);
            self.loads.file(&path, stamp, name, known);
        }
    }

    /// Returns what is known of versions before they are loaded from a file that is expected to
    /// hold the plugin `name`. It includes versions that a breaker has rolled back, also before a
    /// restart: they are not loaded again.
    fn known(&self, name: &str, slots: &Slots) -> Known {
        let rolled_back = slots.iter().filter(|(_, slot)| slot.verdict == Verdict::AutoRolledBack);
        let rolled_back =
            rolled_back.map(|(name, slot)| (slot.in_file.clone(), Ok(name.to_owned())));
        rolled_back.chain(self.versions.known(name)).collect()
    }

    /// Records the result of a load, and a failure of a kept version in its slot. Returns the name
    /// and the digest of the version.
    pub(super) fn record_load(
        &mut self,
        job: &LoadJob,
        result: Result<Loaded, LoadFailure>,
        slots: &mut Slots,
    ) -> Result<(String, Digest), LoadFailure> {
        if !matches!(result, Ok(Loaded::Known(..))) {
            // A version may have been written that nothing needs to keep.
            self.on_disk = None;
        }
        match result {
            Ok(Loaded::Known(name, digest)) => Ok((name, digest)),
            Ok(Loaded::New(active)) => {
                let (name, digest) = (active.code.name().to_owned(), active.code.digest.clone());
                self.versions.loaded(active);
                Ok((name, digest))
            }
            Err(failure) => {
                self.record_failure(job, &failure, slots);
                Err(failure)
            }
        }
    }

    fn record_failure(&mut self, job: &LoadJob, failure: &LoadFailure, slots: &mut Slots) {
        let is_invalid = failure.is_invalid_content();
        match job {
            LoadJob::File(path, _) => {
                self.metrics.reload(failure.name.as_deref().unwrap_or(&stem(path)), "failed");
                tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest,
                    error = failure.reason, "plugin failed");
                if is_invalid {
                    self.versions.invalid(assumed_name(path, slots), failure.clone());
                }
            }
            LoadJob::Kept(name, digest) => {
                tracing::error!(
                    plugin = name,
                    digest,
                    error = failure.reason,
                    "a kept version can't be loaded"
                );
                slots.record_failure(name, failure.as_last_error(), is_invalid);
                self.versions.unavailable(digest.clone(), failure.clone());
            }
        }
    }

    /// Deletes what is on the disk of all versions that are not `needed`.
    pub(super) fn keep_on_disk(&mut self, needed: HashSet<Digest>) {
        // A load in progress may have stored a version that no slot or file refers to yet.
        if self.loads.is_empty() && self.on_disk.as_ref() != Some(&needed) {
            self.blobs.keep_only(&needed);
            self.loader.keep_only(&needed);
            self.on_disk = Some(needed);
        }
    }

    /// Closes the state of every plugin that has no version in memory.
    pub(super) fn close_unused_state(&self) {
        self.loader.forget_unused();
    }
}

/// Returns the name that a file's plugin is assumed to have until it has registered.
fn assumed_name(path: &Path, slots: &Slots) -> String {
    slots
        .of_file(path)
        .or_else(|| slots.last_of_file(path))
        .map_or_else(|| stem(path), str::to_owned)
}
