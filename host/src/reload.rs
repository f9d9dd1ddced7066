//! Keeps the served plugins in step with the plugin directory: watches it, scans it, loads what has
//! changed and publishes the result. A file that fails changes nothing that is served, and is shown
//! with its reason.
//!
//! One task makes all decisions, one after the other, and never waits for a plugin: `loads`
//! compiles plugins in separate tasks. `slots` decides which version should serve.
//!
//! ```text
//! watch -> scan { directory, trust } -> files
//!       -> inventory { loads { loader, stores }, versions, blobs }
//!       -> publish { claim -> slots -> resolve -> registry -> journal -> operator }
//! ```

mod blobs;
mod claim;
mod commands;
pub(crate) mod directory;
mod draining;
mod files;
pub(crate) mod fuzzing;
mod inventory;
mod journal;
mod loader;
mod loads;
mod operator;
mod progress;
mod publish;
mod resolve;
mod scan;
pub(crate) mod slots;
mod status;
mod stores;
mod trust;
mod versions;
mod watch;
mod watched;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::rooms::Rooms;

pub use loader::{LoadFailure, Loader};
use loads::{LoadJob, Loaded};
use operator::{CommandResults, Submitted};
pub use operator::{Operator, OperatorCommand};
use progress::Progress;
use publish::Publisher;
pub use scan::ScanError;
use scan::{DEBOUNCE, Scanner};
pub use status::{Absent, PluginStatus, Status};
use watch::Watch;

/// Keeps the registry in step with the plugin directory.
pub struct Reloader {
    scanner: Scanner,
    publisher: Publisher,
    operator: Arc<Operator>,
    commands: mpsc::Receiver<Submitted>,
    /// Notified when the breaker of a plugin opens.
    alarm: Arc<Notify>,
    /// Those who wait until the settings in force apply to all plugins.
    applying: Vec<oneshot::Sender<()>>,
    /// Lowers the priority of this thread below that of the threads that serve events. `None` once
    /// it is called.
    lower_priority: Option<fn()>,
}

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
        let settings = &config.plugins;
        let scanner = Scanner::new(settings, Arc::clone(&metrics));
        let publisher = Publisher::new(
            settings,
            loader,
            registry,
            rooms,
            metrics,
            Arc::clone(&operator),
            kept_dir,
        );
        let (applying, lower_priority) = (Vec::new(), None);
        Self { scanner, publisher, operator, commands, alarm, applying, lower_priority }
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
        self.scanner.first_scan()?;
        self.load_due();
        let mut progress = Progress::of(self.publisher.inventory.loads.len(), Instant::now());
        loop {
            self.finish_loads(&mut progress).await;
            self.publisher.claim(&mut self.scanner);
            // A plugin that served before may need a kept version. That version is loaded before
            // anything is published, so that no other plugin takes its events.
            if !self.publisher.load_kept() {
                self.publisher.publish(&mut self.scanner);
                progress.end();
                self.yield_once_served();
                return Ok(());
            }
        }
    }

    /// Waits until no load is in progress, and logs the progress.
    async fn finish_loads(&mut self, progress: &mut Progress) {
        loop {
            tokio::select! {
                loaded = self.publisher.inventory.loads.next() => {
                    let Some((job, result)) = loaded else { return };
                    if matches!(job, LoadJob::File { .. }) {
                        progress.record(result.is_ok());
                    }
                    self.record_load(job, result);
                }
                () = tokio::time::sleep_until(progress.next_at()) => {}
            }
            progress.log_if_due(Instant::now());
        }
    }

    /// Handles changes of the directory, operator commands and opened breakers until `stop` is
    /// cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut watch = Watch::new(self.scanner.dir());
        // Finds what changed between the first scan and now.
        self.scanner.scan_within(Duration::ZERO);
        loop {
            let next = self.next_step_at();
            tokio::select! {
                () = stop.cancelled() => return,
                () = watch.changed(), if !self.scanner.is_due_soon() => self.scanner.scan_within(DEBOUNCE),
                () = self.alarm.notified() => self.publisher.publish(&mut self.scanner),
                () = self.operator.scan_requested() => {
                    self.scanner.files.retry_now();
                    self.scanner.scan_within(Duration::ZERO);
                }
                Some(submitted) = self.commands.recv() => self.carry_out(submitted),
                Some((job, result)) = self.publisher.inventory.loads.next() => {
                    let was_up_to_date = self.publisher.inventory.is_up_to_date();
                    self.record_load(job, result);
                    let is_now = !was_up_to_date && self.publisher.inventory.is_up_to_date();
                    // Otherwise it is published with the results of the last scan.
                    if is_now || self.scanner.batch_until().is_none() {
                        self.publisher.publish(&mut self.scanner);
                    }
                }
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            if self.scanner.next_scan_at() <= now {
                watch.discard();
                let is_watched_anew = watch.update(Instant::now());
                self.scan();
                if is_watched_anew {
                    self.scanner.scan_within(DEBOUNCE);
                }
            }
            if self.scanner.is_batch_complete(self.publisher.inventory.loads.any_file(), now) {
                self.publisher.claim(&mut self.scanner);
                self.publisher.publish(&mut self.scanner);
            }
            if self.publisher.next_check_at().is_some_and(|at| at <= now) {
                self.publisher.publish(&mut self.scanner);
            }
            self.report_applied();
            self.yield_once_served();
        }
    }

    /// Reports that the settings in force apply, once all plugins whose declarations depend on them
    /// are published.
    fn report_applied(&mut self) {
        if self.publisher.inventory.is_up_to_date() {
            for done in self.applying.drain(..) {
                // The send fails only if nobody waits for it.
                let _ = done.send(());
            }
        }
    }

    /// Lowers the priority of this thread and of the compilers that it starts as soon as a plugin
    /// serves, since events may then arrive.
    fn yield_once_served(&mut self) {
        if let Some(lower_priority) = self.lower_priority.take_if(|_| self.publisher.serves_any()) {
            self.publisher.inventory.yield_to_events();
            lower_priority();
        }
    }

    /// Returns when the next step is due if no event comes first.
    fn next_step_at(&self) -> Instant {
        let scan = self.scanner.next_scan_at();
        let others = [self.scanner.batch_until(), self.publisher.next_check_at()];
        others.into_iter().flatten().fold(scan, Instant::min)
    }

    /// Scans the directory and starts the loads that are due.
    fn scan(&mut self) {
        let Some(changed) = self.scanner.scan() else { return };
        for path in changed {
            self.publisher.inventory.loads.abort(&path);
        }
        for path in self.publisher.on_scan() {
            self.scanner.files.reload(&path);
        }
        self.load_due();
    }

    /// Starts to load the files that are new, have changed, or are to be tried again.
    fn load_due(&mut self) {
        let due = self.scanner.files.take_due();
        if !due.is_empty() {
            self.publisher.load_files(due);
            self.publisher.publish_status(&self.scanner.files, CommandResults::new());
        }
    }

    /// Carries out what an operator has submitted.
    fn carry_out(&mut self, submitted: Submitted) {
        match submitted {
            Submitted::Command(command) => {
                if self.publisher.begin(command) {
                    self.publisher.publish(&mut self.scanner);
                }
            }
            Submitted::Settings(settings, done) => {
                self.publisher.apply_settings(*settings);
                for path in self.scanner.files.retry_failed() {
                    self.publisher.inventory.loads.abort(&path);
                }
                self.load_due();
                self.publisher.publish(&mut self.scanner);
                self.applying.push(done);
            }
        }
    }

    /// Records the result of a load.
    fn record_load(&mut self, job: LoadJob, result: Result<Loaded, LoadFailure>) {
        let result = self.publisher.record_load(&job, result);
        if let LoadJob::File { path, stamp, .. } = job {
            self.scanner.record_load(&path, &stamp, result);
        }
    }
}
