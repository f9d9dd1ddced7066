//! Tells plugins what happens to connections: each plugin by tasks of its own, so that none waits for another, and none is told less
//! because it does not serve for a while.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::breaker::Denied;
use crate::event::{Connection, Connections, Event, EventId, Payload, host_event};
use crate::log;
use crate::registry::{Routes, Served};
use crate::rejection::Rejection;

use super::backlog::{Backlog, Delivery, HostEvent, Kind};
use super::{Dispatcher, Failed, Reply, refuse, report};

/// The host events that plugins have not handled yet.
#[derive(Default)]
pub(super) struct HostEvents {
    /// By plugin: those that serve, disabled ones among them, and listen for any host event.
    backlogs: Mutex<HashMap<Arc<str>, Backlog>>,
    stopped: CancellationToken,
    tasks: TaskTracker,
}

/// How often a plugin that does not serve is tried again at the latest, where nothing tells that it does: an operator's `enable` closes its
/// breaker without a new generation.
const RETRY: Duration = Duration::from_secs(1);

/// What became of a delivery.
enum Outcome {
    /// The plugin has handled it, or does not listen for it.
    Delivered,
    /// The plugin was asked, and has failed.
    Failed,
    /// The plugin was not asked, or the host could not read or write its state: after this time it may be asked, perhaps again.
    NotServing(Duration),
}

impl HostEvents {
    /// The lock is held for a few moves for each plugin; a panic leaves the backlogs whole.
    fn backlogs(&self) -> MutexGuard<'_, HashMap<Arc<str>, Backlog>> {
        self.backlogs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dispatcher {
    /// Dispatches `$start`, once, before the first client, and returns when the plugins that serve have handled it. From then on plugins
    /// that are loaded beside existing connections are told of them.
    pub async fn start(self: &Arc<Self>) {
        self.dispatch_host_event(Kind::Start, None).wait().await;
        let this = Arc::clone(self);
        self.host_events.tasks.spawn(async move {
            let mut changes = this.registry.changes();
            while let Some(Ok(())) = this.host_events.stopped.run_until_cancelled(changes.changed()).await {
                drop(this.backlogs_of_now());
            }
        });
    }

    /// Dispatches `$connect` to every plugin that listens for it. Returns at once: an event of the connection waits for the plugin that it is
    /// for ([`Dispatcher::handle`]).
    pub fn connected(self: &Arc<Self>, connection: &Arc<Connection>) {
        self.dispatch_host_event(Kind::Connect, Some(connection));
    }

    /// Dispatches `$disconnect` to every plugin that listens for it, and returns when those that serve have handled it, after the longest
    /// time of an event at the latest.
    pub async fn disconnected(self: &Arc<Self>, connection: &Arc<Connection>) {
        let awaited = self.dispatch_host_event(Kind::Disconnect, Some(connection));
        // A plugin that is so far behind is told later: its fault must not keep the connection in the rooms that others see.
        let _ = tokio::time::timeout(self.limits.event_wall_ms, awaited.wait()).await;
    }

    /// Host events that wait for `plugin`.
    pub fn waiting_host_events(&self, plugin: &str) -> usize {
        self.host_events.backlogs().get(plugin).map_or(0, Backlog::len)
    }

    /// Delivers no more host events, and returns when those that are being delivered have been.
    pub async fn stop(&self) {
        self.host_events.stopped.cancel();
        self.host_events.tasks.close();
        self.host_events.tasks.wait().await;
    }

    /// Waits until the plugin has handled the `$connect` of the event's connection. The time counts in that of the event.
    pub(super) async fn until_connected(&self, served: &Served, caller: &Connection, began: Instant) -> Result<(), Rejection> {
        let plugin = served.plugin.name();
        let deadline = began + served.plugin.limits().event_wall_ms;
        while caller.untold.contains(plugin) {
            let now = Instant::now();
            if self.registry.snapshot().is_disabled(plugin) {
                return Err(super::disabled());
            }
            // Its next event is the `$connect`, also as a probe.
            if served.health.is_open() {
                return Err(refuse(Denied::Open { retry_after: RETRY }));
            }
            if now >= deadline {
                return Err(Rejection::Busy("the plugin has not handled the beginning of this connection yet".to_owned()));
            }
            caller.untold.until_told(plugin, deadline.min(now + RETRY)).await;
        }
        Ok(())
    }

    /// Puts an event into the backlogs of the plugins that listen for it. What is returned is empty when those that serve have handled it.
    fn dispatch_host_event(self: &Arc<Self>, kind: Kind, connection: Option<&Arc<Connection>>) -> TaskTracker {
        let (at, awaited) = (SystemTime::now(), TaskTracker::new());
        // The directory and the backlogs change together, so that what a plugin reads there agrees with what it is told next.
        let (mut backlogs, routes) = self.backlogs_of_now();
        match (kind, connection) {
            (Kind::Connect, Some(connection)) => self.rooms.directory.add(connection),
            (Kind::Disconnect, Some(connection)) => self.rooms.directory.remove(connection),
            _ => {}
        }
        for served in routes.plugins.iter().filter(|served| listens(served, kind.name())) {
            let plugin = served.plugin.name();
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
            let listens_for_resync = listens(served, host_event::RESYNC);
            let dropped = backlog.push(event, served.plugin.limits().host_events.get(), listens_for_resync);
            if dropped.len() > 1 {
                tracing::warn!(
                    plugin,
                    dropped = dropped.len(),
                    resync = listens_for_resync,
                    "host events dropped: too many waited for the plugin (limits.host_events)"
                );
            }
            self.drop_events(&name, &dropped);
            self.hire(&name, backlog, served);
        }
        drop(backlogs);
        awaited.close();
        awaited
    }

    /// Locks the backlogs, and makes them those of the plugins that serve now. The snapshot is taken under the lock: an older one would undo
    /// what a newer one has done.
    fn backlogs_of_now(self: &Arc<Self>) -> (MutexGuard<'_, HashMap<Arc<str>, Backlog>>, Arc<Routes>) {
        let mut backlogs = self.host_events.backlogs();
        let routes = self.registry.snapshot();
        self.follow(&mut backlogs, &routes);
        (backlogs, routes)
    }

    /// Has a backlog for each plugin that listens and for no other. A plugin that is new beside existing connections reads them.
    fn follow(self: &Arc<Self>, backlogs: &mut HashMap<Arc<str>, Backlog>, routes: &Routes) {
        let listening = |served: &&Arc<Served>| !served.plugin.registration.listens.is_empty();
        for served in routes.plugins.iter().filter(listening) {
            if !backlogs.contains_key(served.plugin.name()) {
                let (name, mut backlog): (Arc<str>, _) = (served.plugin.name().into(), Backlog::default());
                if listens(served, host_event::RESYNC) && !self.rooms.directory.is_empty() {
                    backlog.resync();
                    self.hire(&name, &mut backlog, served);
                }
                backlogs.insert(name, backlog);
            }
        }
        let plugins = routes.plugins.iter().filter(listening).count();
        if backlogs.len() > plugins {
            let is_gone = |name: &Arc<str>| !routes.plugins.iter().filter(listening).any(|served| served.plugin.name() == &**name);
            for (name, backlog) in backlogs.extract_if(|name, _| is_gone(name)) {
                self.drop_events(&name, &backlog.into_dropped());
            }
        }
    }

    fn hire(self: &Arc<Self>, name: &Arc<str>, backlog: &mut Backlog, served: &Served) {
        if backlog.hire(at_once(served)) {
            let (this, name) = (Arc::clone(self), Arc::clone(name));
            self.host_events.tasks.spawn(async move { this.work(&name).await });
        }
    }

    /// Delivers what waits for one plugin, one after the other, until nothing does.
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
                Outcome::Failed if matches!(delivery, Delivery::Resync) => self.resync_failed(plugin),
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

    /// A plugin that has failed to read the connections reads them again later.
    fn resync_failed(self: &Arc<Self>, plugin: &Arc<str>) {
        self.metrics.resync_failed(plugin);
        let wait = self.host_events.backlogs().get_mut(plugin).and_then(Backlog::resync_failed);
        let Some(wait) = wait else { return };
        tracing::warn!(plugin = &**plugin, retry_ms = wait.as_millis(), "the plugin failed to read the connections: it is told again");
        let (this, plugin) = (Arc::clone(self), Arc::clone(plugin));
        self.host_events.tasks.spawn(async move {
            if this.host_events.stopped.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return;
            }
            let (mut backlogs, routes) = this.backlogs_of_now();
            let served = routes.plugins.iter().find(|served| served.plugin.name() == &*plugin);
            let (Some(served), Some(backlog)) = (served, backlogs.get_mut(&plugin)) else { return };
            this.drop_events(&plugin, &backlog.retry_resync());
            this.hire(&plugin, backlog, served);
        });
    }

    /// Parks what waits for one plugin. Returns whether this worker is to try again later: the first one that finds it not serving does.
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

    /// The next delivery, with the connections that `$resync` is about. Where there is none, the worker ends.
    fn next_delivery(self: &Arc<Self>, plugin: &Arc<str>) -> Option<(Delivery, Option<Connections>)> {
        let routes = self.registry.snapshot();
        let served = routes.plugins.iter().find(|served| served.plugin.name() == &**plugin);
        let mut backlogs = self.host_events.backlogs();
        let backlog = backlogs.get_mut(plugin)?;
        let most = served.map_or(1, |served| at_once(served));
        let next = if self.host_events.stopped.is_cancelled() { None } else { backlog.next(most) };
        let Some(delivery) = next else {
            backlog.leave();
            return None;
        };
        if let Some(served) = served {
            self.hire(plugin, backlog, served);
        }
        // Taken with the backlog locked: what happens from now on waits behind it.
        let snapshot = matches!(delivery, Delivery::Resync).then(|| self.rooms.directory.snapshot());
        Some((delivery, snapshot))
    }

    async fn deliver(&self, plugin: &str, delivery: &Delivery, snapshot: Option<Connections>) -> Outcome {
        let (name, caller, at) = match delivery {
            Delivery::Event(event) => (event.kind.name(), event.connection.as_ref(), event.at),
            Delivery::Resync => (host_event::RESYNC, None, SystemTime::now()),
        };
        let routes = self.registry.snapshot();
        let Some(served) = routes.plugins.iter().find(|served| served.plugin.name() == plugin) else {
            // If it is gone for good, its backlog ends with its events; if it comes back, it must not have missed one.
            return Outcome::NotServing(RETRY);
        };
        if !listens(served, name) {
            return Outcome::Delivered;
        }
        if routes.is_disabled(plugin) {
            return Outcome::NotServing(RETRY);
        }
        let began = Instant::now();
        // A client that is throttled still comes and goes.
        let permit = match served.health.admit(None, began) {
            Ok(permit) => permit,
            Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => return Outcome::NotServing(retry_after),
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
        match (self.run(permit, &routes, served, &event, None, began).await.0, caller) {
            (Ok(Reply { ends: true, .. }), Some(caller)) => self.rooms.end(caller),
            (Ok(_), _) => {}
            // There was no room for an instance: the plugin has not seen it.
            (Err(Failed { rejection: Rejection::Busy(_), .. }), _) => return Outcome::NotServing(RETRY),
            (Err(failed), _) => {
                let rejection = report(&routes, served, &event, failed);
                // The host's own failure. Where it is not known whether the state was written, the plugin may be told again.
                return if matches!(rejection, Rejection::Unavailable(_)) { Outcome::NotServing(RETRY) } else { Outcome::Failed };
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

/// The events of a connection need not wait for `event` any more.
fn end(plugin: &str, event: &HostEvent) {
    if event.kind == Kind::Connect
        && let Some(connection) = &event.connection
    {
        connection.untold.remove(plugin);
    }
}

fn listens(served: &Served, event: &str) -> bool {
    served.plugin.registration.listens.contains(&event)
}

/// Host events that a plugin handles at once: half of its instances, so that its other events find one while these are slow.
fn at_once(served: &Served) -> usize {
    (served.plugin.instances_at_once() / 2).max(1)
}
