//! Data that must survive a restart: the versions of plugins that are kept for rollbacks, stored by
//! their digest, and the slots.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::slots::{Digest, Slots};

/// The extension of a file that is being written, or was when the host was killed.
const UNFINISHED: &str = "new";

/// About how many lines the slots file may have before it is replaced by the newest line alone.
const MAX_LINES: u64 = 64;

/// A directory that only the host writes.
pub(super) struct VersionStore {
    dir: PathBuf,
    /// Set if it is not known which versions are to be kept: then all are kept.
    keeps_all: AtomicBool,
    /// Number of files written so far, which makes temporary names unique: two plugin files with
    /// the same bytes have two writers of one file.
    written: AtomicU64,
}

impl VersionStore {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, keeps_all: AtomicBool::new(false), written: AtomicU64::new(0) }
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

    /// Saves the slots by appending one line; the last complete line counts.
    ///
    /// A line survives a crash of the process at once. It survives a crash of the machine once the
    /// system has written it to the disk, like the plugins' own state. A wait for the disk at every
    /// reload would cost more than the rest of the reload.
    pub(super) fn save(&self, slots: &Slots) -> io::Result<()> {
        let file = self.slots_file();
        let mut line = serde_json::to_vec(slots)?;
        line.push(b'\n');
        if fs::metadata(&file).is_ok_and(|known| known.len() > MAX_LINES * line.len() as u64) {
            return self.write(&file, &line);
        }
        self.make_dir()?;
        // The line begins with a line break, because a full disk may have left a partial line
        // before it.
        line.insert(0, b'\n');
        File::options().append(true).create(true).open(file)?.write_all(&line)
    }

    /// Returns the saved slots, or no slots if there is no file yet. If the file can't be read, the
    /// host starts without slots. For a repair, it renames the file and keeps every version.
    pub(super) fn load(&self) -> Slots {
        let file = self.slots_file();
        let read = match fs::read(&file) {
            Ok(text) => last_whole(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slots::default()),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            self.keeps_all.store(true, Ordering::Relaxed);
            let aside = file.with_extension("unreadable");
            let moved = fs::rename(&file, &aside);
            tracing::error!(file = %file.display(), %error, moved_to = moved.is_ok().then(|| aside.display().to_string()),
                "what was remembered of plugins can't be read: operators' candidates and earlier versions are not known in this run");
            Slots::default()
        })
    }

    fn slots_file(&self) -> PathBuf {
        self.dir.join("slots.jsonl")
    }

    fn make_dir(&self) -> io::Result<()> {
        let mut new = DirBuilder::new();
        new.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
        new.create(&self.dir)
    }

    /// Replaces a file atomically and syncs it to the disk: if the host is killed meanwhile, the
    /// old content stays.
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        self.make_dir()?;
        let number = self.written.fetch_add(1, Ordering::Relaxed);
        let unfinished = file.with_extension(format!("{number}.{UNFINISHED}"));
        let mut opened = File::create(&unfinished)?;
        let written = opened
            .write_all(bytes)
            .and_then(|()| opened.sync_all())
            .and_then(|()| fs::rename(&unfinished, file));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// Returns the last complete line: a crash of the machine may leave a partial line after it.
///
/// # Errors
/// If there is no complete line.
fn last_whole(text: &[u8]) -> io::Result<Slots> {
    let mut last = None;
    for line in text.split(|byte| *byte == b'\n').rev().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(slots) => {
                if let Some(error) = last {
                    tracing::warn!(%error, "the newest of what was remembered of plugins can't be read: what was before it counts");
                }
                return Ok(slots);
            }
            // An operator needs the error of the newest line.
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::slots::Claim;
    use std::time::SystemTime;

    #[test]
    fn slots_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let versions = VersionStore::new(dir.path().join("plugins"));
        assert_eq!(versions.load(), Slots::default());
        let mut slots = Slots::default();
        slots.claim(
            &[Claim { file: Path::new("a.wasm"), holds: Some(("a", "1")) }],
            false,
            SystemTime::UNIX_EPOCH,
        );
        slots.active("a", "1", SystemTime::UNIX_EPOCH);
        versions.save(&slots).unwrap();
        assert_eq!(versions.load(), slots);
        // The newest save counts unless its line is incomplete, and the file does not grow without
        // bound.
        for _ in 0..=2 * MAX_LINES {
            versions.save(&Slots::default()).unwrap();
            assert_eq!(versions.load(), Slots::default());
            versions.save(&slots).unwrap();
        }
        let line = serde_json::to_vec(&slots).unwrap().len() as u64;
        let file = versions.slots_file();
        assert!(fs::metadata(&file).unwrap().len() <= (MAX_LINES + 2) * (line + 2));
        let mut torn = File::options().append(true).open(file).unwrap();
        torn.write_all(b"\n{\"a\": {").unwrap();
        assert_eq!(versions.load(), slots);
        versions.save(&Slots::default()).unwrap();
        assert_eq!(versions.load(), Slots::default());
    }

    #[cfg(unix)]
    #[test]
    fn slots_of_a_file_whose_name_is_not_utf_8_come_back_as_they_were_saved() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let versions = VersionStore::new(dir.path().to_owned());
        let mut slots = Slots::default();
        let file = Path::new(std::ffi::OsStr::from_bytes(b"/plugins/\xff.wasm"));
        let text = Path::new("/plugins/b.wasm");
        slots.claim(
            &[
                Claim { file, holds: Some(("a", "1")) },
                Claim { file: text, holds: Some(("b", "2")) },
            ],
            false,
            SystemTime::UNIX_EPOCH,
        );
        versions.save(&slots).unwrap();
        assert_eq!(versions.load(), slots);
        let saved = fs::read_to_string(versions.slots_file()).unwrap();
        assert!(
            saved.contains(r#""file":"/plugins/b.wasm""#),
            "a path that is text stays readable: {saved}"
        );
    }

    #[test]
    fn slots_that_cannot_be_read_are_put_aside_and_no_version_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let versions = VersionStore::new(dir.path().to_owned());
        versions.put("1", b"bytes").unwrap();
        fs::write(dir.path().join("slots.jsonl"), "{").unwrap();
        assert_eq!(versions.load(), Slots::default());
        versions.save(&Slots::default()).unwrap();
        versions.keep_only(&HashSet::new());
        assert!(versions.file("1").exists());
        assert_eq!(fs::read_to_string(dir.path().join("slots.unreadable")).unwrap(), "{");
    }

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
