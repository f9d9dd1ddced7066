//! Publishes the next generation: lets the files claim their slots, chooses a version for each
//! slot, publishes these together, and removes what is no longer needed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::registry::{ActivePlugin, AdmitError, Generation, lint};

use super::Reloader;
use super::files::Outcome;
use super::resolve::{Candidates, Version, resolve_conflicts};
use super::slots::{Digest, LastError, Slot, Standing};
use super::stem;

impl Reloader {
    /// Lets the files claim their slots, and records conflicts, failures and forgotten plugins.
    pub(super) fn claim(&mut self) {
        self.batch_until = None;
        let claims = self.files.claims();
        let now = SystemTime::now();
        let more_may_come = self
            .files
            .unknown_until(self.settled_after)
            .is_some_and(|until| until > Instant::now());
        let taken = self.slots.claim(&claims, more_may_come, now);
        let conflict = |(file, other): (&Path, PathBuf)| {
            let (name, digest) =
                claims.iter().find(|claim| claim.file == file).and_then(|claim| claim.holds)?;
            let reason = AdmitError::NameTaken { name: name.to_owned(), file: other }.to_string();
            Some((
                file.to_owned(),
                LastError {
                    digest: Some(digest.to_owned()),
                    reason,
                    at: SystemTime::now(),
                    is_retried: false,
                },
            ))
        };
        let taken: Vec<_> = taken.into_iter().filter_map(conflict).collect();
        for (file, error) in self.files.note_conflicts(&taken) {
            tracing::error!(file = %file.display(), digest = error.digest, error = error.reason, "plugin failed");
            self.metrics.reload(&stem(&file), "failed");
        }
        for (path, seen) in self.files.iter() {
            if let Some(Outcome::Failed { failure, error, .. }) = &seen.outcome {
                self.slots.broken(path, error.clone(), failure.is_by_bytes());
            }
        }
        for plugin in self.slots.forget_absent(now, self.forget_after) {
            tracing::info!(plugin, "forgotten: its file has been missing for too long");
        }
    }

    /// Starts to load the kept versions that plugins need now.
    pub(super) fn load_kept(&mut self) {
        let (before, names) = (
            self.registry.snapshot(),
            self.slots.present().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(),
        );
        for name in names {
            self.versions(&name, &before);
        }
    }

    /// Decides which version of each plugin serves, and publishes the result.
    pub(super) fn publish(&mut self) {
        let before = self.registry.snapshot();
        let mut names: Vec<(PathBuf, String)> =
            self.slots.present().map(|(name, slot)| (slot.file.clone(), name.to_owned())).collect();
        names.sort();
        let mut candidates = Vec::new();
        for (_, name) in names {
            let versions = self.versions(&name, &before);
            let slot = self.slots.get(&name);
            let (is_start, now) = (before.number == 0, SystemTime::now());
            let standing = |active: &Arc<ActivePlugin>| {
                let of = |slot: &Slot| {
                    slot.standing(
                        &active.code.digest,
                        before.serves(active),
                        is_start,
                        now,
                        self.settled_after,
                    )
                };
                slot.map_or(Standing::New, of)
            };
            let of = |active: Arc<ActivePlugin>| Version {
                is_disabled: slot.is_some_and(|slot| slot.is_disabled(&active.code.digest)),
                standing: standing(&active),
                active,
            };
            let versions = versions.into_iter().map(of).collect();
            candidates.push(Candidates { name, versions });
        }
        let (generation, refused) = resolve_conflicts(&before, &mut candidates);
        for (name, digest, error) in refused {
            let error = LastError {
                digest: Some(digest.clone()),
                reason: error.to_string(),
                at: SystemTime::now(),
                is_retried: false,
            };
            let known = self.slots.get(&name).and_then(|slot| slot.last_error.as_ref());
            if known.is_none_or(|known| {
                (&known.digest, &known.reason) != (&error.digest, &error.reason)
            }) {
                tracing::error!(
                    plugin = name,
                    digest = error.digest,
                    error = error.reason,
                    "plugin failed"
                );
                self.metrics.reload(&name, "failed");
                self.slots.refused(&name, error, false);
            }
            // A version that served when the previous host ended, or until its file was removed,
            // has lost its place.
            if self.slots.get(&name).is_some_and(|slot| slot.serving.as_ref() == Some(&digest)) {
                self.slots.unserved(&name);
            }
        }
        if before.number == 0 || !generation.serves_what(&before) {
            self.registry.publish(generation);
            let generation = self.registry.snapshot();
            // At once, so that the instances of both versions take memory together for no longer
            // than necessary.
            before
                .plugins
                .iter()
                .filter(|old| !generation.serves(old))
                .for_each(|old| old.code.retire());
            // Only after the publication: if a version were taken out before another serves, its
            // events would wait, or each would need a new instance.
            self.note_changes(&before, &generation);
            warn_of_new(&before, &generation);
            if !generation.has_rooms_of(&before) {
                self.rooms.recheck(|room, identity| generation.may_join(room, identity).is_ok());
            }
            self.files.retry_now();
        }
        // A reference to the previous generation would keep the versions that were taken out.
        drop(before);
        self.draining.step();
        // The slots are saved before other versions are deleted: a host that starts between the two
        // steps finds every version that it needs.
        self.save();
        self.forget();
        // Rows before answers: an operator who gets an answer then sees its effect.
        self.publish_status();
        self.answer_waiting();
    }

    /// Returns the versions of a plugin that could serve, the best first. While a better version is
    /// being loaded, the serving version keeps serving, and no other version replaces it.
    fn versions(&mut self, name: &str, before: &Generation) -> Vec<Arc<ActivePlugin>> {
        let serves = |active: &Arc<ActivePlugin>| before.serves(active);
        let (mut versions, mut is_waiting) = (Vec::new(), false);
        for digest in self.slots.wanted(name) {
            match self.ready.get(&digest) {
                Some(active) if !is_waiting || serves(active) => versions.push(Arc::clone(active)),
                Some(_) => {}
                // A version worse than the serving one is needed only if that one can't keep
                // serving.
                None if versions.first().is_some_and(serves) || self.lost.contains_key(&digest) => {
                }
                None => match self.stand_by.get(&digest).filter(|_| !is_waiting) {
                    Some(stand_by) => {
                        let again = stand_by.fresh();
                        self.ready.insert(digest, Arc::clone(&again));
                        versions.push(again);
                    }
                    None => {
                        self.loads.kept(name, &digest);
                        is_waiting = true;
                    }
                },
            }
        }
        versions
    }

    /// Records and logs the changes from `before` to `routes`, and takes out the versions that no
    /// longer serve.
    fn note_changes(&mut self, before: &Generation, generation: &Generation) {
        let find = |generation: &Generation, name: &str| {
            generation.plugins.iter().find(|active| active.code.name() == name).cloned()
        };
        for active in &generation.plugins {
            let (name, digest) = (active.code.name(), active.code.digest.as_str());
            let old = find(before, name);
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, active)) {
                let file = self.slots.get(name).map(|slot| slot.file.clone()).unwrap_or_default();
                tracing::info!(plugin = name, version = active.code.registration.version, digest, file = %file.display(),
                    generation = generation.number, replaces = old.as_ref().map(|old| old.code.digest.as_str()), "plugin active");
                self.slots.active(name, digest, SystemTime::now());
                self.slots.describe(name, &active.code.registration.version);
                self.metrics.reload(name, "active");
            }
            if before.is_disabled(name) != generation.is_disabled(name) {
                let command =
                    if generation.is_disabled(name) { "plugin disabled" } else { "plugin enabled" };
                tracing::info!(plugin = name, digest, generation = generation.number, "{command}");
            }
            if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, active)) {
                self.take_out(&old);
            }
        }
        for old in before.plugins.iter().filter(|old| find(generation, old.code.name()).is_none()) {
            tracing::info!(
                plugin = old.code.name(),
                digest = old.code.digest,
                generation = generation.number,
                "plugin removed"
            );
            self.slots.unserved(old.code.name());
            self.metrics.reload(old.code.name(), "removed");
            self.take_out(old);
        }
    }

    /// Takes out a version that no longer serves.
    fn take_out(&mut self, old: &Arc<ActivePlugin>) {
        debug_assert!(
            !self.registry.snapshot().serves(old),
            "a version is taken out while it serves"
        );
        self.draining.begin(old);
        self.ready.retain(|_, active| !Arc::ptr_eq(active, old));
        // A copy, not the version itself, which must be dropped when its last event has ended.
        self.stand_by.insert(old.code.digest.clone(), old.fresh());
    }

    /// Removes the versions that no slot and no file needs any more.
    fn forget(&mut self) {
        let found: HashSet<&Digest> = self.files.digests().collect();
        let wanted: HashSet<Digest> =
            self.slots.iter().flat_map(|(name, _)| self.slots.wanted(name)).collect();
        let serving = self.registry.snapshot();
        let serves = |active: &Arc<ActivePlugin>| serving.serves(active);
        // The version in a file that has just been loaded has not claimed its slot yet.
        let waits = |digest: &Digest| self.batch_until.is_some() && found.contains(digest);
        self.ready
            .retain(|digest, active| wanted.contains(digest) || serves(active) || waits(digest));
        let kept =
            self.slots.kept().chain(self.slots.iter().map(|(_, slot)| &slot.in_file)).chain(found);
        let kept: HashSet<Digest> = kept.cloned().collect();
        let before: HashSet<Digest> = self.slots.before().collect();
        self.stand_by.retain(|digest, _| before.contains(digest));
        // A load in progress may have stored a version that no slot or file refers to yet.
        if self.loads.is_empty() && self.left.as_ref() != Some(&kept) {
            self.versions.keep_only(&kept);
            self.loader.keep_only(&kept);
            self.left = Some(kept);
        }
        self.loader.forget_unused();
    }

    /// Saves for the next start what serves and what operators chose.
    fn save(&mut self) {
        if self.slots != self.saved {
            match self.versions.save(&self.slots) {
                Ok(()) => {
                    self.saved.clone_from(&self.slots);
                    self.unsaved = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "the serving versions and the decisions of operators can't be saved for the next start");
                    self.unsaved.get_or_insert((error.to_string(), SystemTime::now()));
                }
            }
        }
    }
}

/// Logs the doubtful declarations in `routes`, except those that `before` had, which were logged
/// then.
fn warn_of_new(before: &Generation, generation: &Generation) {
    let known = lint(&before.plugins);
    for warning in lint(&generation.plugins).iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!(plugin = warning.plugin, %warning, "doubtful declaration");
    }
}
