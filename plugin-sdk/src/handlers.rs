//! Type erasure of handlers: decoding, encoding and the two schemas, all derived from the types of
//! the function.

use std::any::TypeId;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::refusal::{Refusal, Result};

/// A function that handles an event: `fn(&Context, T) -> Result<R>`.
///
/// Implemented for every such function and closure. `T` is the payload and `R` is the reply. `R =
/// ()` means that there is no reply, and the ack is `null`.
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

/// The payload of an event: a type of the plugin that derives `serde::Deserialize` and
/// `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the payload of an event",
    label = "this handler takes a `{Self}`",
    note = "put `#[derive(serde::Deserialize, schemars::JsonSchema)]` on `{Self}`: the host checks payloads against its schema"
)]
pub trait Payload: DeserializeOwned + JsonSchema {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema> Payload for T {}

/// The reply of a handler, or the data of an emitted event: a type that derives `serde::Serialize`
/// and `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to clients",
    label = "this would send a `{Self}`",
    note = "put `#[derive(serde::Serialize, schemars::JsonSchema)]` on `{Self}`: the host checks what is sent against its schema"
)]
pub trait Output: Serialize + JsonSchema + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + JsonSchema + 'static> Output for T {}

/// A handler without its types: it takes and returns JSON.
pub(crate) type Call = Box<dyn Fn(&Context, &str) -> Result<Option<String>> + Send + Sync>;

/// Wraps `handler` so that it takes and returns JSON.
pub(crate) fn erase<T, R>(handler: impl Handler<T, R>) -> Call
where
    T: DeserializeOwned,
    R: Serialize + 'static,
{
    Box::new(move |ctx, data| {
        // The host has checked the schema. Errors here are values that the schema can't exclude,
        // such as a number out of the type's range.
        let payload = serde_json::from_str(data)
            .map_err(|error| Refusal::invalid_payload(error.to_string()))?;
        let reply = handler.call(ctx, payload)?;
        if has_no_reply::<R>() { Ok(None) } else { encode(&reply).map(Some) }
    })
}

/// Returns whether handlers that return `R` have no reply.
pub(crate) fn has_no_reply<R: 'static>() -> bool {
    TypeId::of::<R>() == TypeId::of::<()>()
}

/// Returns `value` as JSON text.
pub(crate) fn encode(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Refusal::misuse(format!("this value is no JSON: {error}")))
}

/// Returns the JSON Schema (2020-12) of the JSON that deserializes into `T`.
pub(crate) fn payload_schema<T: JsonSchema>() -> String {
    schema::<T>(SchemaSettings::draft2020_12().for_deserialize())
}

/// Returns the JSON Schema (2020-12) of the JSON that `T` serializes to.
pub(crate) fn output_schema<T: JsonSchema>() -> String {
    schema::<T>(SchemaSettings::draft2020_12().for_serialize())
}

/// The schema of the root type is at the top level, nested types are under `$defs`.
fn schema<T: JsonSchema>(settings: SchemaSettings) -> String {
    settings.into_generator().into_root_schema_for::<T>().as_value().to_string()
}
