//! From a directory to what is served: watches it, looks at what has changed, loads it, publishes the result. A file that fails changes
//! nothing for anybody, and is shown with its reason.
//!
//! One task decides and acts, one step after the other, and never waits for a plugin: `loads` compiles beside it. [`slots`] says which
//! version should serve.

mod contents;
mod directory;
mod draining;
mod files;
mod load;
mod loads;
mod look;
mod operator;
mod progress;
mod publish;
pub mod scan;
mod settle;
pub mod slots;
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
use crate::registry::{Registry, Served};
use crate::rooms::Rooms;

use contents::Contents;
use directory::Directory;
use draining::Draining;
use files::Files;
pub use load::{Failure, Loader};
use loads::{Loads, Subject, Version};
pub use operator::{Absent, Operator, Row, Word};
use operator::{Command, Waiting};
use progress::Progress;
use slots::{Digest, LastError, OperatorError, Slots};
use watch::Watch;

/// How soon after a change the directory is looked at, and how long a file must stand still: a copy takes many writes.
const SETTLE: Duration = Duration::from_millis(50);

/// How long what one scan found waits for the slowest of its files, so that all of it is published together. Longer than plugins in Rust
/// take to compile; a larger one comes by itself when it is ready.
const TOGETHER: Duration = Duration::from_millis(500);

/// How soon a directory that can't be read, or is suddenly empty, is looked at again, at the latest.
const UNREADABLE: Duration = Duration::from_secs(5);

/// Contents that are remembered as bad.
const MAX_BAD: usize = 64;

/// Keeps what is served in step with a directory.
pub struct Reloader {
    dir: PathBuf,
    rescan: Duration,
    forget_after: Duration,
    /// How long a version must have served to keep what it has against a plugin whose file was away; and how long a plugin without a file
    /// waits for a new one that may be its own.
    settled_after: Duration,
    loader: Arc<Loader>,
    registry: Arc<Registry>,
    rooms: Arc<Rooms>,
    metrics: Arc<Metrics>,
    contents: Arc<Contents>,
    slots: Slots,
    /// As they are remembered for the next start.
    saved: Slots,
    /// Why they are not as they are remembered, and since when.
    unsaved: Option<(String, SystemTime)>,
    files: Files,
    loads: Loads,
    /// When the directory is looked at next, though nothing tells of a change.
    look_at: Instant,
    /// Whether what the last look found is believed.
    directory: Directory,
    /// Set while there are findings that are not published: until when they wait for those that come with them.
    together: Option<Instant>,
    /// What failed by its bytes, the newest first, with the name under whose limits it did: it would fail again.
    bad: VecDeque<(String, Failure)>,
    /// Versions that are ready to serve, those that serve among them.
    ready: HashMap<Digest, Arc<Served>>,
    /// Of each plugin the version before the one that serves: to go back to it asks neither the disk nor the compiler.
    stand_by: HashMap<Digest, Arc<Served>>,
    /// Kept versions that can't be loaded; the next scan lets them be tried again.
    lost: HashMap<Digest, Failure>,
    /// The versions that were left on the disk when all others were forgotten there.
    left: Option<HashSet<Digest>>,
    draining: Draining,
    alarm: Arc<Notify>,
    operator: Arc<Operator>,
    commands: mpsc::Receiver<Command>,
    /// Operators whose words wait for a version to be loaded.
    waiting: Vec<Waiting>,
    /// What lets this thread yield to those that serve events. `None` once it does.
    lower_priority: Option<fn()>,
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
        let contents = Arc::new(Contents::new(kept_dir));
        let slots = contents.load().at_start();
        Self {
            dir: config.plugins.dir.clone(),
            rescan: config.plugins.rescan_s,
            forget_after: config.plugins.forget_after_s,
            settled_after: config.plugins.empty_after_s,
            loads: Loads::new(Arc::clone(&loader), Arc::clone(&contents)),
            loader,
            registry,
            rooms,
            metrics,
            contents,
            saved: slots.clone(),
            unsaved: None,
            slots,
            files: Files::default(),
            look_at: Instant::now(),
            directory: Directory::new(config.plugins.empty_after_s),
            together: None,
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

    /// Calls `lower_priority` on the thread of the reloader when the first plugin serves. Before that there is nothing to yield to, and
    /// whatever else the machine does would only delay the start.
    #[must_use]
    pub fn yielding_by(mut self, lower_priority: fn()) -> Self {
        self.lower_priority = Some(lower_priority);
        self
    }

    /// What operators see and say.
    pub fn operator(&self) -> Arc<Operator> {
        Arc::clone(&self.operator)
    }

    /// Loads the directory as it is, for the first time, all of it.
    ///
    /// # Errors
    /// Where it can't be read.
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
                        Some((subject, result)) => {
                            if matches!(subject, Subject::File(..)) {
                                progress.note(result.is_ok());
                            }
                            self.note_loaded(subject, result);
                        }
                        None => break,
                    },
                    () = tokio::time::sleep_until(progress.next()) => {}
                }
                progress.tell(Instant::now());
            }
            self.claim();
            // A plugin that served before may need a version that was kept: nobody takes its events before that is loaded.
            self.load_kept();
            if self.loads.is_empty() {
                self.publish();
                progress.end();
                self.yield_once_served();
                return Ok(());
            }
        }
    }

    /// Follows the directory, operators and breakers until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = Watch::new(&self.dir);
        // What changed between the first scan and now.
        self.look_at = Instant::now();
        loop {
            let next = self.next_step();
            tokio::select! {
                () = stop.cancelled() => return,
                // Where it is looked at soon, it need not be known that more has changed: a copy tells of each of its writes.
                () = watch.changed(), if self.look_at > Instant::now() + SETTLE => self.look_at = Instant::now() + SETTLE,
                () = self.alarm.notified() => self.take_back(),
                () = self.operator.look_asked() => {
                    self.files.retry_now();
                    self.look_at = Instant::now();
                }
                Some(command) = self.commands.recv() => self.obey(command),
                Some((subject, result)) = self.loads.next() => {
                    self.note_loaded(subject, result);
                    if self.together.is_none() {
                        self.publish();
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            if self.next_look() <= now {
                watch.forget();
                let is_watched_anew = watch.follow(Instant::now());
                self.look();
                if is_watched_anew {
                    self.look_at = self.look_at.min(Instant::now() + SETTLE);
                }
            }
            if self.together.is_some_and(|until| until <= now || !(self.loads.any_file() || self.files.any_unsettled())) {
                self.claim();
                self.publish();
            }
            if self.draining.next_step().is_some_and(|at| at <= now) {
                self.publish();
            }
            self.yield_once_served();
        }
    }

    /// Lets this thread, and the compilers that it starts, yield to events as soon as there may be some.
    fn yield_once_served(&mut self) {
        if self.lower_priority.is_some() && !self.registry.snapshot().plugins.is_empty() {
            self.loader.yield_to_events();
            self.lower_priority.take().into_iter().for_each(|lower| lower());
        }
    }

    /// When there is something to do, though nobody tells.
    fn next_step(&self) -> Instant {
        let others = [self.together, self.draining.next_step()];
        others.into_iter().flatten().chain([self.next_look()]).min().unwrap_or(self.look_at)
    }

    /// Notes what became of a load.
    fn note_loaded(&mut self, subject: Subject, result: Result<Version, Failure>) {
        if !matches!(result, Ok(Version::Known(..))) {
            // Something may have been written that nobody keeps.
            self.left = None;
        }
        let result = result.map(|version| match version {
            Version::Known(name, digest) => (name, digest),
            Version::New(served) => {
                let (name, digest) = (served.plugin.name().to_owned(), served.plugin.digest.clone());
                // One that is there already may serve.
                self.ready.entry(digest.clone()).or_insert(served);
                (name, digest)
            }
        });
        match (subject, result) {
            (Subject::File(path, stamp), result) => {
                if let Err(failure) = &result {
                    self.metrics.reload(failure.name.as_deref().unwrap_or(&stem(&path)), "failed");
                    tracing::error!(file = %path.display(), plugin = failure.name, digest = failure.digest, error = failure.reason,
                        "plugin failed");
                    let under = self.assumed_name(&path);
                    if failure.is_by_bytes() && !self.bad.iter().any(|(other, bad)| *other == under && bad.digest == failure.digest) {
                        self.bad.truncate(MAX_BAD - 1);
                        self.bad.push_front((under, failure.clone()));
                    }
                }
                self.files.note(&path, &stamp, result);
                self.together.get_or_insert_with(Instant::now);
            }
            (Subject::Kept(..), Ok(_)) => {}
            (Subject::Kept(name, digest), Err(failure)) => {
                tracing::error!(plugin = name, digest, error = failure.reason, "a kept version can't be loaded");
                self.slots.refused(&name, failure.now(), failure.is_by_bytes());
                self.lost.insert(digest, failure);
            }
        }
    }

    /// A breaker has opened: a version that is new goes back to the one before it.
    fn take_back(&mut self) {
        for served in &self.registry.snapshot().plugins {
            let name = served.plugin.name();
            if served.health.take_trip()
                && let Some(target) =
                    self.slots.tripped(name, served.health.last_failure().map(|(why, _)| why).as_deref(), SystemTime::now())
            {
                let is_kept = self.contents.file(&target).exists();
                tracing::error!(
                    plugin = name,
                    digest = served.plugin.digest,
                    target,
                    is_kept,
                    "a new version failed too often: going back to the one before"
                );
            }
        }
        self.publish();
    }

    /// Follows an operator's word.
    fn obey(&mut self, Command { name, word, answer }: Command) {
        let before = self.slots.get(&name).cloned();
        let followed = match &word {
            Word::RollBack(to) => self.slots.roll_back(&name, to.as_deref()).map(Some),
            Word::Disable => self.slots.set_disabled(&name, true).map(|()| None),
            Word::Enable => self.slots.set_disabled(&name, false).map(|()| None),
            Word::Forget => self.slots.forget(&name).map(|()| None),
        };
        let target = match followed {
            Ok(target) => target,
            Err(error) => {
                // Whoever does not wait for the answer any more needs none.
                let _ = answer.send(Err(error));
                return;
            }
        };
        tracing::debug!(plugin = name, command = ?word, "operator command begins");
        if word == Word::Enable
            && let Some(served) = self.registry.snapshot().plugins.iter().find(|served| served.plugin.name() == name)
        {
            served.health.reset();
        }
        if let Some(target) = &target {
            self.lost.remove(target);
        }
        self.waiting.push(Waiting { name, target, before, answer });
        self.publish();
    }

    /// Answers operators whose words have been followed, or can't be: then everything is as it was before.
    fn answer_waiting(&mut self) {
        let routes = self.registry.snapshot();
        let mut undone = false;
        let is_remembered = self.slots == self.saved;
        for Waiting { name, target, before, answer } in std::mem::take(&mut self.waiting) {
            let serves = |digest: &Digest| routes.plugins.iter().any(|s| s.plugin.name() == name && s.plugin.digest == *digest);
            match target {
                Some(target) if self.loads.is_loading(&Subject::Kept(name.clone(), target.clone())) => {
                    self.waiting.push(Waiting { name, target: Some(target), before, answer });
                }
                Some(target) if !serves(&target) => {
                    self.slots.undo_roll_back(&name, &target, before.as_ref());
                    undone = true;
                    let error = self.slots.get(&name).and_then(|slot| slot.last_error.as_ref());
                    let reason = self.lost.get(&target).map(|failure| failure.reason.clone()).or(error.map(|error| error.reason.clone()));
                    let _ = answer.send(Err(OperatorError::NotServed { name, digest: target, reason: reason.unwrap_or_default() }));
                }
                // What serves from memory must be there for the next start as well.
                target if is_remembered && target.as_ref().is_none_or(|target| self.contents.file(target).exists()) => {
                    let _ = answer.send(Ok(()));
                }
                _ => {
                    let _ = answer.send(Err(OperatorError::NotRemembered));
                }
            }
        }
        if undone {
            self.publish();
        }
    }

    /// Why the next start will not serve this version as this host does, if so: the disk is full, or the data directory can't be written.
    fn not_remembered(&self, served: &Served) -> Option<LastError> {
        let digest = &served.plugin.digest;
        let (reason, at) = match &self.unsaved {
            Some((error, since)) => (format!("serves, but this can't be remembered for the next start: {error}"), *since),
            None if self.contents.file(digest).exists() => return None,
            None => ("serves, but its file can't be kept for the next start and for rollbacks".to_owned(), served.plugin.loaded_at),
        };
        let reason = format!("{reason}; see to it that the data directory can be written");
        Some(LastError { digest: Some(digest.clone()), reason, at, is_retried: false })
    }

    /// Shows operators what there is.
    fn show(&self) {
        let mut rows = operator::rows(&self.registry.snapshot(), &self.slots, &self.files, &self.draining);
        for row in &mut rows {
            row.is_loading |= self.loads.is_loading_kept(&row.name);
            if let (None, Some(served)) = (&row.last_error, &row.served) {
                row.last_error = self.not_remembered(served);
            }
        }
        self.operator.show(rows, operator::absent(&self.slots, self.forget_after));
    }
}

/// What a file is called until its plugin has said a name.
fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
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
