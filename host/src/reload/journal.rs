//! Saves the slots for the next start, and loads them at a start. The file has one line for each
//! save, and lies in the directory of the kept versions.

use std::fs::{self, File};
use std::io::{self, Write};
use std::iter;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::files;

use super::slots::Slots;

/// About how many lines the slots file may have before it is replaced by the newest line alone.
const MAX_LINES: u64 = 64;

/// The saved slots.
pub(super) struct Journal {
    dir: PathBuf,
    file: PathBuf,
    /// The slots that a start would load now.
    saved: Slots,
    /// Whether slots were saved that could not be read.
    is_incomplete: bool,
    /// Why the last save failed, and its slots. The file may hold them all the same: a replacement
    /// can fail after the rename.
    failed: Option<(SaveFailure, Slots)>,
}

/// Why the slots can't be saved.
#[derive(Debug, Clone)]
pub(super) struct SaveFailure {
    /// The reason.
    pub(super) reason: String,
    /// When saving failed first.
    pub(super) since: SystemTime,
}

impl Journal {
    /// Reads the slots in `dir`, if any. If the file can't be read, the host starts without slots;
    /// the file is renamed, so that it can be repaired.
    pub(super) fn open(dir: PathBuf) -> Self {
        let file = dir.join("slots.jsonl");
        let read = match fs::read(&file) {
            Ok(text) => last_complete(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Slots::default()),
            Err(error) => Err(error),
        };
        let is_incomplete = read.is_err();
        let saved = read.unwrap_or_else(|error| {
            let aside = file.with_extension("unreadable");
            let moved = fs::rename(&file, &aside);
            tracing::error!(file = %file.display(), %error, moved_to = moved.is_ok().then(|| aside.display().to_string()),
                "the saved decisions of operators and earlier versions of plugins can't be read: \
                 they are not known in this run");
            Slots::default()
        });
        let saved = saved.at_start();
        Self { dir, file, saved, is_incomplete, failed: None }
    }

    /// Returns the slots that a start would load now.
    pub(super) fn saved(&self) -> &Slots {
        &self.saved
    }

    /// Whether slots were saved that could not be read: then it is not known which versions are
    /// needed.
    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    /// Returns why the newest slots are not saved; `None` if they are.
    pub(super) fn failure(&self) -> Option<&SaveFailure> {
        self.failed.as_ref().map(|(failure, _)| failure)
    }

    /// Whether a start would load these slots.
    pub(super) fn has_saved(&self, slots: &Slots) -> bool {
        self.failed.is_none() && self.saved == *slots
    }

    /// Saves the slots, unless they are saved already. After a failure the content of the file is
    /// unknown, so the next call saves in any case.
    pub(super) fn save(&mut self, slots: &Slots) {
        if self.has_saved(slots) {
            return;
        }
        match self.append(slots) {
            Ok(()) => {
                self.saved.clone_from(slots);
                self.failed = None;
            }
            Err(error) => {
                let failure = match self.failed.take() {
                    Some((failure, _)) => failure,
                    None => {
                        tracing::warn!(%error, "the serving versions and the decisions of \
                                        operators can't be saved for the next start");
                        SaveFailure { reason: error.to_string(), since: SystemTime::now() }
                    }
                };
                self.failed = Some((failure, slots.clone()));
            }
        }
    }

    /// Iterates over all slots that the file may hold: the saved slots, and the slots of the last
    /// failed save.
    pub(super) fn possibly_saved(&self) -> impl Iterator<Item = &Slots> {
        iter::once(&self.saved).chain(self.failed.as_ref().map(|(_, slots)| slots))
    }

    /// Appends one line; the last complete line counts.
    ///
    /// A line survives a crash of the process at once. It survives a crash of the machine once the
    /// system has written it to the disk, like the plugins' own state. A wait for the disk at every
    /// reload would cost more than the rest of the reload.
    fn append(&self, slots: &Slots) -> io::Result<()> {
        let mut line = serde_json::to_vec(slots)?;
        line.push(b'\n');
        files::create_private_dir(&self.dir)?;
        if fs::metadata(&self.file).is_ok_and(|known| known.len() > MAX_LINES * line.len() as u64) {
            return files::replace_durably(&self.file, &[&line]);
        }
        // The line begins with a line break, because a full disk may have left a partial line
        // before it.
        line.insert(0, b'\n');
        File::options().append(true).create(true).open(&self.file)?.write_all(&line)
    }
}

/// Returns the last complete line: a crash of the machine may leave a partial line after it.
///
/// # Errors
/// If there is no complete line.
pub(super) fn last_complete(text: &[u8]) -> io::Result<Slots> {
    let mut newest_error = None;
    for line in text.split(|byte| *byte == b'\n').rev().filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(slots) => {
                if let Some(error) = newest_error {
                    tracing::warn!(%error, "the newest saved record of the plugins can't be read: \
                                        the previous record is used");
                }
                return Ok(slots);
            }
            // An operator needs the error of the newest line.
            Err(error) => newest_error = newest_error.or(Some(error)),
        }
    }
    Err(newest_error.map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::from))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::reload::slots::Claim;

    /// Returns slots in which these files hold one plugin each.
    fn slots(files: &[&Path]) -> Slots {
        let names: Vec<_> = (0..files.len()).map(|number| format!("p{number}")).collect();
        let claims = files.iter().zip(&names);
        let claims: Vec<_> =
            claims.map(|(file, name)| Claim { file, content: Some((name, "1")) }).collect();
        let mut slots = Slots::default();
        slots.claim(&claims, false, SystemTime::UNIX_EPOCH);
        slots
    }

    fn reopened(journal: &Journal) -> Slots {
        Journal::open(journal.dir.clone()).saved
    }

    #[test]
    fn slots_come_back_as_they_were_saved() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path().join("plugins"));
        assert_eq!((journal.saved(), journal.is_incomplete()), (&Slots::default(), false));
        let slots = slots(&[Path::new("a.wasm")]);
        journal.save(&slots);
        assert_eq!(reopened(&journal), slots);
        // The newest save counts unless its line is incomplete, and the file does not grow without
        // bound.
        for _ in 0..=2 * MAX_LINES {
            journal.save(&Slots::default());
            assert_eq!(reopened(&journal), Slots::default());
            journal.save(&slots);
        }
        let line = serde_json::to_vec(&slots).unwrap().len() as u64;
        assert!(fs::metadata(&journal.file).unwrap().len() <= (MAX_LINES + 2) * (line + 2));
        let mut torn = File::options().append(true).open(&journal.file).unwrap();
        torn.write_all(b"\n{\"a\": {").unwrap();
        assert_eq!(reopened(&journal), slots);
        journal.save(&Slots::default());
        assert_eq!(reopened(&journal), Slots::default());
    }

    #[cfg(unix)]
    #[test]
    fn slots_of_a_file_whose_name_is_not_utf_8_come_back_as_they_were_saved() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path().to_owned());
        let file = Path::new(std::ffi::OsStr::from_bytes(b"/plugins/\xff.wasm"));
        let slots = slots(&[file, Path::new("/plugins/b.wasm")]);
        journal.save(&slots);
        assert_eq!(reopened(&journal), slots);
        let saved = fs::read_to_string(&journal.file).unwrap();
        assert!(
            saved.contains(r#""file":"/plugins/b.wasm""#),
            "a path that is text stays readable: {saved}"
        );
    }

    #[test]
    fn slots_that_cannot_be_read_are_put_aside_for_a_repair() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("slots.jsonl"), "{").unwrap();
        let journal = Journal::open(dir.path().to_owned());
        assert_eq!((journal.saved(), journal.is_incomplete()), (&Slots::default(), true));
        assert_eq!(fs::read_to_string(dir.path().join("slots.unreadable")).unwrap(), "{");
    }

    #[test]
    fn slots_that_cannot_be_saved_leave_the_earlier_ones_until_they_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("plugins");
        let mut journal = Journal::open(kept.clone());
        fs::write(&kept, "").unwrap();
        let slots = slots(&[Path::new("a.wasm")]);
        journal.save(&slots);
        assert!(journal.failure().is_some() && !journal.has_saved(&slots));
        let possible = |journal: &Journal| journal.possibly_saved().cloned().collect::<Vec<_>>();
        assert_eq!(possible(&journal), [Slots::default(), slots.clone()]);
        fs::remove_file(&kept).unwrap();
        // The file may hold what failed, so what was saved before it is saved again.
        journal.save(&Slots::default());
        assert!(journal.failure().is_none() && journal.file.exists());
        journal.save(&slots);
        assert!(journal.has_saved(&slots));
        assert_eq!(possible(&journal), [slots]);
    }
}
