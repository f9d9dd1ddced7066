//! Saves the slots for the next start, and loads them at a start. The file has one line for each
//! save, and lies in the directory of the kept versions.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use super::slots::Slots;
use super::versions::VersionStore;

/// About how many lines the slots file may have before it is replaced by the newest line alone.
const MAX_LINES: u64 = 64;

impl VersionStore {
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
            self.keep_all();
            let aside = file.with_extension("unreadable");
            let moved = fs::rename(&file, &aside);
            tracing::error!(file = %file.display(), %error, moved_to = moved.is_ok().then(|| aside.display().to_string()),
                "the saved decisions of operators and earlier versions of plugins can't be read: they are not known in this run");
            Slots::default()
        })
    }

    fn slots_file(&self) -> PathBuf {
        self.dir.join("slots.jsonl")
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
                    tracing::warn!(%error, "the newest saved record of the plugins can't be read: the previous record is used");
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
    use std::collections::HashSet;
    use std::path::Path;
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
}
