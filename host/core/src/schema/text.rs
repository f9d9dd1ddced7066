//! The parts of messages: quotes from the schema, lists, and what an error of the library is about.

use std::fmt::Write as _;

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::types::JsonType;
use serde_json::Value;

use crate::rejection::truncate;

/// Maximum bytes that a message repeats from the schema.
pub(super) const MAX_QUOTE: usize = 160;

/// The faults that each alternative has found.
pub(super) type Alternatives = [Vec<ValidationError<'static>>];

pub(super) fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(only) => with_article(*only).to_owned(),
        TypeKind::Multiple(any) => {
            any.into_iter().map(with_article).collect::<Vec<_>>().join(" or ")
        }
    }
}

fn with_article(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    }
}

pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Lists constants; if the list is too long, only its beginning and the number of the others.
pub(super) fn one_of<'value>(options: impl Iterator<Item = &'value Value>) -> String {
    let (mut list, mut left) = (String::new(), 0_usize);
    for option in options {
        let separator = if list.is_empty() { "" } else { ", " };
        let option = quote(option);
        if left > 0 || list.len() + separator.len() + option.len() > MAX_QUOTE {
            left += 1;
            continue;
        }
        // Writing to a string cannot fail.
        let _ = write!(list, "{separator}{option}");
    }
    match left {
        0 => format!("must be one of {list}"),
        left => format!("must be one of {list} and {left} more"),
    }
}

pub(super) fn quote(value: &Value) -> String {
    cut(&value.to_string())
}

pub(super) fn cut(text: &str) -> String {
    cut_to(text, MAX_QUOTE)
}

pub(super) fn cut_to(text: &str, max: usize) -> String {
    let mut text = text.to_owned();
    truncate(&mut text, max);
    text
}

pub(super) fn at<'error>(error: &'error ValidationError<'_>) -> &'error str {
    error.instance_path().as_str()
}

/// The path of `error`, relative to `path`.
pub(super) fn name<'error>(path: &str, error: &'error ValidationError<'_>) -> &'error str {
    at(error).strip_prefix(path).unwrap_or_default().trim_start_matches('/')
}

/// Whether `error` says that the value at `path`, or a property of it that the schema names, is not
/// the required constant.
pub(super) fn is_tag(path: &str, error: &ValidationError<'_>) -> bool {
    if !matches!(error.kind(), Kind::Constant { .. } | Kind::Enum { .. }) {
        return false;
    }
    let name = name(path, error);
    // A name that is not in the schema comes from the client and must not be repeated.
    name.is_empty()
        || !name.contains('/')
            && error.evaluation_path().as_str().contains(&format!("/properties/{name}/"))
}

/// The required property that the value at `path` does not have.
pub(super) fn missing<'error>(
    path: &str,
    error: &'error ValidationError<'_>,
) -> Option<&'error str> {
    match error.kind() {
        Kind::Required { property } if at(error) == path => property.as_str(),
        _ => None,
    }
}

/// The constants that an error requires.
pub(super) fn constants<'error>(
    error: &'error ValidationError<'_>,
) -> impl Iterator<Item = &'error Value> {
    let (one, list) = match error.kind() {
        Kind::Constant { expected_value } => (Some(&**expected_value), None),
        Kind::Enum { options } => (None, options.as_array()),
        _ => (None, None),
    };
    one.into_iter().chain(list.into_iter().flatten())
}
