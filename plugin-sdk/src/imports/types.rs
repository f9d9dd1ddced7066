//! The interface `types`: conversions from and to the SDK's own types.

use sockhop_core::effect::Target;

use crate::refusal::Refusal;

use super::generated::sockhop::plugin::types;

impl From<types::Refusal> for Refusal {
    fn from(types::Refusal { code, message }: types::Refusal) -> Self {
        Self { code, message }
    }
}

impl From<Refusal> for types::Refusal {
    fn from(Refusal { code, message }: Refusal) -> Self {
        Self { code, message }
    }
}

impl From<Target> for types::Target {
    fn from(target: Target) -> Self {
        match target {
            Target::Sender => Self::Sender,
            Target::Connection(id) => Self::Connection(id),
            Target::Rooms(rooms) => Self::Rooms(rooms),
            Target::RoomsButSender(rooms) => Self::RoomsButSender(rooms),
            Target::Everyone => Self::Everyone,
        }
    }
}
