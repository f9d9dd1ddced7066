//! What an event comes from, and how long it waits therefore.

use std::time::Instant;

use crate::registry::Inbound;

/// What an event comes from. It decides how long the event waits for an instance.
#[derive(Clone, Copy)]
pub(super) enum Source<'event> {
    /// A client: the wait counts against the time limit of the event.
    Client(&'event Inbound),
    /// The outcome of an emit with an ack: it waits until this time, and is then kept for later.
    Ack(Instant),
    /// The host: the wait has no limit, and the time limit of the event begins after it.
    Host,
}

impl<'event> Source<'event> {
    /// The declaration of an event of a client.
    pub(super) fn inbound(self) -> Option<&'event Inbound> {
        match self {
            Self::Client(inbound) => Some(inbound),
            Self::Ack(_) | Self::Host => None,
        }
    }
}
