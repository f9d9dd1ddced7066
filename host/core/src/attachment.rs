//! The placeholders of binary attachments in JSON: `{"_placeholder": true, "num": 0}` stands for
//! the first attachment. This is the only definition of a placeholder in parsed JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The member that marks an object as a placeholder. Its value is `true`.
pub const PLACEHOLDER: &str = "_placeholder";

/// The member of a placeholder with the index of its attachment, counted from 0.
pub const INDEX: &str = "num";

/// A placeholder, as it is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placeholder {
    #[serde(rename = "_placeholder")]
    is_placeholder: bool,
    num: u32,
}

impl Placeholder {
    /// The placeholder of the attachment with this index, counted from 0.
    #[must_use]
    pub const fn new(index: u32) -> Self {
        Self { is_placeholder: true, num: index }
    }

    /// The index of its attachment.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.num
    }
}

/// Returns the index of the attachment that the object with these members stands for, or `None` if
/// the object is not a placeholder.
pub fn index_of(members: &Map<String, Value>) -> Option<u64> {
    // Nearly no object is a placeholder, and the number of its members is known without a search.
    if members.len() < 2 || !is_marked(members) {
        return None;
    }
    members.get(INDEX)?.as_u64()
}

/// Whether the placeholders of `data` name each of `attachments` attachments exactly once, and
/// nothing else. With attachments, an object that is marked as a placeholder must be one: clients
/// close their connection on any other index, such as `"splice"`.
pub fn placeholders_match(data: &Value, attachments: usize) -> bool {
    fn collect(
        value: &Value,
        is_placeholder: fn(&Map<String, Value>) -> bool,
        found: &mut Vec<u64>,
    ) {
        match value {
            Value::Object(members) if is_placeholder(members) => {
                found.push(members.get(INDEX).and_then(Value::as_u64).unwrap_or(u64::MAX));
            }
            Value::Object(members) => {
                members.values().for_each(|value| collect(value, is_placeholder, found));
            }
            Value::Array(values) => {
                values.iter().for_each(|value| collect(value, is_placeholder, found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    if attachments == 0 {
        collect(data, |members| index_of(members).is_some(), &mut found);
    } else {
        collect(data, is_marked, &mut found);
    }
    found.sort_unstable();
    found.into_iter().eq(0..attachments as u64)
}

fn is_marked(members: &Map<String, Value>) -> bool {
    members.get(PLACEHOLDER) == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_written_placeholder_is_recognised() {
        let written = serde_json::to_value(Placeholder::new(3)).unwrap();
        assert_eq!(index_of(written.as_object().unwrap()), Some(3));
        assert_eq!(written, json!({PLACEHOLDER: true, INDEX: 3}));
    }

    #[test]
    fn each_attachment_is_named_exactly_once() {
        let of = |index: u64| json!({"_placeholder": true, "num": index});
        assert!(placeholders_match(&json!({"plain": [1, {"num": 0}]}), 0));
        assert!(placeholders_match(&json!([of(1), {"deep": of(0)}]), 2));
        let forged = json!({"_placeholder": true, "num": "splice"});
        assert!(placeholders_match(&forged, 0), "an event without attachments has no placeholders");
        for (data, attachments) in [
            (json!(null), 1),
            (of(0), 0),
            (of(0), 2),
            (of(1), 1),
            (json!([of(0), of(0)]), 1),
            (json!({"_placeholder": false, "num": 0}), 1),
            (json!({"_placeholder": true}), 1),
            (json!({"_placeholder": true, "num": -1}), 1),
            (json!([of(0), forged]), 1),
            (json!([of(0), {"_placeholder": true}]), 1),
        ] {
            assert!(!placeholders_match(&data, attachments), "{data} {attachments}");
        }
    }
}
