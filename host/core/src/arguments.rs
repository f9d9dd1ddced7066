//! The arguments of a message: one, or a list that a plugin declares.

use std::borrow::Cow;

use serde_json::Value;

/// A message of an event type, for which a plugin can declare a list of arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// The event that a client sends.
    Event,
    /// The ack of the event.
    Reply,
    /// The event that the plugin emits.
    Emit,
}

/// How many arguments a message has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Arguments {
    /// One. The schema is that of the argument.
    #[default]
    One,
    /// As many as the schema allows, which is that of the array of all arguments.
    List,
}

impl Arguments {
    /// Whether the message has a list of arguments.
    #[must_use]
    pub fn are_list(self) -> bool {
        self == Self::List
    }

    /// Returns the JSON text of the payload that a handler gets. `arguments` are the JSON texts of
    /// the arguments, separated by commas. No argument counts as `null`, or is the empty list.
    #[must_use]
    pub fn payload(self, arguments: &str) -> Cow<'_, str> {
        match self {
            Self::One if arguments.is_empty() => Cow::Borrowed("null"),
            Self::One => Cow::Borrowed(arguments),
            Self::List => Cow::Owned(["[", arguments, "]"].concat()),
        }
    }

    /// How many levels the document of the message is nested deeper than its arguments.
    #[must_use]
    pub fn levels(self) -> usize {
        usize::from(self.are_list())
    }

    /// Returns the first argument of a message. `document` is its document, which the schema
    /// describes. `null` if there is none.
    #[must_use]
    pub fn first(self, document: &Value) -> &Value {
        const NONE: &Value = &Value::Null;
        match self {
            Self::One => document,
            Self::List => document.get(0).unwrap_or(NONE),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_payload_is_one_argument_or_the_array_of_all() {
        for (arguments, one, list) in [
            ("", "null", "[]"),
            ("null", "null", "[null]"),
            ("[1]", "[1]", "[[1]]"),
            (r#"1,"2""#, r#"1,"2""#, r#"[1,"2"]"#),
        ] {
            assert_eq!(Arguments::One.payload(arguments), one);
            assert_eq!(Arguments::List.payload(arguments), list);
        }
    }

    #[test]
    fn the_first_argument_of_a_list_is_its_first_element() {
        let document = json!([{"a": 1}, 2]);
        assert_eq!(Arguments::One.first(&document), &document);
        assert_eq!(Arguments::List.first(&document), &json!({"a": 1}));
        assert_eq!(Arguments::List.first(&json!([])), &Value::Null);
    }
}
