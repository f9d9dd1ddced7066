//! Which version of each plugin should serve. Pure: what the directory holds, what became of loading it, and what an operator says come
//! in; versions to try come out. The only state of it all, and what survives a restart.
//!
//! A plugin's name is its slot; a file claims it by registering that name, and keeps it for as long as it is there and registers it. Then
//! another file of that name may go on with it. Without a file the slot is absent: what was decided of it waits for a file of its name. A
//! slot's state, as operators see it:
//!
//! ```text
//!   (file appears) -> loading -> active <-> quarantined (its breaker is open)
//!                        \-> failed  \-> disabled (an operator's word; enabling goes back to active)
//!                                     \-> draining (its file is gone, events still run) -> (absent: no state)
//! ```

mod claims;
mod saved_path;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub use claims::{Claim, LATER, MAX_ABSENT, MAX_LATER, Standing};
pub use state::{PluginState, Signs};

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
    #[serde(with = "saved_path")]
    pub file: PathBuf,
    /// The version in that file.
    pub in_file: Digest,
    /// Whether that version may be tried.
    #[serde(default)]
    pub verdict: Verdict,
    /// The version that serves, or would if the plugin were not disabled; of an absent plugin, the one that served until its file went.
    pub serving: Option<Digest>,
    /// Since when, over restarts: a version is new for [`TRIAL`].
    #[serde(default = "long_ago")]
    pub serving_since: SystemTime,
    /// Versions that served, the newest first.
    pub kept: VecDeque<Digest>,
    /// What people know the kept versions by.
    #[serde(default)]
    pub versions: BTreeMap<Digest, KeptVersion>,
    /// The version that an operator went back to, for as long as the file stays what it is.
    pub pinned: Option<Digest>,
    /// What the file held when an operator disabled the plugin: every version is disabled but one that the file has changed to since.
    #[serde(default)]
    pub disabled: Option<Digest>,
    /// Since when no file of the directory registers the name; `None` while one does.
    #[serde(default)]
    pub absent_since: Option<SystemTime>,
    /// Whether its file was away and has come back, until a version serves again or has lost its place.
    #[serde(default)]
    pub has_come_back: bool,
    /// What failed last, until a newer version serves.
    pub last_error: Option<LastError>,
}

/// What people know a kept version by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVersion {
    /// The version that it registers.
    pub version: String,
    /// When it began to serve, the last time.
    pub served_since: SystemTime,
}

/// What is known of the version in a slot's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may serve.
    #[default]
    Good,
    /// It failed by its bytes. Another host may know better, so a start tries again.
    Bad,
    /// It served, and failed too often: only an operator's word, or another file, brings it back.
    TakenBack,
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
    /// Whether the host tries again by itself, though nothing changes: not the version is at fault.
    #[serde(default)]
    pub is_retried: bool,
}

/// Why an operator's word is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// No such slot.
    #[error("no plugin `{0}` is known here")]
    Unknown(String),
    /// No file of the directory registers the name.
    #[error("the file of `{name}` is gone from the plugin directory ({}); put it back first", file.display())]
    Absent {
        /// The plugin.
        name: String,
        /// The file that it had.
        file: PathBuf,
    },
    /// A file of the directory registers the name.
    #[error("`{name}` has a file in the plugin directory ({}), and only what is gone can be forgotten; remove the file first", file.display())]
    HasFile {
        /// The plugin.
        name: String,
        /// The file.
        file: PathBuf,
    },
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
    /// It is followed, and can't be written down.
    #[error(
        "done, but it can't be remembered for the next start: see to it that the data directory can be written, then say it again; \
         a version whose kept file is gone has to be deployed again"
    )]
    NotRemembered,
    /// Several versions have digests that begin so.
    #[error("several versions of `{name}` have a digest that begins with `{digest}`: {}", found.join(", "))]
    Ambiguous {
        /// The plugin.
        name: String,
        /// What was asked for.
        digest: String,
        /// What there is.
        found: Vec<Digest>,
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

    /// Every version that must be kept.
    pub fn kept(&self) -> impl Iterator<Item = &Digest> {
        self.by_name.values().flat_map(|slot| slot.kept.iter().chain(&slot.serving).chain(&slot.pinned))
    }

    /// The version of each plugin that served before the one that serves.
    pub fn before(&self) -> impl Iterator<Item = Digest> {
        self.present().filter_map(|(_, slot)| slot.before(slot.serving.as_ref()))
    }

    /// For a host that starts: what failed before may not fail here.
    #[must_use]
    pub fn at_start(mut self) -> Self {
        for slot in self.by_name.values_mut().filter(|slot| slot.verdict == Verdict::Bad) {
            slot.verdict = Verdict::Good;
        }
        self
    }

    /// The versions of `name` to try, the best first.
    pub fn wanted(&self, name: &str) -> Vec<Digest> {
        let Some(slot) = self.by_name.get(name).filter(|slot| !slot.is_absent()) else { return Vec::new() };
        let newest = Some(&slot.in_file).filter(|_| slot.verdict == Verdict::Good);
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
        slot.has_come_back = false;
        // A version that only its file's absence has interrupted is as old as it was.
        if slot.serving.as_deref() != Some(digest) {
            slot.serving_since = now;
            slot.serving = Some(digest.to_owned());
        }
        if slot.in_file == digest {
            slot.last_error = None;
        }
        slot.kept.retain(|kept| kept != digest);
        slot.kept.push_front(digest.to_owned());
        slot.kept.truncate(KEPT);
    }

    /// The version of `name` that serves calls itself `version`.
    pub fn describe(&mut self, name: &str, version: &str) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if let Some(serving) = &slot.serving {
            let known = KeptVersion { version: version.to_owned(), served_since: slot.serving_since };
            slot.versions.insert(serving.clone(), known);
        }
        slot.versions.retain(|digest, _| slot.kept.contains(digest));
    }

    /// A version of `name` could not be made to serve. `by_its_bytes`: it never will.
    pub fn refused(&mut self, name: &str, error: LastError, by_its_bytes: bool) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if error.digest.as_ref() == Some(&slot.in_file) && by_its_bytes {
            slot.verdict = Verdict::Bad;
        }
        slot.last_error = Some(error);
    }

    /// Nothing of `name` serves any more. What an absent plugin served is remembered for when it comes back.
    pub fn unserved(&mut self, name: &str) {
        if let Some(slot) = self.by_name.get_mut(name).filter(|slot| !slot.is_absent()) {
            (slot.serving, slot.has_come_back) = (None, false);
        }
    }

    /// Goes back to the version before the one that serves, or to the one whose digest begins with `to`, among those that are kept and what
    /// the file holds. Which it is.
    ///
    /// # Errors
    /// Where there is none, or several.
    pub fn roll_back(&mut self, name: &str, to: Option<&str>) -> Result<Digest, OperatorError> {
        let slot = self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        if slot.is_absent() {
            return Err(OperatorError::Absent { name: name.to_owned(), file: slot.file.clone() });
        }
        let target = match to {
            Some(to) => slot.begins_with(to).map_err(|(mut found, digest)| {
                let name = name.to_owned();
                found.sort();
                match found.is_empty() {
                    true => OperatorError::NotKept { name, digest, kept: slot.kept.iter().cloned().collect() },
                    false => OperatorError::Ambiguous { name, digest, found },
                }
            })?,
            None => slot.before(slot.serving.as_ref()).ok_or_else(|| OperatorError::NoEarlier(name.to_owned()))?,
        };
        // To choose what the file holds is to follow the file again.
        slot.pinned = (target != slot.in_file).then(|| target.clone());
        if target == slot.in_file {
            slot.verdict = Verdict::Good;
        }
        Ok(target)
    }

    /// Takes a rollback to `target` back, which could not be followed: what was wanted `before` is wanted again.
    pub fn undo_roll_back(&mut self, name: &str, target: &str, before: Option<&Slot>) {
        let Some((slot, before)) = self.by_name.get_mut(name).zip(before) else { return };
        let is_as_it_was_left = slot.in_file == before.in_file && slot.pinned.as_deref().unwrap_or(&slot.in_file) == target;
        if is_as_it_was_left {
            slot.pinned.clone_from(&before.pinned);
            if before.verdict != Verdict::Good {
                slot.verdict = before.verdict;
            }
        }
    }

    /// Takes the plugin's events out of service, or back into it.
    ///
    /// # Errors
    /// Where there is no such plugin.
    pub fn set_disabled(&mut self, name: &str, is_disabled: bool) -> Result<(), OperatorError> {
        let slot = self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        slot.disabled = is_disabled.then(|| slot.in_file.clone());
        Ok(())
    }

    /// The version that serves has tripped its breaker, at last by `failure`. Goes back to the one before it where it is new, nobody chose it, and there is one;
    /// which that is.
    pub fn tripped(&mut self, name: &str, failure: Option<&str>, at: SystemTime) -> Option<Digest> {
        let slot = self.by_name.get_mut(name).filter(|slot| !slot.is_absent())?;
        // A clock that was set back says nothing about age: then the version stays, and its breaker guards it.
        let is_new = at.duration_since(slot.serving_since).is_ok_and(|age| age < TRIAL);
        let tripped = slot.serving.clone().filter(|serving| is_new && slot.pinned.as_ref() != Some(serving))?;
        let target = slot.before(Some(&tripped))?;
        if slot.in_file == tripped {
            slot.verdict = Verdict::TakenBack;
        }
        slot.pinned = (target != slot.in_file).then(|| target.clone());
        slot.kept.retain(|kept| *kept != tripped);
        let last = failure.map(|failure| format!("; its last failure: {failure}")).unwrap_or_default();
        let reason = format!("failed too often in its first minute; the version before it serves again{last}");
        slot.last_error = Some(LastError { digest: Some(tripped), reason, at, is_retried: false });
        Some(target)
    }
}

impl Slot {
    /// Whether `version` is not to be asked, by an operator's word.
    pub fn is_disabled(&self, version: &str) -> bool {
        self.disabled.as_ref().is_some_and(|at| version != self.in_file || self.in_file == *at)
    }

    /// The file holds `digest` now. The word that the plugin is disabled was about what served then: it ends where that is not so any more.
    fn hold(&mut self, digest: &str, verdict: Verdict) {
        let last = self.serving.as_ref().or(self.kept.front());
        if self.in_file != digest && last == Some(&self.in_file) && !self.is_disabled(&self.in_file) {
            self.disabled = None;
        }
        digest.clone_into(&mut self.in_file);
        self.verdict = verdict;
    }

    fn is_serving_disabled(&self) -> bool {
        self.serving.as_deref().is_some_and(|serving| self.is_disabled(serving))
    }

    /// The one version whose digest begins so; else those that there are.
    fn begins_with(&self, to: &str) -> Result<Digest, (Vec<Digest>, String)> {
        let others = Some(&self.in_file).filter(|digest| !self.kept.contains(digest));
        let found: Vec<_> = self.kept.iter().chain(others).filter(|digest| !to.is_empty() && digest.starts_with(to)).cloned().collect();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            _ => Err((found, to.to_owned())),
        }
    }

    /// The version that served before `this`.
    fn before(&self, this: Option<&Digest>) -> Option<Digest> {
        self.kept.iter().find(|kept| Some(*kept) != this).cloned()
    }
}

#[cfg(test)]
mod tests;
