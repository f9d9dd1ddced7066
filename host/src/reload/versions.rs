//! Owns the directory in which versions of plugins are kept for restarts and rollbacks. The bytes of
//! each version are stored by their digest.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::files::{self, UNFINISHED};

use super::slots::Digest;

/// A directory that only the host writes.
pub(super) struct VersionStore {
    pub(super) dir: PathBuf,
    /// Set if it is not known which versions are to be kept: then all are kept.
    keeps_all: AtomicBool,
}

impl VersionStore {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, keeps_all: AtomicBool::new(false) }
    }

    /// Returns the path of the bytes of a version.
    pub(super) fn file(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Stores the bytes of a version, unless they are stored already.
    pub(super) fn put(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(digest);
        if file.exists() { Ok(()) } else { self.write(&file, bytes) }
    }

    /// Deletes every other version.
    pub(super) fn keep_only(&self, kept: &HashSet<Digest>) {
        if self.keeps_all.load(Ordering::Relaxed) {
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

    /// Keeps every version from now on, because it is not known which are needed.
    pub(super) fn keep_all(&self) {
        self.keeps_all.store(true, Ordering::Relaxed);
    }

    /// Creates the directory, unless it exists.
    pub(super) fn make_dir(&self) -> io::Result<()> {
        files::create_private_dir(&self.dir)
    }

    /// Replaces a file atomically and syncs it to the disk: if the host is killed meanwhile, the
    /// old content stays.
    pub(super) fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        self.make_dir()?;
        files::replace_durably(file, &[bytes])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_writers_of_one_version_keep_it_whole() {
        let dir = tempfile::tempdir().unwrap();
        let versions = VersionStore::new(dir.path().to_owned());
        for round in 0..20 {
            let digest = round.to_string();
            std::thread::scope(|scope| {
                let writers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| versions.put(&digest, &[7; 10_000]))).collect();
                writers.into_iter().for_each(|writer| writer.join().unwrap().unwrap());
            });
            assert_eq!(fs::read(versions.file(&digest)).unwrap(), [7; 10_000]);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 20, "nothing unfinished is left");
    }

    #[test]
    fn only_what_is_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let versions = VersionStore::new(dir.path().to_owned());
        for digest in ["1", "2"] {
            versions.put(digest, b"bytes").unwrap();
        }
        versions.keep_only(&HashSet::from(["1".to_owned()]));
        assert!(versions.file("1").exists() && !versions.file("2").exists());
    }
}
