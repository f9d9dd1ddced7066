//! Describes a value that matches no alternative of an `anyOf` or `oneOf`: which alternative was
//! meant, or which alternatives there are.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::Value;

use super::findings::{MAX_QUOTE, cut, message, one_of, quote, types};

/// The faults that each alternative has found.
pub(super) type Alternatives = [Vec<ValidationError<'static>>];

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

/// Lists the alternatives, for example: null, an object with `text` or "none". Lists only as many
/// as fit into a message.
pub(super) fn names(path: &str, alternatives: &Alternatives) -> String {
    let mut forms = Vec::new();
    collect(path, alternatives, &mut forms);
    let (mut list, count) = (String::new(), forms.len());
    for (number, form) in forms.into_iter().enumerate() {
        let separator = match number {
            0 => "",
            _ if number + 1 == count => " or ",
            _ => ", ",
        };
        if list.len() + separator.len() + form.len() > MAX_QUOTE && number > 0 {
            return format!("{list} and others");
        }
        list.push_str(separator);
        list.push_str(&form);
    }
    list
}

fn collect(path: &str, alternatives: &Alternatives, forms: &mut Vec<String>) {
    for errors in alternatives {
        let nested = errors.iter().find_map(|error| match error.kind() {
            Kind::AnyOf { context } | Kind::OneOfNotValid { context } if at(error) == path => {
                Some(context)
            }
            _ => None,
        });
        match (nested, form(path, errors)) {
            (Some(nested), _) => collect(path, nested, forms),
            (None, Some(form)) if !forms.contains(&form) => forms.push(form),
            _ => {}
        }
    }
}

/// Describes an alternative by the faults of a value that does not match it.
fn form(path: &str, errors: &[ValidationError<'static>]) -> Option<String> {
    let own = |wanted: fn(&Kind) -> bool| {
        errors.iter().find(|error| at(error) == path && wanted(error.kind()))
    };
    if let Some(Kind::Type { kind }) =
        own(|kind| matches!(kind, Kind::Type { .. })).map(ValidationError::kind)
    {
        return Some(types(kind));
    }
    if let Some(error) = own(|kind| matches!(kind, Kind::Constant { .. } | Kind::Enum { .. })) {
        return Some(constants(error).map(quote).collect::<Vec<_>>().join(", "))
            .map(|list| cut(&list));
    }
    if let Some(error) = errors.iter().find(|error| is_tag(path, error)) {
        let values: Vec<_> = constants(error).map(quote).collect();
        return Some(cut(&format!(
            "an object whose `{}` is {}",
            name(path, error),
            values.join(" or ")
        )));
    }
    let missing: Vec<_> = errors
        .iter()
        .filter_map(|error| missing(path, error))
        .map(|property| format!("`{property}`"))
        .collect();
    if !missing.is_empty() {
        return Some(cut(&format!("an object with {}", missing.join(" and "))));
    }
    let error = errors.first()?;
    // The name of a member may come from the client, so it is not repeated.
    let what = if name(path, error).is_empty() { "one that" } else { "one in which a member" };
    Some(cut(&format!("{what} {}", message(error))))
}

fn at<'error>(error: &'error ValidationError<'_>) -> &'error str {
    error.instance_path().as_str()
}

/// The path of `error`, relative to `path`.
fn name<'error>(path: &str, error: &'error ValidationError<'_>) -> &'error str {
    at(error).strip_prefix(path).unwrap_or_default().trim_start_matches('/')
}

/// Whether `error` says that the value at `path`, or a property of it that the schema names, is not
/// the required constant.
fn is_tag(path: &str, error: &ValidationError<'_>) -> bool {
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
fn missing<'error>(path: &str, error: &'error ValidationError<'_>) -> Option<&'error str> {
    match error.kind() {
        Kind::Required { property } if at(error) == path => property.as_str(),
        _ => None,
    }
}

/// The constants that an error requires.
fn constants<'error>(error: &'error ValidationError<'_>) -> impl Iterator<Item = &'error Value> {
    let (one, list) = match error.kind() {
        Kind::Constant { expected_value } => (Some(&**expected_value), None),
        Kind::Enum { options } => (None, options.as_array()),
        _ => (None, None),
    };
    one.into_iter().chain(list.into_iter().flatten())
}
