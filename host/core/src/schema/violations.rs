//! Turns the violations of a check into details that may be sent to clients, with the path of each.
//! Only paths contain names of the document's properties.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;

use crate::rejection::Detail;

use super::forms::{self, Misfit};
use super::message::message;
use super::text::{cut, cut_to};
use super::{MAX_DETAILS, SchemaError};

/// Maximum bytes of a pointer in a [`Detail`], because it may contain names that a client chose.
const MAX_PATH: usize = 256;

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

/// Adds the violations of `error` to `details`: one for each property that is missing or not
/// allowed, otherwise one.
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
