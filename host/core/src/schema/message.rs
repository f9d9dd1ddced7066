//! The messages of violations, which may be sent to clients. They never repeat values of the
//! document.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;

use super::text::{
    Alternatives, MAX_QUOTE, at, constants, counted, cut, is_tag, missing, name, one_of, quote,
    types,
};

/// The message of a violation, as a fragment that follows the name of the location. Every kind has
/// its own text, because some messages of the library repeat the document.
pub(super) fn message(error: &ValidationError<'_>) -> String {
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
                names(error.instance_path().as_str(), context)
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

/// Lists the alternatives, for example: null, an object with `text` or "none". Lists only as many
/// as fit into a message.
fn names(path: &str, alternatives: &Alternatives) -> String {
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
