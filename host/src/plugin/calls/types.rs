//! The WIT interface `types`: conversions between its types and the host's own.

use crate::effect::Target;
use crate::event::{Event, Identity};
use crate::plugin::bindings::sockhop::plugin::types;
use crate::plugin::state::InstanceState;
use crate::rejection::Refusal;

impl types::Host for InstanceState {}

impl From<Refusal> for types::Refusal {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

impl From<types::Refusal> for Refusal {
    fn from(refusal: types::Refusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

impl From<types::Target> for Target {
    fn from(target: types::Target) -> Self {
        match target {
            types::Target::Sender => Self::Sender,
            types::Target::Connection(id) => Self::Connection(id),
            types::Target::Rooms(rooms) => Self::Rooms(rooms),
            types::Target::RoomsButSender(rooms) => Self::RoomsButSender(rooms),
            types::Target::Everyone => Self::Everyone,
        }
    }
}

/// Converts the event for the guest. `data` is its payload, `identity` is the caller's, and
/// `attachments` are those of the event.
pub(in crate::plugin) fn lowered<'event>(
    event: &'event Event,
    data: &'event str,
    identity: &'event Identity,
    attachments: &'event [&'event [u8]],
) -> types::Event<'event> {
    let caller = event.caller.namespace().map(|namespace| types::Caller {
        connection: event.caller.connection().map(|connection| connection.public_id.as_str()),
        user: identity.user.as_deref(),
        namespace,
    });
    types::Event { name: &event.name, data, attachments, caller }
}
