//! Fires the timers of plugins: a source of events, as sockets and HTTP are. Each plugin has one
//! task, so that no plugin waits for another. The timers are in the plugin's file; only what must
//! be known of running events is kept in memory.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sockhop_core::timer::retry_delay;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dispatcher::{Dispatcher, Fired, max_deliveries};
use crate::error_chain::ErrorChain;
use crate::event::FiredTimer;
use crate::log;
use crate::metrics::Metrics;
use crate::registry::{ActivePlugin, Generation, Registry};
use crate::store::{Afterwards, CommitError, DueTimers, ScheduledTimer, StoreError};

/// How long a task sleeps at most. Timers follow the system's clock, which can be set at any time.
const LOOK: Duration = Duration::from_secs(1);

/// By how many milliseconds the clock is set back at least when schedules are looked at again.
const SET_BACK: u64 = 1_000;

/// Fires the timers of all plugins that serve.
pub(crate) struct Timers {
    dispatcher: Arc<Dispatcher>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    /// The plugins with a task.
    served: Mutex<HashSet<String>>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// The name and the key of a timer.
type Key = (String, String);

/// What the task of one plugin knows.
struct PluginTimers {
    plugin: String,
    /// The version for which the schedules were set.
    scheduled: Option<Arc<ActivePlugin>>,
    /// The timers whose events are being handled. Only one event of each is handled at a time.
    running: JoinSet<(Key, Fired)>,
    keys: HashSet<Key>,
    /// Until then the plugin is not called.
    paused_until: Option<Instant>,
    /// The time of the last look, by the system's clock.
    looked_at: u64,
    /// What the last look has found, if all timers that are due are running.
    found: Option<Found>,
}

/// What a look has found. Until it is outdated, the file is not read again.
struct Found {
    /// [`Store::timer_changes`](crate::store::Store::timer_changes) before the look.
    changes: u64,
    /// When the next timer is due.
    next: Option<u64>,
}

/// When a task looks again, at the latest.
enum Next {
    /// At this time of the system's clock, in milliseconds since 1970.
    At(u64),
    /// When one of the running events has ended, or something has changed.
    Change,
    /// The plugin is gone.
    Never,
}

impl Timers {
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (served, stopped) = (Mutex::default(), CancellationToken::new());
        let tasks = TaskTracker::new();
        Arc::new(Self { dispatcher, registry, metrics, served, stopped, tasks })
    }

    /// Fires timers from now on.
    pub(crate) fn start(self: &Arc<Self>) {
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut changes = this.registry.changes();
            this.serve_new_plugins();
            while let Some(Ok(())) = this.stopped.run_until_cancelled(changes.changed()).await {
                this.serve_new_plugins();
            }
        });
    }

    /// Fires no more timers. Returns when the running events have ended.
    pub(crate) async fn stop(&self) {
        self.stopped.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The lock is held for one operation. A panic leaves the set consistent.
    fn served(&self) -> MutexGuard<'_, HashSet<String>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task for each plugin that serves and has none.
    fn serve_new_plugins(self: &Arc<Self>) {
        for active in &self.registry.snapshot().plugins {
            let plugin = active.code.name();
            if self.served().insert(plugin.to_owned()) {
                let (this, plugin) = (Arc::clone(self), plugin.to_owned());
                self.tasks.spawn(async move { this.serve(plugin).await });
            }
        }
    }

    /// Fires the timers of one plugin, until the plugin is gone.
    async fn serve(self: Arc<Self>, plugin: String) {
        let mut timers = PluginTimers {
            plugin,
            scheduled: None,
            running: JoinSet::new(),
            keys: HashSet::new(),
            paused_until: None,
            looked_at: 0,
            found: None,
        };
        let mut changes = self.registry.changes();
        while !self.stopped.is_cancelled() {
            // Before the look, so that no change is missed.
            let mut changed = pin!(self.dispatcher.timers_changed().notified());
            changed.as_mut().enable();
            let next = match self.look(&mut timers).await {
                Next::At(time) => {
                    let wait = time.saturating_sub(self.dispatcher.clock().now_ms());
                    Duration::from_millis(wait).min(LOOK)
                }
                Next::Change => LOOK,
                Next::Never => break,
            };
            tokio::select! {
                () = self.stopped.cancelled() => {}
                // An error means that the registry is gone, and with it the host.
                _ = changes.changed() => {}
                () = changed => {}
                () = sleep_until(Instant::now() + next) => {}
                Some(ended) = timers.running.join_next() => match ended {
                    Ok((key, fired)) => self.ended(&mut timers, &key, fired).await,
                    // The events are never aborted, and a panic is caught.
                    Err(error) => tracing::error!(%error, "the event of a timer was lost"),
                },
            }
        }
        while let Some(ended) = timers.running.join_next().await {
            if let Ok((key, fired)) = ended {
                self.ended(&mut timers, &key, fired).await;
            }
        }
        self.served().remove(&timers.plugin);
        // The plugin may have come back after the last look.
        if !self.stopped.is_cancelled() && self.active(&timers.plugin).is_some() {
            self.serve_new_plugins();
        }
    }

    fn active(&self, plugin: &str) -> Option<Arc<ActivePlugin>> {
        let generation = self.registry.snapshot();
        generation.plugins.iter().find(|active| active.code.name() == plugin).cloned()
    }

    /// Starts the events of the timers that are due, as many as may run at once.
    async fn look(self: &Arc<Self>, timers: &mut PluginTimers) -> Next {
        let Some(active) = self.active(&timers.plugin) else { return Next::Never };
        let now = self.dispatcher.clock().now_ms();
        let is_set_back = now + SET_BACK < timers.looked_at;
        timers.looked_at = now;
        let is_scheduled =
            timers.scheduled.as_ref().is_some_and(|known| Arc::ptr_eq(known, &active));
        if is_set_back || !is_scheduled {
            match set_schedules(&active, now).await {
                Ok(()) => {
                    timers.scheduled = Some(Arc::clone(&active));
                    timers.found = None;
                }
                Err(error) => {
                    let plugin = &timers.plugin;
                    tracing::warn!(plugin, error = %ErrorChain(&error), "schedules not set: the \
                                        host tries again");
                }
            }
        }
        if is_paused(timers, &self.registry.snapshot()) {
            return Next::Change;
        }
        let changes = active.state.store.timer_changes();
        if let Some(Found { next, .. }) =
            timers.found.as_ref().filter(|found| found.is_valid(changes, now))
        {
            return next.map_or(Next::Change, Next::At);
        }
        timers.found = None;
        let free = max_deliveries(&active).saturating_sub(timers.keys.len());
        if free == 0 {
            return Next::Change;
        }
        let found = match due_timers(&active, now, timers.keys.len() + free).await {
            Ok(found) => found,
            // The store shows its failure to operators.
            Err(error) => {
                let plugin = &timers.plugin;
                tracing::debug!(plugin, error = %ErrorChain(&error), "timers not read");
                return Next::Change;
            }
        };
        let next = found.next;
        let mut is_all = found.due.len() < timers.keys.len() + free;
        for due in found.due {
            let key = (due.timer.clone(), due.key.clone());
            if timers.keys.contains(&key) {
                continue;
            }
            let has_space = timers.keys.len() < max_deliveries(&active);
            is_all &= has_space;
            if has_space {
                timers.keys.insert(key.clone());
                let (this, plugin) = (Arc::clone(self), timers.plugin.clone());
                timers.running.spawn(async move {
                    let mut firing = Box::pin(this.dispatcher.fire(&plugin, due));
                    let fired = log::catch(firing.as_mut()).await.unwrap_or_else(|panic| {
                        tracing::error!(
                            plugin,
                            error = panic.message,
                            location = panic.location,
                            "the host panicked while it handled the event of a timer"
                        );
                        Fired::NotServing(LOOK)
                    });
                    (key, fired)
                });
            }
        }
        timers.found = is_all.then_some(Found { changes, next });
        next.map_or(Next::Change, Next::At)
    }

    /// Records what became of an event.
    async fn ended(&self, timers: &mut PluginTimers, key: &Key, fired: Fired) {
        match fired {
            Fired::Handled => self.metrics.timer_event(&timers.plugin, "handled"),
            Fired::Gone => {}
            Fired::NotServing(wait) => timers.paused_until = Some(Instant::now() + wait),
            Fired::Failed(fired, reason) => self.failed(timers, fired, reason).await,
        }
        timers.keys.remove(key);
        timers.found = None;
    }

    /// Lets a timer whose handler has failed fire again later, or no more.
    async fn failed(&self, timers: &mut PluginTimers, fired: FiredTimer, reason: String) {
        let (plugin, now) = (&timers.plugin, self.dispatcher.clock().now_ms());
        let (timer, id, attempt) = (fired.timer.clone(), fired.id, fired.attempt);
        let afterwards = match retry_delay(attempt) {
            Some(delay) => {
                self.metrics.timer_event(plugin, "failed");
                tracing::warn!(
                    plugin,
                    timer,
                    id,
                    attempt,
                    retry_ms = delay,
                    reason,
                    "the event of \
                                        a timer failed: it is sent again"
                );
                Afterwards::Retry(now.saturating_add(delay))
            }
            None => {
                self.metrics.timer_event(plugin, "dead");
                tracing::error!(
                    plugin,
                    timer,
                    id,
                    attempt,
                    reason,
                    "the event of a timer failed \
                                        for the last time: retry or drop it with `sockhop timers`"
                );
                Afterwards::Dead(now)
            }
        };
        let Some(active) = self.active(plugin) else { return };
        let store = Arc::clone(&active.state.store);
        let record = move || store.timer_failed(&fired, afterwards, reason);
        let recorded = tokio::task::spawn_blocking(record).await;
        if let Ok(Err(error)) = recorded {
            // The timer stays due: it must not fire again at once.
            tracing::warn!(plugin, id, error = %ErrorChain(&error), "the failure of a timer is not \
                                        recorded");
            timers.paused_until = Some(Instant::now() + LOOK);
        }
    }
}

impl Found {
    fn is_valid(&self, changes: u64, now: u64) -> bool {
        self.changes == changes && self.next.is_none_or(|next| next > now)
    }
}

/// Whether the plugin is not called now. Ends a pause that is over.
fn is_paused(timers: &mut PluginTimers, generation: &Generation) -> bool {
    if timers.paused_until.is_some_and(|until| until > Instant::now()) {
        return true;
    }
    timers.paused_until = None;
    generation.is_disabled(&timers.plugin)
}

/// Sets the timers of the schedules that a version declares, and removes those of others.
async fn set_schedules(active: &Arc<ActivePlugin>, now: u64) -> Result<(), CommitError> {
    let next = |(timer, schedule): (&String, &sockhop_core::schedule::Schedule)| {
        let (timer, next) = (timer.clone(), schedule.next(now)?);
        Some(ScheduledTimer { timer, schedule: schedule.to_string(), next })
    };
    let schedules: Vec<_> = active.schedules.iter().filter_map(next).collect();
    let store = Arc::clone(&active.state.store);
    let set = tokio::task::spawn_blocking(move || store.set_schedules(&schedules));
    set.await.unwrap_or(Err(CommitError::Unknown))
}

/// Reads which timers are due that a version declares.
async fn due_timers(
    active: &Arc<ActivePlugin>,
    now: u64,
    limit: usize,
) -> Result<DueTimers, StoreError> {
    if active.timers.is_empty() && active.schedules.is_empty() {
        return Ok(DueTimers::default());
    }
    let active = Arc::clone(active);
    let read = move || {
        let names = active.timers.keys().chain(active.schedules.keys());
        let names: Vec<_> = names.map(String::as_str).collect();
        active.state.store.due_timers(&names, now, limit)
    };
    let read = tokio::task::spawn_blocking(read);
    read.await.unwrap_or(Err(StoreError::Damaged("the host panicked while it read the timers")))
}
