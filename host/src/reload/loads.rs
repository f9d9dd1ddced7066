//! What is being loaded, beside the task that decides: a file that takes its time to compile holds up nobody's reload, and no operator.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use crate::plugin::{Retry, Source};
use crate::registry::Served;

use super::contents::Contents;
use super::load::{Failure, Loader};
use super::scan::Stamp;
use super::slots::Digest;

/// Versions that are loaded at once: each holds a file's bytes. How many of them are compiled at once, the compiler knows.
const AT_ONCE: usize = 16;

/// What is being loaded.
pub(super) struct Loads {
    loader: Arc<Loader>,
    contents: Arc<Contents>,
    places: Arc<Semaphore>,
    running: JoinSet<Result<Version, Failure>>,
    subjects: HashMap<Id, (Subject, AbortHandle)>,
}

/// Where a version comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Subject {
    /// A file of the plugin directory, as it was when it was looked at.
    File(PathBuf, Stamp),
    /// A version of this plugin that was kept to be gone back to.
    Kept(String, Digest),
}

/// What a file holds.
pub(super) enum Version {
    /// A version that is known already, of this plugin.
    Known(String, Digest),
    /// One that was loaded now.
    New(Arc<Served>),
}

/// What is known of versions by their content, before they are loaded.
pub(super) type Known = HashMap<Digest, Result<String, Failure>>;

impl Loads {
    pub(super) fn new(loader: Arc<Loader>, contents: Arc<Contents>) -> Self {
        let (places, running) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        Self { loader, contents, places, running, subjects: HashMap::new() }
    }

    /// Looks into a file that should be the plugin `name`. What is `known` by its content is not loaded.
    pub(super) fn file(&mut self, path: &Path, stamp: Stamp, name: String, known: Known) {
        let (loader, contents, places, file) =
            (Arc::clone(&self.loader), Arc::clone(&self.contents), Arc::clone(&self.places), path.to_owned());
        self.start(Subject::File(path.to_owned(), stamp), async move {
            let (source, _place) = read(&loader, places, file, name.clone()).await;
            let source = source?;
            let digest = source.digest.clone();
            if let Some(known) = known.get(&digest) {
                let name = known.clone()?;
                // It may not have been kept when it came before.
                keep(contents, digest.clone(), source.bytes).await;
                return Ok(Version::Known(name, digest));
            }
            let bytes = source.bytes.clone();
            let served = loader.load(source, &name).await?;
            keep(contents, digest, bytes).await;
            Ok(Version::New(served))
        });
    }

    /// Loads a kept version, unless that is being done.
    pub(super) fn kept(&mut self, name: &str, digest: &Digest) {
        let subject = Subject::Kept(name.to_owned(), digest.clone());
        if self.is_loading(&subject) {
            return;
        }
        let (loader, places, file) = (Arc::clone(&self.loader), Arc::clone(&self.places), self.contents.file(digest));
        let (name, digest) = (name.to_owned(), digest.clone());
        self.start(subject, async move {
            let (source, _place) = read(&loader, places, file, name.clone()).await;
            let is_not = |reason: &str| Failure {
                name: Some(name.clone()),
                digest: Some(digest.clone()),
                reason: format!("the version that was kept {reason}"),
                retry: Retry::Never,
            };
            let source = source.map_err(|failure| is_not(&failure.reason))?;
            if source.digest != digest {
                return Err(is_not("is damaged"));
            }
            let served = loader.load(source, &name).await?;
            if served.plugin.name() != name { Err(is_not("has another name")) } else { Ok(Version::New(served)) }
        });
    }

    /// Whether this is being loaded.
    pub(super) fn is_loading(&self, subject: &Subject) -> bool {
        self.subjects.values().any(|(other, _)| other == subject)
    }

    /// Whether a kept version of the plugin `name` is being loaded.
    pub(super) fn is_loading_kept(&self, name: &str) -> bool {
        self.subjects.values().any(|(subject, _)| matches!(subject, Subject::Kept(of, _) if of == name))
    }

    /// Whether nothing is.
    pub(super) fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// How many are.
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Whether any file is.
    pub(super) fn any_file(&self) -> bool {
        self.subjects.values().any(|(subject, _)| matches!(subject, Subject::File(..)))
    }

    /// Gives up what is being made of a file that is not what it was.
    pub(super) fn give_up(&mut self, path: &Path) {
        self.subjects.retain(|_, (subject, task)| {
            let is_other = !matches!(subject, Subject::File(file, _) if file == path);
            if !is_other {
                task.abort();
            }
            is_other
        });
    }

    /// The next version that is loaded, or is not to be; nothing where none is being loaded. Nothing is lost when it is not awaited to its
    /// end.
    pub(super) async fn next(&mut self) -> Option<(Subject, Result<Version, Failure>)> {
        loop {
            let (id, result) = match self.running.join_next_with_id().await? {
                Ok((id, result)) => (id, result),
                Err(error) => (error.id(), Err(panicked())),
            };
            // One that was given up is nobody's any more.
            if let Some((subject, _)) = self.subjects.remove(&id) {
                return Some((subject, result));
            }
        }
    }

    fn start(&mut self, subject: Subject, load: impl Future<Output = Result<Version, Failure>> + Send + 'static) {
        let task = self.running.spawn(load);
        self.subjects.insert(task.id(), (subject, task));
    }
}

/// Reads a file as one step on a thread that may wait, and keeps the place for what comes after. A thread that is waited for no more has it
/// until it has read.
async fn read(loader: &Arc<Loader>, places: Arc<Semaphore>, file: PathBuf, name: String) -> (Result<Source, Failure>, Place) {
    // Never closed; and where it were, there would be nothing to wait for.
    let place = places.acquire_owned().await.ok();
    let loader = Arc::clone(loader);
    match tokio::task::spawn_blocking(move || (loader.read(&file, &name), place)).await.map_err(JoinError::try_into_panic) {
        Ok(read) => read,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime ends, and this with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Keeps the bytes of a version, on a thread that may wait for the disk: other versions are loaded meanwhile.
async fn keep(contents: Arc<Contents>, digest: Digest, bytes: Vec<u8>) {
    let put = move || {
        if let Err(error) = contents.put(&digest, &bytes) {
            tracing::warn!(digest, %error, "a version is not kept: it can't be gone back to");
        }
    };
    // It is waited for: what is loaded may serve at once, and must then be there for the next start.
    let _ = tokio::task::spawn_blocking(put).await;
}

/// One of those that are loaded at once.
type Place = Option<OwnedSemaphorePermit>;

/// Whatever made the host's own code panic is in the bytes, and would again.
fn panicked() -> Failure {
    Failure { name: None, digest: None, reason: "the host panicked while it loaded the file".to_owned(), retry: Retry::Never }
}
