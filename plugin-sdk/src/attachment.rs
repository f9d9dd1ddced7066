//! Placeholders of binary attachments, as JSON.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sockhop_core::attachment::{INDEX, PLACEHOLDER, Placeholder};

/// The placeholder of a binary attachment in a payload, an emitted event, or a reply, for which
/// [`Context::attach`](crate::Context::attach) returns it. On the wire it is
/// `{"_placeholder": true, "num": 0}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attachment(Placeholder);

impl Attachment {
    /// The placeholder of the attachment with index `num`, counted from 0.
    #[must_use]
    pub const fn new(num: u32) -> Self {
        Self(Placeholder::new(num))
    }

    pub(crate) const fn index(self) -> u32 {
        self.0.index()
    }
}

impl JsonSchema for Attachment {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Attachment")
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "properties": {
                (PLACEHOLDER): {"const": true},
                (INDEX): {"type": "integer", "minimum": 0, "maximum": u32::MAX},
            },
            "required": [PLACEHOLDER, INDEX],
        })
    }
}
