//! Dispatches host events: adds each to the backlogs of the plugins that it is for. Each plugin has
//! its own tasks that deliver its events ([`worker`]), so that no plugin waits for another.

mod backlog;
mod event;
mod rooms;
mod settled;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::Denied;
use crate::event::{Connection, host_event};
use crate::registry::{ActivePlugin, Generation};
use crate::rejection::Rejection;

use super::{Dispatcher, refuse};
use backlog::{Backlog, Backlogs, Pending};
use event::{HostEvent, HostEventKind, Recipients};

/// The host events that plugins have not handled yet.
#[derive(Default)]
pub(super) struct HostEvents {
    /// By plugin: each plugin that listens for any host event, also if it is disabled, or if its
    /// file is away and the plugin is not forgotten yet.
    backlogs: Mutex<Backlogs>,
    /// Whether `$start` was dispatched. Changed under the lock of the backlogs.
    has_started: AtomicBool,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// The longest delay before a plugin that does not serve is tried again. Not every change is
/// signalled: an operator's `enable` closes its breaker without a new generation.
pub(super) const RETRY: Duration = Duration::from_secs(1);

impl HostEvents {
    /// Cancelled when the host stops.
    pub(super) fn stopped(&self) -> &CancellationToken {
        &self.stopped
    }

    /// The tasks that end then.
    pub(super) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// The lock is held for a few operations per plugin. A panic leaves the backlogs consistent.
    fn backlogs(&self) -> MutexGuard<'_, Backlogs> {
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatcher {
    /// Dispatches `$start` once, before the first client. Returns when the plugins that serve have
    /// handled it. From then on, a plugin that is added gets a `$resync`.
    pub async fn start(self: &Arc<Self>) {
        // Before `$start`: the backlog of a plugin that is removed meanwhile must not stay.
        let mut changes = self.registry.changes();
        self.dispatch_host_event(HostEvent::new(HostEventKind::Start, Recipients::All))
            .wait()
            .await;
        let this = Arc::clone(self);
        self.host_events.tasks.spawn(async move {
            while let Some(Ok(())) =
                this.host_events.stopped.run_until_cancelled(changes.changed()).await
            {
                drop(this.lock_updated_backlogs());
            }
        });
        let this = Arc::clone(self);
        self.host_events.tasks.spawn(async move { this.tell_of_rooms().await });
    }

    /// Dispatches `$connect` to every plugin that listens for it. Returns at once: an event of the
    /// connection waits until its plugin has handled `$connect` ([`Dispatcher::handle`]).
    pub fn connected(self: &Arc<Self>, connection: &Arc<Connection>) {
        let kind = HostEventKind::Connect(Arc::clone(connection));
        self.dispatch_host_event(HostEvent::new(kind, Recipients::All));
    }

    /// Dispatches `$disconnect` to every plugin that listens for it. Returns when the plugins that
    /// serve have handled it, or after the wall time limit of an event.
    pub async fn disconnected(self: &Arc<Self>, connection: &Arc<Connection>) {
        let kind = HostEventKind::Disconnect(Arc::clone(connection));
        let awaited = self.dispatch_host_event(HostEvent::new(kind, Recipients::All));
        // A plugin that takes longer handles the event afterwards: it must not keep the connection
        // in the rooms that others see.
        let _ = {
            let limit = self.config.get().limits.event_wall_ms;
            tokio::time::timeout(limit, awaited.wait()).await
        };
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
        connection: &Connection,
        began: Instant,
    ) -> Result<(), Rejection> {
        let plugin = active.code.name();
        let deadline = began + active.code.limits().event_wall_ms;
        while connection.pending_connects.contains(plugin) {
            let now = Instant::now();
            if self.registry.snapshot().is_disabled(plugin) {
                return Err(super::disabled());
            }
            // The plugin must get the `$connect` before this event, also as the breaker's probe.
            if active.health.is_open() {
                return Err(refuse(Denied::Open { retry_after: RETRY }));
            }
            if now >= deadline {
                return Err(Rejection::Busy(
                    "the plugin has not handled the `$connect` of this connection yet".to_owned(),
                ));
            }
            connection.pending_connects.until_handled(plugin, deadline.min(now + RETRY)).await;
        }
        Ok(())
    }

    /// Adds an event to the backlogs of the plugins that it is for. The returned tracker is empty
    /// when the plugins that serve have handled the event.
    fn dispatch_host_event(self: &Arc<Self>, mut event: HostEvent) -> TaskTracker {
        event.at = self.clock.now();
        let awaited = TaskTracker::new();
        // The directory and the backlogs change under one lock, so that the connections that a
        // plugin reads agree with its next events.
        let (mut backlogs, generation) = self.lock_updated_backlogs();
        match &event.kind {
            HostEventKind::Connect(connection) => self.rooms.directory.add(connection),
            HostEventKind::Disconnect(connection) => self.rooms.directory.remove(connection),
            HostEventKind::Start => self.host_events.has_started.store(true, Ordering::Relaxed),
            HostEventKind::Resync | HostEventKind::Room(_) => {}
        }
        let event = Arc::new(event);
        let is_for = |active: &&Arc<ActivePlugin>| event.is_for(&active.code.registration);
        for active in generation.plugins.iter().filter(is_for) {
            let Some(backlog) = backlogs.get_mut(active.code.name()) else { continue };
            // No task waits for `$connect`: the events of its connection wait for it themselves.
            let token = match &event.kind {
                HostEventKind::Connect(connection) => {
                    connection.pending_connects.add(backlog.plugin());
                    None
                }
                _ => Some(awaited.token()),
            };
            self.enqueue(backlog, active, Pending::new(Arc::clone(&event), token));
        }
        for (plugin, backlog) in backlogs.iter_mut() {
            let Some(dropped) = backlog.push_while_away(&event) else { continue };
            if let HostEventKind::Connect(connection) = &event.kind {
                connection.pending_connects.add(plugin);
            }
            self.drop_events(plugin, &dropped);
        }
        drop(backlogs);
        awaited.close();
        awaited
    }

    /// Adds an event to the backlog of one plugin.
    fn enqueue(self: &Arc<Self>, backlog: &mut Backlog, active: &ActivePlugin, pending: Pending) {
        let plugin = active.code.name();
        let listens_for_resync = active.code.registration.listens.contains(&host_event::RESYNC);
        // A `$resync` replaces what waits; anything else drops it only at the limit.
        let is_resync = matches!(pending.event.kind, HostEventKind::Resync);
        let dropped =
            backlog.push(pending, active.code.limits().host_events.get(), listens_for_resync);
        if dropped.len() > 1 && !is_resync {
            tracing::warn!(
                plugin,
                dropped = dropped.len(),
                resync = listens_for_resync,
                "host events dropped: too many waited for the plugin (limits.host_events)"
            );
        }
        self.drop_events(plugin, &dropped);
        self.add_worker(backlog, active);
    }

    /// Locks the backlogs, and updates them to the plugins that serve now. The snapshot is taken
    /// under the lock, because an older snapshot would undo the changes of a newer one.
    fn lock_updated_backlogs(self: &Arc<Self>) -> (MutexGuard<'_, Backlogs>, Arc<Generation>) {
        let mut backlogs = self.host_events.backlogs();
        let generation = self.registry.snapshot();
        self.update_backlogs(&mut backlogs, &generation);
        (backlogs, generation)
    }

    /// Creates a backlog for each plugin that listens. Removes those of plugins that no longer
    /// listen, and of plugins that are forgotten.
    fn update_backlogs(self: &Arc<Self>, backlogs: &mut Backlogs, generation: &Generation) {
        let listening = |active: &&Arc<ActivePlugin>| !active.code.registration.listens.is_empty();
        for active in generation.plugins.iter().filter(listening) {
            if let Some(backlog) = backlogs.get_mut(active.code.name()) {
                self.attach(backlog, active, generation);
                continue;
            }
            let plugin: Arc<str> = active.code.name().into();
            let mut backlog = Backlog::new(Arc::clone(&plugin));
            self.attach(&mut backlog, active, generation);
            backlogs.insert(plugin, backlog);
        }
        if backlogs.len() > generation.plugins.iter().filter(listening).count() {
            self.update_absent(backlogs, generation);
        }
    }

    /// Updates the backlog to the version that serves. A version that begins to listen after the
    /// start gets a `$resync`.
    fn attach(
        self: &Arc<Self>,
        backlog: &mut Backlog,
        active: &Arc<ActivePlugin>,
        generation: &Generation,
    ) {
        self.follow_rooms(backlog, active, generation);
        let bound = active.code.limits().host_events.get();
        let attached = backlog.attach(&active.code.registration.listens, bound);
        // Also if there are no connections now: its data can be from before the start.
        if attached.begins_to_listen && self.host_events.has_started.load(Ordering::Relaxed) {
            let recipient = Recipients::Plugin(Arc::clone(backlog.plugin()));
            let resync = HostEvent::new(HostEventKind::Resync, recipient);
            self.enqueue(backlog, active, Pending::new(Arc::new(resync), None));
        } else if attached.was_away {
            self.add_worker(backlog, active);
        }
    }

    /// Updates the backlogs of the plugins that do not serve, or no longer listen.
    fn update_absent(&self, backlogs: &mut Backlogs, generation: &Generation) {
        let serving: HashMap<&str, bool> = generation
            .plugins
            .iter()
            .map(|active| (active.code.name(), !active.code.registration.listens.is_empty()))
            .collect();
        backlogs.retain(|plugin, backlog| {
            let dropped = match serving.get(&**plugin) {
                Some(true) => return true,
                None if self.registry.is_remembered(plugin) => backlog.detach(),
                Some(false) | None => {
                    self.drop_events(plugin, &backlog.drop_connection_events(false));
                    return false;
                }
            };
            self.drop_events(plugin, &dropped);
            true
        });
    }

    /// Spawns another worker for the backlog of one plugin, if there is work for it.
    fn add_worker(self: &Arc<Self>, backlog: &mut Backlog, active: &ActivePlugin) {
        if backlog.add_worker(max_deliveries(active)) {
            let (this, plugin) = (Arc::clone(self), Arc::clone(backlog.plugin()));
            self.host_events.tasks.spawn(async move { this.work(&plugin).await });
        }
    }

    /// Counts events that will not be delivered, and ends the waiting for them.
    fn drop_events(&self, plugin: &str, dropped: &[Pending]) {
        if !dropped.is_empty() {
            self.metrics.host_events_dropped(plugin, dropped.len());
        }
        dropped.iter().for_each(|pending| end_connect_wait(plugin, &pending.event));
    }
}

/// If `event` is a `$connect`, the events of its connection no longer wait for it.
fn end_connect_wait(plugin: &str, event: &HostEvent) {
    if let HostEventKind::Connect(connection) = &event.kind {
        connection.pending_connects.remove(plugin);
    }
}

/// Maximum number of host events that a plugin handles at once: half of its instances. Timers take
/// at most a quarter, so its other events find a free instance even if both are slow.
fn max_deliveries(active: &ActivePlugin) -> usize {
    (active.code.instances_at_once() / 2).max(1)
}

/// Maximum number of events of timers that a plugin handles at once.
pub(crate) fn max_timers(active: &ActivePlugin) -> usize {
    (active.code.instances_at_once() / 4).max(1)
}
