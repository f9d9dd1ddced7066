//! Handlers of events, and their type erasure: a handler becomes a function from JSON to JSON.

use std::any::TypeId;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::ack::{NoAnswer, outcome};
use crate::args::{Incoming, Outgoing};
use crate::context::Context;
use crate::json::encode;
use crate::progress::Progress;
use crate::refusal::{Refusal, Result};

/// A function that handles an event: `fn(&Context, T) -> Result<R>`.
///
/// Implemented for every such function and closure. `T` is the payload and `R` is the reply. `R =
/// ()` means that there is no reply, and the ack is `null`. With [`Args`](crate::Args), each has
/// several arguments.
#[diagnostic::on_unimplemented(
    message = "this is no event handler",
    label = "expected a function `fn(&Context, Payload) -> sockhop_sdk::Result<Reply>`",
    note = "a handler looks like this: `fn ping(ctx: &Context, ping: Ping) -> Result<Pong>`; \
            without a reply: `-> Result`",
    note = "`Ping` needs `#[derive(serde::Deserialize, schemars::JsonSchema)]`, `Pong` needs \
            `#[derive(serde::Serialize, schemars::JsonSchema)]`"
)]
pub trait Handler<T, R>: Send + Sync + 'static {
    /// Handles one event.
    ///
    /// # Errors
    /// The handler's own refusal, or a refusal of the host that it passes on.
    fn call(&self, ctx: &Context, payload: T) -> Result<R>;
}

// With this attribute the compiler shows the messages above, and not why this implementation does
// not match.
#[diagnostic::do_not_recommend]
impl<F, T, R> Handler<T, R> for F
where
    F: Fn(&Context, T) -> Result<R> + Send + Sync + 'static,
{
    fn call(&self, ctx: &Context, payload: T) -> Result<R> {
        self(ctx, payload)
    }
}

/// A handler without its types: it takes and returns JSON.
pub(crate) type ErasedHandler = Box<dyn Fn(&Context, &str) -> Result<Option<String>> + Send + Sync>;

/// Wraps `handler` so that it takes and returns JSON.
pub(crate) fn erase<T, R>(handler: impl Handler<T, R>) -> ErasedHandler
where
    T: Incoming,
    R: Outgoing,
{
    Box::new(move |ctx, data| {
        // The host has checked the payload against its schema. Errors here are values that the
        // schema can't exclude, such as a number out of the type's range.
        let payload = serde_json::from_str(data)
            .map_err(|error| Refusal::invalid_payload(error.to_string()))?;
        let reply = handler.call(ctx, T::from_json(payload))?;
        if has_no_reply::<R>() { Ok(None) } else { encode(reply.json()).map(Some) }
    })
}

/// Wraps a handler of events without data.
pub(crate) fn erase_without_data(
    handler: impl Fn(&Context) -> Result + Send + Sync + 'static,
) -> ErasedHandler {
    Box::new(move |ctx, _| handler(ctx).map(|()| None))
}

/// Wraps a handler of `$load`. The host calls it again if it has not finished.
pub(crate) fn erase_of_load<P: Into<Progress>>(
    handler: impl Fn(&Context) -> Result<P> + Send + Sync + 'static,
) -> ErasedHandler {
    Box::new(move |ctx, _| {
        let progress = handler(ctx)?.into();
        if !progress.is_finished() {
            return encode(&progress).map(Some);
        }
        if progress.newer > 0 {
            ctx.warn(format_args!(
                "{} records stay in a newer format, which this version can't read: a later version \
                 has stored them",
                progress.newer
            ));
        }
        Ok(None)
    })
}

/// The data of an event about a room.
#[derive(Deserialize)]
struct OfRoom {
    room: String,
}

/// Wraps a handler of events about rooms so that it takes JSON.
pub(crate) fn erase_of_room(
    handler: impl Fn(&Context, &str) -> Result + Send + Sync + 'static,
) -> ErasedHandler {
    Box::new(move |ctx, data| {
        let OfRoom { room } = serde_json::from_str(data)
            .map_err(|error| Refusal::invalid_payload(error.to_string()))?;
        handler(ctx, &room).map(|()| None)
    })
}

/// Wraps the handler of the outcomes of `ack` so that it takes JSON.
pub(crate) fn erase_acked<T: Incoming, C: DeserializeOwned>(
    ack: &'static str,
    handler: impl Fn(&Context, C, Result<T, NoAnswer>) -> Result + Send + Sync + 'static,
) -> ErasedHandler {
    Box::new(move |ctx, data| {
        let (context, answer) = outcome(ack, data)?;
        handler(ctx, context, answer).map(|()| None)
    })
}

/// Wraps the handler of `timer` so that it takes JSON.
pub(crate) fn erase_timed<T: DeserializeOwned>(
    timer: &'static str,
    handler: impl Fn(&Context, T) -> Result + Send + Sync + 'static,
) -> ErasedHandler {
    Box::new(move |ctx, data| {
        // Another version of the plugin may have set the timer.
        let data = serde_json::from_str(data).map_err(|error| {
            // Only the log says what is wrong, because that text can quote the data.
            ctx.error(format_args!(
                "the data of timer `{timer}` is not what this version sets: {error}"
            ));
            Refusal::new(
                "corrupt_state",
                format!("the data of timer `{timer}` is not what this version of the plugin sets"),
            )
        })?;
        handler(ctx, data).map(|()| None)
    })
}

/// Returns whether handlers that return `R` have no reply.
pub(crate) fn has_no_reply<R: 'static>() -> bool {
    TypeId::of::<R>() == TypeId::of::<()>()
}
