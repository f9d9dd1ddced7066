//! Decides which file claims which slot, and what happens to a slot without a file. Pure.
//!
//! Decisions about a plugin belong to its name and outlive its file. A file that is away for a
//! moment, or for a week, comes back to the same version, disabled or not. A slot without a file is
//! absent: nothing of it serves.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Intent, LastError, OperatorError, Reservation, Slot, Slots, Verdict, long_ago};

/// The maximum number of absent plugins that are remembered. Each takes about 1 KB of memory, and
/// has up to [`KEPT`](super::KEPT) versions on the disk. Above that, the longest absent ones are
/// forgotten, those without a decision first.
pub(super) const MAX_ABSENT: usize = 1_000;

/// A plugin without a decision is forgotten once this many other plugins became absent at least
/// [`LATER`] after it.
pub(super) const MAX_LATER: usize = 64;

/// A plugin that became absent less than this after another does not count as later. So plugins
/// that become absent together (a volume is unmounted, or a host starts without it) never push each
/// other out.
pub(super) const LATER: Duration = Duration::from_secs(24 * 60 * 60);

/// A file of the plugin directory: the plugin in it claims the slot of its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'files> {
    /// The path of the file.
    pub file: &'files Path,
    /// The name that it registers, and its digest; `None` while that is unknown, or if it is no
    /// plugin.
    pub content: Option<(&'files str, &'files str)>,
}

impl Claim<'_> {
    fn registers(&self, name: &str) -> bool {
        self.content.is_some_and(|(registered, _)| registered == name)
    }
}

impl Slots {
    /// Lets `files`, which are all files of the directory, claim their slots, in their order.
    /// Returns the files that claim the slot of another file, each with that other file.
    ///
    /// If a slot's file is gone or holds another plugin, another file of its name takes over the
    /// slot. If there is none, the slot is absent. `more_may_come` delays that for a slot whose
    /// file is gone: new files are not identified yet. An absent slot comes back with a file that
    /// registers its name; a file that fails to load brings nothing back.
    pub(crate) fn claim<'files>(
        &mut self,
        files: &[Claim<'files>],
        more_may_come: bool,
        now: SystemTime,
    ) -> Vec<(&'files Path, PathBuf)> {
        for (name, slot) in &mut self.by_name {
            let own = files.iter().find(|claim| claim.file == slot.file);
            // A file that can't be loaded keeps its slot, but does not bring an absent one back.
            if own.is_some_and(|claim| {
                claim.registers(name) || (claim.content.is_none() && !slot.is_absent())
            }) {
                slot.come_back();
            } else if let Some(successor) = files.iter().find(|claim| claim.registers(name)) {
                successor.file.clone_into(&mut slot.file);
                slot.come_back();
            } else if !(slot.is_absent() || more_may_come && own.is_none()) {
                slot.absent_since = Some(now);
                slot.reservation = Reservation::default();
            }
        }
        self.by_name.retain(|_, slot| !slot.is_absent() || slot.is_worth_remembering());
        let mut taken = Vec::new();
        for Claim { file, content } in files {
            if let Some((name, digest)) = content
                && let Err(other) = self.record_file(file, digest, name)
            {
                taken.push((*file, other));
            }
        }
        taken
    }

    /// Records that `file` holds `digest`, which registers `name`. If the content has changed, a
    /// rollback ends; [`Slot::record_content`] says when a disable ends. Returns the slot's file as
    /// an error if that is another one.
    pub(super) fn record_file(
        &mut self,
        file: &Path,
        digest: &str,
        name: &str,
    ) -> Result<(), PathBuf> {
        match self.by_name.get_mut(name) {
            Some(slot) if slot.file != file => return Err(slot.file.clone()),
            Some(slot) => {
                if slot.in_file != digest {
                    slot.record_content(digest, Verdict::Good);
                    slot.intent.pin(None);
                }
                // The serving version loads from this file, so errors of other versions are over.
                // Its own error stays.
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
                    reservation: Reservation::default(),
                    intent: Intent::Follow,
                    absent_since: None,
                    has_come_back: false,
                    last_error: None,
                };
                self.by_name.insert(name.to_owned(), slot);
            }
        }
        Ok(())
    }

    /// Records that `file` can't be loaded. The version that served before keeps serving, and the
    /// decisions of operators stay. `is_invalid`: its content is invalid.
    pub(crate) fn record_failed_file(&mut self, file: &Path, error: LastError, is_invalid: bool) {
        if let Some(slot) =
            self.by_name.values_mut().find(|slot| slot.file == file && !slot.is_absent())
        {
            if let Some(digest) = error.digest.as_ref().filter(|_| is_invalid) {
                slot.record_content(digest, Verdict::Bad);
            }
            slot.last_error = Some(error);
        }
    }

    /// Iterates over the plugins that have a file, by name.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.iter().filter(|(_, slot)| !slot.is_absent())
    }

    /// Iterates over the plugins that have no file, by name.
    pub(crate) fn absent(&self) -> impl Iterator<Item = (&str, &Slot)> {
        self.iter().filter(|(_, slot)| slot.is_absent())
    }

    /// Returns the name of the slot whose file is `file`.
    pub(crate) fn of_file(&self, file: &Path) -> Option<&str> {
        self.present().find(|(_, slot)| slot.file == file).map(|(name, _)| name)
    }

    /// Whether a version of the plugin in `file` serves, or did when the previous host ended, or
    /// until its file was removed.
    pub(crate) fn has_served(&self, file: &Path) -> bool {
        let name = self.of_file(file);
        name.and_then(|name| self.get(name)).is_some_and(|slot| slot.serving.is_some())
    }

    /// Returns the name of the absent slot whose last file was `file`.
    pub(crate) fn last_of_file(&self, file: &Path) -> Option<&str> {
        self.absent().find(|(_, slot)| slot.file == file).map(|(name, _)| name)
    }

    /// Forgets plugins that have been absent for `after`, those without a decision after which
    /// [`MAX_LATER`] others became absent, and the excess over [`MAX_ABSENT`]. Returns their names.
    pub(crate) fn forget_absent(&mut self, now: SystemTime, after: Duration) -> Vec<String> {
        // If the clock was set back, nothing is forgotten early.
        let is_over = |since: SystemTime| now.duration_since(since).is_ok_and(|age| age >= after);
        let absent: Vec<_> = self
            .absent()
            .filter_map(|(name, slot)| Some((slot, slot.absent_since?, name)))
            .collect();
        let mut newest_first: Vec<_> = absent.iter().map(|(_, since, _)| *since).collect();
        newest_first.sort_by(|a, b| b.cmp(a));
        // When the `MAX_LATER`-th newest absence began: at least so many others are later.
        let last = newest_first.get(MAX_LATER - 1);
        let is_outlived = |since| {
            last.is_some_and(|last| last.duration_since(since).is_ok_and(|gap| gap >= LATER))
        };
        let is_forgotten =
            |slot: &Slot, since| is_over(since) || !slot.is_decided() && is_outlived(since);
        let (forgotten, mut rest): (Vec<_>, Vec<_>) =
            absent.iter().partition(|(slot, since, _)| is_forgotten(slot, *since));
        rest.sort_by_key(|(slot, since, name)| (slot.is_decided(), *since, *name));
        let excess = rest.len().saturating_sub(MAX_ABSENT);
        let names: Vec<String> = forgotten
            .iter()
            .chain(rest.iter().take(excess))
            .map(|(_, _, name)| (*name).to_owned())
            .collect();
        self.by_name.retain(|name, _| !names.contains(name));
        names
    }

    /// Forgets everything about an absent plugin.
    ///
    /// # Errors
    /// If there is no such plugin, or it has a file.
    pub(crate) fn forget(&mut self, name: &str) -> Result<(), OperatorError> {
        match self.get(name) {
            None => Err(OperatorError::Unknown(name.to_owned())),
            Some(slot) if !slot.is_absent() => {
                Err(OperatorError::HasFile { name: name.to_owned(), file: slot.file.clone() })
            }
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

    /// Whether a slot without a file is kept: it has versions to roll back to, or a decision.
    fn is_worth_remembering(&self) -> bool {
        !self.kept.is_empty() || self.is_decided()
    }

    /// Whether a decision of an operator or a breaker applies to the plugin.
    fn is_decided(&self) -> bool {
        self.intent != Intent::Follow || self.verdict == Verdict::AutoRolledBack
    }

    /// Records that a file registers the name again. Only a file that loads registers a name, so a
    /// bad verdict is over.
    fn come_back(&mut self) {
        if self.absent_since.take().is_some() {
            self.has_come_back = true;
            if self.verdict == Verdict::Bad {
                self.verdict = Verdict::Good;
            }
        }
    }
}
