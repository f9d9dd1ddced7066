//! An event's or an ack's arguments as they travel: the text that a plugin has written, as it is; or, with attachments, a document with
//! bytes where its placeholders stand.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use socketioxide_core::Value as Serialized;

use crate::effect::Emit;
use crate::event::Json;

use super::outlet::Outlet;

/// `["event",data]`. An event's name has no character that JSON would escape.
pub(super) fn of_emit(outlet: &Outlet, emit: &Emit) -> Option<Serialized> {
    if emit.attachments.is_empty() {
        return Some(of_event(&emit.event, &emit.data));
    }
    let document: Value = serde_json::from_str(emit.data.as_str()).ok()?;
    match outlet.serialize(&emit.event, &(WithAttachments(&document, &emit.attachments),)) {
        Ok(serialized) => Some(serialized),
        Err(error) => {
            tracing::error!(event = emit.event, %error, "event not encoded");
            None
        }
    }
}

/// The same without attachments.
pub(super) fn of_event(event: &str, data: &Json) -> Serialized {
    text(&["[\"", event, "\",", data.as_str(), "]"])
}

/// `[reply]`
pub(super) fn of_reply(reply: &Json) -> Serialized {
    text(&["[", reply.as_str(), "]"])
}

/// `[{"error":rejection}]`
pub(super) fn of_rejection(document: &Value) -> Serialized {
    text(&["[{\"error\":", &document.to_string(), "}]"])
}

fn text(parts: &[&str]) -> Serialized {
    Serialized::Str(parts.concat().into(), None)
}

/// A document in which placeholders are serialized as the bytes that they stand for; the library makes new placeholders of them, in the
/// order in which it meets them.
struct WithAttachments<'emit>(&'emit Value, &'emit [Bytes]);

impl Serialize for WithAttachments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value, attachments) = self;
        match value {
            Value::Object(members) => {
                if members.get("_placeholder") == Some(&Value::Bool(true))
                    && let Some(number) = members.get("num").and_then(Value::as_u64)
                    && let Some(bytes) = usize::try_from(number).ok().and_then(|number| attachments.get(number))
                {
                    return serializer.serialize_bytes(bytes);
                }
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, &WithAttachments(value, attachments))?;
                }
                map.end()
            }
            Value::Array(values) => {
                let mut sequence = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    sequence.serialize_element(&WithAttachments(value, attachments))?;
                }
                sequence.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}
