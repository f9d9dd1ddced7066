//! Publishes the next generation: chooses a version for each slot, publishes these together, saves
//! the decision, and removes what is no longer needed.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::config::PluginsConfig;
use crate::metrics::Metrics;
use crate::registry::{ActivePlugin, Generation, OperatorSettings, Registry, lint};
use crate::rooms::Rooms;
use crate::rule::Subject;

use super::blobs::BlobStore;
use super::claim::claim_slots;
use super::commands::{Facts, PendingCommands};
use super::draining::Draining;
use super::files::Files;
use super::inventory::Inventory;
use super::journal::Journal;
use super::loader::{LoadFailure, Loader};
use super::loads::{LoadJob, Loaded};
use super::operator::{CommandResults, Operator, OperatorCommand, SubmittedCommand};
use super::resolve::{CandidateVersion, Candidates, Refused, Reserved, resolve_conflicts};
use super::scan::Scanner;
use super::slots::{Digest, LastError, Moment, Reservation, Slots, Standing};
use super::status::StatusInputs;
use super::versions::Selection;
use crate::files::Stamp;

/// Decides which versions serve, and publishes them.
pub(super) struct Publisher {
    pub(super) inventory: Inventory,
    slots: Slots,
    journal: Journal,
    draining: Draining,
    commands: PendingCommands,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    operator: Arc<Operator>,
    /// What the operator declares.
    settings: Arc<OperatorSettings>,
    /// How long a version must have served to keep its claims against a plugin whose file was away:
    /// `empty_after_s`, the time in which the absence of a file is taken for a mistake.
    settled_after: Duration,
    /// How long a plugin is remembered after its file is gone.
    forget_after: Duration,
}

/// A plugin's name, and its versions that concern the next generation.
type Selected = (String, Selection);

impl Publisher {
    /// Creates a publisher that continues with the slots and the versions in `kept_dir`.
    pub(super) fn new(
        settings: &PluginsConfig,
        loader: Arc<Loader>,
        registry: Arc<Registry>,
        rooms: Arc<Rooms>,
        metrics: Arc<Metrics>,
        operator: Arc<Operator>,
        kept_dir: PathBuf,
    ) -> Self {
        let journal = Journal::open(kept_dir.clone());
        let blobs = BlobStore::new(kept_dir, journal.is_incomplete());
        Self {
            inventory: Inventory::new(loader, blobs, Arc::clone(&metrics)),
            slots: journal.saved().clone(),
            journal,
            draining: Draining::default(),
            commands: PendingCommands::default(),
            settings: Arc::clone(registry.snapshot().operator()),
            registry,
            rooms,
            metrics,
            operator,
            settled_after: settings.empty_after_s,
            forget_after: settings.forget_after_s,
        }
    }

    /// Whether any plugin serves.
    pub(super) fn serves_any(&self) -> bool {
        !self.registry.snapshot().plugins.is_empty()
    }

    /// Returns when draining versions are to be checked, with [`publish`](Self::publish).
    pub(super) fn next_check_at(&self) -> Option<Instant> {
        self.draining.next_check_at()
    }

    /// Starts to load files of the plugin directory.
    pub(super) fn load_files(&mut self, due: Vec<(PathBuf, Stamp)>) {
        self.inventory.load_files(due, &self.slots);
    }

    /// Handles a scan. Kept versions that could not be loaded may be tried again. Returns the files
    /// of serving versions that have no copy on the disk: they are loaded again, so that a copy is
    /// made.
    pub(super) fn on_scan(&mut self) -> Vec<PathBuf> {
        self.inventory.retry_unavailable();
        let serving = self.slots.present().map(|(_, slot)| slot);
        let serving = serving.filter(|slot| slot.serving.as_ref() == Some(&slot.in_file));
        let not_kept = serving.filter(|slot| !self.inventory.blobs.contains(&slot.in_file));
        not_kept.map(|slot| slot.file.clone()).collect()
    }

    /// Records the result of a load. Returns the name and the digest of the version.
    pub(super) fn record_load(
        &mut self,
        job: &LoadJob,
        result: Result<Loaded, LoadFailure>,
    ) -> Result<(String, Digest), LoadFailure> {
        self.inventory.record_load(job, result, &mut self.slots)
    }

    /// Begins to carry out an operator command, whose answer follows with a later
    /// [`publish`](Self::publish). Returns `false` if it is refused, and answered.
    pub(super) fn begin(&mut self, command: SubmittedCommand) -> bool {
        let (name, is_enable) = (command.name.clone(), command.command == OperatorCommand::Enable);
        let target = match self.commands.begin(&mut self.slots, command) {
            Ok(target) => target,
            Err((answer, error)) => {
                // The send fails only if the operator no longer waits for the answer.
                let _ = answer.send(Err(error));
                return false;
            }
        };
        if is_enable && let Some(active) = find(&self.registry.snapshot(), &name) {
            active.health.reset();
        }
        if let Some(target) = target {
            self.inventory.versions.retry(&target);
        }
        true
    }

    /// Takes new declarations of the operator, and new settings of plugins. The versions in memory
    /// run under them after the next [`publish`](Self::publish), and those that could not be loaded
    /// may be tried again.
    pub(super) fn apply_settings(&mut self, settings: OperatorSettings) {
        self.settings = Arc::new(settings);
        self.inventory.apply_settings(&self.registry.snapshot());
    }

    /// Lets the files claim their slots.
    pub(super) fn claim(&mut self, scanner: &mut Scanner) {
        scanner.end_batch();
        let more_may_come = scanner.is_identifying();
        let metrics = &self.metrics;
        claim_slots(&mut self.slots, &mut scanner.files, more_may_come, metrics);
        for plugin in self.slots.forget_absent(SystemTime::now(), self.forget_after) {
            tracing::info!(plugin, "forgotten: its file has been missing for too long");
        }
    }

    /// Starts to load the kept versions that plugins need now. Returns whether any load is in
    /// progress.
    pub(super) fn load_kept(&mut self) -> bool {
        let selected = self.select(&self.registry.snapshot());
        self.start_loads(&selected);
        !self.inventory.loads.is_empty()
    }

    /// Decides which version of each plugin serves, and publishes the result. Decides again if a
    /// rollback of an operator can't be carried out and is undone, or if a version is rolled back
    /// because its breaker has opened.
    pub(super) fn publish(&mut self, scanner: &mut Scanner) {
        let mut answers = CommandResults::new();
        loop {
            let before = self.registry.snapshot();
            let selected = self.select(&before);
            self.start_loads(&selected);
            let candidates = self.candidates(&before, selected);
            let reserved = self.reserved(&candidates);
            let (next, refused) = resolve_conflicts(&before, candidates, &reserved, &self.settings);
            self.record_refused(refused, &next);
            // Before the publication: the dispatcher drops the host events of a plugin that neither
            // serves nor is remembered.
            self.registry.remember(self.slots.iter().map(|(name, _)| name.to_owned()).collect());
            if self.replace(before, next) {
                // Some files have failed because of the environment, which may have changed.
                scanner.files.retry_now();
            }
            self.draining.step();
            self.drop_unneeded(scanner);
            self.save_and_delete(&scanner.files);
            let (known, is_undone) = self.finish_commands();
            answers.extend(known);
            // In this order: the breaker's decision may have waited for the operator's.
            let is_rolled_back = self.auto_rollback();
            if !(is_undone || is_rolled_back) {
                break;
            }
        }
        self.publish_status(&scanner.files, answers);
    }

    /// Selects the versions of each plugin that could serve, in the order of the files.
    fn select(&self, before: &Generation) -> Vec<Selected> {
        let mut plugins: Vec<_> =
            self.slots.present().map(|(name, slot)| (&slot.file, name)).collect();
        plugins.sort_unstable();
        let selected = plugins.into_iter().map(|(_, name)| {
            let wanted = self.slots.wanted(name);
            (name.to_owned(), self.inventory.versions.select(name, &wanted, before))
        });
        selected.collect()
    }

    fn start_loads(&mut self, selected: &[Selected]) {
        for (name, selection) in selected {
            for digest in &selection.missing {
                self.inventory.load_kept(name, digest);
            }
        }
    }

    /// Makes the selected versions ready to serve.
    fn candidates(&mut self, before: &Generation, selected: Vec<Selected>) -> Vec<Candidates> {
        let mut candidates = Vec::new();
        for (name, selection) in selected {
            let digests = selection.candidates.iter();
            let active: Vec<_> =
                digests.flat_map(|digest| self.inventory.activate(digest)).collect();
            let versions = active.into_iter().map(|active| self.candidate(before, &name, active));
            let versions = versions.collect();
            candidates.push(Candidates { name, versions });
        }
        candidates
    }

    fn candidate(
        &self,
        before: &Generation,
        name: &str,
        active: Arc<ActivePlugin>,
    ) -> CandidateVersion {
        let (digest, now) = (&active.code.digest, SystemTime::now());
        let moment = if before.serves(&active) {
            Moment::Serving
        } else if self.inventory.versions.is_redeclared(&active) {
            Moment::Redeclared
        } else if before.number == 0 {
            Moment::Start
        } else {
            Moment::Running
        };
        let slot = self.slots.get(name);
        let standing = slot
            .map_or(Standing::New, |slot| slot.standing(digest, moment, now, self.settled_after));
        let is_disabled = slot.is_some_and(|slot| slot.is_disabled(digest));
        CandidateVersion { active, is_disabled, standing }
    }

    /// Returns what is reserved for the plugins that served before and of which no version can
    /// serve now.
    fn reserved(&self, candidates: &[Candidates]) -> Vec<Reserved> {
        let unable = candidates.iter().filter(|plugin| plugin.versions.is_empty());
        let reserved = unable.filter_map(|plugin| {
            let slot = self.slots.get(&plugin.name)?;
            let standing = slot.reserved_standing(SystemTime::now(), self.settled_after)?;
            let (name, reservation) = (plugin.name.clone(), slot.reservation.clone());
            Some(Reserved { name, reservation, standing })
        });
        reserved.collect()
    }

    /// Records the versions that conflict with other plugins.
    fn record_refused(&mut self, refused: Vec<Refused>, next: &Generation) {
        for Refused { name, digest, error } in refused {
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
                self.slots.record_failure(&name, error, false);
            }
            // A version that served when the previous host ended, or until its file was removed,
            // has lost its claims. An outdated version has the digest of its successor, and serves.
            let serves = find(next, &name).is_some_and(|active| active.code.digest == digest);
            if !serves
                && self.slots.get(&name).is_some_and(|slot| slot.serving.as_ref() == Some(&digest))
            {
                self.slots.record_not_serving(&name);
            }
        }
    }

    /// Publishes `next` if it differs from `before`, and takes the versions that it does not serve
    /// out of service. Returns whether it differs. Consumes `before`, which would keep these
    /// versions in memory.
    fn replace(&mut self, before: Arc<Generation>, next: Generation) -> bool {
        if before.number != 0 && next.serves_what(&before) {
            return false;
        }
        self.registry.publish(next);
        let published = self.registry.snapshot();
        // First, so that few clients can have joined by the new rules.
        if !published.has_rooms_of(&before) {
            self.rooms.recheck(|room, identity| published.may_stay(room, identity, &before));
        }
        let replaced: Vec<_> = before.plugins.iter().filter(|old| !published.serves(old)).collect();
        // At once, so that the instances of both versions take memory together for no longer than
        // necessary. Not before the publication: the events of a version without instances would
        // wait, or each would need a new instance.
        replaced.iter().for_each(|old| old.code.retire());
        self.record_serving(&before, &published);
        for old in replaced {
            self.take_out(old, &published);
        }
        warn_of_new(&before, &published);
        true
    }

    /// Records and logs which versions serve that did not serve in `before`, and which plugins are
    /// disabled or enabled.
    fn record_serving(&mut self, before: &Generation, published: &Generation) {
        for active in published.plugins.iter() {
            let (name, digest) = (active.code.name(), active.code.digest.as_str());
            if !before.serves(active) {
                let file = self.slots.get(name).map(|slot| slot.file.clone()).unwrap_or_default();
                let replaces = find(before, name).map(|old| old.code.digest.as_str());
                tracing::info!(plugin = name, version = active.code.registration.version, digest, file = %file.display(),
                    generation = published.number, replaces, "plugin active");
                self.slots.record_serving(name, digest, SystemTime::now());
                self.slots.record_version(name, &active.code.registration.version);
                self.slots.record_reservation(name, Reservation::of(&active.code.registration));
                self.metrics.reload(name, "active");
            }
            if before.is_disabled(name) != published.is_disabled(name) {
                let change =
                    if published.is_disabled(name) { "plugin disabled" } else { "plugin enabled" };
                tracing::info!(plugin = name, digest, generation = published.number, "{change}");
            }
        }
    }

    /// Takes a version out of service that `published` does not serve.
    fn take_out(&mut self, old: &Arc<ActivePlugin>, published: &Generation) {
        let name = old.code.name();
        if find(published, name).is_none() {
            let generation = published.number;
            tracing::info!(plugin = name, digest = old.code.digest, generation, "plugin removed");
            self.slots.record_not_serving(name);
            self.metrics.reload(name, "removed");
        }
        self.draining.begin(old);
        // `old` itself must be dropped when its last event has ended.
        self.inventory.versions.keep_copy_as_standby(old);
    }

    /// Drops the loaded versions that no slot needs any more, and closes the state of plugins
    /// without a version.
    fn drop_unneeded(&mut self, scanner: &Scanner) {
        let wanted: HashSet<Digest> =
            self.slots.iter().flat_map(|(name, _)| self.slots.wanted(name)).collect();
        let previous: HashSet<Digest> = self.slots.previous().collect();
        // The version in a file that has just been loaded has not claimed its slot yet.
        let is_batching = scanner.batch_until().is_some();
        let unclaimed: HashSet<&Digest> = scanner.files.digests().filter(|_| is_batching).collect();
        let serving = self.registry.snapshot();
        // A ready version that is not needed becomes standby. A standby version that is not the
        // previous one is dropped.
        self.inventory.versions.retain(
            |digest, active| {
                wanted.contains(digest) || unclaimed.contains(digest) || serving.serves(active)
            },
            |digest| previous.contains(digest),
        );
        self.inventory.close_unused_state();
    }

    /// Saves the slots, then deletes the kept versions that neither a file nor a slot needs. The
    /// slots that the saved file may hold count too, so that a host that starts at any time finds
    /// every version that it needs.
    fn save_and_delete(&mut self, files: &Files) {
        self.journal.save(&self.slots);
        let slots = self.journal.possibly_saved().chain([&self.slots]);
        self.inventory.keep_on_disk(needed_on_disk(slots, files.digests()));
    }

    /// Returns the answers to the operator commands whose result is known, and whether a command
    /// that has failed was undone.
    fn finish_commands(&mut self) -> (CommandResults, bool) {
        let facts = Facts {
            generation: &self.registry.snapshot(),
            inventory: &self.inventory,
            is_saved: self.journal.has_saved(&self.slots),
        };
        self.commands.finish(&mut self.slots, &facts)
    }

    /// Handles breakers that have opened: a new version is rolled back to the version before it.
    /// Returns whether any is. An operator's rollback comes first: until its result is known, the
    /// breaker of the plugin decides nothing, so that neither decision can undo the other.
    fn auto_rollback(&mut self) -> bool {
        let mut is_any = false;
        for active in &self.registry.snapshot().plugins {
            let name = active.code.name();
            if !self.commands.is_rolling_back(name)
                && active.health.take_trip()
                && let Some(target) = self.slots.on_breaker_opened(
                    name,
                    active.health.last_failure().map(|(why, _)| why).as_deref(),
                    SystemTime::now(),
                )
            {
                is_any = true;
                let is_kept = self.inventory.blobs.contains(&target);
                tracing::error!(
                    plugin = name,
                    digest = active.code.digest,
                    target,
                    is_kept,
                    "a new version failed too often: rolling back to the previous version"
                );
            }
        }
        is_any
    }

    /// Publishes the current status for operators, then sends the answers.
    pub(super) fn publish_status(&self, files: &Files, answers: CommandResults) {
        let view = StatusInputs {
            generation: &self.registry.snapshot(),
            slots: &self.slots,
            files,
            inventory: &self.inventory,
            draining: &self.draining,
            journal: &self.journal,
            forget_after: self.forget_after,
        };
        self.operator.publish_status(view.status(), answers);
    }
}

/// Returns the versions that must be on the disk for these slots and for the files.
fn needed_on_disk<'a>(
    slots: impl IntoIterator<Item = &'a Slots>,
    in_files: impl Iterator<Item = &'a Digest>,
) -> HashSet<Digest> {
    let in_slots = slots
        .into_iter()
        .flat_map(|slots| slots.kept().chain(slots.iter().map(|(_, slot)| &slot.in_file)));
    in_slots.chain(in_files).cloned().collect()
}

/// Returns the version of the plugin `name` that serves in `generation`.
fn find<'generation>(
    generation: &'generation Generation,
    name: &str,
) -> Option<&'generation Arc<ActivePlugin>> {
    generation.plugins.iter().find(|active| active.code.name() == name)
}

/// Logs the doubtful declarations of `generation`, and the rules of the operator that are about
/// nothing any more. What `before` also had was logged earlier, and is skipped.
fn warn_of_new(before: &Generation, generation: &Generation) {
    let known = lint(&before.plugins);
    for warning in lint(&generation.plugins).iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!(plugin = warning.plugin, %warning, "doubtful declaration");
    }
    let without = before.rules_without_subject();
    let is_new = |subject: &&&Subject| !without.contains(*subject);
    for subject in generation.rules_without_subject().iter().filter(is_new) {
        tracing::warn!(%subject, "a rule in `[[rules]]` has no effect: no plugin declares this");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::slots::Claim;
    use super::*;

    #[test]
    fn versions_that_only_the_saved_slots_need_stay_on_the_disk() {
        let after = |versions: &[&str]| {
            let (mut slots, file) = (Slots::default(), Path::new("a.wasm"));
            for version in versions {
                let now = SystemTime::UNIX_EPOCH;
                slots.claim(&[Claim { file, content: Some(("a", version)) }], false, now);
                slots.record_serving("a", version, now);
            }
            slots
        };
        let (saved, current) = (after(&["1", "2"]), after(&["3", "4"]));
        let loaded = "5".to_owned();
        let needed = needed_on_disk([&saved, &current], std::iter::once(&loaded));
        let mut needed: Vec<_> = needed.into_iter().collect();
        needed.sort_unstable();
        assert_eq!(needed, ["1", "2", "3", "4", "5"]);
    }
}
