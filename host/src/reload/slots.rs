//! Which version of each plugin should serve. Pure: what the directory holds, what became of loading it, and what an operator says come
//! in; versions to try come out. The only state of it all, and what survives a restart.
//!
//! A plugin's name is its slot; a file claims it by registering that name, and keeps it for as long as it is there. A slot's state, as
//! operators see it:
//!
//! ```text
//!   (file appears) -> loading -> active <-> quarantined (its breaker is open)
//!                        \-> failed  \-> disabled (an operator's word; enabling goes back to active)
//!                                     \-> draining (its file is gone, events still run) -> (nothing)
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Versions of a plugin that are kept to go back to, the one that serves among them.
pub const KEPT: usize = 5;

/// How long a new version may not trip its breaker without being taken back.
pub const TRIAL: Duration = Duration::from_secs(60);

/// SHA-256 of a file's bytes, hexadecimal: what a version is known by.
pub type Digest = String;

/// All slots, by the names that plugins registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slots {
    by_name: BTreeMap<String, Slot>,
}

/// One plugin, whichever version of it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// The file that claims it.
    pub file: PathBuf,
    /// The version in that file.
    pub in_file: Digest,
    /// Whether that version may be tried; what failed by its bytes, or was taken back, is not tried again.
    pub is_in_file_good: bool,
    /// The version that serves, or would if the plugin were not disabled.
    pub serving: Option<Digest>,
    /// Since when, over restarts: a version is new for [`TRIAL`].
    #[serde(default = "long_ago")]
    pub serving_since: SystemTime,
    /// Versions that served, the newest first.
    pub kept: VecDeque<Digest>,
    /// The version that an operator went back to, for as long as the file stays what it is.
    pub pinned: Option<Digest>,
    /// Whether an operator disabled it, for as long as the file stays what it is.
    pub is_disabled: bool,
    /// What failed last, until a newer version serves.
    pub last_error: Option<LastError>,
}

/// Why a version does not serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// The version.
    pub digest: Option<Digest>,
    /// The whole reason.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// A slot's state, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// Its first version is being compiled.
    Loading,
    /// It serves.
    Active,
    /// Its file is gone, and its last events run.
    Draining,
    /// Its breaker is open: its events are answered `unavailable`.
    Quarantined,
    /// An operator disabled it: its events are answered `unavailable`.
    Disabled,
    /// Nothing of it serves.
    Failed,
}

/// What is known of a slot beside what [`Slot`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    /// A version is in the registry.
    pub is_served: bool,
    /// Its breaker is open.
    pub is_open: bool,
    /// A version is being loaded.
    pub is_loading: bool,
    /// Events run on code that was taken out.
    pub is_draining: bool,
}

impl PluginState {
    /// The state of a slot, or of what is left of one.
    pub fn of(slot: Option<&Slot>, signs: Signs) -> Self {
        match slot {
            Some(slot) if signs.is_served && slot.is_disabled => Self::Disabled,
            Some(_) if signs.is_served && signs.is_open => Self::Quarantined,
            Some(_) if signs.is_served => Self::Active,
            _ if signs.is_loading => Self::Loading,
            None if signs.is_draining => Self::Draining,
            _ => Self::Failed,
        }
    }
}

/// Why an operator's word is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// No such slot.
    #[error("no plugin `{0}` is known here")]
    Unknown(String),
    /// Nothing to go back to.
    #[error("there is no earlier version of `{0}` to go back to")]
    NoEarlier(String),
    /// No kept version has that digest.
    #[error("no kept version of `{name}` has a digest that begins with `{digest}`; kept are {}", kept.join(", "))]
    NotKept {
        /// The plugin.
        name: String,
        /// What was asked for.
        digest: String,
        /// What there is.
        kept: Vec<Digest>,
    },
    /// The version is kept, and does not serve all the same.
    #[error("version {digest} of `{name}` can't serve, and what served goes on: {reason}")]
    NotServed {
        /// The plugin.
        name: String,
        /// The version.
        digest: Digest,
        /// Why.
        reason: String,
    },
}

/// For what was remembered by a host that did not remember when.
fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

impl Slots {
    /// The slot of `name`.
    pub fn get(&self, name: &str) -> Option<&Slot> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.by_name.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    /// The slot that `file` claims.
    pub fn of_file(&self, file: &Path) -> Option<&str> {
        self.iter().find(|(_, slot)| slot.file == file).map(|(name, _)| name)
    }

    /// Every version that must be kept.
    pub fn kept(&self) -> impl Iterator<Item = &Digest> {
        self.by_name.values().flat_map(|slot| slot.kept.iter().chain(&slot.serving).chain(&slot.pinned))
    }

    /// `file` holds `digest`, which registers `name`. What an operator chose ends when the file has changed.
    ///
    /// # Errors
    /// The other file that claims the name.
    pub fn found(&mut self, file: &Path, digest: &str, name: &str) -> Result<(), PathBuf> {
        if let Some(other) = self.by_name.get(name).filter(|slot| slot.file != file) {
            return Err(other.file.clone());
        }
        // The file was another plugin's before.
        self.by_name.retain(|other, slot| other == name || slot.file != file);
        match self.by_name.get_mut(name) {
            Some(slot) if slot.in_file == digest => {}
            Some(slot) => {
                digest.clone_into(&mut slot.in_file);
                (slot.is_in_file_good, slot.pinned, slot.is_disabled) = (true, None, false);
            }
            None => {
                let slot = Slot {
                    file: file.to_owned(),
                    in_file: digest.to_owned(),
                    is_in_file_good: true,
                    serving: None,
                    serving_since: long_ago(),
                    kept: VecDeque::new(),
                    pinned: None,
                    is_disabled: false,
                    last_error: None,
                };
                self.by_name.insert(name.to_owned(), slot);
            }
        }
        Ok(())
    }

    /// `file` holds something that is no plugin. The version that served before goes on; a choice of the operator's stands.
    pub fn broken(&mut self, file: &Path, error: LastError, by_its_bytes: bool) {
        if let Some(slot) = self.by_name.values_mut().find(|slot| slot.file == file) {
            if let Some(digest) = error.digest.as_ref().filter(|_| by_its_bytes) {
                slot.in_file.clone_from(digest);
                slot.is_in_file_good = false;
            }
            slot.last_error = Some(error);
        }
    }

    /// Only `files` are there: a slot whose file is gone, is gone.
    pub fn keep_only(&mut self, files: &[PathBuf]) {
        self.by_name.retain(|_, slot| files.contains(&slot.file));
    }

    /// The versions of `name` to try, the best first.
    pub fn wanted(&self, name: &str) -> Vec<Digest> {
        let Some(slot) = self.by_name.get(name) else { return Vec::new() };
        let newest = slot.is_in_file_good.then_some(&slot.in_file);
        let mut wanted: Vec<Digest> = Vec::new();
        for digest in slot.pinned.iter().chain(newest.filter(|_| slot.pinned.is_none())).chain(&slot.serving).chain(newest) {
            if !wanted.contains(digest) {
                wanted.push(digest.clone());
            }
        }
        wanted
    }

    /// `digest` of `name` serves now. A version that served before the host was restarted has served since then.
    pub fn served(&mut self, name: &str, digest: &str, now: SystemTime) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if slot.serving.as_deref() != Some(digest) {
            (slot.serving, slot.serving_since) = (Some(digest.to_owned()), now);
        }
        if slot.in_file == digest {
            slot.last_error = None;
        }
        slot.kept.retain(|kept| kept != digest);
        slot.kept.push_front(digest.to_owned());
        slot.kept.truncate(KEPT);
    }

    /// A version of `name` could not be made to serve. `by_its_bytes`: it never will.
    pub fn refused(&mut self, name: &str, error: LastError, by_its_bytes: bool) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if error.digest.as_ref() == Some(&slot.in_file) && by_its_bytes {
            slot.is_in_file_good = false;
        }
        slot.last_error = Some(error);
    }

    /// Nothing of `name` serves any more.
    pub fn unserved(&mut self, name: &str) {
        if let Some(slot) = self.by_name.get_mut(name) {
            slot.serving = None;
        }
    }

    /// Goes back to the version before the one that serves, or to the kept one whose digest begins with `to`. Which it is.
    ///
    /// # Errors
    /// Where there is none.
    pub fn roll_back(&mut self, name: &str, to: Option<&str>) -> Result<Digest, OperatorError> {
        let slot = self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        let target = match to {
            Some(to) => slot.kept.iter().find(|kept| !to.is_empty() && kept.starts_with(to)).cloned().ok_or_else(|| {
                OperatorError::NotKept { name: name.to_owned(), digest: to.to_owned(), kept: slot.kept.iter().cloned().collect() }
            })?,
            None => slot.before(slot.serving.as_ref()).ok_or_else(|| OperatorError::NoEarlier(name.to_owned()))?,
        };
        // To choose what the file holds is to follow the file again.
        slot.pinned = (target != slot.in_file).then(|| target.clone());
        slot.is_in_file_good |= target == slot.in_file;
        Ok(target)
    }

    /// Takes a rollback to `target` back, which could not be followed: what was wanted `before` is wanted again.
    pub fn undo_roll_back(&mut self, name: &str, target: &str, before: Option<&Slot>) {
        let Some((slot, before)) = self.by_name.get_mut(name).zip(before) else { return };
        let is_as_it_was_left = slot.in_file == before.in_file && slot.pinned.as_deref().unwrap_or(&slot.in_file) == target;
        if is_as_it_was_left {
            slot.pinned.clone_from(&before.pinned);
            slot.is_in_file_good &= before.is_in_file_good;
        }
    }

    /// Takes the plugin's events out of service, or back into it.
    ///
    /// # Errors
    /// Where there is no such plugin.
    pub fn set_disabled(&mut self, name: &str, is_disabled: bool) -> Result<(), OperatorError> {
        let slot = self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        slot.is_disabled = is_disabled;
        Ok(())
    }

    /// The version that serves has tripped its breaker. Goes back to the one before it where it is new, nobody chose it, and there is one;
    /// which that is.
    pub fn tripped(&mut self, name: &str, at: SystemTime) -> Option<Digest> {
        let slot = self.by_name.get_mut(name)?;
        // A clock that was set back says nothing about age: then the version stays, and its breaker guards it.
        let is_new = at.duration_since(slot.serving_since).is_ok_and(|age| age < TRIAL);
        let tripped = slot.serving.clone().filter(|serving| is_new && slot.pinned.as_ref() != Some(serving))?;
        let target = slot.before(Some(&tripped))?;
        slot.is_in_file_good &= slot.in_file != tripped;
        slot.pinned = (target != slot.in_file).then(|| target.clone());
        slot.kept.retain(|kept| *kept != tripped);
        let reason = "failed too often in its first minute; the version before it serves again".to_owned();
        slot.last_error = Some(LastError { digest: Some(tripped), reason, at });
        Some(target)
    }
}

impl Slot {
    /// The version that served before `this`.
    fn before(&self, this: Option<&Digest>) -> Option<Digest> {
        self.kept.iter().find(|kept| Some(*kept) != this).cloned()
    }
}

#[cfg(test)]
mod tests;
