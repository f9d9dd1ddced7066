//! The versions that the host has: those in memory, those on the disk, and those being loaded.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::metrics::Metrics;
use crate::registry::{ActivePlugin, Generation};

use super::blobs::BlobStore;
use super::files::stem;
use super::loader::{LoadFailure, Loader};
use super::loads::{LoadJob, LoadQueue, Loaded};
use super::slots::{Digest, Slots, Verdict};
use super::versions::{Known, Versions};
use crate::files::Stamp;

/// The versions that the host has.
pub(super) struct Inventory {
    pub(super) versions: Versions,
    pub(super) blobs: Arc<BlobStore>,
    pub(super) loads: LoadQueue,
    loader: Arc<Loader>,
    metrics: Arc<Metrics>,
    /// The versions that the last clean-up left on the disk; `None` if a load has begun since,
    /// which may have written others.
    on_disk: Option<HashSet<Digest>>,
    /// The versions that serve as they were declared under earlier settings, while they are loaded
    /// once more.
    outdated: HashSet<Digest>,
    /// Those whose load has failed for a reason that may pass, with the names of their plugins.
    delayed: HashMap<Digest, String>,
}

impl Inventory {
    /// Creates an inventory of which nothing is in memory.
    pub(super) fn new(loader: Arc<Loader>, blobs: BlobStore, metrics: Arc<Metrics>) -> Self {
        let (versions, blobs) = (Versions::default(), Arc::new(blobs));
        let loads = LoadQueue::new(Arc::clone(&loader), Arc::clone(&blobs));
        let (outdated, delayed) = (HashSet::new(), HashMap::new());
        Self { versions, blobs, loads, loader, metrics, on_disk: None, outdated, delayed }
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
            let name = expected_name(&path, slots);
            let known = self.known(&name, slots);
            self.on_disk = None;
            self.loads.file(&path, stamp, name, known);
        }
    }

    /// Lets the versions in memory run under the settings in force, and versions that could not be
    /// loaded be tried again. Plugins of `before` whose declarations depend on changed settings are
    /// loaded once more.
    pub(super) fn apply_settings(&mut self, before: &Generation) {
        let outdated = self.versions.change_settings(
            |active| self.loader.under_settings(active),
            |active| self.loader.is_outdated(active),
            before,
        );
        self.outdated.clear();
        self.delayed.clear();
        for (name, digest) in outdated {
            self.load_kept(&name, &digest);
            self.outdated.insert(digest);
        }
        self.versions.retry_failed();
    }

    /// Lets versions be tried again that could not be loaded for a reason that may have passed.
    pub(super) fn retry_unavailable(&mut self) {
        self.versions.retry_unavailable();
        for (digest, name) in std::mem::take(&mut self.delayed) {
            if self.versions.waits_for_successor(&digest) {
                self.load_kept(&name, &digest);
                self.delayed.insert(digest, name);
            }
        }
    }

    /// Makes a loaded version ready and returns it, after its successor under the settings in force
    /// if all successors are loaded: an event can move from one plugin to another at once. Returns
    /// none if the version is not loaded.
    pub(super) fn activate(&mut self, digest: &Digest) -> Vec<Arc<ActivePlugin>> {
        let is_up_to_date = self.is_up_to_date();
        self.versions.activate(digest, is_up_to_date)
    }

    /// Whether every version that serves is declared under the settings in force, or has failed to
    /// be loaded under them.
    pub(super) fn is_up_to_date(&self) -> bool {
        self.outdated.is_empty()
    }

    /// Starts to load a kept version, unless that is already in progress.
    pub(super) fn load_kept(&mut self, name: &str, digest: &Digest) {
        self.on_disk = None;
        self.loads.kept(name, digest);
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
        match result {
            Ok(Loaded::Known(name, digest)) => Ok((name, digest)),
            Ok(Loaded::New(active)) => {
                // The settings may have changed since the load began.
                let active = self.loader.under_settings(&active);
                let (name, digest) = (active.code.name().to_owned(), active.code.digest.clone());
                if self.loader.is_outdated(&active) {
                    self.load_kept(&name, &digest);
                } else {
                    self.versions.loaded(active);
                    self.outdated.remove(&digest);
                    self.delayed.remove(&digest);
                }
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
            LoadJob::File { path, expected, .. } => {
                self.metrics.reload(failure.name.as_ref().unwrap_or(expected), "failed");
                tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest,
                    error = failure.reason, "plugin failed");
                if is_invalid {
                    // Not the plugin that the file is expected to hold now: the content is invalid
                    // under the limits with which the load began.
                    self.versions.invalid(expected.clone(), failure.clone());
                }
            }
            LoadJob::Kept(name, digest) => {
                tracing::error!(
                    plugin = name,
                    digest,
                    error = failure.reason,
                    "a kept version can't be loaded"
                );
                // A version that serves as it was declared under earlier settings keeps serving.
                // One that refuses its settings is loaded again under the next ones, not before.
                if self.outdated.remove(digest) && !is_invalid {
                    self.delayed.insert(digest.clone(), name.clone());
                }
                if is_invalid {
                    self.delayed.remove(digest);
                }
                let never_serves = is_invalid && !self.versions.is_loaded(digest);
                slots.record_failure(name, failure.as_last_error(), never_serves);
                self.versions.unavailable(digest.clone(), failure.clone());
            }
        }
    }

    /// Deletes what is on the disk of all versions that are not `needed`.
    pub(super) fn keep_on_disk(&mut self, needed: HashSet<Digest>) {
        // A load in progress may have stored a version that no slot or file refers to yet.
        if self.loads.is_quiet() && self.on_disk.as_ref() != Some(&needed) {
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

/// Returns the name that a file's plugin is expected to have until it has registered.
fn expected_name(path: &Path, slots: &Slots) -> String {
    slots
        .of_file(path)
        .or_else(|| slots.last_of_file(path))
        .map_or_else(|| stem(path), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::super::directory::plugin_files;
    use super::super::slots::Claim;
    use super::*;
    use crate::plugin::{self, Compiler, Engine};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn inventory(dir: &Path) -> Inventory {
        let compiler = Compiler::new(PathBuf::new(), dir.join("cache"));
        let engine = Arc::new(Engine::new(1 << 20, 1).unwrap());
        let (alarm, metrics) = (Arc::default(), Arc::default());
        let loader = Loader::new(engine, Arc::default(), compiler, alarm, Arc::clone(&metrics));
        Inventory::new(Arc::new(loader), BlobStore::new(dir.join("plugins"), false), metrics)
    }

    /// Returns slots in which these versions of `name` have served from `file`.
    fn slots(name: &str, file: &Path, versions: &[&str]) -> Slots {
        let mut slots = Slots::default();
        for version in versions {
            slots.claim(&[Claim { file, content: Some((name, version)) }], false, NOW);
            slots.record_serving(name, version, NOW);
        }
        slots
    }

    fn due(dir: &Path) -> Vec<(PathBuf, Stamp)> {
        let files = plugin_files(dir).unwrap().into_iter();
        files.filter_map(|(path, stamp)| Some((path, stamp?))).collect()
    }

    async fn until(is: impl Fn() -> bool) {
        let waiting = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    }

    #[tokio::test]
    async fn what_an_aborted_load_has_stored_is_deleted_though_the_needed_versions_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        fs::write(&file, "version 2").unwrap();
        let digest = plugin::read(&file, 100).unwrap().digest;
        // A known version is stored without being compiled: this one was rolled back.
        let mut slots = slots("a", &file, &["1", &digest]);
        slots.on_breaker_opened("a", None, NOW).unwrap();
        let mut inventory = inventory(dir.path());
        inventory.keep_on_disk(HashSet::new());
        inventory.load_files(due(dir.path()), &slots);
        until(|| inventory.blobs.contains(&digest)).await;
        inventory.loads.abort(&file);
        until(|| inventory.loads.is_quiet()).await;
        inventory.keep_on_disk(HashSet::new());
        assert!(!inventory.blobs.contains(&digest));
    }

    #[tokio::test]
    async fn an_invalid_file_is_recorded_for_the_plugin_under_whose_limits_it_was_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.wasm");
        fs::write(&file, "no plugin").unwrap();
        let mut slots = slots("expected", &file, &["1"]);
        slots.claim(&[], false, NOW);
        let mut inventory = inventory(dir.path());
        inventory.load_files(due(dir.path()), &slots);
        let (job, result) = inventory.loads.next().await.unwrap();
        // From now on, the file is expected to hold the plugin `a`.
        slots.forget("expected").unwrap();
        let failure = inventory.record_load(&job, result, &mut slots).unwrap_err();
        let digest = failure.digest.unwrap();
        let is_known = |plugin| inventory.versions.known(plugin).contains_key(&digest);
        assert_eq!((is_known("expected"), is_known("a")), (true, false));
    }
}
