//! Encodes the arguments of an event or an ack, and splits a client's packet into name and
//! arguments. Without attachments, the plugin's text is sent unchanged. With attachments,
//! placeholders are replaced by bytes.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, SerializeTuple, Serializer};
use serde_json::Value;
use socketioxide_core::Value as Serialized;
use sockhop_core::attachment::index_of;

use crate::effect::Emit;

use super::adapter::Adapter;

/// Encodes `["event",arguments]`. An event's name has no character that JSON would escape.
pub(super) fn of_emit(adapter: &Adapter, emit: &Emit) -> Option<Serialized> {
    let arguments = emit.data.arguments();
    if emit.attachments.is_empty() {
        return Some(of_event(&emit.event, arguments));
    }
    with_attachments(adapter, Some(&emit.event), arguments, &emit.attachments)
}

/// Like [`of_emit`], without attachments.
pub(super) fn of_event(event: &str, arguments: &str) -> Serialized {
    let comma = if arguments.is_empty() { "" } else { "," };
    text(&["[\"", event, "\"", comma, arguments, "]"])
}

/// Encodes `[arguments]`.
pub(super) fn of_ack(
    adapter: &Adapter,
    arguments: &str,
    attachments: &[Bytes],
) -> Option<Serialized> {
    if attachments.is_empty() {
        return Some(text(&["[", arguments, "]"]));
    }
    with_attachments(adapter, None, arguments, attachments)
}

/// Encodes arguments with attachments, after the name of their event if they are not those of an
/// ack.
fn with_attachments(
    adapter: &Adapter,
    event: Option<&str>,
    arguments: &str,
    attachments: &[Bytes],
) -> Option<Serialized> {
    let documents: Vec<Value> = serde_json::from_str(&["[", arguments, "]"].concat()).ok()?;
    match adapter.serialize(event, &Arguments(&documents, attachments)) {
        Ok(serialized) => Some(serialized),
        Err(error) => {
            tracing::error!(event, %error, "message not encoded");
            None
        }
    }
}

/// The arguments of one message. A tuple, because the library makes arguments of the elements of a
/// tuple only.
struct Arguments<'message>(&'message [Value], &'message [Bytes]);

impl Serialize for Arguments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(documents, attachments) = self;
        let mut tuple = serializer.serialize_tuple(documents.len())?;
        for document in *documents {
            tuple.serialize_element(&WithAttachments(document, attachments))?;
        }
        tuple.end()
    }
}

fn text(parts: &[&str]) -> Serialized {
    Serialized::Str(parts.concat().into(), None)
}

/// A document whose placeholders are serialized as the bytes that they stand for. The library
/// replaces the bytes by new placeholders, in the order of serialization.
struct WithAttachments<'emit>(&'emit Value, &'emit [Bytes]);

impl Serialize for WithAttachments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value, attachments) = self;
        match value {
            Value::Object(members) => {
                if let Some(bytes) = index_of(members)
                    .and_then(|index| attachments.get(usize::try_from(index).ok()?))
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

/// Splits `["name",argument]` into the name and the text between it and the last bracket. Only the
/// name is parsed here. The dispatcher checks the arguments.
pub(super) fn split(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let inner = text.trim_ascii().strip_prefix('[')?.strip_suffix(']')?;
    let mut values = serde_json::Deserializer::from_str(inner).into_iter::<Name<'_>>();
    let Name(name) = values.next()?.ok()?;
    let rest = inner.get(values.byte_offset()..)?.trim_ascii();
    if rest.is_empty() {
        Some((name, ""))
    } else {
        rest.strip_prefix(',').map(|argument| (name, argument))
    }
}

/// Borrowed from the packet if the name has no escapes.
#[derive(Deserialize)]
struct Name<'packet>(#[serde(borrow)] Cow<'packet, str>);

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_packet_is_a_name_and_the_rest_of_an_array() {
        let split = |text| split(text).map(|(name, rest)| (name.into_owned(), rest.to_owned()));
        let some = |name: &str, rest: &str| Some((name.to_owned(), rest.to_owned()));
        assert_eq!(split(r#"["ping",{"timestamp":1}]"#), some("ping", r#"{"timestamp":1}"#));
        assert_eq!(split(r#"["ping"]"#), some("ping", ""));
        assert_eq!(split(r#" [ "ping" , {} ] "#), some("ping", " {}"));
        // Text that is not one argument is not JSON, which the dispatcher detects.
        assert_eq!(split(r#"["ping",1,2]"#), some("ping", "1,2"));
        assert_eq!(split(r#"["ping",1],["evil",2]"#), some("ping", r#"1],["evil",2"#));
        for text in [r#"["ping" 1]"#, "[1]", "[]", "[", ""] {
            assert_eq!(split(text), None, "{text}");
        }
    }
}
