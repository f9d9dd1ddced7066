//! The declaration of acks: the answers of clients to emits with an ack.

use sockhop_core::ack::EVENT_PREFIX;

use crate::ack::{Ack, NoAnswer, declare};
use crate::args::Incoming;
use crate::context::Context;
use crate::handlers::{ErasedHandler, erase_acked};
use crate::host::Registry;
use crate::json::{Output, Payload, payload_schema};
use crate::refusal::Result;

use super::{Declaration, Plugin};

/// A declared ack.
pub(super) struct DeclaredAck {
    ack: &'static str,
    data: fn() -> String,
    is_list: bool,
    pub(super) handler: ErasedHandler,
    /// Passes the ack to the host, as for a route.
    declare: fn(&dyn Registry, &str, &str, bool) -> Result,
}

impl DeclaredAck {
    /// Whether its handler is for the event with this name.
    pub(super) fn handles(&self, event: &str) -> bool {
        event.strip_prefix(EVENT_PREFIX) == Some(self.ack)
    }

    pub(super) fn declare(&self, registry: &dyn Registry) -> Result {
        (self.declare)(registry, self.ack, &(self.data)(), self.is_list)
    }
}

impl Plugin {
    /// Declares `ack`, which handlers of this plugin ask clients for with
    /// [`Context::emit_with_ack`](crate::Context::emit_with_ack), and handles each outcome with
    /// `handler`: it gets the context of the emit, and the answer, or why there is none. The caller
    /// is the connection. [`Ack`] says what the host promises.
    ///
    /// If `handler` returns `Err`, nothing is applied, and it is not called again.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin with acks.
    #[must_use]
    pub fn on_ack<T: Incoming, C: Payload + Output>(
        self,
        ack: Ack<T, C>,
        handler: impl Fn(&Context, C, Result<T, NoAnswer>) -> Result + Send + Sync + 'static,
    ) -> Self {
        self.and(Declaration::Ack(DeclaredAck {
            ack: ack.name(),
            data: payload_schema::<T::Json>,
            is_list: T::DECLARE.is_some(),
            handler: erase_acked(ack.name(), handler),
            declare,
        }))
    }
}
