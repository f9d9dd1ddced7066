//! Publishes the next generation: chooses a version for each slot, publishes these together, saves
//! the decision, and removes what is no longer needed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::registry::{ActivePlugin, Generation, Registry, lint};
use crate::rooms::Rooms;

use super::blobs::BlobStore;
use super::claim::claim_slots;
use super::commands::{Facts, PendingCommands};
use super::directory::Stamp;
use super::draining::Draining;
use super::files::{Files, stem};
use super::journal::Journal;
use super::loader::{Failure, Loader};
use super::loads::{LoadJob, LoadQueue, Loaded};
use super::operator::{Answers, Operator, OperatorCommand, SubmittedCommand};
use super::resolve::{CandidateVersion, Candidates, Refused, resolve_conflicts};
use super::scan::Scanner;
use super::slots::{Digest, LastError, Slots, Standing, Verdict};
use super::status::View;
use super::versions::{Known, Selection, Versions};

/// The parts of the host that a publication concerns.
pub(super) struct Parts {
    pub(super) loader: Arc<Loader>,
    pub(super) registry: Arc<Registry>,
    pub(super) rooms: Arc<Rooms>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) operator: Arc<Operator>,
}

/// Knows the versions of all plugins, and publishes which of them serve.
pub(super) struct Publisher {
    parts: Parts,
    slots: Slots,
    journal: Journal,
    versions: Versions,
    blobs: Arc<BlobStore>,
    pub(super) loads: LoadQueue,
    draining: Draining,
    commands: PendingCommands,
    /// The versions that the last clean-up left on the disk; `None` if others may have been written
    /// since.
    on_disk: Option<HashSet<Digest>>,
    /// How long a version must have served to keep its claims against a plugin whose file was away.
    settled_after: Duration,
    /// How long a plugin is remembered after its file is gone.
    forget_after: Duration,
}

/// A plugin's name, and its versions that concern the next generation.
type Selected = (String, Selection);

impl Publisher {
    /// Creates a publisher that continues with the slots and the versions in `kept_dir`.
    pub(super) fn new(
        parts: Parts,
        kept_dir: PathBuf,
        settled_after: Duration,
        forget_after: Duration,
    ) -> Self {
        let journal = Journal::open(kept_dir.clone());
        let blobs = Arc::new(BlobStore::new(kept_dir, journal.is_incomplete()));
        Self {
            slots: journal.saved().clone(),
            journal,
            versions: Versions::default(),
            loads: LoadQueue::new(Arc::clone(&parts.loader), Arc::clone(&blobs)),
            blobs,
            draining: Draining::default(),
            commands: PendingCommands::default(),
            on_disk: None,
            settled_after,
            forget_after,
            parts,
        }
    }

    /// Whether any plugin serves.
    pub(super) fn serves_any(&self) -> bool {
        !self.parts.registry.snapshot().plugins.is_empty()
    }

    /// Lets compilations that start from now on yield to events.
    pub(super) fn yield_to_events(&self) {
        self.parts.loader.yield_to_events();
    }

    /// Returns when draining versions are to be checked, with [`publish`](Self::publish).
    pub(super) fn next_check_at(&self) -> Option<Instant> {
        self.draining.next_check_at()
    }

    /// Starts to load files of the plugin directory. Plugins that served before come first: the
    /// others wait for a permit after them.
    pub(super) fn load_files(&mut self, mut due: Vec<(PathBuf, Stamp)>) {
        due.sort_by_key(|(path, _)| !self.slots.has_served(path));
        for (path, stamp) in due {
            let name = self.assumed_name(&path);
            let known = self.known(&name);
            self.loads.file(&path, stamp, name, known);
        }
    }

    /// Returns the name that a file's plugin is assumed to have until it has registered.
    fn assumed_name(&self, path: &Path) -> String {
        self.slots
            .of_file(path)
            .or_else(|| self.slots.was_of_file(path))
            .map_or_else(|| stem(path), str::to_owned)
    }

    /// Returns what is known of versions before they are loaded from a file that is expected to
    /// hold the plugin `name`. It includes versions that a breaker has rolled back, also before a
    /// restart: they are not loaded again.
    fn known(&self, name: &str) -> Known {
        let rolled_back =
            self.slots.iter().filter(|(_, slot)| slot.verdict == Verdict::AutoRolledBack);
        let rolled_back =
            rolled_back.map(|(name, slot)| (slot.in_file.clone(), Ok(name.to_owned())));
        rolled_back.chain(self.versions.known(name)).collect()
    }

    /// Aborts the load of a file that has changed or is gone.
    pub(super) fn abort_load(&mut self, path: &Path) {
        self.loads.abort(path);
    }

    /// Handles a scan: kept versions that could not be loaded may be tried again. Returns the files
    /// to load again, because their versions could not be kept.
    pub(super) fn on_scan(&mut self) -> Vec<PathBuf> {
        self.versions.retry_unavailable();
        let serving = self.slots.present().map(|(_, slot)| slot);
        let serving = serving.filter(|slot| slot.serving.as_ref() == Some(&slot.in_file));
        let not_kept = serving.filter(|slot| !self.blobs.contains(&slot.in_file));
        not_kept.map(|slot| slot.file.clone()).collect()
    }

    /// Records the result of a load. Returns the name and the digest of the version.
    pub(super) fn record_load(
        &mut self,
        job: &LoadJob,
        result: Result<Loaded, Failure>,
    ) -> Result<(String, Digest), Failure> {
        if !matches!(result, Ok(Loaded::Known(..))) {
            // A version may have been written that nothing needs to keep.
            self.on_disk = None;
        }
        match result {
            Ok(Loaded::Known(name, digest)) => Ok((name, digest)),
            Ok(Loaded::New(active)) => {
                let (name, digest) = (active.code.name().to_owned(), active.code.digest.clone());
                self.versions.loaded(active);
                Ok((name, digest))
            }
            Err(failure) => {
                self.record_failure(job, &failure);
                Err(failure)
            }
        }
    }

    fn record_failure(&mut self, job: &LoadJob, failure: &Failure) {
        match job {
            LoadJob::File(path, _) => {
                let name = failure.name.clone().unwrap_or_else(|| stem(path));
                self.parts.metrics.reload(&name, "failed");
                tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest,
                    error = failure.reason, "plugin failed");
                if failure.is_invalid_content() {
                    let plugin = self.assumed_name(path);
                    self.versions.invalid(plugin, failure.clone());
                }
            }
            LoadJob::Kept(name, digest) => {
                tracing::error!(
                    plugin = name,
                    digest,
                    error = failure.reason,
                    "a kept version can't be loaded"
                );
                let is_invalid = failure.is_invalid_content();
                self.slots.refused(name, failure.as_last_error(), is_invalid);
                self.versions.unavailable(digest.clone(), failure.clone());
            }
        }
    }

    /// Handles an opened breaker: a new version is rolled back to the version before it.
    pub(super) fn auto_rollback(&mut self) {
        for active in &self.parts.registry.snapshot().plugins {
            let name = active.code.name();
            if active.health.take_trip()
                && let Some(target) = self.slots.on_breaker_opened(
                    name,
                    active.health.last_failure().map(|(why, _)| why).as_deref(),
                    SystemTime::now(),
                )
            {
                let is_kept = self.blobs.contains(&target);
                tracing::error!(
                    plugin = name,
                    digest = active.code.digest,
                    target,
                    is_kept,
                    "a new version failed too often: rolling back to the previous version"
                );
            }
        }
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
        if is_enable && let Some(active) = find(&self.parts.registry.snapshot(), &name) {
            active.health.reset();
        }
        if let Some(target) = target {
            self.versions.retry(&target);
        }
        true
    }

    /// Lets the files claim their slots.
    pub(super) fn claim(&mut self, scanner: &mut Scanner) {
        scanner.end_batch();
        let more_may_come = scanner.is_identifying();
        let metrics = &self.parts.metrics;
        claim_slots(&mut self.slots, &mut scanner.files, more_may_come, metrics);
        for plugin in self.slots.forget_absent(SystemTime::now(), self.forget_after) {
            tracing::info!(plugin, "forgotten: its file has been missing for too long");
        }
    }

    /// Starts to load the kept versions that plugins need now. Returns whether any load is in
    /// progress.
    pub(super) fn load_kept(&mut self) -> bool {
        let selected = self.select(&self.parts.registry.snapshot());
        self.start_loads(&selected);
        !self.loads.is_empty()
    }

    /// Decides which version of each plugin serves, and publishes the result. A command whose
    /// version can't serve is undone, and the decision is made again without it.
    pub(super) fn publish(&mut self, scanner: &mut Scanner) {
        let mut answers = Answers::new();
        loop {
            let before = self.parts.registry.snapshot();
            let selected = self.select(&before);
            self.start_loads(&selected);
            let candidates = self.candidates(&before, selected);
            let (next, refused) = resolve_conflicts(&before, candidates);
            self.record_refused(refused);
            if self.replace(before, next) {
                scanner.files.retry_now();
            }
            self.draining.step();
            self.drop_unneeded(scanner);
            self.save_and_delete(&scanner.files);
            let (known, is_undone) = self.finish_commands();
            answers.extend(known);
            if !is_undone {
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
            (name.to_owned(), self.versions.select(name, &wanted, before))
        });
        selected.collect()
    }

    fn start_loads(&mut self, selected: &[Selected]) {
        for (name, selection) in selected {
            for digest in &selection.missing {
                self.loads.kept(name, digest);
            }
        }
    }

    /// Makes the selected versions ready to serve.
    fn candidates(&mut self, before: &Generation, selected: Vec<Selected>) -> Vec<Candidates> {
        let mut candidates = Vec::new();
        for (name, selection) in selected {
            let digests = selection.candidates.iter();
            let active: Vec<_> =
                digests.filter_map(|digest| self.versions.activate(digest)).collect();
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
        let (digest, serves) = (&active.code.digest, before.serves(&active));
        let (is_start, now) = (before.number == 0, SystemTime::now());
        let slot = self.slots.get(name);
        let standing = slot.map_or(Standing::New, |slot| {
            slot.standing(digest, serves, is_start, now, self.settled_after)
        });
        let is_disabled = slot.is_some_and(|slot| slot.is_disabled(digest));
        CandidateVersion { active, is_disabled, standing }
    }

    /// Records the versions that conflict with other plugins.
    fn record_refused(&mut self, refused: Vec<Refused>) {
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
                self.parts.metrics.reload(&name, "failed");
                self.slots.refused(&name, error, false);
            }
            // A version that served when the previous host ended, or until its file was removed,
            // has lost its claims.
            if self.slots.get(&name).is_some_and(|slot| slot.serving.as_ref() == Some(&digest)) {
                self.slots.unserved(&name);
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
        self.parts.registry.publish(next);
        let published = self.parts.registry.snapshot();
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
        if !published.has_rooms_of(&before) {
            self.parts.rooms.recheck(|room, identity| published.may_join(room, identity).is_ok());
        }
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
                self.slots.active(name, digest, SystemTime::now());
                self.slots.describe(name, &active.code.registration.version);
                self.parts.metrics.reload(name, "active");
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
            self.slots.unserved(name);
            self.parts.metrics.reload(name, "removed");
        }
        self.draining.begin(old);
        self.versions.stand_by(old);
    }

    /// Drops the loaded versions that no slot needs any more, and closes the state of plugins
    /// without a version.
    fn drop_unneeded(&mut self, scanner: &Scanner) {
        let wanted: HashSet<Digest> =
            self.slots.iter().flat_map(|(name, _)| self.slots.wanted(name)).collect();
        let previous: HashSet<Digest> = self.slots.before().collect();
        // The version in a file that has just been loaded has not claimed its slot yet.
        let is_batching = scanner.batch_until().is_some();
        let unclaimed: HashSet<&Digest> = scanner.files.digests().filter(|_| is_batching).collect();
        let serving = self.parts.registry.snapshot();
        self.versions.retain(
            |digest, active| {
                wanted.contains(digest) || unclaimed.contains(digest) || serving.serves(active)
            },
            |digest| previous.contains(digest),
        );
        self.parts.loader.forget_unused();
    }

    /// Saves the slots, then deletes the kept versions that neither a file nor a slot needs. The
    /// slots that a start would load need theirs too, so that a host that starts at any time finds
    /// every version that it needs.
    fn save_and_delete(&mut self, files: &Files) {
        let saved = self.journal.save(&self.slots);
        let in_slots = [saved, &self.slots]
            .into_iter()
            .flat_map(|slots| slots.kept().chain(slots.iter().map(|(_, slot)| &slot.in_file)));
        let needed: HashSet<Digest> = in_slots.chain(files.digests()).cloned().collect();
        // A load in progress may have stored a version that no slot or file refers to yet.
        if self.loads.is_empty() && self.on_disk.as_ref() != Some(&needed) {
            self.blobs.keep_only(&needed);
            self.parts.loader.keep_only(&needed);
            self.on_disk = Some(needed);
        }
    }

    /// Returns the answers to the operator commands whose result is known, and whether a command
    /// that has failed was undone.
    fn finish_commands(&mut self) -> (Answers, bool) {
        let facts = Facts {
            generation: &self.parts.registry.snapshot(),
            loads: &self.loads,
            versions: &self.versions,
            blobs: &self.blobs,
            is_saved: self.slots == *self.journal.saved(),
        };
        self.commands.finish(&mut self.slots, &facts)
    }

    /// Publishes the current status for operators, then sends the answers.
    pub(super) fn publish_status(&self, files: &Files, answers: Answers) {
        let view = View {
            generation: &self.parts.registry.snapshot(),
            slots: &self.slots,
            files,
            loads: &self.loads,
            draining: &self.draining,
            journal: &self.journal,
            blobs: &self.blobs,
            forget_after: self.forget_after,
        };
        self.parts.operator.publish_status(view.status(), answers);
    }
}

/// Returns the version of the plugin `name` that serves in `generation`.
fn find<'generation>(
    generation: &'generation Generation,
    name: &str,
) -> Option<&'generation Arc<ActivePlugin>> {
    generation.plugins.iter().find(|active| active.code.name() == name)
}

/// Logs the doubtful declarations in `generation`, except those that `before` had, which were
/// logged then.
fn warn_of_new(before: &Generation, generation: &Generation) {
    let known = lint(&before.plugins);
    for warning in lint(&generation.plugins).iter().filter(|warning| !known.contains(warning)) {
        tracing::warn!(plugin = warning.plugin, %warning, "doubtful declaration");
    }
}
