//! Copies of a store's file, for commands that try something with real state.

#[cfg(unix)]
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, io};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, ffi};

use super::StoreError;
use super::connection::{BUSY_TIMEOUT, meta};
use super::opening::beside;

/// Number of pages that are copied in one step: a few milliseconds.
const PAGES: i32 = 1024;

/// How the file of a store is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// A host may use the file: the copy has all commits up to now, and later commits go on until
    /// the host's log is full. It can't be shortened before the copy is made, so writers are then
    /// refused.
    Live,
    /// No process uses the file, and none begins to. It may be that of a host that was killed.
    Closed,
}

/// Returns the bytes of a store's file and of its write-ahead log. `None` if there is no such file.
pub fn copied_bytes(file: &Path) -> Option<u64> {
    let bytes = |suffix| fs::metadata(beside(file, suffix)).map(|file| file.len());
    Some(bytes("").ok()? + bytes("-wal").unwrap_or(0))
}

/// Copies a store into the new file `copy`. The store stays as it is. `progress` is called now and
/// then with the numbers of pages that are copied and that there are. Blocks.
///
/// # Errors
/// The store can't be read, or the copy can't be written.
pub fn copy_store(
    file: &Path,
    mode: CopyMode,
    copy: &Path,
    mut progress: impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    if mode == CopyMode::Closed {
        let unusable = |source| StoreError::Open { file: file.to_owned(), source };
        for suffix in ["", "-wal"] {
            let part = beside(file, suffix);
            if part.exists() {
                copy_file(&part, &beside(copy, suffix)).map_err(unusable)?;
            }
        }
        return Ok(());
    }
    let source = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    source.busy_timeout(BUSY_TIMEOUT)?;
    // The transaction keeps the copy at one commit. Without it, each commit of the host would let
    // the copy begin again.
    source.execute_batch("BEGIN")?;
    meta(&source)?;
    let mut target = Connection::open(copy)?;
    let backup = Backup::new(&source, &mut target)?;
    let mut moved = Instant::now();
    loop {
        let step = backup.step(PAGES)?;
        if step != StepResult::Busy && step != StepResult::Locked {
            moved = Instant::now();
        } else if moved.elapsed() > BUSY_TIMEOUT {
            let busy = ffi::Error::new(ffi::SQLITE_BUSY);
            return Err(rusqlite::Error::SqliteFailure(busy, None).into());
        }
        match step {
            StepResult::Done => return Ok(()),
            StepResult::More => {
                let pages = |pages: i32| u64::try_from(pages).unwrap_or(0);
                let done = backup.progress();
                let all = pages(done.pagecount);
                progress(all.saturating_sub(pages(done.remaining)), all);
            }
            // `Busy` and `Locked`: a process holds the file for a moment.
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Copies a file. The copy can be written by its owner, also if the file can't, as in a backup, and
/// by no one else.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    io::copy(&mut fs::File::open(from)?, &mut options.open(to)?).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Store, StoreLimits};

    fn open(dir: &Path) -> Arc<Store> {
        let (file, manifest) = (dir.join("state.sqlite"), dir.join("manifest/state.json"));
        Arc::new(Store::open(&file, &manifest, StoreLimits::default()).unwrap())
    }

    fn put(store: &Arc<Store>, key: &str, bytes: usize) {
        let mut view = store.view();
        view.set(key, vec![7; bytes]).unwrap();
        store.commit(&view.into_changes()).unwrap();
    }

    fn has(store: &Arc<Store>, key: &str) -> bool {
        store.view().get(key).unwrap().is_some()
    }

    #[test]
    fn a_copy_has_all_commits_of_a_store_that_is_in_use_and_changes_nothing_of_it() {
        let (of, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(of.path());
        for number in 0..40 {
            put(&store, &number.to_string(), 200_000);
        }
        let file = of.path().join("state.sqlite");
        let mut seen = Vec::new();
        let progress = |done, all| {
            // A commit meanwhile does not let the copy begin again.
            assert!(seen.len() < 100, "{seen:?}");
            put(&store, "meanwhile", 10);
            seen.push((done, all));
        };
        copy_store(&file, CopyMode::Live, &to.path().join("state.sqlite"), progress).unwrap();
        assert!(!seen.is_empty() && seen.is_sorted() && seen.iter().all(|(done, all)| done < all));
        let copy = open(to.path());
        assert!((0..40).all(|number| has(&copy, &number.to_string())));
        assert!(!has(&copy, "meanwhile") && has(&store, "meanwhile"));
        put(&copy, "copy", 1);
        assert!(!has(&store, "copy"));
    }

    #[test]
    fn a_copy_of_the_files_of_a_killed_host_has_what_is_in_their_log() {
        let (of, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(of.path());
        put(&store, "a", 10);
        let file = of.path().join("state.sqlite");
        assert!(copied_bytes(&file) > Some(0) && beside(&file, "-wal").exists());
        let copy = to.path().join("state.sqlite");
        // A backup is often made read-only.
        let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
        fs::set_permissions(&file, read_only).unwrap();
        // As if the process had ended here.
        copy_store(&file, CopyMode::Closed, &copy, |_, _| {}).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&copy).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert!(has(&open(to.path()), "a"));
        assert_eq!(copied_bytes(&of.path().join("missing.sqlite")), None);
    }
}
