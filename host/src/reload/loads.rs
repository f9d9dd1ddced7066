//! Loads versions in tasks beside the task that decides: a file that is slow to compile delays no
//! other reload and no operator command.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use crate::plugin::{Retry, Source};
use crate::registry::ActivePlugin;

use super::blobs::BlobStore;
use super::loader::{LoadFailure, Loader};
use super::slots::Digest;
use super::versions::Known;
use crate::files::Stamp;

/// Maximum number of versions that are loaded concurrently: each holds the bytes of a file, and a
/// new one also a copy to store. The compiler itself limits how many of them are compiled
/// concurrently.
const MAX_CONCURRENT: usize = 16;

/// The loads in progress.
pub(super) struct LoadQueue {
    loader: Arc<Loader>,
    blobs: Arc<BlobStore>,
    permits: Arc<Semaphore>,
    running: JoinSet<Result<Loaded, LoadFailure>>,
    /// The loads that are not aborted.
    jobs: HashMap<Id, (LoadJob, AbortHandle)>,
}

/// Where a version comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LoadJob {
    /// A file of the plugin directory, with its stamp at the scan.
    File {
        path: PathBuf,
        stamp: Stamp,
        /// The plugin that the file is expected to hold: it is loaded under the limits of this
        /// plugin until it has registered.
        expected: String,
    },
    /// A version of this plugin whose content is kept: for a rollback, a restart, or to register
    /// again under changed settings.
    Kept(String, Digest),
}

/// The result of a successful load.
pub(super) enum Loaded {
    /// A version of this plugin that is already known.
    Known(String, Digest),
    /// A version that was loaded now.
    New(Arc<ActivePlugin>),
}

impl LoadQueue {
    pub(super) fn new(loader: Arc<Loader>, blobs: Arc<BlobStore>) -> Self {
        let (permits, running) = (Arc::new(Semaphore::new(MAX_CONCURRENT)), JoinSet::new());
        Self { loader, blobs, permits, running, jobs: HashMap::new() }
    }

    /// Loads a file that is expected to hold the plugin `name`. Content that is in `known` is not
    /// loaded again: its result is returned, also if it is a failure. Does not check whether the
    /// file is being loaded already.
    pub(super) fn file(&mut self, path: &Path, stamp: Stamp, name: String, known: Known) {
        let (loader, blobs, permits, file) = (
            Arc::clone(&self.loader),
            Arc::clone(&self.blobs),
            Arc::clone(&self.permits),
            path.to_owned(),
        );
        let job = LoadJob::File { path: path.to_owned(), stamp, expected: name.clone() };
        self.start(job, async move {
            let (source, permit) = read(&loader, permits, file, name.clone()).await;
            let source = source?;
            let digest = source.digest.clone();
            if let Some(known) = known.get(&digest) {
                let name = known.clone()?;
                // An earlier attempt to store it may have failed.
                store(blobs, digest.clone(), source.bytes, permit).await;
                return Ok(Loaded::Known(name, digest));
            }
            let bytes = source.bytes.clone();
            let active = loader.load(source, &name).await?;
            store(blobs, digest, bytes, permit).await;
            Ok(Loaded::New(active))
        });
    }

    /// Loads a kept version, unless that is already in progress.
    pub(super) fn kept(&mut self, name: &str, digest: &Digest) {
        let job = LoadJob::Kept(name.to_owned(), digest.clone());
        if self.is_loading(&job) {
            return;
        }
        let (loader, permits, file) =
            (Arc::clone(&self.loader), Arc::clone(&self.permits), self.blobs.file(digest));
        let (name, digest) = (name.to_owned(), digest.clone());
        self.start(job, async move {
            let (source, _permit) = read(&loader, permits, file, name.clone()).await;
            let failure = |reason: &str, retry| LoadFailure {
                name: Some(name.clone()),
                digest: Some(digest.clone()),
                reason: format!("the kept version {reason}"),
                retry,
            };
            let source = source.map_err(|error| failure(&error.reason, error.retry))?;
            if source.digest != digest {
                return Err(failure("is damaged", Retry::Never));
            }
            let active = loader.load(source, &name).await?;
            if active.code.name() != name {
                Err(failure("has another name", Retry::Never))
            } else {
                Ok(Loaded::New(active))
            }
        });
    }

    /// Whether this load is in progress.
    pub(super) fn is_loading(&self, job: &LoadJob) -> bool {
        self.jobs.values().any(|(other, _)| other == job)
    }

    /// Whether a kept version of the plugin `name` is being loaded.
    pub(super) fn is_loading_kept(&self, name: &str) -> bool {
        self.jobs.values().any(|(job, _)| matches!(job, LoadJob::Kept(of, _) if of == name))
    }

    /// Whether no load is in progress.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether no load can write to the disk any more, neither content nor compiled code. An
    /// aborted load may still write: its task, or its thread, holds a permit until it has ended.
    pub(super) fn is_quiet(&self) -> bool {
        self.jobs.is_empty() && self.permits.available_permits() == MAX_CONCURRENT
    }

    /// Returns the number of loads in progress.
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether any file is being loaded.
    pub(super) fn any_file(&self) -> bool {
        self.jobs.values().any(|(job, _)| matches!(job, LoadJob::File { .. }))
    }

    /// Aborts the load of a file that has changed or is gone.
    pub(super) fn abort(&mut self, path: &Path) {
        self.jobs.retain(|_, (job, task)| {
            let is_other = !matches!(job, LoadJob::File { path: file, .. } if file == path);
            if !is_other {
                task.abort();
            }
            is_other
        });
    }

    /// Waits for the next load that succeeds or fails. Returns `None` if none is in progress.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<(LoadJob, Result<Loaded, LoadFailure>)> {
        loop {
            let (id, result) = match self.running.join_next_with_id().await? {
                Ok((id, result)) => (id, result),
                Err(error) => (error.id(), Err(panicked())),
            };
            // An aborted load has no job any more.
            if let Some((job, _)) = self.jobs.remove(&id) {
                return Some((job, result));
            }
        }
    }

    fn start(
        &mut self,
        job: LoadJob,
        load: impl Future<Output = Result<Loaded, LoadFailure>> + Send + 'static,
    ) {
        let task = self.running.spawn(load);
        self.jobs.insert(task.id(), (job, task));
    }
}

/// Reads a file on a blocking thread. Returns the permit as well, so that it also covers the steps
/// that follow. If the task is aborted, the thread holds the permit until it has read the file.
async fn read(
    loader: &Arc<Loader>,
    permits: Arc<Semaphore>,
    file: PathBuf,
    name: String,
) -> (Result<Source, LoadFailure>, LoadPermit) {
    // The semaphore is never closed; if it were, the read would continue without a permit.
    let permit = permits.acquire_owned().await.ok();
    let loader = Arc::clone(loader);
    match tokio::task::spawn_blocking(move || (loader.read(&file, &name), permit))
        .await
        .map_err(JoinError::try_into_panic)
    {
        Ok(read) => read,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is shutting down, and will drop this task.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Stores the bytes of a version on a blocking thread, while other versions are loaded. If the task
/// is aborted, the thread holds the permit until it has stored them. A failure is only logged: then
/// neither a rollback nor a restart can load the version from here.
async fn store(blobs: Arc<BlobStore>, digest: Digest, bytes: Vec<u8>, permit: LoadPermit) {
    let put = move || {
        let _permit = permit;
        if let Err(error) = blobs.put(&digest, &bytes) {
            tracing::warn!(digest, %error, "a version can't be kept: a rollback to it is not \
                                        possible");
        }
    };
    // Awaited: a loaded version may serve at once, and must then be on the disk for the next start.
    let _ = tokio::task::spawn_blocking(put).await;
}

/// The permit of one of the concurrent loads.
type LoadPermit = Option<OwnedSemaphorePermit>;

/// Returns the failure of a load that panicked. It is not retried: the same content would panic
/// again.
fn panicked() -> LoadFailure {
    LoadFailure {
        name: None,
        digest: None,
        reason: "the host panicked while it loaded the file".to_owned(),
        retry: Retry::Never,
    }
}
