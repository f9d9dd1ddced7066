//! Emits an event for a business system: checks its data and its receivers, and sends it.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::effect::{Effect, Emit, Target};
use crate::event::{Caller, Json};
use crate::events::{Outbound, parse_payload};
use crate::rejection::Rejection;

use super::Dispatcher;

/// The receivers of an event that was emitted over HTTP.
#[derive(Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Empty if the event went to everyone.
    pub rooms: Vec<String>,
    /// Number of connections into whose buffers the event was put.
    pub receivers: usize,
}

impl Dispatcher {
    /// Emits `event` for a business system. Without `to`, the declaration of the event decides
    /// whether it goes to everyone or to rooms that are named by the data.
    ///
    /// # Errors
    /// Returns a rejection if no plugin declares the event, its data is invalid, it may not go to
    /// `to`, or no room is known.
    pub fn emit(
        &self,
        event: &str,
        data: &RawValue,
        to: Option<Target>,
    ) -> Result<Emitted, Rejection> {
        let generation = self.registry.snapshot();
        let declarations: Vec<_> = generation.outbound(event).collect();
        // All declarations of an event have the same schema.
        let Some(declared) = declarations.first() else { return Err(Rejection::UnknownEvent) };
        let value = parse_payload(data.get(), self.limits.json_depth.get())?;
        declared.data.check(&value).map_err(Rejection::against_schema)?;
        let to = target(event, &declarations, &value, to)?;
        let rooms = match &to {
            Target::Rooms(rooms) => rooms.clone(),
            _ => Vec::new(),
        };
        let emit = Emit {
            to,
            event: event.to_owned(),
            data: Json::of(data.get().to_owned(), &value),
            attachments: Vec::new(),
        };
        let receivers = self.rooms.apply(&Caller::None, &[Effect::Emit(emit)]).receivers;
        Ok(Emitted { rooms, receivers })
    }
}

/// Returns the target of an event with the data `value`: `to` if the declarations allow it, or the
/// declared target if `to` is `None`.
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
            if let Some(room) =
                rooms.iter().find(|room| !declarations.iter().any(|declared| declared.names(room)))
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
