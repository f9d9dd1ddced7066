//! Decides whether a handler's reply matches its declaration. Pure functions.

use std::sync::Arc;

use crate::effect::{Effect, Emit};
use crate::event::Json;
use crate::events;
use crate::registry::{ActivePlugin, Inbound};
use crate::schema::Schema;

/// A reply is compared with at most this many emits, latest first. If none of them matches, the
/// reply is checked in full.
const EMITS_COMPARED: usize = 4;

/// Returns the JSON for the ack if the handler's reply, with this number of attachments, matches
/// its declaration. `effects` are those of the same run of `active`. A host event (no `inbound`)
/// has no ack.
///
/// # Errors
/// Describes for the log what is wrong with the reply.
pub(super) fn check_reply(
    reply: Option<String>,
    attachments: usize,
    inbound: Option<&Inbound>,
    active: &ActivePlugin,
    effects: &[Effect],
) -> Result<Json, String> {
    let schema = inbound.and_then(|inbound| inbound.reply.as_ref());
    let arguments = inbound.map(|inbound| inbound.reply_arguments).unwrap_or_default();
    // Many handlers reply with data that they have emitted. It is not parsed and checked twice.
    if let (Some(schema), Some(reply)) = (schema, &reply)
        && attachments == 0
        && let Some(emitted) = emitted(active, effects, schema, reply)
        && emitted.is_list() == arguments.are_list()
    {
        return Ok(emitted.clone());
    }
    events::check_reply(reply, attachments, schema.map(Arc::as_ref), arguments)
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
