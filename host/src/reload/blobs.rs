//! The content of the versions that are kept for restarts and rollbacks: one file for each version,
//! named by its digest.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::files::{self, UNFINISHED};

use super::slots::Digest;

/// Stores the content of versions by their digests.
pub(super) struct BlobStore {
    dir: PathBuf,
    /// Whether every version is kept, because it is not known which are needed.
    keeps_all: bool,
}

impl BlobStore {
    /// Creates a store in `dir`. If `keeps_all` is set, it never deletes a version.
    pub(super) fn new(dir: PathBuf, keeps_all: bool) -> Self {
        Self { dir, keeps_all }
    }

    /// Returns the path of the content of a version.
    pub(super) fn file(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Whether a version is stored.
    pub(super) fn contains(&self, digest: &str) -> bool {
        self.file(digest).exists()
    }

    /// Stores the content of a version, unless it is stored already.
    pub(super) fn put(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(digest);
        if file.exists() {
            return Ok(());
        }
        files::create_private_dir(&self.dir)?;
        files::replace_durably(&file, &[bytes])
    }

    /// Deletes every other version.
    pub(super) fn keep_only(&self, kept: &HashSet<Digest>) {
        if self.keeps_all {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let of_versions = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == "wasm" || extension == UNFINISHED)
        };
        for path in entries.flatten().map(|entry| entry.path()).filter(of_versions) {
            let digest = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            if !kept.contains(&digest) {
                let _ = fs::remove_file(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_writers_of_one_version_keep_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = BlobStore::new(dir.path().to_owned(), false);
        for round in 0..20 {
            let digest = round.to_string();
            std::thread::scope(|scope| {
                let writers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| blobs.put(&digest, &[7; 10_000]))).collect();
                writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
            });
            assert_eq!(fs::read(blobs.file(&digest)).unwrap(), [7; 10_000]);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 20, "nothing unfinished is left");
    }

    #[test]
    fn only_versions_to_keep_stay_unless_it_is_unknown_which_these_are() {
        let dir = tempfile::tempdir().unwrap();
        for keeps_all in [true, false] {
            let blobs = BlobStore::new(dir.path().to_owned(), keeps_all);
            for digest in ["1", "2"] {
                blobs.put(digest, b"bytes").unwrap();
            }
            blobs.keep_only(&HashSet::from(["1".to_owned()]));
            assert_eq!((blobs.contains("1"), blobs.contains("2")), (true, keeps_all));
        }
    }
}
