//! Decides which version of each plugin should serve. Pure: the inputs are what the directory
//! holds, the results of loads, and operator commands; the output is the versions to try. The slots
//! are saved, and survive a restart.
//!
//! A plugin's name is its slot. A file claims the slot by registering that name, and keeps it as
//! long as the file exists and registers the name. After that, another file of that name may take
//! over the slot. A slot without a file is absent: its decisions are kept for a file of that name.
//! Operators see these states of a slot:
//!
//! ```text
//!   (file appears) -> loading -> active <-> quarantined (its breaker is open)
//!                        \-> failed  \-> disabled (by an operator, who can enable it again)
//!                                     \-> draining (its file is removed, events still run)
//!                                             \-> (absent: no state)
//! ```

mod claims;
mod intent;
mod reservation;
mod saved_path;
mod standing;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

pub(crate) use claims::Claim;
#[cfg(test)]
use claims::{LATER, MAX_ABSENT, MAX_LATER};
pub(crate) use intent::Intent;
pub(crate) use reservation::Reservation;
pub(crate) use standing::{Moment, Standing};
pub(crate) use state::{Conditions, SlotState};

/// The maximum number of versions of a plugin that are kept for rollbacks, including the serving
/// one.
pub(crate) const KEPT: usize = 5;

/// How long a version is new: a new version that trips its breaker is rolled back.
pub(crate) const TRIAL: Duration = Duration::from_secs(60);

/// The SHA-256 of a file's bytes in hexadecimal, which identifies a version.
pub(crate) type Digest = String;

/// All slots, by the names that plugins registered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Slots {
    by_name: BTreeMap<String, Slot>,
}

/// What is remembered of one plugin, whichever version of it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    /// The file that claims the slot; of an absent plugin, the last one that did.
    #[serde(with = "saved_path")]
    pub file: PathBuf,
    /// The version in that file.
    pub in_file: Digest,
    /// Whether that version may be tried.
    #[serde(default)]
    pub verdict: Verdict,
    /// The version that serves, or would if the plugin were not disabled. For an absent plugin, the
    /// version that served until its file was removed.
    pub serving: Option<Digest>,
    /// When that version began to serve, possibly before a restart: a version is new for [`TRIAL`].
    #[serde(default = "long_ago")]
    pub serving_since: SystemTime,
    /// Versions that served, the newest first.
    pub kept: VecDeque<Digest>,
    /// What operators know the kept versions by.
    #[serde(default)]
    pub versions: BTreeMap<Digest, KeptVersion>,
    /// What other plugins can't take while no version can serve. Empty for an absent plugin, and if
    /// an earlier version of the host saved the slot.
    #[serde(default, skip_serializing_if = "Reservation::is_empty")]
    pub reservation: Reservation,
    /// What an operator or a breaker has decided.
    #[serde(flatten)]
    pub intent: Intent,
    /// Since when no file of the directory registers the name; `None` while one does.
    #[serde(default)]
    pub absent_since: Option<SystemTime>,
    /// Whether its file was away and has come back. It is reset when a version serves again or has
    /// lost its claims.
    #[serde(default)]
    pub has_come_back: bool,
    /// The last failure; cleared when the version in the file serves.
    pub last_error: Option<LastError>,
}

/// What operators know a kept version by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVersion {
    /// The version string that it registered.
    pub version: String,
    /// When it last began to serve.
    pub served_since: SystemTime,
}

/// The verdict on the version in a slot's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It may serve.
    #[default]
    Good,
    /// Its content is invalid. Another host may accept it, so a start tries again.
    Bad,
    /// It served and failed too often: only an operator command or changed file content brings it
    /// back.
    AutoRolledBack,
}

/// Why a version does not serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastError {
    /// The digest of the version, if it is known.
    pub digest: Option<Digest>,
    /// The full reason.
    pub reason: String,
    /// When it happened.
    pub at: SystemTime,
    /// Whether the host retries by itself, though nothing changes: the version is not at fault.
    #[serde(default)]
    pub is_retried: bool,
}

/// Why an operator command can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperatorError {
    /// There is no such slot.
    #[error("no plugin `{0}` is known here")]
    Unknown(String),
    /// No file of the directory registers the name.
    #[error("the file of `{name}` is missing in the plugin directory ({}); put it back \
             first", file.display())]
    Absent {
        /// The plugin.
        name: String,
        /// The file that it had.
        file: PathBuf,
    },
    /// A file of the directory registers the name.
    #[error("`{name}` has a file in the plugin directory ({}), and only a plugin without a file \
             can be forgotten; remove the file first", file.display())]
    HasFile {
        /// The plugin.
        name: String,
        /// The file.
        file: PathBuf,
    },
    /// There is no earlier version.
    #[error("there is no earlier version of `{0}` to roll back to")]
    NoEarlier(String),
    /// No kept version has that digest.
    #[error("no kept version of `{name}` has a digest that begins with `{digest}`; kept are \
             {}", kept.join(", "))]
    NotKept {
        /// The plugin.
        name: String,
        /// The requested digest prefix.
        digest: String,
        /// The digests of the kept versions.
        kept: Vec<Digest>,
    },
    /// The command is carried out, but can't be saved for the next start.
    #[error(
        "done, but it can't be saved for the next start: make the data directory writable, then \
         repeat the command; \
         a version whose kept file is missing has to be deployed again"
    )]
    NotRemembered,
    /// Several versions have digests with that prefix.
    #[error("several versions of `{name}` have a digest that begins with `{digest}`: \
             {}", found.join(", "))]
    Ambiguous {
        /// The plugin.
        name: String,
        /// The requested digest prefix.
        digest: String,
        /// The digests with that prefix.
        found: Vec<Digest>,
    },
    /// The version is kept, but can't serve.
    #[error(
        "version {digest} of `{name}` can't serve, and the current version keeps serving: {reason}"
    )]
    NotServed {
        /// The plugin.
        name: String,
        /// The digest of the version.
        digest: Digest,
        /// The reason.
        reason: String,
    },
}

/// The default for slots that were saved by a host that did not save this time.
fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH
}

impl Slots {
    /// Returns the slot of `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Slot> {
        self.by_name.get(name)
    }

    /// Iterates over all slots, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.by_name.iter().map(|(name, slot)| (name.as_str(), slot))
    }

    /// Iterates over the versions that must be kept; a version may appear more than once.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Digest> {
        self.by_name
            .values()
            .flat_map(|slot| slot.kept.iter().chain(&slot.serving).chain(slot.intent.pinned()))
    }

    /// Iterates over the previous version of each plugin, which served before the serving one.
    pub(crate) fn previous(&self) -> impl Iterator<Item = Digest> {
        self.present().filter_map(|(_, slot)| slot.previous(slot.serving.as_ref()))
    }

    /// Prepares the saved slots for a host that starts: versions that failed before are tried
    /// again.
    #[must_use]
    pub(crate) fn at_start(mut self) -> Self {
        for slot in self.by_name.values_mut().filter(|slot| slot.verdict == Verdict::Bad) {
            slot.verdict = Verdict::Good;
        }
        self
    }

    /// Returns the versions of `name` to try, the best first.
    pub(crate) fn wanted(&self, name: &str) -> Vec<Digest> {
        let Some(slot) = self.by_name.get(name).filter(|slot| !slot.is_absent()) else {
            return Vec::new();
        };
        let newest = Some(&slot.in_file).filter(|_| slot.verdict == Verdict::Good);
        let best = slot.intent.pinned().or(newest);
        let mut wanted: Vec<Digest> = Vec::new();
        for digest in best.into_iter().chain(&slot.serving).chain(newest) {
            if !wanted.contains(digest) {
                wanted.push(digest.clone());
            }
        }
        wanted
    }

    /// Records that version `digest` of `name` serves now. A version that also served before a
    /// restart or an absence keeps its earlier `serving_since`.
    pub(crate) fn record_serving(&mut self, name: &str, digest: &str, now: SystemTime) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        slot.has_come_back = false;
        // A version that was interrupted only by the absence of its file keeps its age.
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

    /// Records the events and the rooms of the serving version of `name`.
    pub(crate) fn record_reservation(&mut self, name: &str, reservation: Reservation) {
        if let Some(slot) = self.by_name.get_mut(name) {
            slot.reservation = reservation;
        }
    }

    /// Records that the serving version of `name` has the version string `version`.
    pub(crate) fn record_version(&mut self, name: &str, version: &str) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if let Some(serving) = &slot.serving {
            let known =
                KeptVersion { version: version.to_owned(), served_since: slot.serving_since };
            slot.versions.insert(serving.clone(), known);
        }
        slot.versions.retain(|digest, _| slot.kept.contains(digest));
    }

    /// Records that a version of `name` could not be made to serve. `is_invalid`: its content is
    /// invalid, so it never will.
    pub(crate) fn record_failure(&mut self, name: &str, error: LastError, is_invalid: bool) {
        let Some(slot) = self.by_name.get_mut(name) else { return };
        if error.digest.as_ref() == Some(&slot.in_file) && is_invalid {
            slot.verdict = Verdict::Bad;
        }
        slot.last_error = Some(error);
    }

    /// Records that no version of `name` serves any more. For an absent plugin, the version that
    /// served is remembered for when it comes back.
    pub(crate) fn record_not_serving(&mut self, name: &str) {
        if let Some(slot) = self.by_name.get_mut(name).filter(|slot| !slot.is_absent()) {
            (slot.serving, slot.has_come_back) = (None, false);
        }
    }

    /// Rolls back to the version whose digest begins with `to`, among the kept versions and the one
    /// in the file. If `to` is `None`, rolls back to the version before the serving one. Returns
    /// the digest of the chosen version.
    ///
    /// # Errors
    /// If there is no such slot, its file is gone, or no version or several versions match.
    pub(crate) fn roll_back(
        &mut self,
        name: &str,
        to: Option<&str>,
    ) -> Result<Digest, OperatorError> {
        let slot =
            self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        if slot.is_absent() {
            return Err(OperatorError::Absent { name: name.to_owned(), file: slot.file.clone() });
        }
        let target = match to {
            Some(to) => slot.begins_with(to).map_err(|(mut found, digest)| {
                let name = name.to_owned();
                found.sort();
                if found.is_empty() {
                    let kept = slot.kept.iter().cloned().collect();
                    OperatorError::NotKept { name, digest, kept }
                } else {
                    OperatorError::Ambiguous { name, digest, found }
                }
            })?,
            None => slot
                .previous(slot.serving.as_ref())
                .ok_or_else(|| OperatorError::NoEarlier(name.to_owned()))?,
        };
        // To choose the version in the file means to follow the file again.
        slot.intent.pin((target != slot.in_file).then(|| target.clone()));
        if target == slot.in_file {
            slot.verdict = Verdict::Good;
        }
        Ok(target)
    }

    /// Undoes a rollback to `target` that could not be carried out: restores the choice that was in
    /// effect `before`. Does nothing if the slot has changed since.
    pub(crate) fn undo_roll_back(&mut self, name: &str, target: &str, before: Option<&Slot>) {
        let Some((slot, before)) = self.by_name.get_mut(name).zip(before) else { return };
        let is_as_it_was_left = slot.in_file == before.in_file
            && slot.intent.pinned().unwrap_or(&slot.in_file) == target;
        if is_as_it_was_left {
            slot.intent.pin(before.intent.pinned().cloned());
            if before.verdict != Verdict::Good {
                slot.verdict = before.verdict;
            }
        }
    }

    /// Disables or enables the plugin.
    ///
    /// # Errors
    /// If there is no such plugin.
    pub(crate) fn set_disabled(
        &mut self,
        name: &str,
        is_disabled: bool,
    ) -> Result<(), OperatorError> {
        let slot =
            self.by_name.get_mut(name).ok_or_else(|| OperatorError::Unknown(name.to_owned()))?;
        if is_disabled {
            slot.intent.disable(&slot.in_file);
        } else {
            slot.intent.enable();
        }
        Ok(())
    }

    /// Handles an opened breaker of the serving version; `failure` is its last failure. Rolls back
    /// to the version before it if the serving version is new, no version is pinned, and an earlier
    /// version is kept. Returns the digest of that earlier version.
    ///
    /// A pinned version is the decision of an operator, also while it is still loading, or an
    /// earlier decision for this failure.
    pub(crate) fn on_breaker_opened(
        &mut self,
        name: &str,
        failure: Option<&str>,
        at: SystemTime,
    ) -> Option<Digest> {
        let slot = self.by_name.get_mut(name).filter(|slot| !slot.is_absent())?;
        // If the clock was set back, the age is unknown: the version stays, guarded by its breaker.
        let is_new = at.duration_since(slot.serving_since).is_ok_and(|age| age < TRIAL);
        let failed = slot.serving.clone().filter(|_| is_new && slot.intent.pinned().is_none())?;
        let target = slot.previous(Some(&failed))?;
        if slot.in_file == failed {
            slot.verdict = Verdict::AutoRolledBack;
        }
        slot.intent.pin((target != slot.in_file).then(|| target.clone()));
        slot.kept.retain(|kept| *kept != failed);
        let last =
            failure.map(|failure| format!("; its last failure: {failure}")).unwrap_or_default();
        let reason = format!(
            "failed too often in its first minute; the previous version serves again{last}"
        );
        slot.last_error = Some(LastError { digest: Some(failed), reason, at, is_retried: false });
        Some(target)
    }
}

impl Slot {
    /// Whether an operator has disabled `version`: it gets no events.
    pub fn is_disabled(&self, version: &str) -> bool {
        self.intent.disables(version, &self.in_file)
    }

    /// Records that the file holds `digest` now. A disable applies to the version that served at
    /// that time: it ends once a newer version has served and the file changes again.
    fn record_content(&mut self, digest: &str, verdict: Verdict) {
        let last = self.serving.as_ref().or(self.kept.front());
        if self.in_file != digest && last == Some(&self.in_file) && !self.is_disabled(&self.in_file)
        {
            self.intent.enable();
        }
        digest.clone_into(&mut self.in_file);
        self.verdict = verdict;
    }

    fn is_serving_disabled(&self) -> bool {
        self.serving.as_deref().is_some_and(|serving| self.is_disabled(serving))
    }

    /// Returns the version whose digest begins with `to`; otherwise, as an error, the versions that
    /// match and `to`.
    fn begins_with(&self, to: &str) -> Result<Digest, (Vec<Digest>, String)> {
        let others = Some(&self.in_file).filter(|digest| !self.kept.contains(digest));
        let found: Vec<_> = self
            .kept
            .iter()
            .chain(others)
            .filter(|digest| !to.is_empty() && digest.starts_with(to))
            .cloned()
            .collect();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            _ => Err((found, to.to_owned())),
        }
    }

    /// Returns the version that served before `version`.
    fn previous(&self, version: Option<&Digest>) -> Option<Digest> {
        self.kept.iter().find(|kept| Some(*kept) != version).cloned()
    }
}

#[cfg(test)]
mod tests;
