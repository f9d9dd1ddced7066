//! Handles `$load`: calls the version that serves, and records with its commit how far it is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sockhop_core::load::{Progress, read_reply};

use crate::breaker::Denied;
use crate::event::{Caller, Event, EventId, Json, Payload, host_event};
use crate::registry::ActivePlugin;
use crate::rejection::Rejection;
use crate::store::LoadMark;

use super::host_events::RETRY;
use super::source::Source;
use super::{Dispatcher, report};

/// The result of one `$load`.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// The handler has finished, and that is recorded.
    Finished,
    /// The handler must be called again. How far it is, is recorded.
    Progressed(Progress),
    /// The handler, or its commit, has failed for this reason. Nothing was applied.
    Failed(String),
    /// The plugin was not called, because it does not serve or all its instances are busy. After
    /// this time it may be.
    NotServing(Duration),
}

impl Dispatcher {
    /// Sends `$load` to a version, if it still serves.
    pub(crate) async fn load(&self, active: &Arc<ActivePlugin>) -> Loaded {
        let generation = self.registry.snapshot();
        if !generation.serves(active) || generation.is_disabled(active.code.name()) {
            return Loaded::NotServing(RETRY);
        }
        let began = Instant::now();
        let permit = match active.health.admit(None, began) {
            Ok(permit) => permit,
            Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => {
                return Loaded::NotServing(retry_after.min(RETRY));
            }
        };
        let received_at = self.clock().now();
        let event = Arc::new(Event {
            id: EventId::new(received_at),
            name: host_event::LOAD.to_owned(),
            payload: Payload::null(),
            caller: Caller::None,
            received_at,
            connections: None,
            timer: None,
        });
        let failed =
            match self.run(permit, &generation, active, &event, Source::Host, began).await.0 {
                // It was read before the commit.
                Ok(reply) => {
                    return match read_reply(Some(reply.json.as_str()), 0) {
                        Ok(Some(progress)) => Loaded::Progressed(progress),
                        Ok(None) | Err(_) => Loaded::Finished,
                    };
                }
                Err(failed) => failed,
            };
        // There was no instance, or no space for one.
        if let Rejection::Busy(_) = failed.rejection {
            return Loaded::NotServing(RETRY);
        }
        let reason = failed.reason();
        report(&generation, active, &event, failed);
        Loaded::Failed(reason)
    }
}

/// Whether this is `$load`. No client can send an event of this name.
pub(super) fn is_load(event: &Event) -> bool {
    event.name == host_event::LOAD
}

/// Reads the reply to `$load`: returns it, and what is to be stored of it.
///
/// # Errors
/// Describes for the log what is wrong with the reply.
pub(super) fn read(
    reply: Option<String>,
    attachments: usize,
    active: &ActivePlugin,
    event: &Event,
) -> Result<(Json, LoadMark), String> {
    let progress = read_reply(reply.as_deref(), attachments)?;
    let json = match reply {
        Some(reply) => Json::parse(reply).map_err(|error| error.to_string())?.0,
        None => Json::null(),
    };
    let (digest, at) = (active.code.digest.clone(), event.received_at_ms());
    Ok((json, LoadMark { digest, at, progress }))
}
