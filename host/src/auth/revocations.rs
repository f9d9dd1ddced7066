//! The users whose earlier tokens are refused. They are saved in a file, so that a restart does not
//! accept these tokens again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::files;

use super::error::RevokeError;

/// The most users. A revocation is kept without end, because the host does not know how long tokens
/// are valid.
const MAX_USERS: usize = 100_000;

/// The largest file: each user has a name of at most a few hundred bytes.
const MAX_FILE: u64 = 64 << 20;

/// The revocations of one host.
#[derive(Debug)]
pub(super) struct Revocations {
    file: PathBuf,
    saved: ArcSwap<Saved>,
    /// Held while the file is written.
    writing: Mutex<()>,
}

/// The content of the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Saved {
    /// For each user, the seconds since 1970 at which a token must have been issued at the
    /// earliest.
    users: BTreeMap<String, u64>,
}

/// Returns the file of the revocations in a data directory.
fn file_in(data_dir: &Path) -> PathBuf {
    data_dir.join("revoked-tokens.json")
}

impl Revocations {
    /// Reads the revocations in `data_dir`; none if there is no file.
    ///
    /// # Errors
    /// The file can't be read. A host that ignored it would accept revoked tokens.
    pub(super) fn load(data_dir: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let file = file_in(data_dir);
        let saved = match read(&file) {
            Ok(saved) => saved,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
            Err(error) => return Err((file, error)),
        };
        Ok(Self { file, saved: ArcSwap::from_pointee(saved), writing: Mutex::default() })
    }

    /// Whether a token of `user` is refused.
    pub(super) fn refuses(&self, user: &str, issued_at: Option<SystemTime>) -> bool {
        let saved = self.saved.load();
        let Some(earliest) = saved.users.get(user) else { return false };
        issued_at.is_none_or(|issued| since_1970(issued) < Duration::from_secs(*earliest))
    }

    /// Refuses the tokens of `user` that were issued before `time`, and tokens without `iat`.
    /// An earlier revocation of later tokens stays. Returns the time that is in force, in seconds
    /// since 1970: `time`, rounded up. Blocks.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(super) fn add(&self, user: &str, time: SystemTime) -> Result<u64, RevokeError> {
        let since = since_1970(time);
        let earliest = since.as_secs() + u64::from(since.subsec_nanos() > 0);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Saved::clone(&self.saved.load());
        let in_force = next.users.entry(user.to_owned()).or_default();
        *in_force = earliest.max(*in_force);
        let in_force = *in_force;
        if next.users.len() > MAX_USERS {
            return Err(RevokeError::Full(MAX_USERS));
        }
        let text = serde_json::to_vec(&next).map_err(io::Error::from).map_err(RevokeError::Io)?;
        files::replace_durably(&self.file, &[&text]).map_err(RevokeError::Io)?;
        self.saved.store(Arc::new(next));
        Ok(in_force)
    }
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn read(file: &Path) -> io::Result<Saved> {
    if std::fs::metadata(file)?.len() > MAX_FILE {
        return Err(io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(serde_json::from_slice(&std::fs::read(file)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 2_000_000_000;

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(NOW as f64 + seconds)
    }

    #[test]
    fn earlier_tokens_of_a_user_are_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::load(dir.path()).unwrap();
        assert!(!revocations.refuses("7", None));
        assert_eq!(revocations.add("7", at(0.5)).unwrap(), NOW + 1);
        assert_eq!(revocations.add("7", at(-60.0)).unwrap(), NOW + 1, "the later one stays");
        for revocations in [revocations, Revocations::load(dir.path()).unwrap()] {
            assert!(revocations.refuses("7", None) && revocations.refuses("7", Some(at(0.9))));
            assert!(!revocations.refuses("7", Some(at(1.0))));
            assert!(!revocations.refuses("8", Some(at(0.0))));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let revocations = Revocations::load(dir.path()).unwrap();
        std::fs::write(file_in(dir.path()), "{").unwrap();
        assert!(Revocations::load(dir.path()).is_err());
        std::fs::write(file_in(dir.path()), format!(r#"{{"users":{{"7":{}}}}}"#, u64::MAX))
            .unwrap();
        assert!(Revocations::load(dir.path()).unwrap().refuses("7", Some(at(0.0))));
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(matches!(revocations.add("7", at(0.0)), Err(RevokeError::Io(_))));
        assert!(!revocations.refuses("7", None));
    }
}
