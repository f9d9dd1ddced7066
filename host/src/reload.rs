//! Keeps the served plugins in step with the plugin directory: watches it, scans it, loads what has
//! changed and publishes the result. A file that fails changes nothing that is served, and is shown
//! with its reason.
//!
//! One task makes all decisions, one after the other, and never waits for a plugin: `loads`
//! compiles plugins in separate tasks. [`slots`] decides which version should serve.

mod commands;
mod directory;
mod draining;
mod files;
mod journal;
mod load;
mod loads;
mod look;
mod operator;
mod progress;
mod publish;
mod resolve;
pub mod scan;
pub mod slots;
mod stores;
mod versions;
mod watch;
mod watched;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::{ActivePlugin, Registry};
use crate::rooms::Rooms;

use commands::PendingCommand;
use directory::Directory;
use draining::Draining;
use files::Files;
pub use load::{Failure, Loader};
use loads::{LoadJob, LoadQueue, Version};
use operator::SubmittedCommand;
pub use operator::{Absent, Operator, OperatorCommand, PluginStatus};
use progress::Progress;
use slots::{Digest, Slots};
use versions::VersionStore;
use watch::Watch;

/// Debounce delay: from a change to the scan, and how long a file must stay unchanged before it is
/// loaded. A copy takes many writes.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// How long the findings of one scan wait for the slowest of its files, so that all are published
/// together. It is longer than plugins in Rust take to compile; a larger plugin is published by
/// itself when it is ready.
const BATCH_WINDOW: Duration = Duration::from_millis(500);

/// The longest delay until a directory that can't be read, or is suddenly empty, is scanned again.
const UNREADABLE: Duration = Duration::from_secs(5);

/// The maximum number of failed versions that are remembered.
const MAX_BAD: usize = 64;

/// Keeps the registry in step with the plugin directory.
pub struct Reloader {
    dir: PathBuf,
    rescan: Duration,
    forget_after: Duration,
    /// How long a version must have served to keep its claims against a plugin whose file was away.
    /// Also how long a plugin without a file waits for new files to be identified: one of them may
    /// be its own.
    settled_after: Duration,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    versions: Arc<VersionStore>,
    slots: Slots,
    /// The slots as they were last saved for the next start.
    saved: Slots,
    /// Why `slots` can't be saved, and since when.
    unsaved: Option<(String, SystemTime)>,
    files: Files,
    loads: LoadQueue,
    /// When the directory is scanned next if no change is reported.
    next_scan_at: Instant,
    /// Whether the result of the last scan is believed.
    directory: Directory,
    /// Set while there are findings that are not published: the deadline until which they wait for
    /// the other findings of the same scan.
    batch_until: Option<Instant>,
    /// Failures whose bytes are at fault, the newest first, each with the plugin name whose limits
    /// applied: the same bytes would fail again.
    bad: VecDeque<(String, Failure)>,
    /// Versions that are ready to serve, including those that serve.
    ready: HashMap<Digest, Arc<ActivePlugin>>,
    /// For each plugin, the version before the one that serves: a rollback to it needs neither disk
    /// nor compiler.
    stand_by: HashMap<Digest, Arc<ActivePlugin>>,
    /// Kept versions that can't be loaded; they may be tried again after the next scan.
    lost: HashMap<Digest, Failure>,
    /// The versions that the last clean-up left on the disk; `None` if others may have been written
    /// since.
    left: Option<HashSet<Digest>>,
    draining: Draining,
    alarm: Arc<Notify>,
    operator: Arc<Operator>,
    commands: mpsc::Receiver<SubmittedCommand>,
    /// Operator commands that wait for a version to be loaded.
    waiting: Vec<PendingCommand>,
    /// Lowers the priority of this thread below that of the threads that serve events. `None` once
    /// it is called.
    lower_priority: Option<fn()>,
}

/// The plugin directory can't be read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ScanError(#[from] io::Error);

impl Reloader {
    /// Creates a reloader that keeps `registry` in step with the plugin directory of `config`. It
    /// stores its persistent data in `kept_dir`. `alarm` is notified by the loader's plugins when a
    /// breaker opens.
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
        let versions = Arc::new(VersionStore::new(kept_dir));
        let slots = versions.load().at_start();
        Self {
            dir: config.plugins.dir.clone(),
            rescan: config.plugins.rescan_s,
            forget_after: config.plugins.forget_after_s,
            settled_after: config.plugins.empty_after_s,
            loads: LoadQueue::new(Arc::clone(&loader), Arc::clone(&versions)),
            loader,
            registry,
            rooms,
            metrics,
            versions,
            saved: slots.clone(),
            unsaved: None,
            slots,
            files: Files::default(),
            next_scan_at: Instant::now(),
            directory: Directory::new(config.plugins.empty_after_s),
            batch_until: None,
            bad: VecDeque::new(),
            ready: HashMap::new(),
            stand_by: HashMap::new(),
            lost: HashMap::new(),
            left: None,
            draining: Draining::default(),
            alarm,
            operator,
            commands,
            waiting: Vec::new(),
            lower_priority: None,
        }
    }

    /// Calls `lower_priority` on the thread of the reloader once the first plugin serves. Before
    /// that, there are no events to yield to, and a lower priority would only delay the start.
    #[must_use]
    pub fn yielding_by(mut self, lower_priority: fn()) -> Self {
        self.lower_priority = Some(lower_priority);
        self
    }

    /// Returns the handle through which operators read the state of plugins and send commands.
    pub fn operator(&self) -> Arc<Operator> {
        Arc::clone(&self.operator)
    }

    /// Loads all files of the directory for the first time. Returns when the first generation is
    /// published: every file is loaded or has failed.
    ///
    /// # Errors
    /// If the directory can't be read.
    pub async fn begin(&mut self) -> Result<(), ScanError> {
        let found = scan::scan(&self.dir)?;
        self.metrics.directory(true);
        self.files.observe(found, true);
        self.look_into_due();
        let mut progress = Progress::of(self.loads.len(), Instant::now());
        loop {
            loop {
                tokio::select! {
                    loaded = self.loads.next() => match loaded {
                        Some((job, result)) => {
                            if matches!(job, LoadJob::File(..)) {
                                progress.note(result.is_ok());
                            }
                            self.note_loaded(job, result);
                        }
                        None => break,
                    },
                    () = tokio::time::sleep_until(progress.next()) => {}
                }
                progress.tell(Instant::now());
            }
            self.claim();
            // A plugin that served before may need a kept version. That version is loaded before
            // anything is published, so that no other plugin takes its events.
            self.load_kept();
            if self.loads.is_empty() {
                self.publish();
                progress.end();
                self.yield_once_served();
                return Ok(());
            }
        }
    }

    /// Handles changes of the directory, operator commands and opened breakers until `stop` is
    /// cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = Watch::new(&self.dir);
        // Finds what changed between the first scan and now.
        self.next_scan_at = Instant::now();
        loop {
            let next = self.next_step();
            tokio::select! {
                () = stop.cancelled() => return,
                // If a scan is due soon, further changes need not be known: a copy reports each of
                // its writes.
                () = watch.changed(), if self.next_scan_at > Instant::now() + DEBOUNCE => self.next_scan_at = Instant::now() + DEBOUNCE,
                () = self.alarm.notified() => self.auto_rollback(),
                () = self.operator.scan_requested() => {
                    self.files.retry_now();
                    self.next_scan_at = Instant::now();
                }
                Some(command) = self.commands.recv() => self.apply(command),
                Some((job, result)) = self.loads.next() => {
                    self.note_loaded(job, result);
                    if self.batch_until.is_none() {
                        self.publish();
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            if self.next_scan() <= now {
                watch.forget();
                let is_watched_anew = watch.follow(Instant::now());
                self.look();
                if is_watched_anew {
                    self.next_scan_at = self.next_scan_at.min(Instant::now() + DEBOUNCE);
                }
            }
            if self.batch_until.is_some_and(|until| {
                until <= now || !(self.loads.any_file() || self.files.any_unsettled())
            }) {
                self.claim();
                self.publish();
            }
            if self.draining.next_step().is_some_and(|at| at <= now) {
                self.publish();
            }
            self.yield_once_served();
        }
    }

    /// Lowers the priority of this thread and of the compilers that it starts as soon as a plugin
    /// serves, since events may then arrive.
    fn yield_once_served(&mut self) {
        if self.lower_priority.is_some() && !self.registry.snapshot().plugins.is_empty() {
            self.loader.yield_to_events();
            self.lower_priority.take().into_iter().for_each(|lower| lower());
        }
    }

    /// Returns when the next step is due if no event comes first.
    fn next_step(&self) -> Instant {
        let others = [self.batch_until, self.draining.next_step()];
        others.into_iter().flatten().chain([self.next_scan()]).min().unwrap_or(self.next_scan_at)
    }

    /// Records the result of a load.
    fn note_loaded(&mut self, job: LoadJob, result: Result<Version, Failure>) {
        if !matches!(result, Ok(Version::Known(..))) {
            // A version may have been written that nothing needs to keep.
            self.left = None;
        }
        let result = result.map(|version| match version {
            Version::Known(name, digest) => (name, digest),
            Version::New(active) => {
                let (name, digest) = (active.code.name().to_owned(), active.code.digest.clone());
                // An existing entry is kept: it may be serving.
                self.ready.entry(digest.clone()).or_insert(active);
                (name, digest)
            }
        });
        match (job, result) {
            (LoadJob::File(path, stamp), result) => {
                if let Err(failure) = &result {
                    self.metrics.reload(failure.name.as_deref().unwrap_or(&stem(&path)), "failed");
                    tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest, error = failure.reason,
                        "plugin failed");
                    let under = self.assumed_name(&path);
                    if failure.is_by_bytes()
                        && !self
                            .bad
                            .iter()
                            .any(|(other, bad)| *other == under && bad.digest == failure.digest)
                    {
                        self.bad.truncate(MAX_BAD - 1);
                        self.bad.push_front((under, failure.clone()));
                    }
                }
                self.files.note(&path, &stamp, result);
                self.batch_until.get_or_insert_with(Instant::now);
            }
            (LoadJob::Kept(..), Ok(_)) => {}
            (LoadJob::Kept(name, digest), Err(failure)) => {
                tracing::error!(
                    plugin = name,
                    digest,
                    error = failure.reason,
                    "a kept version can't be loaded"
                );
                self.slots.refused(&name, failure.now(), failure.is_by_bytes());
                self.lost.insert(digest, failure);
            }
        }
    }

    /// Handles an opened breaker: a new version is rolled back to the version before it.
    fn auto_rollback(&mut self) {
        for active in &self.registry.snapshot().plugins {
            let name = active.code.name();
            if active.health.take_trip()
                && let Some(target) = self.slots.on_breaker_opened(
                    name,
                    active.health.last_failure().map(|(why, _)| why).as_deref(),
                    SystemTime::now(),
                )
            {
                let is_kept = self.versions.file(&target).exists();
                tracing::error!(
                    plugin = name,
                    digest = active.code.digest,
                    target,
                    is_kept,
                    "a new version failed too often: rolling back to the previous version"
                );
            }
        }
        self.publish();
    }
}

/// Returns the name of a file without its extension, which names it until its plugin has
/// registered.
fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}
