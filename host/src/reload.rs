//! From a directory to what is served: watches it, looks at what has changed, loads it, publishes the result. A file that fails changes
//! nothing for anybody, and is shown with its reason.
//!
//! One task does all of it, one step after the other; [`slots`] decides, and this is where it is acted on.

mod contents;
mod load;
mod operator;
pub mod scan;
mod settle;
pub mod slots;
mod watch;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::{AdmitError, Registry, Routes, Served};
use crate::rooms::Rooms;

use contents::Contents;
pub use load::{Failure, Loader};
use operator::Command;
pub use operator::{Operator, Row, Word};
use scan::Stamp;
use settle::{Choice, settle};
use slots::{Digest, LastError, Slots};
use watch::Watch;

/// How long the directory must be quiet before it is looked at, and how long a file must stand still: a copy takes many writes.
const SETTLE: Duration = Duration::from_millis(50);

/// After what time a file that failed for its surroundings is tried again; each time it is twice as long.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// Contents that are remembered as bad.
const MAX_BAD: usize = 64;

/// Keeps what is served in step with a directory.
pub struct Reloader {
    dir: PathBuf,
    rescan: Duration,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    contents: Contents,
    slots: Slots,
    /// As they are remembered for the next start.
    saved: Slots,
    files: BTreeMap<PathBuf, Seen>,
    /// What failed by its bytes, the newest first: it would fail again.
    bad: VecDeque<Failure>,
    /// Versions that are ready to serve, those that serve among them.
    ready: HashMap<Digest, Arc<Served>>,
    draining: Vec<Draining>,
    alarm: Arc<Notify>,
    operator: Arc<Operator>,
    commands: mpsc::Receiver<Command>,
}

/// What is known of a file.
struct Seen {
    stamp: Stamp,
    /// Whether it was the same when it was looked at before.
    is_settled: bool,
    /// What it was found to be, for that stamp.
    outcome: Option<Outcome>,
}

/// What a file was found to be.
enum Outcome {
    /// This version of this plugin.
    Plugin { name: String, digest: Digest },
    /// No plugin.
    Failed { failure: Failure, error: LastError, again: Option<Again> },
}

/// When a failure is tried again.
#[derive(Debug, Clone, Copy)]
struct Again {
    at: Instant,
    delay: Duration,
}

/// A version that was taken out, while its last events run.
struct Draining {
    name: String,
    served: Weak<Served>,
    until: Instant,
}

/// The plugin directory can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ScanError(#[from] io::Error);

impl Reloader {
    /// Keeps `registry` in step with the plugin directory of `config`. What it must remember it keeps in `kept_dir`. `alarm` is what the
    /// loader's plugins wake.
    pub fn new(
        config: &Config,
        loader: Arc<Loader>,
        registry: Arc<Registry>,
        rooms: Arc<Rooms>,
        metrics: Arc<Metrics>,
        kept_dir: PathBuf,
        alarm: Arc<Notify>,
    ) -> Self {
        let (operator, commands) = Operator::new();
        let contents = Contents::new(kept_dir);
        let slots = contents.load().unwrap_or_else(|error| {
            tracing::error!(%error, "what was remembered of plugins can't be read; operators' choices and earlier versions are lost");
            Slots::default()
        });
        Self {
            dir: config.plugins.dir.clone(),
            rescan: config.plugins.rescan_s,
            loader,
            registry,
            rooms,
            metrics,
            contents,
            saved: slots.clone(),
            slots,
            files: BTreeMap::new(),
            bad: VecDeque::new(),
            ready: HashMap::new(),
            draining: Vec::new(),
            alarm,
            operator,
            commands,
        }
    }

    /// What operators see and say.
    pub fn operator(&self) -> Arc<Operator> {
        Arc::clone(&self.operator)
    }

    /// Loads the directory as it is, for the first time.
    ///
    /// # Errors
    /// Where it can't be read.
    pub async fn begin(&mut self) -> Result<(), ScanError> {
        let found = scan::scan(&self.dir)?;
        self.observe(found, true);
        self.look().await;
        self.publish().await;
        Ok(())
    }

    /// Follows the directory, operators and breakers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = Watch::new(&self.dir);
        // What changed between the first scan and now.
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed() => {
                    tokio::time::sleep(SETTLE).await;
                    watch.forget();
                }
                () = self.alarm.notified() => self.take_back(),
                Some(command) = self.commands.recv() => {
                    self.obey(command).await;
                    continue;
                }
                () = tokio::time::sleep_until(next) => {}
            }
            match scan::scan(&self.dir) {
                Ok(found) => {
                    self.observe(found, false);
                    self.look().await;
                    self.publish().await;
                }
                // Nothing is known of the files: what serves goes on.
                Err(error) => tracing::error!(dir = %self.dir.display(), %error, "the plugin directory can't be read"),
            }
            next = self.next_look();
        }
    }

    /// When the directory is looked at next, though nothing tells of a change.
    fn next_look(&self) -> Instant {
        let now = Instant::now();
        let unsettled = self.files.values().any(|seen| !seen.is_settled).then(|| now + SETTLE);
        let again = self.files.values().filter_map(|seen| match &seen.outcome {
            Some(Outcome::Failed { again: Some(again), .. }) => Some(again.at),
            _ => None,
        });
        let drained = self.draining.iter().map(|draining| draining.until.min(now + RETRY));
        unsettled.into_iter().chain(again).chain(drained).chain([now + self.rescan]).min().unwrap_or(now + self.rescan)
    }

    /// Notes which files there are, and which stood still.
    fn observe(&mut self, found: Vec<(PathBuf, Stamp)>, is_first: bool) {
        self.files.retain(|path, _| found.iter().any(|(found, _)| found == path));
        for (path, stamp) in found {
            match self.files.get_mut(&path) {
                Some(seen) if seen.stamp == stamp => seen.is_settled = true,
                Some(seen) => *seen = Seen { stamp, is_settled: false, outcome: None },
                None => {
                    self.files.insert(path, Seen { stamp, is_settled: is_first, outcome: None });
                }
            }
        }
    }

    /// Looks into the files that are new, have changed, or are to be tried again.
    async fn look(&mut self) {
        let now = Instant::now();
        let due: Vec<PathBuf> = self
            .files
            .iter()
            .filter(|(_, seen)| match &seen.outcome {
                None => seen.is_settled,
                Some(Outcome::Plugin { .. }) => false,
                Some(Outcome::Failed { again, .. }) => again.is_some_and(|again| again.at <= now),
            })
            .map(|(path, _)| path.clone())
            .collect();
        for path in due {
            let outcome = self.look_into(&path).await;
            if let Some(seen) = self.files.get_mut(&path) {
                let before = match seen.outcome.take() {
                    Some(Outcome::Failed { again: Some(again), .. }) => again.delay * 2,
                    _ => RETRY,
                };
                seen.outcome = Some(match outcome {
                    Ok((name, digest)) => Outcome::Plugin { name, digest },
                    Err(failure) => {
                        let error = failure.now();
                        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
                        self.metrics.reload(&failure.name.clone().unwrap_or_else(stem), "failed");
                        tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest, reason = failure.reason,
                            "plugin failed");
                        let delay = before.min(RETRY_AT_MOST);
                        let again = (!failure.is_by_bytes).then(|| Again { at: Instant::now() + delay, delay });
                        Outcome::Failed { failure, error, again }
                    }
                });
            }
        }
    }

    /// Which version of which plugin a file is.
    async fn look_into(&mut self, path: &Path) -> Result<(String, Digest), Failure> {
        let source = self.loader.read(path).await?;
        let digest = source.digest.clone();
        if let Some(failure) = self.bad.iter().find(|failure| failure.digest.as_ref() == Some(&digest)) {
            return Err(failure.clone());
        }
        // What is known of these bytes needs no loading: they serve, or did before the host was restarted.
        if let Some(served) = self.ready.get(&digest) {
            return Ok((served.plugin.name().to_owned(), digest));
        }
        let known = self
            .slots
            .of_file(path)
            .filter(|name| self.slots.get(name).is_some_and(|slot| slot.in_file == digest && !slot.is_in_file_good));
        if let Some(name) = known {
            return Ok((name.to_owned(), digest));
        }
        self.show(Some(path));
        let bytes = source.bytes.clone();
        let served = match self.loader.load(source).await {
            Ok(served) => served,
            Err(failure) => {
                if failure.is_by_bytes {
                    self.bad.truncate(MAX_BAD - 1);
                    self.bad.push_front(failure.clone());
                }
                return Err(failure);
            }
        };
        if let Err(error) = self.contents.put(&digest, &bytes) {
            tracing::warn!(digest, %error, "a version is not kept: it can't be gone back to");
        }
        let name = served.plugin.name().to_owned();
        self.ready.insert(digest.clone(), served);
        Ok((name, digest))
    }

    /// Decides which version of each plugin serves, and serves it.
    async fn publish(&mut self) {
        self.claim();
        let mut choices = Vec::new();
        let mut names: Vec<(PathBuf, String)> = self.slots.iter().map(|(name, slot)| (slot.file.clone(), name.to_owned())).collect();
        names.sort();
        for (_, name) in names {
            let versions = self.versions(&name).await;
            let is_disabled = self.slots.get(&name).is_some_and(|slot| slot.is_disabled);
            choices.push(Choice { name, versions, is_disabled });
        }
        let before = self.registry.snapshot();
        let (routes, refused) = settle(&before, &mut choices);
        for (name, digest, error) in refused {
            tracing::error!(plugin = name, digest, reason = error.to_string(), "plugin failed");
            let error = LastError { digest: Some(digest), reason: error.to_string(), at: SystemTime::now() };
            self.slots.refused(&name, error, false);
        }
        let changed = self.note(&before, &routes);
        if changed {
            self.registry.publish(routes);
            let routes = self.registry.snapshot();
            self.rooms.recheck(|room, identity| routes.may_join(room, identity).is_ok());
            self.retry_now();
        }
        self.drain();
        self.forget();
        if self.slots != self.saved {
            match self.contents.save(&self.slots) {
                Ok(()) => self.saved.clone_from(&self.slots),
                Err(error) => tracing::warn!(%error, "what serves can't be remembered for the next start"),
            }
        }
        self.show(None);
    }

    /// Lets the files claim their slots.
    fn claim(&mut self) {
        let paths: Vec<PathBuf> = self.files.keys().cloned().collect();
        self.slots.keep_only(&paths);
        for (path, seen) in &mut self.files {
            match &seen.outcome {
                Some(Outcome::Plugin { name, digest }) => {
                    if let Err(other) = self.slots.found(path, digest, name) {
                        let failure = Failure {
                            name: Some(name.clone()),
                            digest: Some(digest.clone()),
                            reason: AdmitError::NameTaken { name: name.clone(), file: other }.to_string(),
                            is_by_bytes: false,
                        };
                        tracing::error!(file = %path.display(), plugin = name, digest, reason = failure.reason, "plugin failed");
                        let (error, again) = (failure.now(), Some(Again { at: Instant::now() + RETRY, delay: RETRY }));
                        seen.outcome = Some(Outcome::Failed { failure, error, again });
                    }
                }
                Some(Outcome::Failed { failure, error, .. }) => self.slots.broken(path, error.clone(), failure.is_by_bytes),
                None => {}
            }
        }
    }

    /// The versions of a plugin that could serve, the best first.
    async fn versions(&mut self, name: &str) -> Vec<Arc<Served>> {
        let mut versions = Vec::new();
        for digest in self.slots.wanted(name) {
            if let Some(served) = self.ready.get(&digest) {
                versions.push(Arc::clone(served));
                continue;
            }
            let source = match self.loader.read(&self.contents.file(&digest)).await {
                Ok(source) if source.digest == digest => source,
                _ => continue,
            };
            match self.loader.load(source).await {
                Ok(served) if served.plugin.name() == name => {
                    self.ready.insert(digest, Arc::clone(&served));
                    versions.push(served);
                }
                Ok(_) => {}
                Err(failure) => {
                    tracing::error!(plugin = name, digest, reason = failure.reason, "a kept version can't be loaded");
                    self.slots.refused(name, failure.now(), failure.is_by_bytes);
                }
            }
        }
        versions
    }

    /// Notes what changes when `routes` are published, and tells the log; whether anything does.
    fn note(&mut self, before: &Routes, routes: &Routes) -> bool {
        let find = |routes: &Routes, name: &str| routes.plugins.iter().find(|served| served.plugin.name() == name).cloned();
        let mut changed = before.generation == 0;
        for served in &routes.plugins {
            let (name, digest) = (served.plugin.name(), served.plugin.digest.as_str());
            let old = find(before, name);
            if old.as_ref().is_none_or(|old| !Arc::ptr_eq(old, served)) {
                changed = true;
                let file = self.slots.get(name).map(|slot| slot.file.clone()).unwrap_or_default();
                tracing::info!(plugin = name, version = served.plugin.registration.version, digest, file = %file.display(),
                    generation = routes.generation, replaces = old.as_ref().map(|old| old.plugin.digest.as_str()), "plugin active");
                self.slots.served(name, digest);
                self.metrics.reload(name, "active");
            }
            if before.is_disabled(name) != routes.is_disabled(name) {
                changed = true;
                let word = if routes.is_disabled(name) { "plugin disabled" } else { "plugin enabled" };
                tracing::info!(plugin = name, digest, generation = routes.generation, "{word}");
            }
            if let Some(old) = old.filter(|old| !Arc::ptr_eq(old, served)) {
                self.take_out(&old);
            }
        }
        for old in before.plugins.iter().filter(|old| find(routes, old.plugin.name()).is_none()) {
            changed = true;
            tracing::info!(plugin = old.plugin.name(), digest = old.plugin.digest, generation = routes.generation, "plugin removed");
            self.slots.unserved(old.plugin.name());
            self.metrics.reload(old.plugin.name(), "removed");
            self.take_out(old);
        }
        changed
    }

    /// A version does not serve any more: what runs on it goes on for a while.
    fn take_out(&mut self, old: &Arc<Served>) {
        old.plugin.retire();
        let until = Instant::now() + old.plugin.limits().drain_ms;
        self.draining.push(Draining { name: old.plugin.name().to_owned(), served: Arc::downgrade(old), until });
        self.ready.retain(|_, served| !Arc::ptr_eq(served, old));
    }

    /// Ends what still runs too long on versions that were taken out, and forgets those that have ended.
    fn drain(&mut self) {
        let now = Instant::now();
        self.draining.retain(|draining| match draining.served.upgrade() {
            None => false,
            Some(served) if draining.until <= now => {
                tracing::warn!(plugin = draining.name, digest = served.plugin.digest, "events on a version that was replaced are ended");
                served.plugin.end();
                // Nothing of it runs after its next step; who still holds it drops it.
                false
            }
            Some(_) => true,
        });
    }

    /// Forgets what no slot wants any more.
    fn forget(&mut self) {
        let wanted: HashSet<Digest> = self.slots.iter().flat_map(|(name, _)| self.slots.wanted(name)).collect();
        let serving = self.registry.snapshot();
        self.ready.retain(|digest, served| wanted.contains(digest) || serving.plugins.iter().any(|serving| Arc::ptr_eq(serving, served)));
        let kept: HashSet<&Digest> = self.slots.kept().chain(self.slots.iter().map(|(_, slot)| &slot.in_file)).collect();
        self.contents.keep_only(&kept);
        self.loader.keep_only(&kept.iter().map(|digest| digest.as_str()).collect::<Vec<_>>());
        let is_gone = |name: &str| self.slots.get(name).is_none() && !self.draining.iter().any(|draining| draining.name == name);
        self.loader.forget_where(is_gone);
    }

    /// What failed for its surroundings may succeed in these.
    fn retry_now(&mut self) {
        for seen in self.files.values_mut() {
            if let Some(Outcome::Failed { again: Some(again), .. }) = &mut seen.outcome {
                again.at = Instant::now();
            }
        }
    }

    /// A breaker has opened: a version that is new goes back to the one before it.
    fn take_back(&mut self) {
        for served in &self.registry.snapshot().plugins {
            let (name, age) = (served.plugin.name(), served.plugin.loaded_at.elapsed().unwrap_or_default());
            if served.health.take_trip()
                && let Some(target) = self.slots.tripped(name, age, SystemTime::now())
            {
                tracing::error!(
                    plugin = name,
                    digest = served.plugin.digest,
                    target,
                    "a new version failed too often: going back to the one before"
                );
            }
        }
    }

    /// Follows an operator's word.
    async fn obey(&mut self, Command { name, word, answer }: Command) {
        let followed = match &word {
            Word::RollBack(to) => self.slots.roll_back(&name, to.as_deref()).map(|_| ()),
            Word::Disable => self.slots.set_disabled(&name, true),
            Word::Enable => self.slots.set_disabled(&name, false),
        };
        if followed.is_ok() {
            tracing::info!(plugin = name, ?word, "an operator's word");
            self.publish().await;
            if let (Word::Enable, Some(served)) = (&word, self.registry.snapshot().plugins.iter().find(|s| s.plugin.name() == name)) {
                served.health.reset();
            }
        }
        // Whoever does not wait for the answer any more needs none.
        let _ = answer.send(followed);
    }

    /// Shows operators what there is; `loading` is the file that is being loaded.
    fn show(&self, loading: Option<&Path>) {
        let routes = self.registry.snapshot();
        let draining = |name: &str| {
            let is_alive = |draining: &&Draining| draining.name == name && draining.served.strong_count() > 0;
            self.draining.iter().filter(is_alive).count()
        };
        let mut rows: Vec<Row> = self
            .slots
            .iter()
            .map(|(name, slot)| Row {
                name: name.to_owned(),
                file: slot.file.clone(),
                slot: Some(slot.clone()),
                served: routes.plugins.iter().find(|served| served.plugin.name() == name).cloned(),
                generation: routes.generation,
                last_error: slot.last_error.clone(),
                is_loading: loading == Some(slot.file.as_path()),
                draining: draining(name),
            })
            .collect();
        for (path, seen) in self.files.iter().filter(|(path, _)| self.slots.of_file(path).is_none()) {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            let (name, last_error) = match &seen.outcome {
                Some(Outcome::Failed { failure, error, .. }) => (failure.name.clone().unwrap_or(stem), Some(error.clone())),
                _ => (stem, None),
            };
            let is_loading = seen.outcome.is_none();
            let (file, generation) = (path.clone(), routes.generation);
            rows.push(Row { name, file, slot: None, served: None, generation, last_error, is_loading, draining: 0 });
        }
        for gone in self.draining.iter().filter(|draining| self.slots.get(&draining.name).is_none() && draining.served.strong_count() > 0) {
            let (name, generation) = (gone.name.clone(), routes.generation);
            let file = gone.served.upgrade().map(|served| served.plugin.file.clone()).unwrap_or_default();
            rows.push(Row { name, file, slot: None, served: None, generation, last_error: None, is_loading: false, draining: 1 });
        }
        self.operator.show(rows);
    }
}

/// An error with all its causes in one line, each once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
