//! Handles the events of timers that have fired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::breaker::{Denied, Outcome};
use crate::event::{Caller, Event, EventId, FiredTimer, Payload};
use crate::events::check_timer_data;
use crate::log;
use crate::registry::ActivePlugin;
use crate::rejection::Rejection;
use crate::store::DueTimer;
use crate::wall_clock::WallClock;

use super::host_events::RETRY;
use super::source::Source;
use super::{Dispatcher, Failed, report};

/// The result of a timer's event.
#[derive(Debug)]
pub(crate) enum Fired {
    /// It was handled, and the timer is removed.
    Handled,
    /// The timer was cancelled or set again meanwhile. Nothing was applied.
    Gone,
    /// The plugin was called, and its handler has failed for this reason. Nothing was applied.
    Failed(FiredTimer, String),
    /// The plugin was not called, because it does not serve. After this time it may serve.
    NotServing(Duration),
    /// The plugin was not called for this timer, or the host could not read or write its state.
    /// After this time the event may be handled.
    Later(Duration),
}

impl Dispatcher {
    /// The clock by which timers fire.
    pub(crate) fn clock(&self) -> &WallClock {
        &self.clock
    }

    /// Handles the event of a timer that is due, by the version of `plugin` that serves now.
    pub(crate) async fn fire(&self, plugin: &str, due: DueTimer) -> Fired {
        let generation = self.registry.snapshot();
        let Some(active) = generation.plugin(plugin) else {
            return Fired::NotServing(RETRY);
        };
        if generation.is_disabled(plugin) {
            return Fired::NotServing(RETRY);
        }
        let DueTimer { id, timer, key, due, attempts, is_scheduled } = due;
        // A reload may have come in between. A dead time of a schedule that is retried is no more
        // set by the schedule.
        let is_declared = active.schedules.contains_key(&timer)
            || (active.timers.contains_key(&timer) && !is_scheduled);
        if !is_declared {
            return Fired::Later(RETRY);
        }
        let data = match active.state.store.timer_data(id) {
            Ok(Some(data)) => data,
            Ok(None) => return Fired::Gone,
            Err(_) => return Fired::Later(RETRY),
        };
        let received_at = self.clock().now();
        let mut event = Event {
            id: EventId::new(received_at),
            name: sockhop_core::timer::event_name(&timer),
            payload: Payload { text: data.into(), attachments: Vec::new() },
            caller: Caller::None,
            received_at,
            connections: None,
            timer: None,
        };
        // The times of a schedule that are over come once, together.
        let after = due.max(event.received_at_ms());
        let schedule = active.schedules.get(&timer).filter(|_| is_scheduled);
        let next = schedule.and_then(|schedule| schedule.next(after));
        let fired = FiredTimer { id, timer, key, due, attempt: attempts + 1, next };
        event.timer = Some(Box::new(fired.clone()));
        let event = Arc::new(event);
        let began = Instant::now();
        let permit = match active.health.admit(None, began) {
            Ok(permit) => permit,
            Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => {
                return Fired::NotServing(retry_after.min(RETRY));
            }
        };
        let answer = match check_data(active, &event, &fired) {
            Ok(()) => self.run(permit, &generation, active, &event, Source::Host, began).await.0,
            Err(failed) => {
                active.health.record(permit, None, Outcome::Unknown, began);
                Err(failed)
            }
        };
        let Err(failed) = answer else { return Fired::Handled };
        if let Rejection::Busy(_) = failed.rejection {
            return match active.state.store.is_still_set(&fired) {
                Ok(false) => Fired::Gone,
                // There was no space for an instance.
                Ok(true) | Err(_) => Fired::Later(RETRY),
            };
        }
        let reason = failed.reason();
        match report(&generation, active, &event, failed) {
            Rejection::Unavailable(_) | Rejection::NotCommitted(_) => Fired::Later(RETRY),
            _ => Fired::Failed(fired, reason),
        }
    }
}

/// Checks the data of a timer against the schema of the version that serves. Another version may
/// have set it.
fn check_data(active: &ActivePlugin, event: &Event, fired: &FiredTimer) -> Result<(), Failed> {
    let Some(schema) = active.timers.get(&fired.timer) else { return Ok(()) };
    let data = event.payload.text.to_string();
    match check_timer_data(&fired.timer, data, schema) {
        Ok(_) => Ok(()),
        Err(refusal) => Err(Failed::new(Rejection::PluginFailed, log::Fault::new(refusal.message))),
    }
}
