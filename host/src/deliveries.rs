//! Sends the deliveries of plugins, after the commits of their handlers. Each plugin has one task,
//! so that no plugin waits for another. The deliveries are in the plugin's file; only which of them
//! are being sent is kept in memory. No handler runs for a delivery: its result is a timer.

mod step;
mod verdict;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sockhop_core::delivery::{End, MAX_DELAY};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::error_chain::ErrorChain;
use crate::log;
use crate::metrics::Metrics;
use crate::outbound::{DeliveryGrant, Outbound, Receipt, SendError};
use crate::plugin_tasks::{PluginTasks, PluginWork};
use crate::registry::Registry;
use crate::store::{Attempted, CommitError, DueDeliveries, DueDelivery, Store, StoreError};
use crate::wall_clock::WallClock;

use verdict::judge;

/// How long a task sleeps at most. Attempts follow the system's clock, which can be set at any
/// time.
const LOOK: Duration = Duration::from_secs(1);

/// The time between two looks if the first has found only deliveries that have no place.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest time between two tries to record an attempt.
const RECORD: Duration = Duration::from_secs(60);

/// How long a stopping host waits for attempts that have begun.
const LAST_ATTEMPTS: Duration = Duration::from_secs(3);

/// Sends the deliveries of all plugins that serve.
pub(crate) struct Deliveries {
    registry: Arc<Registry>,
    outbound: Arc<Outbound>,
    clock: WallClock,
    metrics: Arc<Metrics>,
    /// No attempt begins any more.
    stopped: CancellationToken,
    /// Attempts that have begun end without a record. Deliveries are then sent again.
    aborted: CancellationToken,
    tasks: Arc<PluginTasks>,
}

/// What the task of one plugin knows.
pub(crate) struct PluginDeliveries {
    plugin: String,
    /// The attempts, which return the keys of their deliveries.
    running: JoinSet<String>,
    /// The keys whose first delivery is being sent, each with its origin.
    in_flight: HashMap<String, String>,
    /// Until then the file is not read: that has just failed, or has found nothing to begin.
    paused_until: Option<Instant>,
    /// What the last look has found, if all deliveries that are due are being sent.
    found: Option<Found>,
    /// The time of the last look by the system's clock. `None` before the first one, and after the
    /// clock was set back.
    looked_at: Option<u64>,
}

/// What a look has found. Until it is outdated, the file is not read again.
struct Found {
    /// [`Store::delivery_changes`] before the look.
    changes: u64,
    /// When the next delivery is due.
    next: Option<u64>,
}

impl Deliveries {
    pub(crate) fn new(
        registry: Arc<Registry>,
        outbound: Arc<Outbound>,
        clock: WallClock,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        let (stopped, aborted) = (CancellationToken::new(), CancellationToken::new());
        let tasks = PluginTasks::new(Arc::clone(&registry), stopped.clone());
        Arc::new(Self { registry, outbound, clock, metrics, stopped, aborted, tasks })
    }

    /// Sends deliveries from now on.
    pub(crate) fn start(self: &Arc<Self>) {
        self.tasks.start(self);
    }

    /// Begins no more attempts, and waits a short time for the running attempts. An attempt that
    /// runs longer is aborted: its delivery is sent again after the next start.
    pub(crate) async fn stop(&self) {
        self.stopped.cancel();
        // Also if this future is dropped: no attempt may be recorded after the stores are closed.
        let abort = self.aborted.clone().drop_guard();
        if timeout(LAST_ATTEMPTS, self.tasks.ended()).await.is_err() {
            drop(abort);
            self.tasks.ended().await;
        }
    }
}

impl PluginWork for Deliveries {
    const NAME: &'static str = "deliveries";

    type Task = PluginDeliveries;

    fn begin(plugin: String) -> PluginDeliveries {
        PluginDeliveries {
            plugin,
            running: JoinSet::new(),
            in_flight: HashMap::new(),
            paused_until: None,
            found: None,
            looked_at: None,
        }
    }

    /// Sends the deliveries of one plugin, until the plugin is gone.
    async fn serve(self: &Arc<Self>, deliveries: &mut PluginDeliveries) {
        let mut changes = self.registry.changes();
        while !self.stopped.is_cancelled() {
            let active = self.registry.snapshot().plugin(&deliveries.plugin).cloned();
            let Some(active) = active else { break };
            let store = Arc::clone(&active.state.store);
            // Before the look, so that no change is missed.
            let mut changed = pin!(store.deliveries_notified());
            changed.as_mut().enable();
            let next = self.look(deliveries, &store, &active.allowance.deliveries).await;
            // A version that is replaced meanwhile is not kept.
            drop(active);
            tokio::select! {
                () = self.stopped.cancelled() => {}
                // An error means that the registry is gone, and with it the host.
                _ = changes.changed() => {}
                () = changed => {}
                () = tokio::time::sleep(next) => {}
                Some(ended) = deliveries.running.join_next() => deliveries.ended(ended.ok()),
            }
        }
    }

    async fn finish(&self, deliveries: &mut PluginDeliveries) {
        while let Some(ended) = deliveries.running.join_next().await {
            deliveries.ended(ended.ok());
        }
    }
}

impl Deliveries {
    /// Begins to send the deliveries that are due, as many as may be sent at once. Returns the time
    /// until the next look, at the latest.
    async fn look(
        self: &Arc<Self>,
        deliveries: &mut PluginDeliveries,
        store: &Arc<Store>,
        grant: &DeliveryGrant,
    ) -> Duration {
        let pause =
            deliveries.paused_until.and_then(|until| until.checked_duration_since(Instant::now()));
        if let Some(pause) = pause.filter(|pause| !pause.is_zero()) {
            return pause;
        }
        if store.delivery_counts().live == 0
            || deliveries.in_flight.len() >= grant.at_once
            || self.registry.snapshot().is_disabled(&deliveries.plugin)
        {
            return LOOK;
        }
        let now = self.clock.now_ms();
        // At the begin too: the clock may have been set back while the host did not run.
        if deliveries.looked_at.is_none_or(|before| now.saturating_add(SET_BACK) < before) {
            deliveries.found = None;
            deliveries.looked_at = None;
            if let Err(error) = bring_forward(store, now).await {
                let plugin = &deliveries.plugin;
                tracing::debug!(plugin, error = %ErrorChain(&error), "deliveries not changed");
                deliveries.paused_until = Some(Instant::now() + LOOK);
                return LOOK;
            }
        }
        deliveries.looked_at = Some(now);
        let changes = store.delivery_changes();
        let until = |next: Option<u64>| {
            let wait = next.map(|next| Duration::from_millis(next.saturating_sub(now)));
            wait.unwrap_or(LOOK).min(LOOK)
        };
        if let Some(found) = deliveries.found.as_ref().filter(|found| found.is_valid(changes, now))
        {
            return until(found.next);
        }
        deliveries.found = None;
        let DueDeliveries { due, next } = match due_deliveries(store, now, grant.at_once).await {
            Ok(found) => found,
            Err(error) => {
                let plugin = &deliveries.plugin;
                tracing::debug!(plugin, error = %ErrorChain(&error), "deliveries not read");
                deliveries.paused_until = Some(Instant::now() + LOOK);
                return LOOK;
            }
        };
        let (mut is_all, mut has_begun) = (true, false);
        for due in deliveries.in_turns(due) {
            if deliveries.has_space(&due.origin, grant.at_once) {
                self.begin(deliveries, store, grant, due);
                has_begun = true;
            } else {
                is_all = false;
            }
        }
        if !is_all && !has_begun {
            deliveries.paused_until = Some(Instant::now() + PAUSE);
        }
        deliveries.found = is_all.then_some(Found { changes, next });
        until(next)
    }

    fn begin(
        self: &Arc<Self>,
        deliveries: &mut PluginDeliveries,
        store: &Arc<Store>,
        grant: &DeliveryGrant,
        due: DueDelivery,
    ) {
        let key = due.key.clone();
        deliveries.in_flight.insert(key.clone(), due.origin.clone());
        let (this, store, grant) = (Arc::clone(self), Arc::clone(store), grant.clone());
        let plugin = deliveries.plugin.clone();
        deliveries.running.spawn(async move {
            let mut attempt = Box::pin(this.attempt(&plugin, &store, &grant, &due));
            if let Err(panic) = log::catch(attempt.as_mut()).await {
                tracing::error!(
                    plugin,
                    error = panic.message,
                    location = panic.location,
                    "the host panicked while it sent a delivery"
                );
                this.pause(LOOK).await;
            }
            key
        });
    }

    /// Makes one attempt, and records it.
    async fn attempt(
        &self,
        plugin: &str,
        store: &Arc<Store>,
        grant: &DeliveryGrant,
        due: &DueDelivery,
    ) {
        // Before the request is read, so that no more requests are in memory than are sent.
        let slot = self.stopped.run_until_cancelled(self.outbound.delivery_slot()).await;
        let Some(Some(slot)) = slot else { return };
        let (reading, id) = (Arc::clone(store), due.id);
        let read = tokio::task::spawn_blocking(move || reading.delivery_request(id)).await;
        let request = match read.unwrap_or(Err(StoreError::Damaged(PANICKED))) {
            Ok(Some(request)) => request,
            // An operator has dropped it.
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(plugin, error = %ErrorChain(&error), "a delivery is not read");
                return self.pause(LOOK).await;
            }
        };
        let now = self.clock.now_ms();
        let sending = self.outbound.deliver(slot, grant, &due.delivery, request, now);
        let Some(answer) = self.aborted.run_until_cancelled(sending).await else { return };
        let (attempt, ended_at) = (due.attempts.saturating_add(1), self.clock.now_ms());
        // Without random numbers, the delays do not differ.
        let attempted = judge(&answer, attempt, ended_at, getrandom::u32().unwrap_or(100));
        self.report(plugin, due, attempt, &answer, &attempted);
        self.record(plugin, store, id, attempt, attempted).await;
    }

    /// Records an attempt. If that fails, tries again, and the key of the delivery waits: a
    /// delivery that was received is not sent again only because the disk is full.
    async fn record(
        &self,
        plugin: &str,
        store: &Arc<Store>,
        id: i64,
        attempt: u32,
        attempted: Attempted,
    ) {
        let (attempted, mut wait) = (Arc::new(attempted), LOOK);
        loop {
            let (store, attempted) = (Arc::clone(store), Arc::clone(&attempted));
            let now = self.clock.now_ms();
            let record = move || store.delivery_attempted(id, attempt, now, &attempted);
            let recorded = tokio::task::spawn_blocking(record).await;
            let Err(error) = recorded.unwrap_or(Err(CommitError::Unknown)) else { return };
            tracing::warn!(plugin, id, error = %ErrorChain(&error), "the attempt to send a delivery \
                                        is not recorded: the host tries again");
            self.pause(wait).await;
            if self.stopped.is_cancelled() {
                return;
            }
            wait = (wait * 2).min(RECORD);
        }
    }

    /// Counts an attempt and logs it, without the path, the headers and the bodies.
    fn report(
        &self,
        plugin: &str,
        due: &DueDelivery,
        attempt: u32,
        answer: &Result<Receipt, SendError>,
        attempted: &Attempted,
    ) {
        let status = answer.as_ref().ok().map(|receipt| receipt.status);
        let (delivery, origin) = (&due.delivery, &due.origin);
        match attempted {
            Attempted::Ended { end: End::Delivered { .. }, .. } => {
                self.metrics.delivery_attempt(plugin, "delivered");
                tracing::debug!(plugin, delivery, origin, attempt, status, "delivered");
            }
            Attempted::Retry { next, error: reason, .. } => {
                self.metrics.delivery_attempt(plugin, "failed");
                let retry_ms = next.saturating_sub(self.clock.now_ms());
                tracing::warn!(
                    plugin,
                    delivery,
                    origin,
                    attempt,
                    status,
                    retry_ms,
                    reason,
                    "a delivery failed: it is sent again"
                );
            }
            Attempted::Ended { end: End::Dead { reason, .. }, error } => {
                let reason = error.as_ref().unwrap_or(reason);
                self.metrics.delivery_attempt(plugin, "dead");
                tracing::error!(
                    plugin,
                    delivery,
                    origin,
                    attempt,
                    status,
                    reason,
                    "a delivery failed for the last time: `sockhop deliveries` retries or drops it"
                );
            }
        }
    }

    /// Waits so long, or until the host stops.
    async fn pause(&self, time: Duration) {
        self.stopped.run_until_cancelled(tokio::time::sleep(time)).await;
    }
}

impl PluginDeliveries {
    /// Orders deliveries that are due so that each origin has its turn: the places go to the
    /// origins that have the fewest. Leaves out those whose key is being sent.
    fn in_turns(&self, mut due: Vec<DueDelivery>) -> Vec<DueDelivery> {
        due.retain(|due| !self.in_flight.contains_key(&due.key));
        let mut taken = HashMap::<&str, usize>::new();
        for origin in self.in_flight.values() {
            *taken.entry(origin).or_default() += 1;
        }
        let turns: Vec<_> = due
            .iter()
            .map(|due| {
                let turn = taken.entry(&due.origin).or_default();
                *turn += 1;
                *turn
            })
            .collect();
        let mut turns: Vec<_> = turns.into_iter().zip(due).collect();
        turns.sort_by_key(|(turn, _)| *turn);
        turns.into_iter().map(|(_, due)| due).collect()
    }

    /// Whether one more delivery to `origin` may be sent now. One origin leaves a place for others,
    /// if there is more than one: a receiver that hangs takes all of the time of its attempts.
    fn has_space(&self, origin: &str, at_once: usize) -> bool {
        let share = at_once.saturating_sub(1).max(1);
        let of_origin = self.in_flight.values().filter(|other| *other == origin).count();
        self.in_flight.len() < at_once && of_origin < share
    }

    /// Notes the end of an attempt. Attempts are never aborted, and a panic is caught.
    fn ended(&mut self, key: Option<String>) {
        if let Some(key) = key {
            self.in_flight.remove(&key);
        }
        self.found = None;
    }
}

impl Found {
    fn is_valid(&self, changes: u64, now: u64) -> bool {
        self.changes == changes && self.next.is_none_or(|next| next > now)
    }
}

/// By how many milliseconds the clock must be set back, so that times of deliveries are checked.
const SET_BACK: u64 = 1_000;

const PANICKED: &str = "the host panicked while it read the deliveries";

/// Reads which deliveries are due: at most twice as many of each origin as are sent at once,
/// because some of them may be in flight.
async fn due_deliveries(
    store: &Arc<Store>,
    now: u64,
    at_once: usize,
) -> Result<DueDeliveries, StoreError> {
    let store = Arc::clone(store);
    let read = move || store.due_deliveries(now, at_once.saturating_mul(2));
    tokio::task::spawn_blocking(read).await.unwrap_or(Err(StoreError::Damaged(PANICKED)))
}

/// Makes deliveries due that a clock which was ahead has delayed.
async fn bring_forward(store: &Arc<Store>, now: u64) -> Result<(), CommitError> {
    let store = Arc::clone(store);
    let latest = now.saturating_add(MAX_DELAY);
    let bring = move || store.bring_deliveries_forward(now, latest);
    tokio::task::spawn_blocking(bring).await.unwrap_or(Err(CommitError::Unknown))
}
