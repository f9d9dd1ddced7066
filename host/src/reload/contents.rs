//! What must survive a restart: the versions of plugins that can be gone back to, by their content, and which of them serve.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::slots::{Digest, Slots};

/// A directory that only the host writes.
pub(super) struct Contents {
    dir: PathBuf,
}

impl Contents {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where the bytes of a version are.
    pub(super) fn file(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}.wasm"))
    }

    /// Keeps the bytes of a version.
    pub(super) fn put(&self, digest: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.file(digest);
        if file.exists() { Ok(()) } else { self.write(&file, bytes) }
    }

    /// Forgets every other version.
    pub(super) fn keep_only(&self, kept: &HashSet<&Digest>) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ext| ext == "wasm")) {
            let digest = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if !kept.contains(&digest) {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Remembers the slots.
    pub(super) fn save(&self, slots: &Slots) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(slots)?;
        self.write(&self.slots_file(), &text)
    }

    /// The slots as they were; none where there are none yet.
    pub(super) fn load(&self) -> io::Result<Slots> {
        match fs::read(self.slots_file()) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slots::default()),
            Err(error) => Err(error),
        }
    }

    fn slots_file(&self) -> PathBuf {
        self.dir.join("slots.json")
    }

    /// Whole, or as it was before: also where the host is killed meanwhile.
    fn write(&self, file: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut new = DirBuilder::new();
        new.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
        new.create(&self.dir)?;
        let unfinished = file.with_extension("new");
        let mut opened = File::create(&unfinished)?;
        let written = opened.write_all(bytes).and_then(|()| opened.sync_all()).and_then(|()| fs::rename(&unfinished, file));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn slots_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(dir.path().join("plugins"));
        assert_eq!(contents.load().unwrap(), Slots::default());
        let mut slots = Slots::default();
        slots.found(Path::new("a.wasm"), "1", "a").unwrap();
        slots.served("a", "1", SystemTime::UNIX_EPOCH);
        contents.save(&slots).unwrap();
        assert_eq!(contents.load().unwrap(), slots);
    }

    #[test]
    fn only_what_is_kept_stays() {
        let dir = tempfile::tempdir().unwrap();
        let contents = Contents::new(dir.path().to_owned());
        for digest in ["1", "2"] {
            contents.put(digest, b"bytes").unwrap();
        }
        contents.keep_only(&HashSet::from([&"1".to_owned()]));
        assert!(contents.file("1").exists() && !contents.file("2").exists());
    }
}
