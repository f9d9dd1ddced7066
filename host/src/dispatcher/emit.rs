//! Emits events for a business system: checks their data and their receivers, and sends them.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::effect::{Emit, Target};
use crate::event::Json;
use crate::events::{Outbound, parse_payload};
use crate::rejection::Rejection;
use crate::rooms::Receivers;

use super::Dispatcher;

/// An event that is checked, with its receivers. Nothing is sent yet.
pub struct PreparedEmit {
    emit: Emit,
    receivers: Receivers,
    /// Empty if the event goes to everyone.
    pub rooms: Vec<String>,
}

impl PreparedEmit {
    /// Number of connections to which it will be sent.
    pub fn receivers(&self) -> usize {
        self.receivers.len()
    }
}

impl Dispatcher {
    /// Checks an event that a business system emits. Without `to`, the declaration of the event
    /// decides whether it goes to everyone or to rooms that are named by the data.
    ///
    /// # Errors
    /// Returns a rejection if the event is not declared, its data is invalid, it may not go to
    /// `to`, or neither `to` nor the data names a room.
    pub fn prepare_emit(
        &self,
        event: &str,
        data: &RawValue,
        to: Option<Target>,
    ) -> Result<PreparedEmit, Rejection> {
        let generation = self.registry.snapshot();
        let declarations: Vec<_> = generation.outbound(event).collect();
        let Some(first) = declarations.first() else { return Err(Rejection::UnknownEvent) };
        let value = parse_payload(data.get(), self.config.get().limits.json_depth.get())?;
        first.data.check(&value).map_err(Rejection::against_schema)?;
        // Plugins that emit the same event have the same schema. The operator's may differ.
        for other in declarations.iter().filter(|other| other.data != first.data) {
            other.data.check(&value).map_err(Rejection::against_schema)?;
        }
        let mut data = Json::of(data.get().to_owned(), &value);
        if first.arguments.are_list() {
            data = data.into_list(&value).ok_or_else(|| {
                Rejection::invalid(format!(
                    "`{event}` has a list of arguments: its data is the array of them"
                ))
            })?;
        }
        let to = target(event, &declarations, first.arguments.first(&value), to)?;
        let rooms = match &to {
            Target::Rooms(rooms) => rooms.clone(),
            _ => Vec::new(),
        };
        let emit = Emit {
            to,
            event: event.to_owned(),
            data,
            attachments: Vec::new(),
            is_volatile: false,
            ack: None,
        };
        let receivers = self.rooms.receivers(&emit.to);
        Ok(PreparedEmit { emit, receivers, rooms })
    }

    /// Sends an event. Returns the number of connections into whose buffers it was put.
    pub fn send(&self, prepared: &PreparedEmit) -> usize {
        self.rooms.send(&prepared.emit, &prepared.receivers)
    }
}

/// Returns the target of an event whose first argument is `value`: `to` if the declarations allow
/// it, or the declared target if `to` is `None`.
fn target(
    event: &str,
    declarations: &[&Outbound],
    value: &Value,
    to: Option<Target>,
) -> Result<Target, Rejection> {
    match to {
        Some(Target::Everyone) if !declarations.iter().any(|declared| declared.everyone) => {
            Err(Rejection::Forbidden(format!(
                "the declaration of `{event}` does not send it to everyone"
            )))
        }
        Some(Target::Rooms(rooms)) => {
            if let Some(room) = rooms
                .iter()
                .find(|room| !declarations.iter().any(|declared| declared.may_go_to(room)))
            {
                return Err(Rejection::Forbidden(format!(
                    "the declaration of `{event}` does not name the room `{room}`"
                )));
            }
            Ok(Target::Rooms(rooms))
        }
        Some(other) => Ok(other),
        None if declarations.iter().any(|declared| declared.everyone) => Ok(Target::Everyone),
        None => {
            let mut rooms: Vec<_> = declarations
                .iter()
                .flat_map(|declared| &declared.rooms)
                .filter_map(|pattern| pattern.fill(value))
                .collect();
            rooms.sort();
            rooms.dedup();
            if rooms.is_empty() {
                return Err(Rejection::invalid(format!(
                    "no room is given: name one, because the declaration of `{event}` gives none \
                     for this data"
                )));
            }
            Ok(Target::Rooms(rooms))
        }
    }
}
