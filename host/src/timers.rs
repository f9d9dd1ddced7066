//! Fires the timers of plugins: a source of events, as sockets and HTTP are. Each plugin has one
//! task, so that no plugin waits for another. The timers are in the plugin's file; only what must
//! be known of running events is kept in memory.

mod step;

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use sockhop_core::timer::{MAX_DELAY, retry_delay};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::dispatcher::{Dispatcher, Fired, max_timers};
use crate::error_chain::ErrorChain;
use crate::event::FiredTimer;
use crate::log;
use crate::metrics::Metrics;
use crate::plugin_tasks::{PluginTasks, PluginWork};
use crate::registry::{ActivePlugin, Generation, Registry};
use crate::store::{Afterwards, CommitError, DueTimers, ScheduledTimer, Store, StoreError};

/// How long a task sleeps at most. Timers follow the system's clock, which can be set at any time.
const LOOK: Duration = Duration::from_secs(1);

/// By how many milliseconds the clock is set back at least when schedules are looked at again.
const SET_BACK: u64 = 1_000;

/// Fires the timers of all plugins that serve.
pub(crate) struct Timers {
    dispatcher: Arc<Dispatcher>,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    stopped: CancellationToken,
    tasks: Arc<PluginTasks>,
}

/// The name and the key of a timer.
type Key = (String, String);

/// What the task of one plugin knows.
pub(crate) struct PluginTimers {
    plugin: String,
    /// The version for which the schedules were set.
    scheduled: Weak<ActivePlugin>,
    /// Until then the schedules are not set, because that has just failed.
    schedules_failed_until: Option<Instant>,
    /// The timers whose events are being handled. Only one event of each is handled at a time.
    running: JoinSet<(Key, Fired)>,
    keys: HashSet<Key>,
    /// Until then the plugin is not called.
    paused_until: Option<Instant>,
    /// Timers that are due and that are left out until then, at most [`MAX_LATER`].
    later: HashMap<Key, Instant>,
    /// The time of the last look, by the system's clock.
    looked_at: u64,
    /// What the last look has found, if all timers that are due are running. If one of them is not,
    /// this is `None`, and the next look reads the file again.
    found: Option<Found>,
}

/// What a look has found. Until it is outdated, the file is not read again.
struct Found {
    /// [`Store::timer_changes`](crate::store::Store::timer_changes) before the look.
    changes: u64,
    /// When the next timer is due.
    next: Option<u64>,
}

/// How many timers are left out for a while, so that they do not delay others. If there are more,
/// the plugin pauses.
const MAX_LATER: usize = 64;

/// When a task looks again. It also looks when a running event has ended or something has changed,
/// and at the latest after [`LOOK`].
enum Next {
    /// At this time of the system's clock, in milliseconds since 1970.
    At(u64),
    /// Only then: no time is known.
    Change,
}

impl Timers {
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        registry: Arc<Registry>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let stopped = CancellationToken::new();
        let tasks = PluginTasks::new(Arc::clone(&registry), stopped.clone());
        Arc::new(Self { dispatcher, registry, metrics, stopped, tasks })
    }

    /// Fires timers from now on.
    pub(crate) fn start(self: &Arc<Self>) {
        self.tasks.start(self);
    }

    /// Fires no more timers. Returns when the running events have ended.
    pub(crate) async fn stop(&self) {
        self.stopped.cancel();
        self.tasks.ended().await;
    }
}

impl PluginWork for Timers {
    const NAME: &'static str = "timers";

    type Task = PluginTimers;

    fn begin(plugin: String) -> PluginTimers {
        PluginTimers {
            plugin,
            scheduled: Weak::new(),
            schedules_failed_until: None,
            running: JoinSet::new(),
            keys: HashSet::new(),
            paused_until: None,
            later: HashMap::new(),
            looked_at: 0,
            found: None,
        }
    }

    /// Fires the timers of one plugin, until the plugin is gone.
    async fn serve(self: &Arc<Self>, timers: &mut PluginTimers) {
        let mut changes = self.registry.changes();
        while !self.stopped.is_cancelled() {
            let Some(active) = self.active(&timers.plugin) else { break };
            let store = Arc::clone(&active.state.store);
            // Before the look, so that no change is missed.
            let mut changed = pin!(store.timers_notified());
            changed.as_mut().enable();
            let next = match self.look(timers, active).await {
                Next::At(time) => {
                    let wait = time.saturating_sub(self.dispatcher.clock().now_ms());
                    Duration::from_millis(wait).min(LOOK)
                }
                Next::Change => LOOK,
            };
            tokio::select! {
                () = self.stopped.cancelled() => {}
                // An error means that the registry is gone, and with it the host.
                _ = changes.changed() => {}
                () = changed => {}
                () = sleep_until(Instant::now() + next) => {}
                Some(ended) = timers.running.join_next() => {
                    self.joined(timers, ended).await;
                    // One look for all that have ended.
                    while let Some(ended) = timers.running.try_join_next() {
                        self.joined(timers, ended).await;
                    }
                }
            }
        }
    }

    async fn finish(&self, timers: &mut PluginTimers) {
        while let Some(ended) = timers.running.join_next().await {
            self.joined(timers, ended).await;
        }
    }
}

impl Timers {
    fn active(&self, plugin: &str) -> Option<Arc<ActivePlugin>> {
        self.registry.snapshot().plugin(plugin).cloned()
    }

    /// Starts the events of the timers that are due, as many as may run at once.
    async fn look(self: &Arc<Self>, timers: &mut PluginTimers, active: Arc<ActivePlugin>) -> Next {
        let now = self.dispatcher.clock().now_ms();
        let is_set_back = now + SET_BACK < timers.looked_at;
        timers.looked_at = now;
        if is_set_back {
            timers.scheduled = Weak::new();
        }
        // The weak pointer keeps the allocation, so no other version has the same address.
        let is_scheduled = std::ptr::eq(timers.scheduled.as_ptr(), Arc::as_ptr(&active));
        if !is_scheduled
            && timers.schedules_failed_until.is_none_or(|until| until <= Instant::now())
        {
            match set_schedules(&active, now).await {
                Ok(()) => {
                    timers.scheduled = Arc::downgrade(&active);
                    timers.schedules_failed_until = None;
                    timers.found = None;
                }
                Err(error) => {
                    let plugin = &timers.plugin;
                    // Once until it works; the status of the plugin shows the failure.
                    if timers.schedules_failed_until.is_none() {
                        tracing::warn!(plugin, error = %ErrorChain(&error), "schedules not set: the \
                                        host tries again");
                    }
                    timers.schedules_failed_until = Some(Instant::now() + LOOK);
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
        timers.later.retain(|_, until| *until > Instant::now());
        let max = max_timers(&active);
        let free = max.saturating_sub(timers.keys.len());
        if free == 0 {
            return Next::Change;
        }
        // The file returns running and left out timers too, because they are still due in it.
        let limit = timers.keys.len() + timers.later.len() + free;
        let found = match due_timers(&active, now, limit).await {
            Ok(found) => found,
            Err(error) => {
                let plugin = &timers.plugin;
                tracing::debug!(plugin, error = %ErrorChain(&error), "timers not read");
                timers.paused_until = Some(Instant::now() + LOOK);
                return Next::Change;
            }
        };
        let next = found.next;
        // A timer that is left out is tried again without a change, so the file must be read again.
        let mut is_all = found.due.len() < limit && timers.later.is_empty();
        for due in found.due {
            let key = (due.timer.clone(), due.key.clone());
            if timers.keys.contains(&key) || timers.later.contains_key(&key) {
                continue;
            }
            let has_space = timers.keys.len() < max;
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
                        // It does not count as an attempt.
                        Fired::Later(LOOK)
                    });
                    (key, fired)
                });
            }
        }
        timers.found = is_all.then_some(Found { changes, next });
        next.map_or(Next::Change, Next::At)
    }

    /// Records what became of an event.
    async fn joined(&self, timers: &mut PluginTimers, ended: Result<(Key, Fired), JoinError>) {
        let (key, fired) = match ended {
            Ok(ended) => ended,
            // The events are never aborted, and a panic is caught.
            Err(error) => {
                tracing::error!(%error, "the event of a timer was lost");
                return;
            }
        };
        timers.keys.remove(&key);
        timers.found = None;
        match fired {
            Fired::Handled => self.metrics.timer_event(&timers.plugin, "handled"),
            Fired::Gone => {}
            Fired::NotServing(wait) => timers.paused_until = Some(Instant::now() + wait),
            Fired::Later(wait) => timers.leave_out(key, wait),
            Fired::Failed(fired, reason) => {
                if !self.failed(&timers.plugin, fired, reason).await {
                    // The timer stays due: it must not fire again at once.
                    timers.leave_out(key, LOOK);
                }
            }
        }
    }

    /// Lets a timer whose handler has failed fire again later, or no more. Returns whether that is
    /// recorded. If not, the attempt is repeated, and the metrics count it again.
    async fn failed(&self, plugin: &str, fired: FiredTimer, reason: String) -> bool {
        let now = self.dispatcher.clock().now_ms();
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
                    "the event of a timer failed: it is sent again"
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
                    "the event of a timer failed for the last time: `sockhop timers` retries or \
                     drops it"
                );
                Afterwards::Dead(now)
            }
        };
        let Some(active) = self.active(plugin) else { return false };
        let store = Arc::clone(&active.state.store);
        let record = move || store.timer_failed(&fired, afterwards, reason);
        let recorded = tokio::task::spawn_blocking(record).await;
        if let Ok(Err(error)) = &recorded {
            tracing::warn!(plugin, id, error = %ErrorChain(error), "the failure of a timer is not \
                                        recorded");
        }
        matches!(recorded, Ok(Ok(())))
    }
}

impl PluginTimers {
    /// Leaves a timer that is due out for a time.
    fn leave_out(&mut self, key: Key, time: Duration) {
        let until = Instant::now() + time;
        if self.later.len() < MAX_LATER {
            self.later.insert(key, until);
        } else {
            self.paused_until = Some(until);
        }
    }
}

impl Found {
    fn is_valid(&self, changes: u64, now: u64) -> bool {
        self.changes == changes && self.next.is_none_or(|next| next > now)
    }
}

/// Whether the plugin is not called now: it is paused, or an operator has disabled it. Ends a pause
/// that is over. An open breaker leads to [`Fired::NotServing`], and so to a pause.
fn is_paused(timers: &mut PluginTimers, generation: &Generation) -> bool {
    if timers.paused_until.is_some_and(|until| until > Instant::now()) {
        return true;
    }
    timers.paused_until = None;
    generation.is_disabled(&timers.plugin)
}

/// Sets the timers of the schedules that a version declares, and removes those of others. Also
/// brings attempts forward that a clock which was ahead has delayed.
async fn set_schedules(active: &Arc<ActivePlugin>, now: u64) -> Result<(), CommitError> {
    let next = |(timer, schedule): (&String, &sockhop_core::schedule::Schedule)| {
        let (timer, next) = (timer.clone(), schedule.next(now)?);
        Some(ScheduledTimer { timer, schedule: schedule.to_string(), next })
    };
    let schedules: Vec<_> = active.schedules.iter().filter_map(next).collect();
    let store: Arc<Store> = Arc::clone(&active.state.store);
    let set = tokio::task::spawn_blocking(move || {
        store.bring_retries_forward(now, MAX_DELAY)?;
        store.set_schedules(&schedules)
    });
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
