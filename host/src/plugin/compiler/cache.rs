//! A cache of compiled code. The digest of the plugin's content is the key.
//!
//! The entries are native code that the host will run. So only the host's user can write to the
//! directory, and each entry begins with its own checksum. If an entry is damaged or was made by
//! another version of the program, the plugin is compiled again and the entry is never run.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use crate::files::{self, UNFINISHED};
use crate::plugin::engine::Engine;

/// A directory of compiled code. Several processes of one user may use it at the same time, for
/// example a host and `sockhop deploy`.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// Number of entries that are kept although no plugin uses them: the newest. A removed plugin may
/// come back, and an entry that `sockhop deploy` has compiled exists before its plugin is
/// installed.
const UNUSED_KEPT: usize = 16;

/// Bytes of the checksum that an entry begins with.
const CHECKSUM: usize = 32;

/// Age after which an unfinished entry is considered abandoned.
const ABANDONED: Duration = Duration::from_secs(60);

impl Cache {
    /// Opens the cache in `dir`, and creates the directory if it is missing.
    ///
    /// # Errors
    /// Returns the reason if the content of the directory could not be trusted.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        make_private(&dir)?;
        Ok(Self { dir })
    }

    /// Returns the compiled code of the content `digest` for `engine`. Returns `None` if there is
    /// no entry or the entry is damaged; a damaged entry is removed.
    pub(super) fn get(&self, engine: &Engine, digest: &str) -> Option<Component> {
        let entry = self.entry(engine, digest);
        let bytes = std::fs::read(&entry).ok()?;
        let component = bytes.split_at_checked(CHECKSUM).and_then(|(checksum, code)| {
            let is_whole = checksum == Sha256::digest(code).as_slice();
            is_whole.then(|| deserialize(engine, code).ok()).flatten()
        });
        if component.is_none() {
            tracing::warn!(file = %entry.display(), "the compiled code of a plugin is damaged; it \
                                        is compiled again");
            let _ = std::fs::remove_file(entry);
        }
        component
    }

    /// Stores `code` atomically. A failure only makes the next load slower.
    pub(super) fn put(&self, engine: &Engine, digest: &str, code: &[u8]) {
        let entry = self.entry(engine, digest);
        if let Err(error) = files::replace(&entry, &[&Sha256::digest(code), code]) {
            tracing::warn!(file = %entry.display(), %error, "the compiled code of a plugin is not \
                                        cached");
        }
    }

    /// Removes entries of other engine versions. Of the entries for contents that are not in
    /// `digests`, keeps only the newest.
    pub(super) fn keep_only(&self, engine: &Engine, digests: &HashSet<String>) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        let fingerprint = engine.fingerprint();
        let mut unused = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            match name.to_str().and_then(|name| name.split_once('-')) {
                Some((digest, made_for)) if made_for == fingerprint => {
                    if !digests.contains(digest) {
                        unused.push((modified, entry.path()));
                    }
                }
                Some((_, made_for))
                    if made_for.ends_with(UNFINISHED) && !is_abandoned(modified) => {}
                _ => drop(std::fs::remove_file(entry.path())),
            }
        }
        unused.sort();
        for (_, entry) in unused.iter().rev().skip(UNUSED_KEPT) {
            let _ = std::fs::remove_file(entry);
        }
    }

    fn entry(&self, engine: &Engine, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}-{}", engine.fingerprint()))
    }
}

fn is_abandoned(modified: Option<SystemTime>) -> bool {
    modified.is_none_or(|modified| modified.elapsed().is_ok_and(|age| age > ABANDONED))
}

/// Creates the directory if it is missing, and ensures that only the host's user can write to it,
/// because the host runs its content.
fn make_private(cache: &Path) -> io::Result<()> {
    files::create_private_dir(cache)?;
    // The link itself is checked, not its target: its owner could change the target later.
    let metadata = std::fs::symlink_metadata(cache)?;
    if !metadata.is_dir() {
        return Err(io::Error::other("it is no directory"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        const OTHERS_MAY: u32 = 0o077;
        if metadata.mode() & OTHERS_MAY != 0 {
            std::fs::set_permissions(cache, std::fs::Permissions::from_mode(0o700))?;
            // Entries that others may have written before are not trusted.
            for entry in std::fs::read_dir(cache)?.flatten() {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

/// Loads compiled code as a component. `code` must come from this user's own compiler process.
#[allow(
    unsafe_code,
    reason = "running compiled code is what the host does; see the safety comment"
)]
pub(super) fn deserialize(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the host's own compiler process wrote `code`. It comes directly from the pipe of that
    // process, which no other process has, or from the cache directory. Only the host's user may
    // write to that directory, and the checksum was verified. Wasmtime itself refuses code of
    // another version or of other settings.
    unsafe { Component::deserialize(&engine.wasm, code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn a_cache_to_which_others_could_write_is_emptied_and_closed_and_a_link_is_not_used() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (cache, link) = (dir.path().join("cache"), dir.path().join("link"));
        std::fs::create_dir(&cache).unwrap();
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(cache.join("planted"), "code").unwrap();
        make_private(&cache).unwrap();
        assert_eq!(cache.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 0);
        symlink(&cache, &link).unwrap();
        assert!(make_private(&link).is_err());
    }

    #[test]
    fn an_entry_that_was_damaged_is_removed_and_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let engine = Engine::new(1 << 20, 1).unwrap();
        cache.put(&engine, "1", &compiled());
        assert!(cache.get(&engine, "1").is_some(), "what is compiled apart runs here");
        let entry = cache.entry(&engine, "1");
        let mut bytes = std::fs::read(&entry).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&entry, &bytes).unwrap();
        assert!(cache.get(&engine, "1").is_none() && !entry.exists());
        std::fs::write(&entry, b"short").unwrap();
        assert!(cache.get(&engine, "1").is_none() && !entry.exists());
    }

    #[test]
    fn an_entry_that_another_process_is_writing_stays_and_an_abandoned_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        let engine = Engine::new(1 << 20, 1).unwrap();
        cache.put(&engine, "used", &compiled());
        let [fresh, old] =
            ["a", "b"].map(|digest| cache.entry(&engine, digest).with_extension("7.new"));
        for file in [&fresh, &old] {
            std::fs::write(file, "half").unwrap();
        }
        let other = cache.dir.join("c-of-another-program");
        std::fs::write(&other, "code").unwrap();
        std::fs::File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        cache.keep_only(&engine, &HashSet::from(["used".to_owned()]));
        assert!(cache.get(&engine, "used").is_some());
        assert_eq!((fresh.exists(), old.exists(), other.exists()), (true, false, false));
    }

    fn compiled() -> Vec<u8> {
        crate::plugin::engine::for_compiling()
            .unwrap()
            .precompile_component(b"\0asm\x0d\0\x01\0")
            .unwrap()
    }
}
