//! Decides whether a handler's emits and reply match their declarations, and whether placeholders
//! match their attachments. Pure functions.

use std::sync::Arc;

use serde_json::Value;

use crate::effect::{Effect, Emit, Target};
use crate::event::Json;
use crate::registry::{ActivePlugin, Inbound, Outbound};
use crate::rejection::Refusal;
use crate::schema::Schema;

/// A reply is compared with at most this many emits, latest first. If none of them matches, the
/// reply is checked in full.
const EMITS_COMPARED: usize = 4;

/// Returns the JSON for the ack if the handler's reply matches its declaration. `effects` are those
/// of the same run of `active`. A host event (no `inbound`) has no ack.
///
/// # Errors
/// Describes for the log what is wrong with the reply.
pub(super) fn check_reply(
    reply: Option<String>,
    inbound: Option<&Inbound>,
    active: &ActivePlugin,
    effects: &[Effect],
) -> Result<Json, String> {
    let schema = inbound.and_then(|inbound| inbound.reply.as_ref());
    let Some(schema) = schema else {
        return match reply.as_deref() {
            None | Some("null") => Ok(Json::null()),
            Some(_) => {
                Err("the handler replied, but its event was registered without a reply".to_owned())
            }
        };
    };
    let reply = reply.unwrap_or_else(|| "null".to_owned());
    // Many handlers reply with data that they have emitted. It is not parsed and checked twice.
    if let Some(emitted) = emitted(active, effects, schema, &reply) {
        return Ok(emitted.clone());
    }
    let (reply, value) =
        Json::parse(reply).map_err(|error| format!("the reply is not JSON: {error}"))?;
    // A schema that allows everything allows `error` too, but clients could not tell such a reply
    // from a rejection.
    if reply.has_error {
        return Err("the reply has a property `error` at its top level".to_owned());
    }
    schema.check(&value).map_err(|details| {
        let details: Vec<_> =
            details.iter().map(|detail| format!("{} {}", detail.path, detail.message)).collect();
        format!("the reply does not fit its schema: {}", details.join("; "))
    })?;
    Ok(reply)
}

/// Returns the data of an earlier emit if it has this text and was checked against this schema.
fn emitted<'effects>(
    active: &ActivePlugin,
    effects: &'effects [Effect],
    schema: &Arc<Schema>,
    text: &str,
) -> Option<&'effects Json> {
    let fits = |emit: &&Emit| {
        emit.data.as_str() == text
            // A schema that allows everything allows `error` too.
            && !emit.data.has_error
            && emit.attachments.is_empty()
            && active
                .outbound
                .get(&emit.event)
                .is_some_and(|declared| Arc::ptr_eq(&declared.data, schema))
    };
    let emits = effects
        .iter()
        .filter_map(|effect| if let Effect::Emit(emit) = effect { Some(emit) } else { None });
    emits.rev().take(EMITS_COMPARED).find(fits).map(|emit| &emit.data)
}

/// Checks whether an emitted event may go to the handler's target.
pub(super) fn check_target(
    declared: &Outbound,
    event: &str,
    to: &Target,
    has_sender: bool,
) -> Result<(), Refusal> {
    match to {
        Target::Sender | Target::RoomsButSender(_) if !has_sender => {
            Err(Refusal::misuse("no connection caused this event: it has no sender"))
        }
        Target::Sender | Target::Connection(_) => Ok(()),
        Target::Everyone if declared.everyone => Ok(()),
        Target::Everyone => Err(Refusal::new(
            "undeclared",
            format!("the declaration of `{event}` does not send it to everyone (`*`)"),
        )),
        Target::Rooms(rooms) | Target::RoomsButSender(rooms) => {
            match rooms.iter().find(|room| !declared.names(room)) {
                Some(room) => Err(Refusal::new(
                    "undeclared",
                    format!("the declaration of `{event}` does not name the room `{room}`"),
                )),
                None => Ok(()),
            }
        }
    }
}

/// Whether the placeholders of `data` name each of the `attachments` exactly once, and nothing
/// else.
pub(super) fn placeholders_match(data: &Value, attachments: usize) -> bool {
    fn collect(value: &Value, found: &mut Vec<u64>) {
        match value {
            // A placeholder has two members.
            Value::Object(members) if members.len() < 2 => {
                members.values().for_each(|value| collect(value, found))
            }
            Value::Object(members) => {
                match (members.get("_placeholder"), members.get("num").and_then(Value::as_u64)) {
                    (Some(Value::Bool(true)), Some(number)) => found.push(number),
                    _ => members.values().for_each(|value| collect(value, found)),
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(data, &mut found);
    found.sort_unstable();
    found.into_iter().eq(0..attachments as u64)
}
