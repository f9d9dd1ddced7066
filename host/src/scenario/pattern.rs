//! Patterns in what a scenario expects. Everything is exact, except these:
//!
//! | pattern | stands for |
//! |---|---|
//! | `"$any"` | anything that is there |
//! | `"$any:TYPE"` | anything of a type: `string`, `number`, `integer`, `boolean`, `array`, `object` |
//! | `"$NAME"` | the first time anything, which is kept under this name; later the same value |
//! | `{"$contains": {…}}` | an object that has at least these members |
//! | `{"$contains": […]}` | an array that has at least these elements, in any order |
//! | `"$$TEXT"` | the text `$TEXT` itself |
//!
//! In what a client sends, `"$NAME"` is the value that was kept.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

/// The values that patterns have kept, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Captures(BTreeMap<String, Value>);

/// A scenario sends a value that no pattern has kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no earlier step has kept a value as `${0}`; write \"${0}\" where an earlier step expects the \
     value, or \"$${0}\" for the text"
)]
pub struct UnknownCapture(String);

/// The member of an object that makes it a pattern for a part.
const CONTAINS: &str = "$contains";

/// What stands for a value that is not there.
const ABSENT: &str = "$absent";

/// Returns what stands for a value that is not there: nothing but the pattern `"$absent"` is equal
/// to it.
pub fn absent() -> Value {
    Value::from(ABSENT)
}

/// Returns bytes as a value: text if they are UTF-8 without control characters, else
/// `{"$base64": …}`.
pub fn bytes_value(bytes: &[u8]) -> Value {
    let is_plain = |text: &&str| !text.chars().any(|sign| sign.is_control() && sign != '\n');
    match std::str::from_utf8(bytes).ok().filter(is_plain) {
        Some(text) => Value::from(text),
        None => json!({"$base64": STANDARD.encode(bytes)}),
    }
}

/// What a pattern is.
enum Pattern<'text> {
    Any(Option<&'text str>),
    Named(&'text str),
    Absent,
    Text(&'text str),
}

impl<'text> Pattern<'text> {
    fn of(text: &'text str) -> Self {
        match text.strip_prefix('$') {
            Some("any") => Self::Any(None),
            Some("absent") => Self::Absent,
            Some(rest) if rest.starts_with('$') => Self::Text(rest),
            Some(rest) => match rest.strip_prefix("any:") {
                Some(kind) => Self::Any(Some(kind)),
                None if is_name(rest) => Self::Named(rest),
                None => Self::Text(text),
            },
            None => Self::Text(text),
        }
    }
}

/// Whether a text can be the name of a value: letters, digits and `_`, not beginning with a digit.
fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|sign| sign.is_ascii_alphanumeric() || sign == '_')
}

/// Compares a value with what was expected. Returns what differs, each with its place.
pub(super) fn compare(expected: &Value, actual: &Value, captures: &mut Captures) -> Vec<String> {
    let mut found = Vec::new();
    compare_at("", expected, actual, captures, &mut found);
    found
}

fn compare_at(
    place: &str,
    expected: &Value,
    actual: &Value,
    captures: &mut Captures,
    found: &mut Vec<String>,
) {
    let mut differs = |expected: &str| {
        let place = if place.is_empty() { String::new() } else { format!("at {place}: ") };
        found.push(format!("{place}expected {expected}, found {}", short(actual)));
    };
    match (expected, actual) {
        (Value::String(text), _) => match Pattern::of(text) {
            Pattern::Absent if *actual == absent() => {}
            Pattern::Absent => differs("nothing"),
            Pattern::Any(_) | Pattern::Named(_) if *actual == absent() => differs("a value"),
            Pattern::Any(None) => {}
            Pattern::Any(Some(kind)) if is_kind(kind, actual) => {}
            Pattern::Any(Some(kind)) => differs(&format!("any {kind}")),
            Pattern::Named(name) => match captures.0.get(name) {
                Some(kept) if *kept == *actual => {}
                Some(kept) => differs(&format!("{} (kept as ${name})", short(kept))),
                None => drop(captures.0.insert(name.to_owned(), actual.clone())),
            },
            Pattern::Text(text) if actual.as_str() == Some(text) => {}
            Pattern::Text(text) => differs(&short(&Value::from(text))),
        },
        (Value::Object(members), _) if members.len() == 1 && members.contains_key(CONTAINS) => {
            let part = members.get(CONTAINS).unwrap_or(&Value::Null);
            contains_at(place, part, actual, captures, found);
        }
        (Value::Object(expected), Value::Object(actual)) => {
            members_at(place, expected, actual, captures, found);
            for (name, value) in actual.iter().filter(|(name, _)| !expected.contains_key(*name)) {
                found.push(format!("at {place}.{name}: unexpected {}", short(value)));
            }
        }
        (Value::Array(expected), Value::Array(actual)) => {
            for (index, pair) in expected.iter().zip(actual).enumerate() {
                let place = format!("{place}[{index}]");
                compare_at(&place, pair.0, pair.1, captures, found);
            }
            for (index, missing) in expected.iter().enumerate().skip(actual.len()) {
                found.push(format!(
                    "at {place}[{index}]: expected {}, found nothing",
                    short(missing)
                ));
            }
            for (index, more) in actual.iter().enumerate().skip(expected.len()) {
                found.push(format!("at {place}[{index}]: unexpected {}", short(more)));
            }
        }
        (Value::Number(one), Value::Number(other)) if is_same_number(one, other) => {}
        (expected, actual) if expected == actual => {}
        (expected, _) => differs(&short(expected)),
    }
}

/// Compares the members that are expected.
fn members_at(
    place: &str,
    expected: &Map<String, Value>,
    actual: &Map<String, Value>,
    captures: &mut Captures,
    found: &mut Vec<String>,
) {
    let nothing = absent();
    for (name, expected) in expected {
        let place = format!("{place}.{name}");
        compare_at(&place, expected, actual.get(name).unwrap_or(&nothing), captures, found);
    }
}

fn contains_at(
    place: &str,
    part: &Value,
    actual: &Value,
    captures: &mut Captures,
    found: &mut Vec<String>,
) {
    match (part, actual) {
        (Value::Object(part), Value::Object(actual)) => {
            members_at(place, part, actual, captures, found);
        }
        (Value::Array(part), Value::Array(actual)) => {
            let mut left: Vec<&Value> = actual.iter().collect();
            for expected in part {
                let is_equal = |other: &&Value| {
                    let mut tried = captures.clone();
                    compare(expected, other, &mut tried).is_empty()
                };
                let Some(index) = left.iter().position(is_equal) else {
                    let place =
                        if place.is_empty() { String::new() } else { format!("at {place}: ") };
                    found.push(format!(
                        "{place}expected an element {}, found none",
                        short(expected)
                    ));
                    continue;
                };
                let element = left.remove(index);
                compare_at(place, expected, element, captures, found);
            }
        }
        _ => {
            let place = if place.is_empty() { String::new() } else { format!("at {place}: ") };
            let kind = if part.is_array() { "an array" } else { "an object" };
            found.push(format!("{place}expected {kind}, found {}", short(actual)));
        }
    }
}

fn is_kind(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

/// Whether two numbers are the same, however they are written: 1 and 1.0 are.
fn is_same_number(one: &serde_json::Number, other: &serde_json::Number) -> bool {
    one == other || ((one.is_f64() || other.is_f64()) && one.as_f64() == other.as_f64())
}

/// The longest value in a line of text, in characters.
const SHORT: usize = 80;

fn short(value: &Value) -> String {
    if *value == absent() {
        return "nothing".to_owned();
    }
    let text = value.to_string();
    if text.chars().count() <= SHORT {
        return text;
    }
    text.chars().take(SHORT).chain(['…']).collect()
}

/// Returns what was expected, with the actual value in place of each pattern that it matches, so
/// that a difference shows only what differs.
pub(super) fn resolved(expected: &Value, actual: &Value, captures: &Captures) -> Value {
    if compare(expected, actual, &mut captures.clone()).is_empty() {
        return actual.clone();
    }
    match (expected, actual) {
        (Value::Object(members), Value::Object(actual)) if members.contains_key(CONTAINS) => {
            let mut shown = actual.clone();
            if let Some(Value::Object(part)) = members.get(CONTAINS) {
                for (name, expected) in part {
                    let found = actual.get(name).cloned().unwrap_or_else(absent);
                    shown.insert(name.clone(), resolved(expected, &found, captures));
                }
                return Value::Object(shown);
            }
            expected.clone()
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let nothing = absent();
            let member = |(name, expected): (&String, &Value)| {
                let found = actual.get(name).unwrap_or(&nothing);
                (name.clone(), resolved(expected, found, captures))
            };
            Value::Object(expected.iter().map(member).collect())
        }
        (Value::Array(expected), Value::Array(actual)) => {
            let found = |index: usize| actual.get(index).cloned().unwrap_or_else(absent);
            let element =
                |(index, expected): (usize, &Value)| resolved(expected, &found(index), captures);
            Value::Array(expected.iter().enumerate().map(element).collect())
        }
        (Value::String(text), _) => match Pattern::of(text) {
            Pattern::Named(name) => {
                captures.0.get(name).cloned().unwrap_or_else(|| expected.clone())
            }
            Pattern::Text(text) => Value::from(text),
            Pattern::Any(_) | Pattern::Absent => expected.clone(),
        },
        _ => expected.clone(),
    }
}

impl Captures {
    /// Returns a value that a client sends, with the kept values in their places.
    ///
    /// # Errors
    /// A value was never kept.
    pub fn fill(&self, value: &Value) -> Result<Value, UnknownCapture> {
        Ok(match value {
            Value::String(text) => match Pattern::of(text) {
                Pattern::Named(name) => {
                    self.0.get(name).cloned().ok_or_else(|| UnknownCapture(name.to_owned()))?
                }
                Pattern::Text(text) => Value::from(text),
                Pattern::Any(_) | Pattern::Absent => value.clone(),
            },
            Value::Array(elements) => Value::Array(
                elements.iter().map(|value| self.fill(value)).collect::<Result<_, _>>()?,
            ),
            Value::Object(members) => {
                let member =
                    |(name, value): (&String, &Value)| Ok((name.clone(), self.fill(value)?));
                Value::Object(members.iter().map(member).collect::<Result<_, _>>()?)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn differences(expected: Value, actual: Value) -> Vec<String> {
        compare(&expected, &actual, &mut Captures::default())
    }

    #[test]
    fn what_has_no_pattern_must_be_exact() {
        let actual = json!({"a": 1, "b": [true, null]});
        assert!(differences(actual.clone(), actual.clone()).is_empty());
        assert_eq!(
            differences(json!({"a": 2, "b": [true, null, 0], "c": 1}), actual.clone()),
            [
                "at .a: expected 2, found 1",
                "at .b[2]: expected 0, found nothing",
                "at .c: expected 1, found nothing"
            ]
        );
        assert_eq!(differences(json!({"b": "$any"}), actual), ["at .a: unexpected 1"]);
        assert!(differences(json!([1.0, 2]), json!([1, 2.0])).is_empty());
        assert_eq!(differences(json!(1), json!("1")), ["expected 1, found \"1\""]);
    }

    #[test]
    fn patterns_stand_for_values_by_type() {
        for (kind, value) in [
            ("string", json!("")),
            ("number", json!(0.5)),
            ("integer", json!(-7)),
            ("boolean", json!(false)),
            ("array", json!([])),
            ("object", json!({})),
        ] {
            assert!(differences(json!(format!("$any:{kind}")), value.clone()).is_empty(), "{kind}");
            assert!(!differences(json!(format!("$any:{kind}")), json!(null)).is_empty(), "{kind}");
            assert!(differences(json!("$any"), value).is_empty());
        }
        assert!(!differences(json!("$any:integer"), json!(0.5)).is_empty());
        assert_eq!(
            differences(json!({"a": "$any"}), json!({})),
            ["at .a: expected a value, found nothing"]
        );
        assert!(differences(json!({"a": "$absent"}), json!({})).is_empty());
        assert!(!differences(json!({"a": "$absent"}), json!({"a": null})).is_empty());
        assert!(differences(json!("$$any"), json!("$any")).is_empty());
        assert!(differences(json!("$9"), json!("$9")).is_empty());
    }

    #[test]
    fn a_name_keeps_its_first_value_for_later_and_for_what_is_sent() {
        let mut captures = Captures::default();
        assert!(compare(&json!(["$id", "$id"]), &json!([7, 7]), &mut captures).is_empty());
        assert_eq!(
            compare(&json!({"id": "$id"}), &json!({"id": 8}), &mut captures),
            ["at .id: expected 7 (kept as $id), found 8"]
        );
        let sent = captures.fill(&json!({"id": "$id", "text": "$$id", "list": ["$id"]})).unwrap();
        assert_eq!(sent, json!({"id": 7, "text": "$id", "list": [7]}));
        let error = captures.fill(&json!(["$other"])).unwrap_err();
        assert!(error.to_string().contains("`$other`"), "{error}");
    }

    #[test]
    fn a_part_is_enough_only_where_the_scenario_says_so() {
        let actual = json!({"a": 1, "b": {"c": [1, 2, 3], "d": 4}});
        let part = json!({"$contains": {"b": {"$contains": {"c": {"$contains": [3, 1]}}}}});
        assert!(differences(part, actual.clone()).is_empty());
        let closed = json!({"$contains": {"b": {"c": {"$contains": [3, 1]}}}});
        assert_eq!(differences(closed, actual.clone()), ["at .b.d: unexpected 4"]);
        let missing = json!({"$contains": {"b": {"$contains": {"c": {"$contains": [1, 1]}}}}});
        assert_eq!(differences(missing, actual), ["at .b.c: expected an element 1, found none"]);
    }

    #[test]
    fn a_difference_does_not_show_what_a_pattern_has_matched() {
        let (expected, actual) =
            (json!({"id": "$any", "a": 1, "$$": 0}), json!({"id": 5, "a": 2, "$$": 0}));
        let shown = resolved(&expected, &actual, &Captures::default());
        assert_eq!(shown, json!({"id": 5, "a": 1, "$$": 0}));
        let part = json!({"$contains": {"a": 1}});
        assert_eq!(
            resolved(&part, &actual, &Captures::default()),
            json!({"id": 5, "a": 1, "$$": 0})
        );
    }

    #[test]
    fn bytes_are_text_where_they_are() {
        assert_eq!(bytes_value("grüß\n".as_bytes()), json!("grüß\n"));
        assert_eq!(bytes_value(&[0xff, 0]), json!({"$base64": "/wA="}));
        assert_eq!(bytes_value(b"a\0"), json!({"$base64": "YQA="}));
    }
}
