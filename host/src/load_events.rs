//! Sends `$load` to each version of a plugin until it has finished: a source of events, as timers
//! are. Each plugin has one task, which calls the version that serves, one call after the other.
//! How far a version is, is in the plugin's file; only failures are kept in memory.

use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use sockhop_core::load::{MAX_DELAY, Progress, Stall, Step, retry_delay};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::dispatcher::{Dispatcher, Loaded};
use crate::error_chain::ErrorChain;
use crate::log;
use crate::metrics::Metrics;
use crate::plugin_tasks::{PluginTasks, PluginWork};
use crate::registry::{ActivePlugin, LoadPhase, Registry};
use crate::store::{LoadRow, StoreError};

/// How long a task sleeps at most while something is to be done: the clock can be set at any time,
/// and not every change is signalled.
const LOOK: Duration = Duration::from_secs(1);

/// After a call, the task pauses for this part of the time that the call took, so that a plugin
/// with much to do leaves a part of each processor, and of the plugin's commits, to the events of
/// clients.
const PAUSE: u32 = 4;

/// Sends `$load` to all plugins that serve.
pub(crate) struct LoadEvents {
    dispatcher: Arc<Dispatcher>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    stopped: CancellationToken,
    tasks: Arc<PluginTasks>,
}

/// What the task of one plugin knows.
pub(crate) struct PluginLoad {
    plugin: String,
    /// The version that the rest is about.
    version: Weak<ActivePlugin>,
    /// Whether the plugin's file was read since something has changed.
    is_read: bool,
    was_disabled: bool,
    stall: Stall,
    /// Number of calls since the task has begun with the version.
    calls: u64,
    /// Number of failures in a row, and when the next call follows, in milliseconds since 1970.
    failures: u32,
    retry_at: Option<u64>,
    /// Until then the plugin is not called.
    paused_until: Option<Instant>,
}

/// What a task does next.
enum Next {
    /// It waits for a change, such as another version.
    Change,
    /// It looks again after this time, or a change.
    Look(Duration),
    /// It calls the plugin again after this time.
    Call(Duration),
}

impl LoadEvents {
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let stopped = CancellationToken::new();
        let tasks = PluginTasks::new(Arc::clone(&registry), stopped.clone());
        Arc::new(Self { dispatcher, registry, metrics, stopped, tasks })
    }

    /// Sends `$load` from now on.
    pub(crate) fn start(self: &Arc<Self>) {
        self.tasks.start(self);
    }

    /// Sends it no more. Returns when the running calls have ended.
    pub(crate) async fn stop(&self) {
        self.stopped.cancel();
        self.tasks.ended().await;
    }
}

impl PluginWork for LoadEvents {
    const NAME: &'static str = "load events";

    type Task = PluginLoad;

    fn begin(plugin: String) -> PluginLoad {
        PluginLoad {
            plugin,
            version: Weak::new(),
            is_read: false,
            was_disabled: false,
            stall: Stall::default(),
            calls: 0,
            failures: 0,
            retry_at: None,
            paused_until: None,
        }
    }

    /// Calls one plugin, until the plugin is gone.
    async fn serve(self: &Arc<Self>, task: &mut PluginLoad) {
        let mut changes = self.registry.changes();
        while !self.stopped.is_cancelled() {
            // Before the look, so that no change is missed.
            if changes.has_changed().unwrap_or(true) {
                task.is_read = false;
            }
            changes.mark_unchanged();
            let Some(next) = self.look(task).await else { break };
            // An error of `changed` means that the registry is gone, and with it the host.
            match next {
                // A change is seen after the pause.
                Next::Call(pause) => {
                    self.stopped.run_until_cancelled(sleep(pause)).await;
                }
                Next::Look(wait) => tokio::select! {
                    () = self.stopped.cancelled() => {}
                    _ = changes.changed() => task.is_read = false,
                    () = sleep(wait) => {}
                },
                Next::Change => tokio::select! {
                    () = self.stopped.cancelled() => {}
                    _ = changes.changed() => task.is_read = false,
                },
            }
        }
    }

    /// A call that runs ends within [`PluginWork::serve`].
    async fn finish(&self, _: &mut PluginLoad) {}
}

impl LoadEvents {
    /// Calls the plugin if it is to be called now. Returns `None` if it is gone.
    async fn look(&self, task: &mut PluginLoad) -> Option<Next> {
        let generation = self.registry.snapshot();
        let active = Arc::clone(generation.plugin(&task.plugin)?);
        let is_disabled = generation.is_disabled(&task.plugin);
        // A version that is replaced must not stay because of a call that waits.
        drop(generation);
        if !active.listens_for_load() {
            return Some(Next::Change);
        }
        if std::mem::replace(&mut task.was_disabled, is_disabled) && !is_disabled {
            // An operator says that the plugin is healthy.
            task.forget_failures();
        }
        if !std::ptr::eq(task.version.as_ptr(), Arc::as_ptr(&active)) {
            let plugin = std::mem::take(&mut task.plugin);
            *task = PluginLoad { was_disabled: task.was_disabled, ..Self::begin(plugin) };
            task.version = Arc::downgrade(&active);
        }
        if !task.is_read {
            match row(&active).await {
                Ok(LoadRow { finished: Some(at), .. }) => {
                    let at = UNIX_EPOCH.checked_add(Duration::from_millis(at));
                    active.load.set_phase(LoadPhase::Finished(at.unwrap_or(UNIX_EPOCH)));
                    return Some(Next::Change);
                }
                Ok(LoadRow { progress, finished: None }) => {
                    // An import lets it begin from the start.
                    if progress.done < active.load.get().progress.done {
                        task.stall = Stall::default();
                    }
                    active.load.set_progress(progress);
                    task.is_read = true;
                }
                Err(error) => {
                    let plugin = &task.plugin;
                    tracing::debug!(plugin, error = %ErrorChain(&error), "progress not read");
                    return Some(Next::Look(LOOK));
                }
            }
        }
        if is_disabled {
            active.load.set_phase(LoadPhase::Waiting);
            return Some(Next::Change);
        }
        let wait = task.wait(self.dispatcher.clock().now_ms());
        if wait.is_some() {
            return wait.map(Next::Look);
        }
        Some(self.call(task, &active).await)
    }

    async fn call(&self, task: &mut PluginLoad, active: &Arc<ActivePlugin>) -> Next {
        if task.failures == 0 {
            active.load.set_phase(LoadPhase::Running);
        }
        task.calls += 1;
        let began = Instant::now();
        let mut calling = Box::pin(self.dispatcher.load(active));
        let loaded = log::catch(calling.as_mut()).await.unwrap_or_else(|panic| {
            tracing::error!(
                plugin = task.plugin,
                error = panic.message,
                location = panic.location,
                "the host panicked while it handled `$load`"
            );
            Loaded::Failed("the host panicked".to_owned())
        });
        match loaded {
            Loaded::Finished => {
                self.metrics.load_event(&task.plugin, "finished");
                let version = &active.code.registration.version;
                let (plugin, digest, calls) = (&task.plugin, &active.code.digest, task.calls);
                tracing::info!(plugin, version, digest, calls, "`$load` has finished");
                task.is_read = false;
                Next::Call(Duration::ZERO)
            }
            Loaded::Progressed(progress) => {
                self.metrics.load_event(&task.plugin, "progressed");
                active.load.set_progress(progress);
                match task.stall.take(progress) {
                    Step::Forward => {
                        task.forget_failures();
                        active.load.set_phase(LoadPhase::Running);
                    }
                    Step::Still => {}
                    Step::Stuck(reason) => return self.failed(task, active, reason),
                }
                Next::Call(began.elapsed() / PAUSE)
            }
            Loaded::Failed(reason) => {
                self.metrics.load_event(&task.plugin, "failed");
                self.failed(task, active, reason)
            }
            Loaded::NotServing(wait) => {
                if task.failures == 0 {
                    active.load.set_phase(LoadPhase::Waiting);
                }
                task.paused_until = Some(Instant::now() + wait);
                Next::Look(wait.min(LOOK))
            }
        }
    }

    /// Lets the plugin be called again later.
    fn failed(&self, task: &mut PluginLoad, active: &Arc<ActivePlugin>, reason: String) -> Next {
        task.failures = task.failures.saturating_add(1);
        // Without random numbers, the delays do not differ.
        let delay = retry_delay(task.failures, getrandom::u32().unwrap_or(100));
        let clock = self.dispatcher.clock();
        task.retry_at = Some(clock.now_ms().saturating_add(delay));
        // Perhaps the host can't tell whether it was recorded.
        task.is_read = false;
        let Progress { done, total } = active.load.get().progress;
        tracing::warn!(
            plugin = task.plugin,
            version = active.code.registration.version,
            attempts = task.failures,
            retry_ms = delay,
            done,
            total,
            reason,
            "`$load` failed: it is sent again"
        );
        let now = clock.now();
        let next = now.checked_add(Duration::from_millis(delay)).unwrap_or(now);
        let attempts = task.failures;
        active.load.set_phase(LoadPhase::Failed { error: reason, attempts, next });
        Next::Look(LOOK)
    }
}

impl PluginLoad {
    fn forget_failures(&mut self) {
        (self.failures, self.retry_at) = (0, None);
    }

    /// How long the plugin is not called. `None` if it can be called.
    fn wait(&mut self, now: u64) -> Option<Duration> {
        let paused = self.paused_until.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(rest) = paused.filter(|rest| !rest.is_zero()) {
            return Some(rest.min(LOOK));
        }
        self.paused_until = None;
        let rest = self.retry_at?.saturating_sub(now);
        // If it is longer, the clock was set back.
        if rest == 0 || rest > MAX_DELAY {
            self.retry_at = None;
            return None;
        }
        Some(Duration::from_millis(rest).min(LOOK))
    }
}

/// Reads how far the version is.
async fn row(active: &Arc<ActivePlugin>) -> Result<LoadRow, StoreError> {
    let active = Arc::clone(active);
    let read = move || active.state.store.load_row(&active.code.digest);
    let read = tokio::task::spawn_blocking(read).await;
    let read =
        read.unwrap_or(Err(StoreError::Damaged("the host panicked while it read the progress")))?;
    Ok(read.unwrap_or_default())
}
