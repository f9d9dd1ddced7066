//! What must survive a restart: the versions of plugins that can be gone back to, by their content, and which of them serve.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::slots::{Digest, Slots};

/// The extension of what is being written, or was when the host was killed.
const UNFINISHED: &str = "new";

/// A directory that only the host writes.
pub(super) struct Contents {
    dir: PathBuf,
    /// Set where it is not known what is to be kept: then all is.
    keeps_all: AtomicBool,
}

impl Contents {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, keeps_all: AtomicBool::new(false) }
    }

    /// Where the bytes of a version are.
    pub(super) fn file(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Keeps the bytes of a version.
    pub(super) fn put(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(digest);
        if file.exists() { Ok(()) } else { self.write(&file, bytes, |new| fs::rename(new, &file)) }
    }

    /// Forgets every other version.
    pub(super) fn keep_only(&self, kept: &HashSet<Digest>) {
        if self.keeps_all.load(Ordering::Relaxed) {
            return;
        }
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        let spare = self.slots_file().with_extension(UNFINISHED);
        let is_of_version =
            |path: &PathBuf| path.extension().is_some_and(|extension| extension == "wasm" || extension == UNFINISHED) && *path != spare;
        for path in entries.flatten().map(|entry| entry.path()).filter(is_of_version) {
            let digest = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if !kept.contains(&digest) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Remembers the slots.
    pub(super) fn save(&self, slots: &Slots) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(slots)?;
        let file = self.slots_file();
        self.write(&file, &text, |new| exchange(new, &file))
    }

    /// The slots as they were; none where there are none yet. Where they can't be read the host starts without them, and what there was stays
    /// for whoever mends it: the file under another name, and every version.
    pub(super) fn load(&self) -> Slots {
        let file = self.slots_file();
        let read = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slots::default()),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            self.keeps_all.store(true, Ordering::Relaxed);
            let aside = file.with_extension("unreadable");
            let moved = fs::rename(&file, &aside);
            tracing::error!(file = %file.display(), %error, moved_to = moved.is_ok().then(|| aside.display().to_string()),
                "what was remembered of plugins can't be read: operators' choices and earlier versions are not known in this run");
            Slots::default()
        })
    }

    fn slots_file(&self) -> PathBuf {
        self.dir.join("slots.json")
    }

    /// Whole, or as it was before: also where the host is killed meanwhile. `put` gives what was written its name.
    fn write(&self, file: &Path, bytes: &[u8], put: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut new = DirBuilder::new();
        new.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
        new.create(&self.dir)?;
        let unfinished = file.with_extension(UNFINISHED);
        // What is there keeps its place on the disk.
        let mut opened = File::options().write(true).create(true).truncate(false).open(&unfinished)?;
        let end = bytes.len() as u64;
        let written =
            opened.write_all(bytes).and_then(|()| opened.set_len(end)).and_then(|()| opened.sync_data()).and_then(|()| put(&unfinished));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

/// Puts `new` in the place of `file`, and `file` where `new` was: the next is written there. To find place for a new file and to give back
/// that of an old one takes the kernel half a millisecond each, in which nobody else has the processor.
fn exchange(new: &Path, file: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    if rustix::fs::renameat_with(rustix::fs::CWD, new, rustix::fs::CWD, file, rustix::fs::RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // The first time, or where the file system can't.
    fs::rename(new, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::slots::Claim;
    use std::time::SystemTime;

    #[test]
    fn slots_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(dir.path().join("plugins"));
        assert_eq!(contents.load(), Slots::default());
        let mut slots = Slots::default();
        slots.claim(&[Claim { file: Path::new("a.wasm"), holds: Some(("a", "1")) }], false);
        slots.served("a", "1", SystemTime::UNIX_EPOCH);
        contents.save(&slots).unwrap();
        assert_eq!(contents.load(), slots);
        // The next, which is shorter, is written where the one before was.
        contents.save(&Slots::default()).unwrap();
        assert_eq!(contents.load(), Slots::default());
        contents.save(&slots).unwrap();
        assert_eq!(contents.load(), slots);
    }

    #[test]
    fn slots_that_cannot_be_read_are_put_aside_and_no_version_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(dir.path().to_owned());
        contents.put("1", b"bytes").unwrap();
        fs::write(dir.path().join("slots.json"), "{").unwrap();
        assert_eq!(contents.load(), Slots::default());
        contents.save(&Slots::default()).unwrap();
        contents.keep_only(&HashSet::new());
        assert!(contents.file("1").exists());
        assert_eq!(fs::read_to_string(dir.path().join("slots.unreadable")).unwrap(), "{");
    }

    #[test]
    fn only_what_is_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(dir.path().to_owned());
        for digest in ["1", "2"] {
            contents.put(digest, b"bytes").unwrap();
        }
        contents.keep_only(&HashSet::from(["1".to_owned()]));
        assert!(contents.file("1").exists() && !contents.file("2").exists());
    }
}
