//! From a typed function to what the host calls: decoding, encoding and the two schemas, all from the function's own types.

use std::any::TypeId;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::refusal::{Refusal, Result};

/// A function that handles an event: `fn(&Context, T) -> Result<R>`.
///
/// Implemented for every such function and closure; `T` is the payload, `R` the reply, and `R = ()` means that there is none (the ack
/// is then `null`).
#[diagnostic::on_unimplemented(
    message = "this is no event handler",
    label = "expected a function `fn(&Context, Payload) -> sockhop_sdk::Result<Reply>`",
    note = "a handler looks like this: `fn ping(ctx: &Context, ping: Ping) -> Result<Pong>`; without a reply: `-> Result`",
    note = "`Ping` needs `#[derive(serde::Deserialize, schemars::JsonSchema)]`, `Pong` needs `#[derive(serde::Serialize, schemars::JsonSchema)]`"
)]
pub trait Handler<T, R>: Send + Sync + 'static {
    /// Handles one event.
    ///
    /// # Errors
    /// The handler's own refusal, or one of the host's that it passes on.
    fn call(&self, ctx: &Context, payload: T) -> Result<R>;
}

// So that the words above are shown, and not why this implementation does not fit.
#[diagnostic::do_not_recommend]
impl<F, T, R> Handler<T, R> for F
where
    F: Fn(&Context, T) -> Result<R> + Send + Sync + 'static,
{
    fn call(&self, ctx: &Context, payload: T) -> Result<R> {
        self(ctx, payload)
    }
}

/// What an event carries: a type of the plugin's own with two derives, `serde::Deserialize` and `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the payload of an event",
    label = "this handler takes a `{Self}`",
    note = "put `#[derive(serde::Deserialize, schemars::JsonSchema)]` on `{Self}`: the host checks payloads against its schema"
)]
pub trait Payload: DeserializeOwned + JsonSchema {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema> Payload for T {}

/// What a handler replies with, and what an emitted event carries: two derives, `serde::Serialize` and `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to clients",
    label = "this would send a `{Self}`",
    note = "put `#[derive(serde::Serialize, schemars::JsonSchema)]` on `{Self}`: the host checks what is sent against its schema"
)]
pub trait Output: Serialize + JsonSchema + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + JsonSchema + 'static> Output for T {}

/// A handler without its types: JSON in, JSON out.
pub(crate) type Call = Box<dyn Fn(&Context, &str) -> Result<Option<String>> + Send + Sync>;

/// Wraps `handler` so that it takes and gives JSON.
pub(crate) fn erase<T, R>(handler: impl Handler<T, R>) -> Call
where
    T: DeserializeOwned,
    R: Serialize + 'static,
{
    Box::new(move |ctx, data| {
        // The host has checked the schema; what is left are values that a schema can't tell, such as a number out of the type's range.
        let payload = serde_json::from_str(data).map_err(|error| Refusal::invalid_payload(error.to_string()))?;
        let reply = handler.call(ctx, payload)?;
        if has_no_reply::<R>() { Ok(None) } else { encode(&reply).map(Some) }
    })
}

/// Whether handlers that return `R` have no reply.
pub(crate) fn has_no_reply<R: 'static>() -> bool {
    TypeId::of::<R>() == TypeId::of::<()>()
}

/// `value` as JSON text.
pub(crate) fn encode(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Refusal::misuse(format!("this value is no JSON: {error}")))
}

/// The schema (2020-12) of what deserializes into `T`.
pub(crate) fn payload_schema<T: JsonSchema>() -> String {
    schema::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// The schema (2020-12) of what `T` serializes to.
pub(crate) fn output_schema<T: JsonSchema>() -> String {
    schema::<T>(SchemaSettings::draft2020_12().for_serialize())
}

/// The root type's schema stands at the top, nested types under `$defs`.
fn schema<T: JsonSchema>(settings: SchemaSettings) -> String {
    settings.into_generator().into_root_schema_for::<T>().as_value().to_string()
}
