//! Delivers host events to one plugin. A plugin that does not serve for a while gets its events
//! later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::breaker::Denied;
use crate::event::{Connections, Event, EventId};
use crate::log;
use crate::rejection::Rejection;

use super::backlog::{Backlog, Pending, of_task};
use super::event::{HostEvent, HostEventKind};
use super::{RETRY, end_connect_wait, max_deliveries};
use crate::dispatcher::source::Source;
use crate::dispatcher::{Dispatcher, Failed, Reply, report};

/// The result of a delivery.
enum Delivery {
    /// The plugin has handled the event, or does not listen for it.
    Done,
    /// The plugin was called, and failed.
    Failed,
    /// The plugin was not called, or the host could not read or write its state. After this time
    /// the event may be delivered, perhaps for the second time.
    NotServing(Duration),
}

impl Dispatcher {
    /// Delivers the waiting events of one plugin, one after the other, until none can be delivered.
    pub(super) async fn work(self: Arc<Self>, plugin: &Arc<str>) {
        while let Some((pending, connections)) = self.next_pending(plugin) {
            let mut delivering = Box::pin(self.deliver(plugin, &pending.event, connections));
            let delivery = log::catch(delivering.as_mut()).await.unwrap_or_else(|panic| {
                tracing::error!(
                    plugin = &**plugin,
                    error = panic.message,
                    location = panic.location,
                    "the host panicked while it delivered a host event"
                );
                Delivery::Failed
            });
            drop(delivering);
            match delivery {
                Delivery::Failed if matches!(pending.event.kind, HostEventKind::Resync) => {
                    self.resync_failed(plugin)
                }
                Delivery::Done | Delivery::Failed => {
                    if let Some(backlog) = of_task(&mut self.host_events.backlogs(), plugin) {
                        backlog.done(&pending);
                    }
                    end_connect_wait(plugin, &pending.event);
                }
                Delivery::NotServing(retry_after) => {
                    let mut changes = self.registry.changes();
                    if !self.park(plugin, pending) {
                        return;
                    }
                    let serves = tokio::time::timeout(retry_after.min(RETRY), changes.changed());
                    if self.host_events.stopped.run_until_cancelled(serves).await.is_none() {
                        return;
                    }
                    if let Some(backlog) = of_task(&mut self.host_events.backlogs(), plugin) {
                        backlog.resume();
                    }
                }
            }
        }
    }

    /// Schedules another `$resync` for a plugin that failed to handle one.
    fn resync_failed(self: &Arc<Self>, plugin: &Arc<str>) {
        self.metrics.resync_failed(plugin);
        let wait =
            of_task(&mut self.host_events.backlogs(), plugin).and_then(Backlog::resync_failed);
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
            let (mut backlogs, generation) = this.lock_updated_backlogs();
            let active = generation.plugin(&plugin);
            let Some(backlog) = of_task(&mut backlogs, &plugin) else { return };
            this.drop_events(&plugin, &backlog.retry_resync());
            if let Some(active) = active {
                this.add_worker(backlog, active);
            }
        });
    }

    /// Parks the backlog of one plugin. Returns whether this worker must retry later: only the
    /// first worker that finds the plugin not serving does.
    fn park(&self, plugin: &Arc<str>, undelivered: Pending) -> bool {
        let mut backlogs = self.host_events.backlogs();
        let Some(backlog) = of_task(&mut backlogs, plugin) else {
            // The plugin was removed meanwhile.
            end_connect_wait(plugin, &undelivered.event);
            return false;
        };
        let (is_first, dropped) = backlog.park(undelivered);
        if !is_first {
            backlog.remove_worker();
        }
        self.drop_events(plugin, &dropped);
        is_first
    }

    /// Takes the next event to deliver; a `$resync` comes with the connections that exist now.
    /// Returns `None` if there is no event. The worker then ends.
    fn next_pending(self: &Arc<Self>, plugin: &Arc<str>) -> Option<(Pending, Option<Connections>)> {
        let generation = self.registry.snapshot();
        let active = generation.plugin(plugin);
        let mut backlogs = self.host_events.backlogs();
        let backlog = of_task(&mut backlogs, plugin)?;
        let max = active.map_or(1, |active| max_deliveries(active));
        let next = if self.host_events.stopped.is_cancelled() { None } else { backlog.next(max) };
        let Some(pending) = next else {
            backlog.remove_worker();
            return None;
        };
        if let Some(active) = active {
            self.add_worker(backlog, active);
        }
        // Taken while the backlogs are locked: later events are queued behind this delivery.
        let connections = matches!(pending.event.kind, HostEventKind::Resync)
            .then(|| self.rooms.directory.snapshot());
        Some((pending, connections))
    }

    /// Runs the plugin's handler of one event. The handler reads the snapshot `connections`, or the
    /// current connections if it is `None`.
    async fn deliver(
        &self,
        plugin: &str,
        host_event: &HostEvent,
        connections: Option<Connections>,
    ) -> Delivery {
        let generation = self.registry.snapshot();
        let Some(active) = generation.plugin(plugin) else {
            // If the plugin's file comes back, the plugin must not have missed an event. If the
            // plugin is forgotten, its backlog is dropped with its events.
            return Delivery::NotServing(RETRY);
        };
        if !host_event.is_for(&active.code.registration) {
            return Delivery::Done;
        }
        if generation.is_disabled(plugin) {
            return Delivery::NotServing(RETRY);
        }
        let began = Instant::now();
        // Without a client: a throttled client's `$connect` and `$disconnect` are delivered too.
        let permit = match active.health.admit(None, began) {
            Ok(permit) => permit,
            Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => {
                return Delivery::NotServing(retry_after);
            }
        };
        let connection = host_event.connection();
        let event = Arc::new(Event {
            id: EventId::new(host_event.at),
            name: host_event.kind.name().to_owned(),
            payload: host_event.payload.clone(),
            caller: host_event.caller(),
            received_at: host_event.at,
            connections,
            timer: None,
        });
        if matches!(host_event.kind, HostEventKind::Resync) {
            self.metrics.resync(plugin);
            tracing::info!(plugin, id = %event.id, "the plugin reads the connections again: it has \
                                        missed host events");
        }
        match (
            self.run(permit, &generation, active, &event, Source::Host, began).await.0,
            connection,
        ) {
            (Ok(Reply { ends: true, .. }), Some(connection)) => _ = self.rooms.end(connection),
            (Ok(_), _) => {}
            // No instance was available: the plugin has not seen the event.
            (Err(Failed { rejection: Rejection::Busy(_), .. }), _) => {
                return Delivery::NotServing(RETRY);
            }
            (Err(failed), _) => {
                let rejection = report(&generation, active, &event, failed);
                // If the host itself failed, the event is kept. If it is not known whether the
                // state was written, the plugin may get the event twice.
                return match rejection {
                    Rejection::Unavailable(_) | Rejection::NotCommitted(_) => {
                        Delivery::NotServing(RETRY)
                    }
                    _ => Delivery::Failed,
                };
            }
        }
        Delivery::Done
    }
}
