//! The JSON of an event and of an ack: `["name",…]` and `[…]`, each argument as a slice of the
//! text.
//!
//! The text is checked once and completely, so an application can rely on well-formed arguments.
//! Nothing is unescaped or copied except a name with escapes, and nothing recurses, so depth costs
//! no stack.

mod placeholders;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use thiserror::Error;

pub use placeholders::placeholders_are_valid;

/// Why a packet of a client is invalid. The session ends then, as with the reference server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum Rejected {
    /// The first character is not a packet type.
    #[error("unknown packet type")]
    Kind,
    /// The number of attachments is missing, zero or too large for a number.
    #[error("invalid number of attachments")]
    Attachments,
    /// The id of an ack is missing or too large for a number.
    #[error("invalid ack id")]
    Id,
    /// The data is not the JSON that a packet of this type has.
    #[error("invalid payload")]
    Payload,
    /// The packet is not one that a client may send now.
    #[error("unexpected packet")]
    Unexpected,
    /// The name is one that no client may send, such as `disconnect`.
    #[error("reserved event name")]
    ReservedName,
}

/// The elements of an array, each as JSON text.
pub(crate) type Arguments<'a> = SmallVec<[&'a str; 3]>;

/// An event: its name and its arguments.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// The name. The reference server allows a number, which is here as it was written.
    pub name: Cow<'a, str>,
    /// Each argument as JSON text.
    pub arguments: Arguments<'a>,
    /// All arguments as they are in the packet, separated by commas.
    pub text: &'a str,
}

/// The events of the libraries themselves. A client that sends one is not a stock client.
const RESERVED_NAMES: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

impl<'a> Call<'a> {
    /// Splits `["name",…]`.
    ///
    /// # Errors
    ///
    /// [`Rejected::Payload`] if the text is not a JSON array that begins with a name,
    /// [`Rejected::ReservedName`] if the name is one of the libraries' own events.
    pub(crate) fn parse(data: &'a str) -> Result<Self, Rejected> {
        let mut arguments = elements(data).ok_or(Rejected::Payload)?;
        if arguments.is_empty() {
            return Err(Rejected::Payload);
        }
        let name = name(arguments.remove(0)).ok_or(Rejected::Payload)?;
        if RESERVED_NAMES.contains(&&*name) {
            return Err(Rejected::ReservedName);
        }
        let text = span(data, &arguments);
        Ok(Self { name, arguments, text })
    }
}

/// The answer to an event: the arguments in `[…]`, separated by commas.
///
/// # Errors
///
/// [`Rejected::Payload`] if the text is not a JSON array.
pub(crate) fn parse_reply(data: &str) -> Result<&str, Rejected> {
    let arguments = elements(data).ok_or(Rejected::Payload)?;
    Ok(span(data, &arguments))
}

/// The JSON object that a client sends with CONNECT; `{}` if it sends none.
///
/// # Errors
///
/// [`Rejected::Payload`] if the text is not a JSON object.
pub(crate) fn parse_auth(data: &str) -> Result<&str, Rejected> {
    if data.is_empty() {
        return Ok("{}");
    }
    let value: &RawValue = serde_json::from_str(data).map_err(|_| Rejected::Payload)?;
    if value.get().starts_with('{') { Ok(value.get()) } else { Err(Rejected::Payload) }
}

/// The name in JSON text that is known to be well formed.
fn name(json: &str) -> Option<Cow<'_, str>> {
    match json.as_bytes() {
        [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => {
            json.get(1..json.len() - 1).map(Cow::Borrowed)
        }
        // A name may hold half a surrogate pair, which is no text here.
        [b'"', ..] => serde_json::from_str(json).ok().map(Cow::Owned),
        [b'-' | b'0'..=b'9', ..] => Some(Cow::Borrowed(json)),
        _ => None,
    }
}

/// The part of `data` from the first to the last of its elements.
fn span<'a>(data: &'a str, elements: &[&'a str]) -> &'a str {
    let (Some(first), Some(last)) = (elements.first(), elements.last()) else { return "" };
    // Both are slices of `data`.
    let begin = first.as_ptr().addr().wrapping_sub(data.as_ptr().addr());
    let end = last.as_ptr().addr().wrapping_sub(data.as_ptr().addr()).wrapping_add(last.len());
    data.get(begin..end).unwrap_or_default()
}

/// The elements of a JSON array. `None` if the text is anything else.
fn elements(data: &str) -> Option<Arguments<'_>> {
    serde_json::from_str::<Elements<'_>>(data).ok().map(|elements| elements.0)
}

struct Elements<'a>(Arguments<'a>);

impl<'de> Deserialize<'de> for Elements<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor)
    }
}

struct ElementsVisitor;

impl<'de> Visitor<'de> for ElementsVisitor {
    type Value = Elements<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut arguments = Arguments::new();
        while let Some(value) = sequence.next_element::<&'de RawValue>()? {
            arguments.push(value.get());
        }
        Ok(Elements(arguments))
    }
}

/// An event's name as JSON text.
pub(crate) fn quote(name: &str) -> SmallVec<[u8; 64]> {
    let mut text = SmallVec::new();
    if name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.push(b'"');
    } else {
        // A string can always be serialized.
        text.extend_from_slice(&serde_json::to_vec(name).unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_a_name_and_its_arguments() {
        let call = Call::parse(r#" [ "a\u0062" , {"x":[1, 2]} ,"y" ] "#).unwrap();
        assert_eq!(call.name, "ab");
        assert_eq!(&call.arguments[..], [r#"{"x":[1, 2]}"#, r#""y""#]);
        assert_eq!(call.text, r#"{"x":[1, 2]} ,"y""#);
        let call = Call::parse(r#"["name"]"#).unwrap();
        assert!(matches!(call.name, Cow::Borrowed("name")));
        assert_eq!((call.arguments.len(), call.text), (0, ""));
        assert_eq!(Call::parse("[-1,null]").unwrap().name, "-1");
        assert_eq!(Call::parse(r#"[""]"#).unwrap().name, "");
        assert_eq!(Call::parse(r#"["a","\ud800"]"#).unwrap().text, r#""\ud800""#);
    }

    #[test]
    fn an_invalid_call_is_rejected() {
        for data in [
            "",
            "{}",
            "[]",
            "[{}]",
            "[null]",
            "[true]",
            "[[]]",
            r#"["a",]"#,
            r#"["a",1"#,
            r#"["a",NaN]"#,
            r#"x["a"]"#,
            r#"["a"]x"#,
            r#"["a",01]"#,
            r#"["a" 1]"#,
            r#"["\ud800"]"#,
            "\"a\"",
            "[\"a\u{0}\"]",
            r#"['a']"#,
        ] {
            assert_eq!(Call::parse(data).unwrap_err(), Rejected::Payload, "{data}");
        }
        for name in RESERVED_NAMES {
            assert_eq!(Call::parse(&format!(r#"["{name}"]"#)).unwrap_err(), Rejected::ReservedName);
        }
        assert_eq!(Call::parse(r#"["\u0063onnect"]"#).unwrap_err(), Rejected::ReservedName);
    }

    #[test]
    fn a_reply_is_the_text_between_the_brackets() {
        assert_eq!(parse_reply(r#"[ 1 ,"2" ]"#), Ok(r#"1 ,"2""#));
        assert_eq!(parse_reply("[]"), Ok(""));
        for data in ["", "{}", "1", "[1", "[1]]"] {
            assert_eq!(parse_reply(data), Err(Rejected::Payload), "{data}");
        }
    }

    #[test]
    fn auth_is_an_object() {
        assert_eq!(parse_auth(""), Ok("{}"));
        assert_eq!(parse_auth(r#" {"a":[]} "#), Ok(r#"{"a":[]}"#));
        for data in ["[]", "1", "null", "\"{\"", "{", "{}{}", "abc", " "] {
            assert_eq!(parse_auth(data), Err(Rejected::Payload), "{data}");
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(400_000) + &"]".repeat(400_000);
        assert_eq!(Call::parse(&format!(r#"["a",{deep}]"#)).unwrap().text.len(), deep.len());
        assert_eq!(parse_reply(&deep).unwrap().len(), deep.len() - 2);
        assert!(parse_auth(&format!(r#"{{"a":{deep}}}"#)).is_ok());
        assert!(placeholders_are_valid(&deep, 1));
    }

    #[test]
    fn a_name_is_quoted_as_json() {
        for name in ["ping", "", "a b", "\"", "\\", "é", "\u{7}", "</script>"] {
            assert_eq!(serde_json::from_slice::<String>(&quote(name)).unwrap(), name);
        }
    }
}
