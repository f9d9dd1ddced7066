//! Finds out which alternative of an `anyOf` or `oneOf` was meant by a value that matches none.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;

use super::text::{Alternatives, at, constants, is_tag, missing, one_of};

/// How to describe a value that matches no alternative.
pub(super) enum Misfit<'a> {
    /// One alternative was meant; these are its faults.
    Within(&'a [ValidationError<'static>]),
    /// The alternatives differ in a constant, and the value matches none of these constants.
    Tag {
        /// Location of the constant.
        path: &'a str,
        /// The keyword that requires it.
        rule: &'a str,
        /// Message that lists the allowed constants.
        message: String,
    },
    /// All alternatives that could be meant require this property.
    Missing(&'a str),
    /// It is not known which alternative was meant.
    Unknown,
}

/// Compares the faults that the value at `path` has in each of `alternatives`.
pub(super) fn misfit<'a>(path: &str, alternatives: &'a Alternatives) -> Misfit<'a> {
    // An optional record is written as `null` or an object. So an alternative of another type was
    // not meant.
    let is_other_type = |error: &ValidationError<'_>| {
        matches!(error.kind(), Kind::Type { .. }) && at(error) == path
    };
    let meant = alternatives
        .iter()
        .filter(|errors| !errors.is_empty() && !errors.iter().any(is_other_type));
    let meant: Vec<&[ValidationError<'static>]> = meant.map(Vec::as_slice).collect();
    let [first, others @ ..] = meant.as_slice() else { return Misfit::Unknown };
    if others.is_empty() {
        return Misfit::Within(first);
    }
    let tags: Vec<_> =
        meant.iter().map(|errors| errors.iter().find(|error| is_tag(path, error))).collect();
    if let Some(tags) = tags.iter().copied().collect::<Option<Vec<_>>>()
        && let Some((tag, rest)) = tags.split_first()
        && rest.iter().all(|other| at(other) == at(tag))
    {
        let message = one_of(tags.iter().flat_map(|tag| constants(tag)));
        return Misfit::Tag { path: at(tag), rule: tag.kind().keyword(), message };
    }
    let mut untagged =
        meant.iter().zip(&tags).filter(|(_, tag)| tag.is_none_or(|tag| at(tag) == path));
    if let (Some((errors, None)), None) = (untagged.next(), untagged.next()) {
        return Misfit::Within(errors);
    }
    let is_missing = |errors: &[ValidationError<'_>], property| {
        errors.iter().any(|error| missing(path, error) == Some(property))
    };
    let mut required = first.iter().filter_map(|error| missing(path, error));
    match required.find(|property| others.iter().all(|errors| is_missing(errors, property))) {
        Some(property) => Misfit::Missing(property),
        None => Misfit::Unknown,
    }
}
