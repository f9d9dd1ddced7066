//! Turns the findings of a check into messages that may be sent to clients. Messages never repeat
//! values of the document; only paths contain names of its properties.

use std::fmt::Write as _;

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::types::JsonType;
use serde_json::Value;

use crate::rejection::{Detail, truncate};

use super::forms::{self, Misfit};
use super::{MAX_DETAILS, SchemaError};

/// Maximum bytes of a pointer in a [`Detail`], because it may contain names that a client chose.
const MAX_PATH: usize = 256;

/// Maximum bytes that a message repeats from the schema.
pub(super) const MAX_QUOTE: usize = 160;

/// The error for a schema that the library refuses.
pub(super) fn refusal(error: &ValidationError<'_>) -> SchemaError {
    let path = error.instance_path().as_str();
    if let ValidationErrorKind::Referencing(_) = error.kind() {
        return SchemaError::DanglingReference { reference: cut(&error.to_string()) };
    }
    let is_pattern = path.ends_with("/pattern") || path.contains("/patternProperties");
    if is_pattern && is_about_a_pattern(error.kind()) {
        return SchemaError::Pattern { path: cut(path) };
    }
    let mut details = Vec::new();
    describe(error, &mut details);
    match details.into_iter().next() {
        Some(Detail { path, message, .. }) => SchemaError::Invalid { path, message },
        None => SchemaError::Invalid { path: cut_to(path, MAX_PATH), message: message(error) },
    }
}

/// Whether the pattern's text is wrong, and not the type of the value in its place.
fn is_about_a_pattern(kind: &ValidationErrorKind) -> bool {
    match kind {
        ValidationErrorKind::Format { .. } | ValidationErrorKind::RegexEngineFailure { .. } => true,
        ValidationErrorKind::PropertyNames { error } => is_about_a_pattern(error.kind()),
        _ => false,
    }
}

/// Adds the findings of `error` to `details`: one for each property that is missing or not allowed,
/// otherwise one.
pub(super) fn describe(error: &ValidationError<'_>, details: &mut Vec<Detail>) {
    let at = error.instance_path().as_str();
    let rule = error.kind().keyword();
    let mut add = |path: String, message: String| {
        details.push(Detail { path, rule: rule.to_owned(), message })
    };
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            add(member(at, property.as_str().unwrap_or_default()), message(error))
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            for name in unexpected.iter().take(MAX_DETAILS) {
                add(member(at, name), message(error));
            }
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            match forms::misfit(at, context) {
                Misfit::Within(errors) => {
                    errors.iter().take(MAX_DETAILS).for_each(|error| describe(error, details))
                }
                Misfit::Tag { path, rule, message } => {
                    details.push(Detail {
                        path: cut_to(path, MAX_PATH),
                        rule: rule.to_owned(),
                        message,
                    });
                }
                Misfit::Missing(property) => {
                    details.push(Detail {
                        path: member(at, property),
                        rule: "required".to_owned(),
                        message: "is required".to_owned(),
                    });
                }
                Misfit::Unknown => add(cut_to(at, MAX_PATH), message(error)),
            }
        }
        _ => add(cut_to(at, MAX_PATH), message(error)),
    }
}

/// The pointer to the member `name` of the object at `path`.
fn member(path: &str, name: &str) -> String {
    if path.len() + name.len() > MAX_PATH {
        return cut_to(path, MAX_PATH);
    }
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The message of a finding, as a fragment that follows the name of the location. Every kind has
/// its own text, because some messages of the library repeat the document.
pub(super) fn message(error: &ValidationError<'_>) -> String {
    use ValidationErrorKind as Kind;
    match error.kind() {
        Kind::Required { .. } => "is required".to_owned(),
        Kind::Type { kind } => format!("must be {}", types(kind)),
        Kind::MinLength { limit } => {
            format!("must be at least {} long", counted(*limit, "character", "characters"))
        }
        Kind::MaxLength { limit } => {
            format!("must be at most {} long", counted(*limit, "character", "characters"))
        }
        Kind::MinItems { limit } => {
            format!("must have at least {}", counted(*limit, "item", "items"))
        }
        Kind::MaxItems { limit } => {
            format!("must have at most {}", counted(*limit, "item", "items"))
        }
        Kind::MinProperties { limit } => {
            format!("must have at least {}", counted(*limit, "property", "properties"))
        }
        Kind::MaxProperties { limit } => {
            format!("must have at most {}", counted(*limit, "property", "properties"))
        }
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::Enum { options } => one_of(options.as_array().into_iter().flatten()),
        Kind::Constant { expected_value } => format!("must be {}", quote(expected_value)),
        Kind::Format { format } => format!("must match the format `{}`", cut(format)),
        Kind::Pattern { pattern } => format!("must match the pattern `{}`", cut(pattern)),
        Kind::UniqueItems => "must not have the same item twice".to_owned(),
        Kind::Contains => {
            "does not have enough, or has too many, of the items that it must contain".to_owned()
        }
        Kind::AdditionalItems { .. } | Kind::UnevaluatedItems { .. } => {
            "has more items than are allowed".to_owned()
        }
        Kind::AdditionalProperties { .. }
        | Kind::UnevaluatedProperties { .. }
        | Kind::FalseSchema => "is not allowed".to_owned(),
        Kind::PropertyNames { error } => format!("has a property whose name {}", message(error)),
        Kind::Not { .. } => "is of a form that is not allowed".to_owned(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            format!(
                "fits none of the allowed forms: {}",
                forms::names(error.instance_path().as_str(), context)
            )
        }
        Kind::OneOfMultipleValid { .. } => {
            "fits more than one of the allowed forms, of which it may fit only one".to_owned()
        }
        Kind::ContentEncoding { content_encoding } => {
            format!("must be encoded as `{}`", cut(content_encoding))
        }
        Kind::ContentMediaType { content_media_type } => {
            format!("must be of the media type `{}`", cut(content_media_type))
        }
        Kind::FromUtf8 { .. } => "must be UTF-8 when it is decoded".to_owned(),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "could not be matched with its pattern".to_owned()
        }
        Kind::Referencing(_) | Kind::Custom { .. } => "does not fit the schema".to_owned(),
    }
}

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

fn counted(count: u64, one: &str, many: &str) -> String {
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

fn cut_to(text: &str, max: usize) -> String {
    let mut text = text.to_owned();
    truncate(&mut text, max);
    text
}
