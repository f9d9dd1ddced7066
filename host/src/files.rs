//! Files that are replaced atomically, stamps of files, and private directories.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use tempfile::TempDir;

/// Extension of a file that is being written, or that was when its process was killed.
pub(crate) const UNFINISHED: &str = "new";

/// Distinguishes one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    modified: Option<SystemTime>,
    size: u64,
    /// Inode and status change time (zero if not on Unix): a file that is renamed onto this name
    /// may have the same size and modification time.
    identity: (u64, i64, i64),
}

impl Stamp {
    /// The stamp of a file with this metadata.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        #[cfg(unix)]
        let identity = {
            use std::os::unix::fs::MetadataExt;
            (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
        };
        #[cfg(not(unix))]
        let identity = (0, 0, 0);
        Self { modified: metadata.modified().ok(), size: metadata.len(), identity }
    }
}

/// Replaces `file` with `content`, or creates it. A reader sees the whole old or the whole new
/// content, also after the process was killed. After a crash of the machine, the file may be empty:
/// use this for a file that can be made again.
///
/// Any number of threads and processes may replace one file at once. Until the content is complete,
/// it is in a hidden file in the same directory, with the extension `new`.
///
/// # Errors
/// The file is unchanged.
pub fn replace(file: &Path, content: &[&[u8]]) -> io::Result<()> {
    write(file, content, 0o666, false)
}

/// Replaces a file of the host's own records as [`replace`] does. Only its owner can read it. When
/// this returns, the content survives a crash of the machine.
///
/// # Errors
/// The file is unchanged, unless only the sync of its directory has failed.
pub(crate) fn replace_durably(file: &Path, content: &[&[u8]]) -> io::Result<()> {
    write(file, content, 0o600, true)
}

/// Replaces a file. The umask applies to `mode`.
fn write(file: &Path, content: &[&[u8]], mode: u32, is_durable: bool) -> io::Result<()> {
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(file.file_name().unwrap_or_default());
    prefix.push(".");
    let suffix = format!(".{UNFINISHED}");
    let mut unfinished = tempfile::Builder::new();
    unfinished.prefix(&prefix).suffix(&suffix);
    #[cfg(unix)]
    unfinished.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    // Removed if any step fails.
    let mut unfinished = unfinished.tempfile_in(dir)?;
    for part in content {
        unfinished.write_all(part)?;
    }
    if is_durable {
        unfinished.as_file().sync_all()?;
    }
    unfinished.persist(file)?;
    // Other systems can't sync a directory.
    if is_durable && cfg!(unix) {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Returns the permission bits of a file. Returns `None` on systems whose files have none.
///
/// # Errors
/// The file can't be found.
pub fn mode(file: &Path) -> io::Result<Option<u32>> {
    let metadata = std::fs::metadata(file)?;
    #[cfg(unix)]
    let mode = Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777);
    #[cfg(not(unix))]
    let mode = {
        let _ = metadata;
        None
    };
    Ok(mode)
}

/// Deletes the incomplete files that killed processes have left in `dir`. The caller is the only
/// process that writes there.
pub(crate) fn remove_unfinished(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(&format!(".{UNFINISHED}")) {
            // If it can't be deleted, it only takes space.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Beginning of the name of a directory with copies of state.
const SCRATCH: &str = "verify-";

/// Creates a temporary directory for copies of state in `dir`, which only its owner can use. It is
/// deleted when it is dropped. Also deletes the directories that killed processes have left, so the
/// caller must be the only process that uses `dir`.
///
/// # Errors
/// The directory can't be created.
pub fn scratch(dir: &Path) -> io::Result<TempDir> {
    remove_scratch(dir);
    let mut scratch = tempfile::Builder::new();
    scratch.prefix(SCRATCH);
    #[cfg(unix)]
    scratch.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
    scratch.tempdir_in(dir)
}

/// Deletes the directories of [`scratch`] that killed processes have left in `dir`. The caller is
/// the only process that uses `dir`.
pub(crate) fn remove_scratch(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            // If it can't be deleted, it only takes space.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Creates a directory, and its missing parents, that only its owner can use. An existing directory
/// keeps its mode.
///
/// # Errors
/// The directory can't be created, or is no directory.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut new = DirBuilder::new();
    new.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
    new.create(dir)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_copy_of_state_is_gone_afterwards_and_also_one_that_a_killed_process_has_left() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("verify-01JDXX")).unwrap();
        fs::write(dir.path().join("verify-01JDXX/state.db"), "left").unwrap();
        fs::write(dir.path().join("verify-notes"), "a file").unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        let scratch = scratch(dir.path()).unwrap();
        let own = scratch.path().file_name().unwrap().to_str().unwrap().to_owned();
        let mut expected = vec![own, "verify-notes".to_owned()];
        expected.sort();
        assert_eq!(names(), expected);
        #[cfg(unix)]
        assert_eq!(mode(scratch.path()).unwrap(), Some(0o700));
        drop(scratch);
        assert_eq!(names(), ["verify-notes"]);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_unfinished_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let old = vec![1; 100_000];
        replace(&file, &[&old]).unwrap();
        std::thread::scope(|scope| {
            for writer in 2..6 {
                let (file, content) = (&file, vec![writer; 50_000]);
                scope.spawn(move || {
                    for _ in 0..20 {
                        replace_durably(file, &[&content, &content]).unwrap();
                    }
                });
            }
            for _ in 0..50 {
                let read = fs::read(&file).unwrap();
                let first = read.first().copied();
                assert!(read.len() == 100_000 && read.iter().all(|byte| Some(*byte) == first));
            }
        });
        let away = dir.path().join("directory");
        fs::create_dir(&away).unwrap();
        assert!(replace(&away, &[b"a file can't replace a directory"]).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_a_killed_process_has_left_is_deleted_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["file", "new", ".new.txt", ".file.a1b2c3.new"];
        for name in names {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_unfinished(dir.path());
        remove_unfinished(&dir.path().join("absent"));
        assert_eq!(names.map(|name| dir.path().join(name).exists()), [true, true, true, false]);
    }

    #[cfg(unix)]
    #[test]
    fn the_records_of_the_host_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        create_private_dir(&inner).unwrap();
        let file = inner.join("file");
        replace(&file, &[]).unwrap();
        replace_durably(&file, &[b"secret"]).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!([&dir.path().join("a"), &inner].map(|dir| mode(dir)), [0o700; 2]);
        assert_eq!(mode(&file), 0o600);
    }
}
