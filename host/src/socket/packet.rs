//! What a client's packet says: the event's name and its payload, or why it is no event that can be handled.

use std::borrow::Cow;

use bytes::Bytes;
use socketioxide::handler::Value;

use crate::config::Limits;
use crate::event::{Payload, is_event_name};
use crate::rejection::Rejection;

/// What a packet says.
pub(super) struct Packet {
    pub(super) name: String,
    pub(super) payload: Payload,
    /// Why it is no event that can be handled; the payload is empty then.
    pub(super) rejection: Option<Rejection>,
}

impl Packet {
    fn rejected(name: &str, rejection: Rejection) -> Self {
        Self { name: name.to_owned(), payload: Payload::null(), rejection: Some(rejection) }
    }
}

/// Splits a packet into its event's name and payload. The payload stays text: the dispatcher parses it, once.
pub(super) fn read(value: Value, limits: &Limits) -> Packet {
    let (text, attachments) = match value {
        Value::Str(text, attachments) => (text, attachments.unwrap_or_default()),
        // Only another parser than the host's has this form.
        Value::Bytes(_) => return Packet::rejected("", Rejection::invalid("the packet is not text")),
    };
    let text = text.as_str();
    let attached: usize = attachments.iter().map(Bytes::len).sum();
    let Some((name, arguments)) = split(text) else {
        return Packet::rejected("", Rejection::invalid("the packet is not a JSON array that begins with a name"));
    };
    if !is_event_name(&name) {
        let echoed = name.get(..name.floor_char_boundary(MAX_NAME_ECHOED)).unwrap_or_default();
        return Packet::rejected(echoed, Rejection::UnknownEvent);
    }
    if text.len() > limits.message_bytes.get() {
        return Packet::rejected(&name, Rejection::TooLarge(format!("a message has at most {} bytes", limits.message_bytes)));
    }
    if attachments.len() > limits.attachments || attached > limits.attachment_bytes.get() {
        let message = format!("a message has at most {} attachments of {} bytes in all", limits.attachments, limits.attachment_bytes);
        return Packet::rejected(&name, Rejection::TooLarge(message));
    }
    let text = match arguments {
        None => "null",
        Some(argument) => argument,
    };
    Packet {
        name: name.into_owned(),
        payload: Payload { text: text.into(), attachments: attachments.into_iter().map(own).collect() },
        rejection: None,
    }
}

/// An attachment that keeps no more memory than is counted for it: a small one would keep the buffer in which its transport read it, which
/// is larger by far.
fn own(attachment: Bytes) -> Bytes {
    if attachment.len() < READ_BUFFER_BYTES { Bytes::copy_from_slice(&attachment) } else { attachment }
}

/// Attachments of at least as many bytes are about as large as the buffer in which they were read.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// The name in `["name",argument]`, and what stands between it and the last bracket: one argument, if the dispatcher finds that it is JSON.
/// So nothing is parsed here but the name.
fn split(text: &str) -> Option<(Cow<'_, str>, Option<&str>)> {
    let inner = text.trim_ascii().strip_prefix('[')?.strip_suffix(']')?;
    let mut values = serde_json::Deserializer::from_str(inner).into_iter::<Name<'_>>();
    let Name(name) = values.next()?.ok()?;
    let rest = inner.get(values.byte_offset()..)?.trim_ascii();
    match rest.is_empty() {
        true => Some((name, None)),
        false => rest.strip_prefix(',').map(|argument| (name, Some(argument))),
    }
}

/// Borrowed from the packet, where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'packet>(#[serde(borrow)] Cow<'packet, str>);

/// Bytes of a name outside of the grammar that its rejection repeats.
const MAX_NAME_ECHOED: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<(String, String), (String, &'static str)> {
        let packet = read(Value::Str(text.to_owned().into(), None), &Limits::default());
        match packet.rejection {
            None => Ok((packet.name, packet.payload.text.into_string())),
            Some(rejection) => Err((packet.name, rejection.code())),
        }
    }

    #[test]
    fn a_small_attachment_does_not_keep_the_buffer_in_which_it_was_read() {
        for (length, is_copied) in [(1, true), (READ_BUFFER_BYTES - 1, true), (READ_BUFFER_BYTES, false)] {
            let buffer = Bytes::from(vec![7; 2 * READ_BUFFER_BYTES]);
            let value = Value::Str(r#"["note",{"_placeholder":true,"num":0}]"#.into(), Some([buffer.slice(..length)].into()));
            let packet = read(value, &Limits::default());
            assert_eq!(packet.payload.attachments, [buffer.slice(..length)]);
            assert_eq!(packet.payload.attachments[0].as_ptr() != buffer.as_ptr(), is_copied, "{length}");
        }
    }

    #[test]
    fn a_packet_is_an_event_with_at_most_one_argument() {
        let ok = |name: &str, json: &str| Ok((name.to_owned(), json.to_owned()));
        let err = |name: &str, code| Err((name.to_owned(), code));
        assert_eq!(read_text(r#"["ping",{"timestamp":1}]"#), ok("ping", r#"{"timestamp":1}"#));
        assert_eq!(read_text(r#"["ping"]"#), ok("ping", "null"));
        assert_eq!(read_text(r#" [ "ping" , {} ] "#), ok("ping", " {}"));
        // What is not one argument is no JSON, as the dispatcher finds.
        assert_eq!(read_text(r#"["ping",1,2]"#), ok("ping", "1,2"));
        assert_eq!(read_text(r#"["ping",1],["evil",2]"#), ok("ping", r#"1],["evil",2"#));
        assert_eq!(read_text(r#"["ping" 1]"#), err("", "invalid_payload"));
        assert_eq!(read_text(r#"[1]"#), err("", "invalid_payload"));
        assert_eq!(read_text("[]"), err("", "invalid_payload"));
        assert_eq!(read_text("["), err("", "invalid_payload"));
        assert_eq!(read_text(r#"["$connect"]"#), err("$connect", "unknown_event"));
        assert_eq!(read_text(r#"["disconnect"]"#), err("disconnect", "unknown_event"));
        assert_eq!(read_text(r#"[""]"#), err("", "unknown_event"));
        assert_eq!(read_text(&format!(r#"["ping","{}"]"#, "x".repeat(128 << 10))), err("ping", "too_large"));
    }
}
