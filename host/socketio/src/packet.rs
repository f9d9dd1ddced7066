//! Socket.IO packets (protocol version 5) as text:
//! `<type>[<attachments>-][<namespace>,][<id>][<JSON>]`.
//!
//! This file splits a packet of a client into its fields and writes the head of a packet of the
//! server. It does not read the JSON (`call` does), and it knows neither sessions nor connections.

use smallvec::SmallVec;

use crate::call::Rejected;

/// The type of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A client asks for a namespace, or the server grants it.
    Connect,
    /// One side leaves a namespace.
    Disconnect,
    /// An event.
    Event,
    /// The answer to an event.
    Ack,
    /// The server refuses a namespace.
    ConnectError,
    /// An event with attachments.
    BinaryEvent,
    /// An answer with attachments.
    BinaryAck,
}

impl Kind {
    fn from_digit(digit: u8) -> Option<Self> {
        Some(match digit {
            b'0' => Self::Connect,
            b'1' => Self::Disconnect,
            b'2' => Self::Event,
            b'3' => Self::Ack,
            b'4' => Self::ConnectError,
            b'5' => Self::BinaryEvent,
            b'6' => Self::BinaryAck,
            _ => return None,
        })
    }

    /// The type's digit in a packet with this number of attachments.
    fn digit(self, attachments: usize) -> u8 {
        match (self, attachments) {
            (Self::Connect, _) => b'0',
            (Self::Disconnect, _) => b'1',
            (Self::Event, 0) => b'2',
            (Self::Ack, 0) => b'3',
            (Self::ConnectError, _) => b'4',
            (Self::Event | Self::BinaryEvent, _) => b'5',
            (Self::Ack | Self::BinaryAck, _) => b'6',
        }
    }

    fn has_attachments(self) -> bool {
        matches!(self, Self::BinaryEvent | Self::BinaryAck)
    }
}

/// The fields of a packet, borrowed from its text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    /// The type.
    pub kind: Kind,
    /// How many binary messages follow. Never zero for the two binary types, always zero for the
    /// others.
    pub attachments: usize,
    /// The namespace without a query; `/` if the packet names none.
    pub namespace: &'a str,
    /// The id of an ack.
    pub id: Option<u64>,
    /// The rest, unread: JSON, or nothing.
    pub data: &'a str,
}

impl<'a> Packet<'a> {
    /// Splits a packet into its fields.
    ///
    /// # Errors
    ///
    /// [`Rejected`] if the type is unknown, a binary packet announces no attachments, or a number
    /// does not fit.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Rejected> {
        let kind = text
            .as_bytes()
            .first()
            .and_then(|digit| Kind::from_digit(*digit))
            .ok_or(Rejected::Kind)?;
        // The first character is an ASCII digit, so the rest begins at a character.
        let mut rest = text.get(1..).unwrap_or_default();
        let mut attachments = 0;
        if kind.has_attachments() {
            let (count, after) = leading_number(rest).ok_or(Rejected::Attachments)?;
            let count = count.filter(|count| *count > 0).ok_or(Rejected::Attachments)?;
            attachments = usize::try_from(count).map_err(|_| Rejected::Attachments)?;
            rest = after.strip_prefix('-').ok_or(Rejected::Attachments)?;
        }
        let mut namespace = MAIN_NAMESPACE;
        if rest.starts_with('/') {
            (namespace, rest) = split_at_byte(rest, b',').unwrap_or((rest, ""));
            // Version 4 of the protocol had a query here, and some clients still send one.
            namespace = split_at_byte(namespace, b'?').map_or(namespace, |(path, _)| path);
        }
        let (id, data) = leading_number(rest).ok_or(Rejected::Id)?;
        Ok(Self { kind, attachments, namespace, id, data })
    }
}

/// The namespace of every client that names no other.
pub(crate) const MAIN_NAMESPACE: &str = "/";

/// The number at the beginning, if there is one, and the rest. `None` if the number does not fit.
fn leading_number(text: &str) -> Option<(Option<u64>, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if length == 0 {
        return Some((None, text));
    }
    let (digits, rest) = text.split_at_checked(length)?;
    Some((Some(digits.parse().ok()?), rest))
}

/// Returns the text before and after the first `byte`, which must be ASCII.
fn split_at_byte(text: &str, byte: u8) -> Option<(&str, &str)> {
    let at = memchr::memchr(byte, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The beginning of a packet of the server, up to its JSON.
#[derive(Debug)]
pub(crate) struct Head(SmallVec<[u8; 48]>);

impl Head {
    /// The head of a packet. An event or an ack with attachments gets the binary type.
    pub(crate) fn new(kind: Kind, attachments: usize, namespace: &str, id: Option<u64>) -> Self {
        let mut head = SmallVec::new();
        let mut digits = itoa::Buffer::new();
        head.push(kind.digit(attachments));
        if attachments > 0 {
            head.extend_from_slice(digits.format(attachments).as_bytes());
            head.push(b'-');
        }
        if namespace != MAIN_NAMESPACE {
            head.extend_from_slice(namespace.as_bytes());
            head.push(b',');
        }
        if let Some(id) = id {
            head.extend_from_slice(digits.format(id).as_bytes());
        }
        Self(head)
    }

    /// The text.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Result<(Kind, usize, &str, Option<u64>, &str), Rejected> {
        Packet::parse(text).map(|packet| {
            (packet.kind, packet.attachments, packet.namespace, packet.id, packet.data)
        })
    }

    #[test]
    fn a_packet_is_split_into_its_fields() {
        assert_eq!(fields("0"), Ok((Kind::Connect, 0, "/", None, "")));
        assert_eq!(fields(r#"0/a,{"t":1}"#), Ok((Kind::Connect, 0, "/a", None, r#"{"t":1}"#)));
        assert_eq!(fields("0/a?t=1,"), Ok((Kind::Connect, 0, "/a", None, "")));
        assert_eq!(fields("1"), Ok((Kind::Disconnect, 0, "/", None, "")));
        assert_eq!(fields("1/a"), Ok((Kind::Disconnect, 0, "/a", None, "")));
        assert_eq!(
            fields(r#"212["x","/,"]"#),
            Ok((Kind::Event, 0, "/", Some(12), r#"["x","/,"]"#))
        );
        assert_eq!(fields("2/é,1é"), Ok((Kind::Event, 0, "/é", Some(1), "é")));
        assert_eq!(fields("37[]"), Ok((Kind::Ack, 0, "/", Some(7), "[]")));
        assert_eq!(fields("4{}"), Ok((Kind::ConnectError, 0, "/", None, "{}")));
        assert_eq!(fields("52-/a,7[]"), Ok((Kind::BinaryEvent, 2, "/a", Some(7), "[]")));
        assert_eq!(
            fields("61-18446744073709551615[]"),
            Ok((Kind::BinaryAck, 1, "/", Some(u64::MAX), "[]"))
        );
    }

    #[test]
    fn an_invalid_packet_is_rejected() {
        for text in ["", "7", "abc", "é", "-1[]"] {
            assert_eq!(fields(text), Err(Rejected::Kind), "{text}");
        }
        for text in [
            "5[]",
            "5-[]",
            "50-[]",
            "51[]",
            "5é",
            "51é-",
            "5-1-[]",
            "6 1-[]",
            "5184467440737095516160-[]",
        ] {
            assert_eq!(fields(text), Err(Rejected::Attachments), "{text}");
        }
        assert_eq!(fields("218446744073709551616[]"), Err(Rejected::Id));
    }

    #[test]
    fn a_head_is_what_a_packet_begins_with() {
        let head = |kind, attachments, namespace, id| {
            String::from_utf8(Head::new(kind, attachments, namespace, id).as_bytes().to_vec())
                .unwrap()
        };
        assert_eq!(head(Kind::Connect, 0, "/", None), "0");
        assert_eq!(head(Kind::Disconnect, 0, "/a", None), "1/a,");
        assert_eq!(head(Kind::Event, 0, "/", None), "2");
        assert_eq!(head(Kind::Event, 0, "/a", Some(0)), "2/a,0");
        assert_eq!(head(Kind::Ack, 0, "/", Some(12)), "312");
        assert_eq!(head(Kind::ConnectError, 0, "/a", None), "4/a,");
        assert_eq!(head(Kind::Event, 2, "/", None), "52-");
        assert_eq!(head(Kind::Ack, 1, "/a", Some(u64::MAX)), "61-/a,18446744073709551615");
    }
}

#[cfg(test)]
mod differential;
