//! Sends `$check`: asks a version what it can't read of its state. Only `sockhop check` does this,
//! with a copy of the state.

use std::sync::Arc;
use std::time::Instant;

use sockhop_core::state_check::{CheckReply, CheckRequest, read_reply};

use crate::event::{Caller, Event, EventId, Json, Payload, host_event};
use crate::registry::ActivePlugin;

use super::source::Source;
use super::{Dispatcher, report};

impl Dispatcher {
    /// Sends `$check` to a version that serves. Returns what it has found in one part of its state.
    ///
    /// # Errors
    /// The handler has failed, for this reason.
    pub(crate) async fn check_state(
        &self,
        active: &Arc<ActivePlugin>,
        cursor: Option<String>,
    ) -> Result<CheckReply, String> {
        let generation = self.registry.snapshot();
        let began = Instant::now();
        let permit = active.health.admit(None, began);
        let permit = permit.map_err(|_| "the handler has failed too often".to_owned())?;
        let received_at = self.clock().now();
        let data = serde_json::to_string(&CheckRequest { cursor });
        let text = data.map_err(|error| error.to_string())?;
        let event = Arc::new(Event {
            id: EventId::new(received_at),
            name: host_event::CHECK.to_owned(),
            payload: Payload { text: text.into(), attachments: Vec::new() },
            caller: Caller::None,
            received_at,
            connections: None,
            timer: None,
        });
        match self.run(permit, &generation, active, &event, Source::Host, began).await.0 {
            Ok(reply) => read_reply(Some(reply.json.as_str()), 0),
            Err(failed) => {
                let reason = failed.reason();
                report(&generation, active, &event, failed);
                Err(reason)
            }
        }
    }
}

/// Whether this is `$check`. No client can send an event of this name.
pub(super) fn is_check(event: &Event) -> bool {
    event.name == host_event::CHECK
}

/// Reads the reply to `$check`.
///
/// # Errors
/// Describes for the log what is wrong with the reply.
pub(super) fn read(reply: Option<String>, attachments: usize) -> Result<Json, String> {
    read_reply(reply.as_deref(), attachments)?;
    let reply = reply.unwrap_or_default();
    Json::parse(reply).map(|(json, _)| json).map_err(|error| error.to_string())
}
