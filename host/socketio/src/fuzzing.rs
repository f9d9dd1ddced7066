//! Functions for fuzzers: each reads bytes of a client and checks properties that hold for any
//! bytes.
//!
//! Not part of the crate's interface. A function fails by panicking.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::call::{Call, parse_auth, parse_reply, placeholders_are_valid};
use crate::packet::{Kind, Packet};

pub use crate::engineio::fuzzing::{frames, polling_body, request};

/// A Socket.IO packet.
pub fn packet(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(packet) = Packet::parse(text) else { return };
    assert!(packet.namespace.starts_with('/') && !packet.namespace.contains([',', '?']));
    assert!(text.ends_with(packet.data));
    let is_binary = matches!(packet.kind, Kind::BinaryEvent | Kind::BinaryAck);
    assert_eq!(is_binary, packet.attachments > 0);
    match packet.kind {
        Kind::Event | Kind::BinaryEvent => event(&packet),
        Kind::Ack | Kind::BinaryAck => {
            if let Ok(arguments) = parse_reply(packet.data) {
                assert!(is_json(&format!("[{arguments}]")));
            }
        }
        Kind::Connect => {
            if let Ok(auth) = parse_auth(packet.data) {
                assert!(auth.starts_with('{') && is_json(auth));
            }
        }
        Kind::Disconnect | Kind::ConnectError => {}
    }
}

fn event(packet: &Packet<'_>) {
    let Ok(call) = Call::parse(packet.data) else { return };
    assert!(call.name != "disconnect" && call.name != "connect");
    assert!(call.arguments.iter().all(|argument| is_json(argument)));
    // The text holds the same arguments.
    let text = format!("[0,{}]", if call.text.is_empty() { "1" } else { call.text });
    let again = Call::parse(&text);
    let arguments = again.as_ref().map(|again| &again.arguments[..]);
    if !call.arguments.is_empty() {
        assert_eq!(arguments, Ok(&call.arguments[..]));
    }
    assert_eq!(call.text.is_empty(), call.arguments.is_empty());
    assert_eq!(packet.attachments > 0, packet.kind == Kind::BinaryEvent);
}

/// The arguments of an event, for whose placeholders the first byte says how many attachments there
/// are.
pub fn placeholders(data: &[u8]) {
    let Some((attachments, json)) = data.split_first() else { return };
    let attachments = usize::from(*attachments & 3);
    let Ok(json) = std::str::from_utf8(json) else { return };
    let is_valid = placeholders_are_valid(json, attachments);
    // Another parser decides about JSON that it can read: it knows neither great depth nor half a
    // surrogate pair.
    if let Ok(value) = serde_json::from_str::<Value>(json) {
        assert_eq!(is_valid, names_only_attachments(&value, attachments));
    }
}

fn names_only_attachments(value: &Value, attachments: usize) -> bool {
    match value {
        Value::Array(values) => {
            values.iter().all(|value| names_only_attachments(value, attachments))
        }
        Value::Object(fields) if fields.get("_placeholder") == Some(&Value::Bool(true)) => {
            let number = fields.get("num").and_then(Value::as_f64);
            let is_index =
                (0..attachments).any(|index| number == u32::try_from(index).ok().map(f64::from));
            is_index && fields.values().all(|value| names_only_attachments(value, attachments))
        }
        Value::Object(fields) => {
            fields.values().all(|value| names_only_attachments(value, attachments))
        }
        _ => true,
    }
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
