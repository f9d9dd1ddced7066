//! What a document must look like: compiles the JSON Schemas of plugins, checks documents against them, and says what is wrong in words
//! that may reach a client. The only file that knows jsonschema.
//!
//! Refuses to know where a document comes from, and fetches nothing: a schema is whole in itself. Both sides are hostile here: a schema is a
//! plugin's, a document a client's. Neither may make a check overflow the stack, and what a check says never repeats the document.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::types::JsonType;
use jsonschema::{Draft, PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::rejection::{Detail, truncate};

/// The one dialect, as `$schema` names it.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Findings of one check that are reported: enough for a form, and small enough for an ack.
const MAX_DETAILS: usize = 16;

/// Values in a document up to which every finding is looked for. Beyond it only the first is: the library collects all findings before it
/// hands out one, and each may cost a hundred times the bytes of the value that it is about.
const MAX_VALUES_IN_FULL: usize = 4096;

/// Bytes of a compiled pattern, and of the tables that matching it may build. A plain pattern takes a few KiB; counted repetitions multiply.
const MAX_PATTERN_BYTES: usize = 256 * 1024;

/// Patterns of one schema: what it may cost in memory is this times [`MAX_PATTERN_BYTES`].
const MAX_PATTERNS: usize = 100;

/// Subschemas that may apply to one and the same value in a row (through `$ref`, `allOf` and their like). A check recurses once for each, at
/// every level of the document, so this times the depth of a document is what the stack of a worker must hold.
const MAX_CHAIN: usize = 24;

/// Bytes of a pointer in a [`Detail`]: it may hold names that a client chose.
const MAX_PATH: usize = 256;

/// Bytes of what a message repeats from the schema.
const MAX_QUOTE: usize = 160;

/// A compiled schema. Two are equal when they were written as the same document.
pub struct Schema {
    source: Value,
    validator: Validator,
}

/// Why a schema is refused, for its plugin's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// More text than one schema may have.
    #[error("the schema has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// What it has.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// The text is not JSON, or nests deeper than 128.
    #[error("the schema is not JSON: {reason}")]
    NotJson {
        /// What the parser found, with line and column.
        reason: String,
    },
    /// JSON, but no schema.
    #[error("the schema is not valid at `{path}`: {message}")]
    Invalid {
        /// JSON pointer into the schema.
        path: String,
        /// What is wrong there.
        message: String,
    },
    /// `$schema` names something else than 2020-12.
    #[error("the schema's `$schema` is {found}, only `{DIALECT}` is supported")]
    UnsupportedDialect {
        /// What it names.
        found: String,
    },
    /// A `$ref` to another document.
    #[error("`{reference}` is outside of the schema: nothing is fetched, so a `$ref` must begin with `#`")]
    ExternalReference {
        /// The reference.
        reference: String,
    },
    /// A `$ref` to a place that the schema does not have.
    #[error("`{reference}` names nothing in the schema")]
    DanglingReference {
        /// The reference.
        reference: String,
    },
    /// A chain of references and combinations that is endless or too long.
    #[error("more than {MAX_CHAIN} subschemas apply to one value in a row, or they refer to each other in a circle")]
    TooNested,
    /// More patterns than one schema may have.
    #[error("the schema has more than {MAX_PATTERNS} patterns")]
    TooManyPatterns,
    /// A pattern that cannot be matched in linear time, or takes too much memory.
    #[error("the pattern at `{path}` is not supported: no look-around and no back-references, and at most 256 KiB compiled")]
    Pattern {
        /// JSON pointer into the schema.
        path: String,
    },
}

impl Schema {
    /// Compiles `text`, a schema of JSON Schema 2020-12 of at most `max_bytes`.
    ///
    /// `format` is checked, where it is one that the draft defines. Patterns run in linear time. Everything that the schema refers to must
    /// be within it, under `$ref`s that begin with `#` (or with its own `$id`).
    ///
    /// # Errors
    /// What an author has to change, see [`SchemaError`].
    pub fn compile(text: &str, max_bytes: usize) -> Result<Self, SchemaError> {
        if text.len() > max_bytes {
            return Err(SchemaError::TooLarge { bytes: text.len(), max: max_bytes });
        }
        let source: Value = serde_json::from_str(text).map_err(|error| SchemaError::NotJson { reason: error.to_string() })?;
        Document::read(&source)?.check_chains()?;
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(&source)
            .map_err(|error| refusal(&error))?;
        Ok(Self { source, validator })
    }

    /// The document that was compiled.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// Checks `value`.
    ///
    /// # Errors
    /// What was found, at least one and at most 16; nothing of `value` is in it but the names of properties, in paths.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Detail>> {
        // Nearly every document is valid, and to know no more than that is several times cheaper.
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mut details = Vec::new();
        if has_at_most(value, MAX_VALUES_IN_FULL) {
            for error in self.validator.iter_errors(value) {
                describe(&error, &mut details);
                if details.len() >= MAX_DETAILS {
                    break;
                }
            }
        } else if let Err(error) = self.validator.validate(value) {
            describe(&error, &mut details);
        }
        details.truncate(MAX_DETAILS);
        if details.is_empty() {
            details.push(Detail { path: String::new(), rule: "schema".to_owned(), message: "does not fit the schema".to_owned() });
        }
        Err(details)
    }

    /// Whether the schema names a property `name` of the document itself, wherever it may do so: in `properties` or `required`, its own or
    /// those of what it refers to or combines.
    pub fn allows_top_level_property(&self, name: &str) -> bool {
        let Ok(document) = Document::read(&self.source) else { return false };
        let mut seen = HashSet::new();
        let mut open = vec![&self.source];
        while let Some(schema) = open.pop() {
            if !seen.insert(std::ptr::from_ref(schema)) {
                continue;
            }
            let has_property = schema.get("properties").and_then(Value::as_object).is_some_and(|all| all.contains_key(name));
            let has_required = schema.get("required").and_then(Value::as_array).is_some_and(|all| all.iter().any(|one| one == name));
            if has_property || has_required {
                return true;
            }
            open.extend(document.in_place(schema));
        }
        false
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schema").field(&self.source).finish()
    }
}

/// The keywords that apply a schema, a list of them or a map of them to the same value.
const IN_PLACE_ONE: [&str; 4] = ["not", "if", "then", "else"];
const IN_PLACE_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const IN_PLACE_MAP: [&str; 1] = ["dependentSchemas"];
/// The same, to the value's members or to nothing by themselves.
const BELOW_ONE: [&str; 6] = ["items", "contains", "additionalProperties", "propertyNames", "unevaluatedItems", "unevaluatedProperties"];
const BELOW_LIST: [&str; 1] = ["prefixItems"];
const BELOW_MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// A schema's own references, read before the library sees them: what it would fetch, or follow too far, is refused here.
struct Document<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// Every subschema that can be reached.
    schemas: Vec<&'a Value>,
}

impl<'a> Document<'a> {
    fn read(root: &'a Value) -> Result<Self, SchemaError> {
        let mut document = Self { root, anchors: HashMap::new(), schemas: Vec::new() };
        let mut seen = HashSet::new();
        let mut open = vec![root];
        // References may name anchors that come later, and places that no keyword leads to: so they are resolved once a walk is over, and
        // what they newly reach is walked next.
        let mut unresolved = Vec::new();
        let mut patterns = 0;
        loop {
            while let Some(schema) = open.pop() {
                if !seen.insert(std::ptr::from_ref(schema)) {
                    continue;
                }
                document.schemas.push(schema);
                document.read_names(schema)?;
                patterns += usize::from(schema.get("pattern").is_some());
                patterns += schema.get("patternProperties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
                if patterns > MAX_PATTERNS {
                    return Err(SchemaError::TooManyPatterns);
                }
                unresolved.extend(references(schema));
                open.extend(subschemas(schema, &IN_PLACE_ONE, &IN_PLACE_LIST, &IN_PLACE_MAP));
                open.extend(subschemas(schema, &BELOW_ONE, &BELOW_LIST, &BELOW_MAP));
            }
            if unresolved.is_empty() {
                return Ok(document);
            }
            for reference in unresolved.drain(..) {
                open.push(document.resolve(reference)?);
            }
        }
    }

    /// Reads what gives `schema` a name or another meaning.
    fn read_names(&mut self, schema: &'a Value) -> Result<(), SchemaError> {
        if let Some(dialect) = schema.get("$schema")
            && dialect.as_str().map(|uri| uri.trim_end_matches('#')) != Some(DIALECT)
        {
            return Err(SchemaError::UnsupportedDialect { found: quote(dialect) });
        }
        if let Some(id) = schema.get("$id")
            && !std::ptr::eq(schema, self.root)
        {
            let message = format!("only the whole schema may have an `$id`, and {} is within it", quote(id));
            return Err(SchemaError::Invalid { path: String::new(), message });
        }
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = schema.get(keyword).and_then(Value::as_str) {
                self.anchors.insert(anchor, schema);
            }
        }
        Ok(())
    }

    /// The place in this document that `reference` names.
    fn resolve(&self, reference: &str) -> Result<&'a Value, SchemaError> {
        let id = self.root.get("$id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(|id| id.trim_end_matches('#'));
        let own = id.and_then(|id| reference.strip_prefix(id)).filter(|rest| rest.is_empty() || rest.starts_with('#'));
        let fragment = match own.unwrap_or(reference) {
            "" => "",
            local => local.strip_prefix('#').ok_or_else(|| SchemaError::ExternalReference { reference: cut(reference) })?,
        };
        let fragment = percent_decoded(fragment);
        let found = if fragment.is_empty() || fragment.starts_with('/') {
            self.root.pointer(&fragment)
        } else {
            self.anchors.get(fragment.as_str()).copied()
        };
        found.ok_or_else(|| SchemaError::DanglingReference { reference: cut(reference) })
    }

    /// The schemas that `schema` applies to the same value.
    fn in_place(&self, schema: &'a Value) -> Vec<&'a Value> {
        let mut all = subschemas(schema, &IN_PLACE_ONE, &IN_PLACE_LIST, &IN_PLACE_MAP);
        all.extend(references(schema).filter_map(|reference| self.resolve(reference).ok()));
        all
    }

    /// Finds the longest chain of schemas that apply to one value. Without recursion of its own: that is what it protects from.
    fn check_chains(&self) -> Result<(), SchemaError> {
        // None while a schema's own chains are being measured: to meet it again then is to go in a circle.
        let mut lengths: HashMap<*const Value, Option<usize>> = HashMap::new();
        for start in &self.schemas {
            let mut open = vec![(*start, None::<Vec<&Value>>)];
            while let Some((schema, members)) = open.pop() {
                let key = std::ptr::from_ref(schema);
                if let Some(members) = members {
                    let longest = members.iter().filter_map(|one| lengths.get(&std::ptr::from_ref(*one)).copied().flatten()).max();
                    let length = 1 + longest.unwrap_or(0);
                    if length > MAX_CHAIN {
                        return Err(SchemaError::TooNested);
                    }
                    lengths.insert(key, Some(length));
                    continue;
                }
                match lengths.get(&key) {
                    Some(Some(_)) => {}
                    Some(None) => return Err(SchemaError::TooNested),
                    None => {
                        let members = self.in_place(schema);
                        lengths.insert(key, None);
                        open.push((schema, Some(members.clone())));
                        // Two ways to one schema are no circle, so only what is not measured yet is gone into; the same schema twice among
                        // these is caught by the match above.
                        let mut own = HashSet::new();
                        for member in members {
                            match lengths.get(&std::ptr::from_ref(member)) {
                                Some(Some(_)) => {}
                                Some(None) => return Err(SchemaError::TooNested),
                                None if own.insert(std::ptr::from_ref(member)) => open.push((member, None)),
                                None => {}
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// The schemas directly within `schema` under these keywords.
fn subschemas<'a>(schema: &'a Value, one: &[&str], lists: &[&str], maps: &[&str]) -> Vec<&'a Value> {
    let Some(schema) = schema.as_object() else { return Vec::new() };
    let one = one.iter().filter_map(|keyword| schema.get(*keyword));
    let lists = lists.iter().filter_map(|keyword| schema.get(*keyword)?.as_array()).flatten();
    let maps = maps.iter().filter_map(|keyword| schema.get(*keyword)?.as_object()).flat_map(|map| map.values());
    one.chain(lists).chain(maps).collect()
}

/// What `schema` refers to. A `$dynamicRef` counts as a `$ref`: in a document without inner `$id`s they mean the same.
fn references(schema: &Value) -> impl Iterator<Item = &str> {
    ["$ref", "$dynamicRef"].into_iter().filter_map(move |keyword| schema.get(keyword)?.as_str())
}

/// `text` with its `%41`s decoded, as pointers in references are written.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match code {
            Some(code) if first == b'%' => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a schema that the library refuses is told.
fn refusal(error: &ValidationError<'_>) -> SchemaError {
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
        None => SchemaError::Invalid { path: cut_to(path, MAX_PATH), message: message(error.kind()) },
    }
}

/// Whether the text of a pattern is at fault, and not the type of what stands in its place.
fn is_about_a_pattern(kind: &ValidationErrorKind) -> bool {
    match kind {
        ValidationErrorKind::Format { .. } | ValidationErrorKind::RegexEngineFailure { .. } => true,
        ValidationErrorKind::PropertyNames { error } => is_about_a_pattern(error.kind()),
        _ => false,
    }
}

/// Whether `value` holds at most `budget` values, itself and the keys of objects included.
fn has_at_most(value: &Value, mut budget: usize) -> bool {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        let members = match value {
            Value::Array(items) => items.len(),
            Value::Object(members) => members.len(),
            _ => 0,
        };
        match budget.checked_sub(1 + members) {
            Some(left) => budget = left,
            None => return false,
        }
        match value {
            Value::Array(items) => open.extend(items),
            Value::Object(members) => open.extend(members.values()),
            _ => {}
        }
    }
    true
}

/// Adds what `error` says to `details`: one for each property that is missing or too many, else one.
fn describe(error: &ValidationError<'_>, details: &mut Vec<Detail>) {
    let at = error.instance_path().as_str();
    let rule = error.kind().keyword();
    let mut add = |path: String, message: String| details.push(Detail { path, rule: rule.to_owned(), message });
    match error.kind() {
        ValidationErrorKind::Required { property } => add(member(at, property.as_str().unwrap_or_default()), message(error.kind())),
        ValidationErrorKind::AdditionalProperties { unexpected } | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            for name in unexpected.iter().take(MAX_DETAILS) {
                add(member(at, name), message(error.kind()));
            }
        }
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => match nearest(at, context) {
            Some(branch) => branch.iter().take(MAX_DETAILS).for_each(|error| describe(error, details)),
            None => add(cut_to(at, MAX_PATH), message(error.kind())),
        },
        kind => add(cut_to(at, MAX_PATH), message(kind)),
    }
}

/// The one alternative that the value at `path` was meant for: the others are of another type altogether. `null or an object` is how an
/// optional record is written, and what is wrong within the record is the only thing worth saying about it.
fn nearest<'a>(path: &str, alternatives: &'a [Vec<ValidationError<'static>>]) -> Option<&'a [ValidationError<'static>]> {
    let is_other_type =
        |error: &ValidationError<'_>| matches!(error.kind(), ValidationErrorKind::Type { .. }) && error.instance_path().as_str() == path;
    let mut meant = alternatives.iter().filter(|errors| !errors.is_empty() && !errors.iter().any(is_other_type));
    match (meant.next(), meant.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// The pointer to the member `name` of the object at `path`.
fn member(path: &str, name: &str) -> String {
    if path.len() + name.len() > MAX_PATH {
        return cut_to(path, MAX_PATH);
    }
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// What a kind of finding means, as a fragment that follows the name of the place. Written here for every kind, because the library's own
/// words repeat the document in some of them.
fn message(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Kind;
    match kind {
        Kind::Required { .. } => "is required".to_owned(),
        Kind::Type { kind: TypeKind::Single(only) } => format!("must be {}", with_article(*only)),
        Kind::Type { kind: TypeKind::Multiple(any) } => {
            format!("must be {}", any.into_iter().map(with_article).collect::<Vec<_>>().join(" or "))
        }
        Kind::MinLength { limit } => format!("must be at least {} long", counted(*limit, "character", "characters")),
        Kind::MaxLength { limit } => format!("must be at most {} long", counted(*limit, "character", "characters")),
        Kind::MinItems { limit } => format!("must have at least {}", counted(*limit, "item", "items")),
        Kind::MaxItems { limit } => format!("must have at most {}", counted(*limit, "item", "items")),
        Kind::MinProperties { limit } => format!("must have at least {}", counted(*limit, "property", "properties")),
        Kind::MaxProperties { limit } => format!("must have at most {}", counted(*limit, "property", "properties")),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::Enum { options } => one_of(options),
        Kind::Constant { expected_value } => format!("must be {}", quote(expected_value)),
        Kind::Format { format } => format!("must match the format `{}`", cut(format)),
        Kind::Pattern { pattern } => format!("must match the pattern `{}`", cut(pattern)),
        Kind::UniqueItems => "must not have the same item twice".to_owned(),
        Kind::Contains => "does not have enough, or has too many, of the items that it must contain".to_owned(),
        Kind::AdditionalItems { .. } | Kind::UnevaluatedItems { .. } => "has more items than are allowed".to_owned(),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } | Kind::FalseSchema => "is not allowed".to_owned(),
        Kind::PropertyNames { error } => format!("has a property whose name {}", message(error.kind())),
        Kind::Not { .. } => "is of a form that is not allowed".to_owned(),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => "fits none of the allowed forms".to_owned(),
        Kind::OneOfMultipleValid { .. } => "fits more than one of the allowed forms, of which it may fit only one".to_owned(),
        Kind::ContentEncoding { content_encoding } => format!("must be encoded as `{}`", cut(content_encoding)),
        Kind::ContentMediaType { content_media_type } => format!("must be of the media type `{}`", cut(content_media_type)),
        Kind::FromUtf8 { .. } => "must be UTF-8 when it is decoded".to_owned(),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => "could not be matched with its pattern".to_owned(),
        Kind::Referencing(_) | Kind::Custom { .. } => "does not fit the schema".to_owned(),
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

fn one_of(options: &Value) -> String {
    let mut list = String::new();
    for option in options.as_array().into_iter().flatten() {
        let separator = if list.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(list, "{separator}{option}");
        if list.len() > MAX_QUOTE {
            return "must be one of the allowed values".to_owned();
        }
    }
    format!("must be one of {list}")
}

fn quote(value: &Value) -> String {
    cut(&value.to_string())
}

fn cut(text: &str) -> String {
    cut_to(text, MAX_QUOTE)
}

fn cut_to(text: &str, max: usize) -> String {
    let mut text = text.to_owned();
    truncate(&mut text, max);
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MAX: usize = 256 * 1024;

    fn schema(source: &Value) -> Schema {
        Schema::compile(&source.to_string(), MAX).unwrap()
    }

    fn refused(source: &Value) -> SchemaError {
        Schema::compile(&source.to_string(), MAX).unwrap_err()
    }

    /// Path, rule and message of each finding.
    fn findings(source: &Value, value: &Value) -> Vec<(String, String, String)> {
        let details = schema(source).check(value).unwrap_err();
        details.into_iter().map(|detail| (detail.path, detail.rule, detail.message)).collect()
    }

    fn one(source: &Value, value: &Value) -> (String, String, String) {
        let mut all = findings(source, value);
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    fn triple(path: &str, rule: &str, message: &str) -> (String, String, String) {
        (path.to_owned(), rule.to_owned(), message.to_owned())
    }

    #[test]
    fn a_record_with_several_faults_is_told_each_with_its_place() {
        let record = json!({
            "type": "object",
            "properties": {"user_id": {"type": ["integer", "string"]}, "content": {"type": "string", "minLength": 1, "maxLength": 10000},
                           "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2}},
            "required": ["user_id", "content"], "additionalProperties": false
        });
        assert_eq!(schema(&record).check(&json!({"user_id": 1, "content": "x"})), Ok(()));
        assert_eq!(one(&record, &json!({"user_id": 1})), triple("/content", "required", "is required"));
        assert_eq!(
            one(&record, &json!({"user_id": 1, "content": ""})),
            triple("/content", "minLength", "must be at least 1 character long")
        );
        let long = json!({"user_id": 1, "content": "x".repeat(10_001)});
        assert_eq!(one(&record, &long), triple("/content", "maxLength", "must be at most 10000 characters long"));
        assert_eq!(one(&record, &json!({"user_id": 1.5, "content": "x"})), triple("/user_id", "type", "must be an integer or a string"));
        assert_eq!(
            one(&record, &json!({"user_id": 1, "content": "x", "a/b~": 1})),
            triple("/a~1b~0", "additionalProperties", "is not allowed")
        );
        assert_eq!(one(&record, &json!(null)), triple("", "type", "must be an object"));
        let mut all = findings(&record, &json!({"content": 1, "tags": ["secret"]}));
        all.sort();
        assert_eq!(
            all,
            [
                triple("/content", "type", "must be a string"),
                triple("/tags/0", "enum", "must be one of \"a\", \"b\""),
                triple("/user_id", "required", "is required"),
            ]
        );
    }

    #[test]
    fn findings_never_repeat_the_document() {
        let secret = "s3cr3t";
        for (source, value) in [
            (json!({"propertyNames": {"maxLength": 3}}), json!({(secret): 1})),
            (json!({"propertyNames": {"pattern": "^a$"}}), json!({(secret): 1})),
            (json!({"not": {"type": "string"}}), json!(secret)),
            (json!({"const": 1}), json!(secret)),
            (json!({"enum": [1, 2]}), json!(secret)),
            (json!({"format": "date-time"}), json!(secret)),
            (json!({"pattern": "^a+$"}), json!(secret)),
            (json!({"contains": {"type": "integer"}}), json!([secret])),
            (json!({"uniqueItems": true}), json!([secret, secret])),
            (json!({"prefixItems": [true], "items": false}), json!([1, secret])),
            (json!({"prefixItems": [true], "unevaluatedItems": false}), json!([1, secret])),
            (json!({"anyOf": [{"type": "integer"}, {"maxLength": 2}, {"minLength": 20}]}), json!(secret)),
            (json!({"oneOf": [true, true]}), json!(secret)),
            (json!({"dependentRequired": {"a": ["b"]}}), json!({"a": secret})),
            (json!({"contentEncoding": "base64", "type": "integer"}), json!(secret)),
            (json!(false), json!(secret)),
        ] {
            for (path, _, message) in findings(&source, &value) {
                assert!(!message.contains(secret) && !path.contains(secret), "{source}: {path} {message}");
                assert_eq!(message.chars().next().map(char::is_lowercase), Some(true), "{message}");
            }
        }
    }

    #[test]
    fn a_format_is_checked_and_an_unknown_one_is_not() {
        let time = json!({"format": "date-time"});
        assert_eq!(schema(&time).check(&json!("2024-01-01T00:00:00Z")), Ok(()));
        assert_eq!(one(&time, &json!("yesterday")), triple("", "format", "must match the format `date-time`"));
        assert_eq!(schema(&json!({"type": "integer", "format": "int64"})).check(&json!(5)), Ok(()));
    }

    #[test]
    fn an_optional_record_is_told_what_is_wrong_in_the_record() {
        let optional = json!({"properties": {"note": {"anyOf": [{"$ref": "#/$defs/Note"}, {"type": "null"}]}},
                              "$defs": {"Note": {"type": "object", "required": ["content"]}}});
        assert_eq!(one(&optional, &json!({"note": {}})), triple("/note/content", "required", "is required"));
        assert_eq!(one(&optional, &json!({"note": 5})), triple("/note", "anyOf", "fits none of the allowed forms"));
    }

    #[test]
    fn findings_are_few_however_many_faults_there_are() {
        let numbers = json!({"items": {"type": "integer"}});
        assert_eq!(findings(&numbers, &json!(vec!["x"; 1000])).len(), MAX_DETAILS);
        assert_eq!(findings(&numbers, &json!(vec!["x"; 50_000])), [triple("/0", "type", "must be an integer")]);
        let none = json!({"additionalProperties": false});
        let many: serde_json::Map<String, Value> = (0..100).map(|i| (format!("k{i}"), json!(1))).collect();
        assert_eq!(findings(&none, &Value::Object(many)).len(), MAX_DETAILS);
        assert_eq!(one(&none, &json!({"k".repeat(10_000): 1})).0, "");
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        assert_eq!(Schema::compile("{}", 1), Err(SchemaError::TooLarge { bytes: 2, max: 1 }));
        assert!(matches!(Schema::compile("{", MAX), Err(SchemaError::NotJson { .. })));
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        assert!(matches!(Schema::compile(&deep, MAX), Err(SchemaError::NotJson { .. })));
        let SchemaError::Invalid { path, .. } = refused(&json!({"properties": {"a": {"minLength": -1}}})) else { panic!() };
        assert_eq!(path, "/properties/a/minLength");
        let SchemaError::Invalid { path, .. } = refused(&json!({"properties": {"a": {"type": "text"}}})) else { panic!() };
        assert_eq!(path, "/properties/a/type");
        assert!(matches!(refused(&json!([])), SchemaError::Invalid { .. }));
    }

    #[test]
    fn a_dialect_other_than_2020_12_is_refused() {
        let old = json!({"$schema": "http://json-schema.org/draft-07/schema#"});
        assert_eq!(refused(&old), SchemaError::UnsupportedDialect { found: "\"http://json-schema.org/draft-07/schema#\"".to_owned() });
        assert!(matches!(refused(&json!({"properties": {"a": {"$schema": "x:y"}}})), SchemaError::UnsupportedDialect { .. }));
        schema(&json!({"$schema": DIALECT}));
        schema(&json!({"$schema": format!("{DIALECT}#")}));
    }

    #[test]
    fn a_reference_out_of_the_document_is_refused_by_name() {
        for reference in
            ["https://example.com/a.json", "http://127.0.0.1:1/x", "file:///etc/passwd", "other.json", "other.json#/a", DIALECT]
        {
            let error = SchemaError::ExternalReference { reference: reference.to_owned() };
            assert_eq!(refused(&json!({"$ref": reference})), error);
            assert_eq!(refused(&json!({"items": {"not": {"$dynamicRef": reference}}})), error);
            // Not by a detour through a place that no keyword leads to.
            assert_eq!(refused(&json!({"$ref": "#/hidden/0", "hidden": [{"$ref": reference}]})), error);
        }
        assert!(matches!(refused(&json!({"$defs": {"a": {"$id": "file:///etc/passwd"}}})), SchemaError::Invalid { .. }));
    }

    #[test]
    fn a_reference_within_the_document_is_followed() {
        let forms = json!({
            "$id": "https://example.com/forms",
            "properties": {"a": {"$ref": "#/$defs/a%20b~1c"}, "b": {"$ref": "#word"}, "c": {"$ref": "https://example.com/forms#word"}},
            "$defs": {"a b/c": {"type": "integer"}, "w": {"$anchor": "word", "type": "string"}}
        });
        assert_eq!(schema(&forms).check(&json!({"a": 1, "b": "x", "c": "y"})), Ok(()));
        assert_eq!(findings(&forms, &json!({"a": "x", "b": 1, "c": 2})).len(), 3);
        for dangling in ["#/$defs/nothing", "#nothing"] {
            assert_eq!(refused(&json!({"$ref": dangling})), SchemaError::DanglingReference { reference: dangling.to_owned() });
        }
        // A property may be called `$ref`, and a constant may look like a reference.
        schema(&json!({"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "https://example.com"}}));
    }

    #[test]
    fn a_pattern_that_needs_backtracking_or_much_memory_is_refused() {
        let error = SchemaError::Pattern { path: "/properties/a/pattern".to_owned() };
        for pattern in ["(?=a)b", r"(a)\1", "([a-z]{1000}){1000}"] {
            assert_eq!(refused(&json!({"properties": {"a": {"pattern": pattern}}})), error, "{pattern}");
            assert!(matches!(refused(&json!({"patternProperties": {pattern: true}})), SchemaError::Pattern { .. }), "{pattern}");
        }
        let many: Vec<Value> = (0..=MAX_PATTERNS).map(|i| json!({"pattern": format!("^{i}+$")})).collect();
        assert_eq!(refused(&json!({"anyOf": many})), SchemaError::TooManyPatterns);
        let evil = json!({"pattern": "^(a+)+$"});
        assert_eq!(one(&evil, &json!(format!("{}!", "a".repeat(100_000)))).1, "pattern");
    }

    #[test]
    fn a_circle_of_references_is_refused_and_a_recursive_record_is_not() {
        for circle in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"not": {"$ref": "#/$defs/a"}}}}),
        ] {
            assert_eq!(refused(&circle), SchemaError::TooNested);
        }
        let tree = json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}});
        assert_eq!(schema(&tree).check(&json!({"children": [{"children": []}]})), Ok(()));
        assert_eq!(one(&tree, &json!({"children": [{"children": 1}]})).0, "/children/0/children");
        // Two ways to one place are no circle.
        schema(&json!({"allOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}],
                       "$defs": {"a": {"$ref": "#/$defs/b"}, "b": true}}));
    }

    /// The longest chain that is allowed, at every level of the deepest document: on a stack of the size that tokio's workers have.
    #[test]
    fn the_deepest_document_under_the_longest_chains_fits_a_workers_stack() {
        for (link, under) in [("$ref", "items"), ("allOf", "items"), ("anyOf", "items"), ("not", "items"), ("anyOf", "unevaluatedItems")] {
            let to = |place: String| match link {
                "$ref" => json!({"$ref": place}),
                "not" => json!({"not": {"not": {"$ref": place}}}),
                _ => json!({link: [{"$ref": place}]}),
            };
            let per_link = match link {
                "$ref" => 1,
                "not" => 3,
                _ => 2,
            };
            let links = (MAX_CHAIN - 2) / per_link;
            let mut defs: serde_json::Map<String, Value> =
                (0..links).map(|i| (format!("d{i}"), to(format!("#/$defs/d{}", i + 1)))).collect();
            defs.insert(format!("d{links}"), json!({"type": "array", under: {"$ref": "#/$defs/d0"}}));
            let source = json!({"items": {"$ref": "#/$defs/d0"}, "$defs": defs}).to_string();
            let run = move || {
                let Ok(schema) = Schema::compile(&source, MAX) else { return Err(source) };
                let mut deep = json!(1);
                for _ in 0..127 {
                    deep = json!([deep]);
                }
                let _ = schema.check(&deep);
                Ok(())
            };
            std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(run).unwrap().join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_chain_of_thousands_of_references_is_refused() {
        let defs: serde_json::Map<String, Value> =
            (0..5000).map(|i| (format!("{i}"), json!({"$ref": format!("#/$defs/{}", (i + 1) % 5000)}))).collect();
        let mut chain = json!({"$ref": "#/$defs/0", "$defs": defs});
        chain["$defs"]["4999"] = json!(true);
        assert_eq!(refused(&chain), SchemaError::TooNested);
    }

    #[test]
    fn a_recursive_choice_over_a_deep_document_ends_soon() {
        let source = json!({"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
            {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1},
            {"type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 1},
            {"type": "boolean"}
        ]}}});
        let schema = schema(&source);
        let mut deep = json!(1);
        for _ in 0..60 {
            deep = json!([deep]);
        }
        let started = std::time::Instant::now();
        assert!(schema.check(&deep).is_err());
        assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    }

    #[test]
    fn a_property_of_the_document_is_found_wherever_it_is_named() {
        for source in [
            json!({"properties": {"error": true}}),
            json!({"required": ["error"]}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"error": true}}}}),
            json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"allOf": [{"properties": {"error": true}}]}}}),
            json!({"oneOf": [{"properties": {"error": true}}]}),
            json!({"if": true, "then": {"properties": {"error": true}}}),
        ] {
            assert!(schema(&source).allows_top_level_property("error"), "{source}");
            assert!(!schema(&source).allows_top_level_property("other"), "{source}");
        }
        for source in [
            json!(true),
            json!({"properties": {"a": {"properties": {"error": true}}}}),
            json!({"$defs": {"a": {"properties": {"error": true}}}}),
        ] {
            assert!(!schema(&source).allows_top_level_property("error"), "{source}");
        }
    }

    #[test]
    fn two_schemas_are_equal_when_their_documents_are() {
        let compile = |text| Schema::compile(text, MAX).unwrap();
        assert_eq!(compile(r#"{"type": "object", "required": []}"#), compile(r#"{ "required":[],"type":"object" }"#));
        assert_ne!(compile("true"), compile("{}"));
        assert_eq!(compile("true").source(), &json!(true));
    }

    proptest! {
        #[test]
        fn a_check_agrees_with_the_rule_that_its_schema_writes_down(
            id in prop_oneof![any::<i64>().prop_map(Value::from), "[a-z]{0,5}".prop_map(Value::from), Just(Value::Null)],
            content in prop_oneof!["\\PC{0,8}".prop_map(Value::from), any::<bool>().prop_map(Value::from)],
            has_content in any::<bool>(),
        ) {
            let record = schema(&json!({"type": "object", "required": ["id", "content"], "properties": {
                "id": {"type": "integer", "minimum": 1}, "content": {"type": "string", "minLength": 2, "maxLength": 5}}}));
            let mut value = json!({"id": id});
            if has_content {
                value["content"] = content.clone();
            }
            let id_fits = id.as_i64().is_some_and(|id| id >= 1);
            let content_fits = has_content && content.as_str().is_some_and(|text| (2..=5).contains(&text.chars().count()));
            match record.check(&value) {
                Ok(()) => prop_assert!(id_fits && content_fits),
                Err(details) => {
                    let mut places: Vec<_> = details.iter().map(|detail| detail.path.as_str()).collect();
                    places.sort_unstable();
                    let expected: Vec<_> = [("/content", content_fits), ("/id", id_fits)].iter().filter(|(_, fits)| !fits).map(|(at, _)| *at).collect();
                    prop_assert_eq!(places, expected);
                }
            }
        }

        #[test]
        fn any_json_either_compiles_or_is_refused(text in "[\\[\\]{}\",:a-z0-9$#/]{0,40}") {
            let _ = Schema::compile(&text, MAX);
        }
    }
}
