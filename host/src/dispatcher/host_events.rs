//! Delivers host events to plugins. Each plugin has its own tasks, so that no plugin waits for
//! another. A plugin that does not serve for a while gets its events later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::Denied;
use crate::event::{Connection, Connections, Event, EventId, Payload, host_event};
use crate::log;
use crate::registry::{ActivePlugin, Generation};
use crate::rejection::Rejection;

use super::backlog::{Backlog, Delivery, HostEvent, Kind};
use super::{Dispatcher, Failed, Reply, refuse, report};

/// The host events that plugins have not handled yet.
#[derive(Default)]
pub(super) struct HostEvents {
    /// By plugin: each plugin that serves and listens for any host event, also if it is disabled.
    backlogs: Mutex<HashMap<Arc<str>, Backlog>>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// The longest delay before a plugin that does not serve is tried again. Not every change is
/// signalled: an operator's `enable` closes its breaker without a new generation.
const RETRY: Duration = Duration::from_secs(1);

/// The outcome of a delivery.
enum Outcome {
    /// The plugin has handled the event, or does not listen for it.
    Delivered,
    /// The plugin was called, and failed.
    Failed,
    /// The plugin was not called, or the host could not read or write its state. After this time
    /// the event may be delivered, perhaps for the second time.
    NotServing(Duration),
}

impl HostEvents {
    /// The lock is held for a few operations per plugin. A panic leaves the backlogs consistent.
    fn backlogs(&self) -> MutexGuard<'_, HashMap<Arc<str>, Backlog>> {
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatcher {
    /// Dispatches `$start` once, before the first client. Returns when the plugins that serve have
    /// handled it. From then on, plugins that are loaded while connections exist are told of them.
    pub async fn start(self: &Arc<Self>) {
        self.dispatch_host_event(Kind::Start, None).wait().await;
        let this = Arc::clone(self);
        self.host_events.tasks.spawn(async move {
            let mut changes = this.registry.changes();
            while let Some(Ok(())) =
                this.host_events.stopped.run_until_cancelled(changes.changed()).await
            {
                drop(this.backlogs_of_now());
            }
        });
    }

    /// Dispatches `$connect` to every plugin that listens for it. Returns at once: an event of the
    /// connection waits until its plugin has handled `$connect` ([`Dispatcher::handle`]).
    pub fn connected(self: &Arc<Self>, connection: &Arc<Connection>) {
        self.dispatch_host_event(Kind::Connect, Some(connection));
    }

    /// Dispatches `$disconnect` to every plugin that listens for it. Returns when the plugins that
    /// serve have handled it, or after the wall time limit of an event.
    pub async fn disconnected(self: &Arc<Self>, connection: &Arc<Connection>) {
        let awaited = self.dispatch_host_event(Kind::Disconnect, Some(connection));
        // A plugin that is so late is told afterwards: it must not keep the connection in the rooms
        // that others see.
        let _ = tokio::time::timeout(self.limits.event_wall_ms, awaited.wait()).await;
    }

    /// Number of host events that wait for `plugin`.
    pub fn waiting_host_events(&self, plugin: &str) -> usize {
        self.host_events.backlogs().get(plugin).map_or(0, Backlog::len)
    }

    /// Stops the delivery of host events. Returns when the deliveries in progress have ended.
    pub async fn stop(&self) {
        self.host_events.stopped.cancel();
        self.host_events.tasks.close();
        self.host_events.tasks.wait().await;
    }

    /// Waits until the plugin has handled the `$connect` of the event's connection. The wait counts
    /// against the time limit of the event.
    pub(super) async fn until_connected(
        &self,
        active: &ActivePlugin,
        caller: &Connection,
        began: Instant,
    ) -> Result<(), Rejection> {
        let plugin = active.code.name();
        let deadline = began + active.code.limits().event_wall_ms;
        while caller.untold.contains(plugin) {
            let now = Instant::now();
            if self.registry.snapshot().is_disabled(plugin) {
                return Err(super::disabled());
            }
            // The plugin's next event must be the `$connect`, also as the probe of its breaker.
            if active.health.is_open() {
                return Err(refuse(Denied::Open { retry_after: RETRY }));
            }
            if now >= deadline {
                return Err(Rejection::Busy(
                    "the plugin has not handled the `$connect` of this connection yet".to_owned(),
                ));
            }
            caller.untold.until_told(plugin, deadline.min(now + RETRY)).await;
        }
        Ok(())
    }

    /// Adds an event to the backlogs of the plugins that listen for it. The returned tracker is
    /// empty when the plugins that serve have handled the event.
    fn dispatch_host_event(
        self: &Arc<Self>,
        kind: Kind,
        connection: Option<&Arc<Connection>>,
    ) -> TaskTracker {
        let (at, awaited) = (SystemTime::now(), TaskTracker::new());
        // The directory and the backlogs change under one lock, so that the connections that a
        // plugin reads agree with its next events.
        let (mut backlogs, generation) = self.backlogs_of_now();
        match (kind, connection) {
            (Kind::Connect, Some(connection)) => self.rooms.directory.add(connection),
            (Kind::Disconnect, Some(connection)) => self.rooms.directory.remove(connection),
            _ => {}
        }
        for active in generation.plugins.iter().filter(|active| listens(active, kind.name())) {
            let plugin = active.code.name();
            let Some((name, _)) = backlogs.get_key_value(plugin) else { continue };
            let name = Arc::clone(name);
            let Some(backlog) = backlogs.get_mut(plugin) else { continue };
            if kind == Kind::Connect
                && let Some(connection) = connection
            {
                connection.untold.add(&name);
            }
            let awaited = (kind != Kind::Connect).then(|| awaited.token());
            let event = HostEvent { kind, connection: connection.cloned(), at, awaited };
            let listens_for_resync = listens(active, host_event::RESYNC);
            let dropped =
                backlog.push(event, active.code.limits().host_events.get(), listens_for_resync);
            if dropped.len() > 1 {
                tracing::warn!(
                    plugin,
                    dropped = dropped.len(),
                    resync = listens_for_resync,
                    "host events dropped: too many waited for the plugin (limits.host_events)"
                );
            }
            self.drop_events(&name, &dropped);
            self.hire(&name, backlog, active);
        }
        drop(backlogs);
        awaited.close();
        awaited
    }

    /// Locks the backlogs, and updates them to the plugins that serve now. The snapshot is taken
    /// under the lock, because an older snapshot would undo the changes of a newer one.
    fn backlogs_of_now(
        self: &Arc<Self>,
    ) -> (MutexGuard<'_, HashMap<Arc<str>, Backlog>>, Arc<Generation>) {
        let mut backlogs = self.host_events.backlogs();
        let generation = self.registry.snapshot();
        self.follow(&mut backlogs, &generation);
        (backlogs, generation)
    }

    /// Creates a backlog for each plugin that listens, and removes all others. A plugin that is new
    /// while connections exist gets a `$resync`.
    fn follow(
        self: &Arc<Self>,
        backlogs: &mut HashMap<Arc<str>, Backlog>,
        generation: &Generation,
    ) {
        let listening = |active: &&Arc<ActivePlugin>| !active.code.registration.listens.is_empty();
        for active in generation.plugins.iter().filter(listening) {
            if !backlogs.contains_key(active.code.name()) {
                let (name, mut backlog): (Arc<str>, _) =
                    (active.code.name().into(), Backlog::default());
                if listens(active, host_event::RESYNC) && !self.rooms.directory.is_empty() {
                    backlog.resync();
                    self.hire(&name, &mut backlog, active);
                }
                backlogs.insert(name, backlog);
            }
        }
        let plugins = generation.plugins.iter().filter(listening).count();
        if backlogs.len() > plugins {
            let is_gone = |name: &Arc<str>| {
                !generation
                    .plugins
                    .iter()
                    .filter(listening)
                    .any(|active| active.code.name() == &**name)
            };
            for (name, backlog) in backlogs.extract_if(|name, _| is_gone(name)) {
                self.drop_events(&name, &backlog.into_dropped());
            }
        }
    }

    fn hire(self: &Arc<Self>, name: &Arc<str>, backlog: &mut Backlog, active: &ActivePlugin) {
        if backlog.hire(at_once(active)) {
            let (this, name) = (Arc::clone(self), Arc::clone(name));
            self.host_events.tasks.spawn(async move { this.work(&name).await });
        }
    }

    /// Delivers the waiting events of one plugin, one after the other, until none can be delivered.
    async fn work(self: Arc<Self>, plugin: &Arc<str>) {
        while let Some((delivery, snapshot)) = self.next_delivery(plugin) {
            let mut delivering = Box::pin(self.deliver(plugin, &delivery, snapshot));
            let outcome = log::catch(delivering.as_mut()).await.unwrap_or_else(|panic| {
                tracing::error!(
                    plugin = &**plugin,
                    error = panic.message,
                    location = panic.location,
                    "the host panicked while it delivered a host event"
                );
                Outcome::Failed
            });
            drop(delivering);
            match outcome {
                Outcome::Failed if matches!(delivery, Delivery::Resync) => {
                    self.resync_failed(plugin)
                }
                Outcome::Delivered | Outcome::Failed => {
                    if let Some(backlog) = self.host_events.backlogs().get_mut(plugin) {
                        backlog.done(&delivery);
                    }
                    if let Delivery::Event(event) = &delivery {
                        end(plugin, event);
                    }
                }
                Outcome::NotServing(retry_after) => {
                    let mut changes = self.registry.changes();
                    if !self.park(plugin, delivery) {
                        return;
                    }
                    let serves = tokio::time::timeout(retry_after.min(RETRY), changes.changed());
                    if self.host_events.stopped.run_until_cancelled(serves).await.is_none() {
                        return;
                    }
                    if let Some(backlog) = self.host_events.backlogs().get_mut(plugin) {
                        backlog.resume();
                    }
                }
            }
        }
    }

    /// Schedules another `$resync` for a plugin that failed to handle one.
    fn resync_failed(self: &Arc<Self>, plugin: &Arc<str>) {
        self.metrics.resync_failed(plugin);
        let wait = self.host_events.backlogs().get_mut(plugin).and_then(Backlog::resync_failed);
        let Some(wait) = wait else { return };
        tracing::warn!(
            plugin = &**plugin,
            retry_ms = wait.as_millis(),
            "the plugin failed to handle `$resync`: it is sent again"
        );
        let (this, plugin) = (Arc::clone(self), Arc::clone(plugin));
        self.host_events.tasks.spawn(async move {
            if this
                .host_events
                .stopped
                .run_until_cancelled(tokio::time::sleep(wait))
                .await
                .is_none()
            {
                return;
            }
            let (mut backlogs, generation) = this.backlogs_of_now();
            let active = generation.plugins.iter().find(|active| active.code.name() == &*plugin);
            let (Some(active), Some(backlog)) = (active, backlogs.get_mut(&plugin)) else { return };
            this.drop_events(&plugin, &backlog.retry_resync());
            this.hire(&plugin, backlog, active);
        });
    }

    /// Parks the backlog of one plugin. Returns whether this worker must retry later: only the
    /// first worker that finds the plugin not serving does.
    fn park(&self, plugin: &Arc<str>, delivery: Delivery) -> bool {
        let mut backlogs = self.host_events.backlogs();
        let Some(backlog) = backlogs.get_mut(plugin) else {
            // The plugin was removed meanwhile.
            if let Delivery::Event(event) = &delivery {
                end(plugin, event);
            }
            return false;
        };
        let (is_first, dropped) = backlog.park(delivery);
        if !is_first {
            backlog.leave();
        }
        self.drop_events(plugin, &dropped);
        is_first
    }

    /// Returns the next delivery, for `$resync` with the connections that it is about. If there is
    /// none, returns `None`, and the worker ends.
    fn next_delivery(
        self: &Arc<Self>,
        plugin: &Arc<str>,
    ) -> Option<(Delivery, Option<Connections>)> {
        let generation = self.registry.snapshot();
        let active = generation.plugins.iter().find(|active| active.code.name() == &**plugin);
        let mut backlogs = self.host_events.backlogs();
        let backlog = backlogs.get_mut(plugin)?;
        let most = active.map_or(1, |active| at_once(active));
        let next = if self.host_events.stopped.is_cancelled() { None } else { backlog.next(most) };
        let Some(delivery) = next else {
            backlog.leave();
            return None;
        };
        if let Some(active) = active {
            self.hire(plugin, backlog, active);
        }
        // Taken while the backlogs are locked: later events are queued behind this delivery.
        let snapshot =
            matches!(delivery, Delivery::Resync).then(|| self.rooms.directory.snapshot());
        Some((delivery, snapshot))
    }

    async fn deliver(
        &self,
        plugin: &str,
        delivery: &Delivery,
        snapshot: Option<Connections>,
    ) -> Outcome {
        let (name, caller, at) = match delivery {
            Delivery::Event(event) => (event.kind.name(), event.connection.as_ref(), event.at),
            Delivery::Resync => (host_event::RESYNC, None, SystemTime::now()),
        };
        let generation = self.registry.snapshot();
        let Some(active) = generation.plugins.iter().find(|active| active.code.name() == plugin)
        else {
            // If the plugin is removed, its backlog is dropped with its events. If it comes back,
            // it must not have missed an event.
            return Outcome::NotServing(RETRY);
        };
        if !listens(active, name) {
            return Outcome::Delivered;
        }
        if generation.is_disabled(plugin) {
            return Outcome::NotServing(RETRY);
        }
        let began = Instant::now();
        // Without a client: a throttled client's `$connect` and `$disconnect` are delivered too.
        let permit = match active.health.admit(None, began) {
            Ok(permit) => permit,
            Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => {
                return Outcome::NotServing(retry_after);
            }
        };
        let event = Event {
            id: EventId::new(at),
            name: name.to_owned(),
            payload: Payload::null(),
            caller: caller.cloned(),
            received_at: at,
            connections: snapshot,
        };
        let event = Arc::new(event);
        if name == host_event::RESYNC {
            self.metrics.resync(plugin);
            tracing::info!(plugin, id = %event.id, "the plugin reads the connections again: it has missed host events");
        }
        match (self.run(permit, &generation, active, &event, None, began).await.0, caller) {
            (Ok(Reply { ends: true, .. }), Some(caller)) => self.rooms.end(caller),
            (Ok(_), _) => {}
            // No instance was available: the plugin has not seen the event.
            (Err(Failed { rejection: Rejection::Busy(_), .. }), _) => {
                return Outcome::NotServing(RETRY);
            }
            (Err(failed), _) => {
                let rejection = report(&generation, active, &event, failed);
                // The host itself failed. If it is not known whether the state was written, the
                // plugin may get the event twice.
                return if matches!(rejection, Rejection::Unavailable(_)) {
                    Outcome::NotServing(RETRY)
                } else {
                    Outcome::Failed
                };
            }
        }
        Outcome::Delivered
    }

    fn drop_events(&self, plugin: &str, events: &[HostEvent]) {
        if !events.is_empty() {
            self.metrics.host_events_dropped(plugin, events.len());
        }
        events.iter().for_each(|event| end(plugin, event));
    }
}

/// If `event` is a `$connect`, the events of its connection no longer wait for it.
fn end(plugin: &str, event: &HostEvent) {
    if event.kind == Kind::Connect
        && let Some(connection) = &event.connection
    {
        connection.untold.remove(plugin);
    }
}

fn listens(active: &ActivePlugin, event: &str) -> bool {
    active.code.registration.listens.contains(&event)
}

/// Number of host events that a plugin handles at once: half of its instances. Its other events
/// find a free instance even if host events are slow.
fn at_once(active: &ActivePlugin) -> usize {
    (active.code.instances_at_once() / 2).max(1)
}
