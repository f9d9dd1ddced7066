//! The JSON of payloads, replies and emitted data: the types that have it, their schemas, and the
//! encoding.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::{Refusal, Result};

/// The payload of an event, or the data of a timer: a type of the plugin that derives
/// `serde::Deserialize` and `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be the payload of an event or the data of a timer",
    label = "this handler takes a `{Self}`",
    note = "put `#[derive(serde::Deserialize, schemars::JsonSchema)]` on `{Self}`: the host checks \
            payloads against its schema"
)]
pub trait Payload: DeserializeOwned + JsonSchema {}

#[diagnostic::do_not_recommend]
impl<T: DeserializeOwned + JsonSchema> Payload for T {}

/// The reply of a handler, or the data of an emitted event or of a timer: a type that derives
/// `serde::Serialize` and `schemars::JsonSchema`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` can't be sent to clients or be the data of a timer",
    label = "this would send or store a `{Self}`",
    note = "put `#[derive(serde::Serialize, schemars::JsonSchema)]` on `{Self}`: the host checks \
            what is sent or stored against its schema"
)]
pub trait Output: Serialize + JsonSchema + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + JsonSchema + 'static> Output for T {}

/// Returns `value` as JSON text.
pub(crate) fn encode(value: &(impl Serialize + ?Sized)) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Refusal::misuse(format!("this value can't be written as JSON: {error}")))
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
