//! Reads a client's packet: the event's name and its payload, or why it can't be handled.

use bytes::Bytes;

use crate::config::Limits;
use crate::event::{AUTHENTICATE, Payload, is_event_name};
use crate::rejection::Rejection;
use crate::socketio::Incoming;

/// The content of a packet.
pub(super) struct ParsedPacket {
    pub(super) name: String,
    pub(super) payload: Payload,
    /// Why the packet is not an event that can be handled. The payload is `null` then.
    pub(super) rejection: Option<Rejection>,
}

impl ParsedPacket {
    fn rejected(name: &str, rejection: Rejection) -> Self {
        Self { name: name.to_owned(), payload: Payload::null(), rejection: Some(rejection) }
    }
}

/// Reads a packet. The payload stays text, so that it is parsed only once, by the dispatcher.
pub(super) fn read(incoming: Incoming<'_>, limits: &Limits) -> ParsedPacket {
    let Incoming { call, bytes, attachments, .. } = incoming;
    let attached: usize = attachments.iter().map(Bytes::len).sum();
    let Some((name, arguments)) = call else {
        return ParsedPacket::rejected(
            "",
            Rejection::invalid("the packet is not a JSON array that begins with a name"),
        );
    };
    if !is_event_name(&name) && name != AUTHENTICATE {
        let echoed = name.get(..name.floor_char_boundary(MAX_NAME_ECHOED)).unwrap_or_default();
        return ParsedPacket::rejected(echoed, Rejection::UnknownEvent);
    }
    if bytes > limits.message_bytes.get() {
        return ParsedPacket::rejected(
            &name,
            Rejection::TooLarge(format!("a message has at most {} bytes", limits.message_bytes)),
        );
    }
    if attachments.len() > limits.attachments || attached > limits.attachment_bytes.get() {
        let message = format!(
            "a message has at most {} attachments of {} bytes in all",
            limits.attachments, limits.attachment_bytes
        );
        return ParsedPacket::rejected(&name, Rejection::TooLarge(message));
    }
    ParsedPacket {
        name: name.into_owned(),
        payload: Payload { text: arguments.into(), attachments },
        rejection: None,
    }
}

/// Maximum number of bytes of an invalid event name that its rejection repeats.
const MAX_NAME_ECHOED: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn read_call(
        call: Option<(&str, &str)>,
        bytes: usize,
        attachments: &[&'static [u8]],
    ) -> Result<(String, String), (String, &'static str)> {
        let call = call.map(|(name, arguments)| (name.into(), arguments));
        let attachments = attachments.iter().map(|bytes| Bytes::from_static(bytes)).collect();
        let packet = read(Incoming { call, bytes, attachments, ack: None }, &Limits::default());
        match packet.rejection {
            None => Ok((packet.name, packet.payload.text.into_string())),
            Some(rejection) => Err((packet.name, rejection.code())),
        }
    }

    #[test]
    fn a_packet_is_an_event_that_has_a_name_and_is_not_too_large() {
        let ok = |name: &str, json: &str| Ok((name.to_owned(), json.to_owned()));
        let err = |name: &str, code| Err((name.to_owned(), code));
        assert_eq!(read_call(Some(("ping", "{}")), 9, &[]), ok("ping", "{}"));
        assert_eq!(read_call(Some(("ping", "")), 9, &[]), ok("ping", ""));
        assert_eq!(read_call(None, 9, &[]), err("", "invalid_payload"));
        assert_eq!(read_call(Some(("$connect", "")), 9, &[]), err("$connect", "unknown_event"));
        assert_eq!(read_call(Some(("disconnect", "")), 9, &[]), err("disconnect", "unknown_event"));
        assert_eq!(read_call(Some(("", "")), 9, &[]), err("", "unknown_event"));
        let limits = Limits::default();
        assert_eq!(
            read_call(Some(("ping", "1")), limits.message_bytes.get(), &[]),
            ok("ping", "1")
        );
        assert_eq!(
            read_call(Some(("ping", "1")), limits.message_bytes.get() + 1, &[]),
            err("ping", "too_large")
        );
        assert_eq!(
            read_call(Some(("ping", "1")), 9, &vec![&b"x"[..]; limits.attachments + 1]),
            err("ping", "too_large")
        );
    }
}
