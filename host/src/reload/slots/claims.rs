//! Which file claims which slot, and what becomes of a slot without a file. Pure.
//!
//! What was decided of a plugin belongs to its name: it outlives the file, so that a file which is away for a moment, or for
//! a week, comes back to the same version, disabled or not. A slot without a file is absent: nothing of it serves.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{LastError, OperatorError, Slot, Slots, Verdict, long_ago};

/// Absent plugins that are remembered at most: each takes about 1 KB of memory, and has up to [`KEPT`](super::KEPT) versions
/// on the disk. Beyond, the one that has been absent for longest is forgotten; one with a decision only where all have one.
pub const MAX_ABSENT: usize = 1_000;

/// An absent plugin without a decision is forgotten when so many others have gone at least [`LATER`] than it.
pub const MAX_LATER: usize = 64;

/// Plugins that go within this time go together, however many: a volume is unmounted, or a host starts without it. Nothing is
/// forgotten for that.
pub const LATER: Duration = Duration::from_secs(24 * 60 * 60);

/// A file of the plugin directory, as far as it claims a slot.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'files> {
    /// Which.
    pub file: &'files Path,
    /// The name that it registers, and its version; `None` while that is not known, or if it is no plugin.
    pub holds: Option<(&'files str, &'files str)>,
}

/// How a version stands if another plugin claims the same, the weakest first: the weaker loses; if both are alike, the one
/// whose file comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Nothing of its plugin serves.
    New,
    /// Another version of its plugin serves, or did when its file went.
    Upgrade,
    /// It serves, but not for long; at a start, it served when the host before ended.
    Serves,
    /// It served until its file went, or until the host before ended: what others have of its claims they took meanwhile.
    Back,
    /// It has served for so long that what it has is its own.
    Settled,
}

impl Claim<'_> {
    fn registers(&self, name: &str) -> bool {
        self.holds.is_some_and(|(held, _)| held == name)
    }
}

impl Slots {
    /// Lets `files`, which are all that there are, claim their slots, in their order. Returns those that claim the slot of
    /// another file, with that file.
    ///
    /// A slot whose file is gone, or has become another plugin, goes on with another file of its name. Without one it is
    /// absent, unless `more_may_come`: files that are new, and of which it is not known yet what they are. An absent slot comes back with a file
    /// that registers its name; a file that fails to load brings nothing back.
    pub fn claim<'files>(&mut self, files: &[Claim<'files>], more_may_come: bool, now: SystemTime) -> Vec<(&'files Path, PathBuf)> {
        for (name, slot) in &mut self.by_name {
            let own = files.iter().find(|claim| claim.file == slot.file);
            if own.is_some_and(|claim| claim.registers(name) || (claim.holds.is_none() && !slot.is_absent())) {
                slot.come_back();
            } else if let Some(heir) = files.iter().find(|claim| claim.registers(name)) {
                heir.file.clone_into(&mut slot.file);
                slot.come_back();
            } else if !(slot.is_absent() || more_may_come && own.is_none()) {
                slot.absent_since = Some(now);
            }
        }
        self.by_name.retain(|_, slot| !slot.is_absent() || slot.has_decisions());
        let mut taken = Vec::new();
        for Claim { file, holds } in files {
            if let Some((name, digest)) = holds
                && let Err(other) = self.found(file, digest, name)
            {
                taken.push((*file, other));
            }
        }
        taken
    }

    /// `file` holds `digest`, which registers `name`. A rollback ends when the content has changed, and the decision that the
    /// plugin is disabled when another version has served since.
    pub(super) fn found(&mut self, file: &Path, digest: &str, name: &str) -> Result<(), PathBuf> {
        match self.by_name.get_mut(name) {
            Some(slot) if slot.file != file => return Err(slot.file.clone()),
            Some(slot) => {
                if slot.in_file != digest {
                    slot.hold(digest, Verdict::Good);
                    slot.pinned = None;
                }
                // An error of the serving version itself is not over because its file is still there.
                if slot.serving.as_deref() == Some(digest) {
                    slot.last_error.take_if(|error| error.digest.as_deref() != Some(digest));
                }
            }
            None => {
                let slot = Slot {
                    file: file.to_owned(),
                    in_file: digest.to_owned(),
                    verdict: Verdict::Good,
                    serving: None,
                    serving_since: long_ago(),
                    kept: VecDeque::new(),
                    versions: BTreeMap::new(),
                    pinned: None,
                    disabled: None,
                    absent_since: None,
                    has_come_back: false,
                    last_error: None,
                };
                self.by_name.insert(name.to_owned(), slot);
            }
        }
        Ok(())
    }

    /// `file` holds something that is no plugin. The version that served before goes on; what an operator chose stands.
    pub fn broken(&mut self, file: &Path, error: LastError, by_its_bytes: bool) {
        if let Some(slot) = self.by_name.values_mut().find(|slot| slot.file == file && !slot.is_absent()) {
            if let Some(digest) = error.digest.as_ref().filter(|_| by_its_bytes) {
                slot.hold(digest, Verdict::Bad);
            }
            slot.last_error = Some(error);
        }
    }

    /// The plugins that have a file, by name.
    pub fn present(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.iter().filter(|(_, slot)| !slot.is_absent())
    }

    /// The plugins that have no file, by name.
    pub fn absent(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.iter().filter(|(_, slot)| slot.is_absent())
    }

    /// The name of the slot that `file` claims.
    pub fn of_file(&self, file: &Path) -> Option<&str> {
        self.present().find(|(_, slot)| slot.file == file).map(|(name, _)| name)
    }

    /// The name that `file` had when it was there last.
    pub fn was_of_file(&self, file: &Path) -> Option<&str> {
        self.absent().find(|(_, slot)| slot.file == file).map(|(name, _)| name)
    }

    /// Forgets plugins that have been absent for `after`, those that [`MAX_LATER`] others have followed, and what is beyond
    /// [`MAX_ABSENT`]. Returns their names.
    pub fn forget_absent(&mut self, now: SystemTime, after: Duration) -> Vec<String> {
        // A clock that was set back ends nothing early.
        let is_over = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= after);
        let absent: Vec<_> = self.absent().filter_map(|(name, slot)| Some((slot, slot.absent_since?, name))).collect();
        let mut newest_first: Vec<_> = absent.iter().map(|(_, since, _)| *since).collect();
        newest_first.sort_by(|a, b| b.cmp(a));
        let last = newest_first.get(MAX_LATER - 1);
        let are_later = |since| last.is_some_and(|last| last.duration_since(since).is_ok_and(|gap| gap >= LATER));
        let is_forgotten = |slot: &Slot, since| is_over(since) || !slot.is_decided() && are_later(since);
        let (forgotten, mut rest): (Vec<_>, Vec<_>) = absent.iter().partition(|(slot, since, _)| is_forgotten(slot, *since));
        rest.sort_by_key(|(slot, since, name)| (slot.is_decided(), *since, *name));
        let excess = rest.len().saturating_sub(MAX_ABSENT);
        let names: Vec<String> = forgotten.iter().chain(rest.iter().take(excess)).map(|(_, _, name)| (*name).to_owned()).collect();
        self.by_name.retain(|name, _| !names.contains(name));
        names
    }

    /// Forgets what was decided of an absent plugin.
    ///
    /// # Errors
    /// If there is no such plugin, or it has a file.
    pub fn forget(&mut self, name: &str) -> Result<(), OperatorError> {
        match self.get(name) {
            None => Err(OperatorError::Unknown(name.to_owned())),
            Some(slot) if !slot.is_absent() => Err(OperatorError::HasFile { name: name.to_owned(), file: slot.file.clone() }),
            Some(_) => {
                self.by_name.remove(name);
                Ok(())
            }
        }
    }
}

impl Slot {
    /// Whether no file of the directory registers the name.
    pub fn is_absent(&self) -> bool {
        self.absent_since.is_some()
    }

    /// Whether there is anything to remember once the file is gone.
    fn has_decisions(&self) -> bool {
        !self.kept.is_empty() || self.is_decided()
    }

    /// Whether an operator or a breaker has decided what becomes of the plugin.
    fn is_decided(&self) -> bool {
        self.disabled.is_some() || self.pinned.is_some() || self.verdict == Verdict::TakenBack
    }

    /// A file registers the name again: what failed by its bytes has been loaded since.
    fn come_back(&mut self) {
        if self.absent_since.take().is_some() {
            self.has_come_back = true;
            if self.verdict == Verdict::Bad {
                self.verdict = Verdict::Good;
            }
        }
    }

    /// How `version` stands if another plugin claims the same. `serves`: in this host, now. `is_start`: nothing does yet.
    /// `settled`: how long a version must have served to keep what it has against a plugin whose file was away.
    pub fn standing(&self, version: &str, serves: bool, is_start: bool, now: SystemTime, settled: Duration) -> Standing {
        let is_last = self.serving.as_deref() == Some(version);
        if serves || is_start && is_last && !self.has_come_back {
            // A clock that was set back does not say how long: as if it had been a moment.
            let is_settled = now.duration_since(self.serving_since).is_ok_and(|age| age >= settled);
            return if is_settled { Standing::Settled } else { Standing::Serves };
        }
        match &self.serving {
            Some(_) if is_last => Standing::Back,
            Some(_) => Standing::Upgrade,
            None => Standing::New,
        }
    }
}
