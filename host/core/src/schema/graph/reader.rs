//! Reads a schema: numbers its subschemas, resolves its references, and makes a node of each
//! subschema.

use std::collections::HashMap;

use serde_json::Value;

use super::Node;
use crate::schema::text::{cut, quote};
use crate::schema::{DIALECT, MAX_PATTERNS, SchemaError};

/// Keywords that apply a schema, a list of schemas, or a map of schemas to the value itself.
const IN_PLACE_ONE: [&str; 4] = ["not", "if", "then", "else"];
const IN_PLACE_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const IN_PLACE_MAP: [&str; 1] = ["dependentSchemas"];
/// Keywords that apply schemas to the value's members, items or member names, or that only define
/// schemas.
const CHILD_ONE: [&str; 6] = [
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const CHILD_LIST: [&str; 1] = ["prefixItems"];
const CHILD_MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Number of `enum` constants whose comparison costs as much as one evaluation of a plain
/// subschema.
const CONSTANTS_PER_EVALUATION: usize = 8;

/// Returns the nodes of the schema `root` by number, and how many patterns it has.
pub(super) fn read(root: &Value) -> Result<(Vec<Node>, usize), SchemaError> {
    let mut reader =
        Reader { root, anchors: HashMap::new(), schemas: Vec::new(), numbers: HashMap::new() };
    let patterns = reader.walk()?;
    let nodes =
        reader.schemas.iter().map(|schema| reader.node(schema)).collect::<Result<_, _>>()?;
    Ok((nodes, patterns))
}

/// Reads the subschemas of a schema and the targets of their references.
struct Reader<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// The subschemas that the walk has reached. The position of each is its number.
    schemas: Vec<&'a Value>,
    /// The number of each subschema, by its address.
    numbers: HashMap<*const Value, usize>,
}

impl<'a> Reader<'a> {
    /// Numbers all subschemas that can be reached. Returns how many patterns they have.
    fn walk(&mut self) -> Result<usize, SchemaError> {
        let mut to_visit = vec![self.root];
        // A reference may name an anchor that comes later, or a schema that only references reach.
        // So references are resolved after each walk, and the next walk begins at their targets.
        let mut unresolved = Vec::new();
        let mut patterns = 0;
        loop {
            while let Some(schema) = to_visit.pop() {
                let number = self.schemas.len();
                if *self.numbers.entry(std::ptr::from_ref(schema)).or_insert(number) != number {
                    continue;
                }
                self.schemas.push(schema);
                self.read_core_keywords(schema)?;
                patterns += usize::from(schema.get("pattern").is_some());
                patterns += schema
                    .get("patternProperties")
                    .and_then(Value::as_object)
                    .map_or(0, serde_json::Map::len);
                if patterns > MAX_PATTERNS {
                    return Err(SchemaError::TooManyPatterns);
                }
                unresolved.extend(references(schema));
                to_visit.extend(subschemas(schema, &IN_PLACE_ONE, &IN_PLACE_LIST, &IN_PLACE_MAP));
                to_visit.extend(subschemas(schema, &CHILD_ONE, &CHILD_LIST, &CHILD_MAP));
            }
            if unresolved.is_empty() {
                return Ok(patterns);
            }
            for reference in unresolved.drain(..) {
                to_visit.push(self.resolve(reference)?);
            }
        }
    }

    /// Checks `$schema` and `$id` of `schema`, and records its anchors.
    fn read_core_keywords(&mut self, schema: &'a Value) -> Result<(), SchemaError> {
        if let Some(dialect) = schema.get("$schema")
            && dialect.as_str().map(|uri| uri.trim_end_matches('#')) != Some(DIALECT)
        {
            return Err(SchemaError::UnsupportedDialect { found: quote(dialect) });
        }
        if let Some(id) = schema.get("$id")
            && !std::ptr::eq(schema, self.root)
        {
            let message =
                format!("only the whole schema may have an `$id`, and {} is within it", quote(id));
            return Err(SchemaError::Invalid { path: String::new(), message });
        }
        for keyword in ["$anchor", "$dynamicAnchor"] {
            if let Some(anchor) = schema.get(keyword).and_then(Value::as_str) {
                self.anchors.insert(anchor, schema);
            }
        }
        Ok(())
    }

    /// Returns the subschema that `reference` names. It must be in this document.
    fn resolve(&self, reference: &str) -> Result<&'a Value, SchemaError> {
        let id = self
            .root
            .get("$id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .map(|id| id.trim_end_matches('#'));
        let without_own_id = id
            .and_then(|id| reference.strip_prefix(id))
            .filter(|rest| rest.is_empty() || rest.starts_with('#'));
        let fragment = match without_own_id.unwrap_or(reference) {
            "" => "",
            local => local
                .strip_prefix('#')
                .ok_or_else(|| SchemaError::ExternalReference { reference: cut(reference) })?,
        };
        let fragment = percent_decoded(fragment);
        let found = if fragment.is_empty() || fragment.starts_with('/') {
            self.root.pointer(&fragment)
        } else {
            self.anchors.get(fragment.as_str()).copied()
        };
        found.ok_or_else(|| SchemaError::DanglingReference { reference: cut(reference) })
    }

    /// Converts the subschema `schema` to a node that refers to other subschemas by number.
    fn node(&self, schema: &Value) -> Result<Node, SchemaError> {
        let number = |schema: &Value| self.numbers.get(&std::ptr::from_ref(schema)).copied();
        let of = |one: &[&str], lists: &[&str], maps: &[&str]| -> Vec<usize> {
            subschemas(schema, one, lists, maps).into_iter().filter_map(number).collect()
        };
        let mut in_place = of(&IN_PLACE_ONE, &IN_PLACE_LIST, &IN_PLACE_MAP);
        for reference in references(schema) {
            in_place.extend(number(self.resolve(reference)?));
        }
        let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
        Ok(Node {
            in_place,
            properties: properties
                .filter_map(|(name, schema)| Some((name.clone(), number(schema)?)))
                .collect(),
            required: required.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            every_member: of(&[], &[], &["patternProperties"]),
            unlisted_members: of(&["additionalProperties", "unevaluatedProperties"], &[], &[]),
            member_names: of(&["propertyNames"], &[], &[]),
            first_items: of(&[], &["prefixItems"], &[]),
            later_items: of(&["items"], &[], &[]),
            every_item: of(&["contains", "unevaluatedItems"], &[], &[]),
            cost: 1 + schema.get("enum").and_then(Value::as_array).map_or(0, Vec::len)
                / CONSTANTS_PER_EVALUATION,
            has_pattern: schema.get("pattern").is_some(),
            admits_objects: admits_objects(schema),
            allows_unlisted: ["additionalProperties", "unevaluatedProperties", "patternProperties"]
                .iter()
                .any(|keyword| {
                    schema.get(keyword).is_some_and(|others| *others != Value::Bool(false))
                }),
            evaluates_twice: ["unevaluatedItems", "unevaluatedProperties"]
                .iter()
                .any(|keyword| schema.get(keyword).is_some()),
        })
    }
}

/// Returns the subschemas directly within `schema` under these keywords. `one` are keywords with
/// one schema, `lists` those with a list of schemas, and `maps` those with a map of schemas.
fn subschemas<'a>(
    schema: &'a Value,
    one: &[&str],
    lists: &[&str],
    maps: &[&str],
) -> Vec<&'a Value> {
    let Some(schema) = schema.as_object() else { return Vec::new() };
    let one = one.iter().filter_map(|keyword| schema.get(*keyword));
    let lists = lists.iter().filter_map(|keyword| schema.get(*keyword)?.as_array()).flatten();
    let maps = maps
        .iter()
        .filter_map(|keyword| schema.get(*keyword)?.as_object())
        .flat_map(|map| map.values());
    one.chain(lists).chain(maps).collect()
}

/// Whether the keywords `type`, `const` and `enum` of `schema` accept an object. Returns `false`
/// for a schema with references or combinations (`allOf`, `anyOf`, `oneOf`), because their
/// subschemas decide.
fn admits_objects(schema: &Value) -> bool {
    let has_type = schema.get("type").is_none_or(|kind| {
        kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&"object".into()))
    });
    let constants = schema.get("enum").and_then(Value::as_array);
    let combines = ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"]
        .iter()
        .any(|keyword| schema.get(keyword).is_some());
    has_type
        && !combines
        && *schema != Value::Bool(false)
        && schema.get("const").is_none_or(Value::is_object)
        && constants.is_none_or(|constants| constants.iter().any(Value::is_object))
}

/// The references of `schema`. A `$dynamicRef` counts as a `$ref`: in a document without inner
/// `$id`s they have the same meaning. The library refuses a reference that is not a string.
fn references(schema: &Value) -> impl Iterator<Item = &str> {
    ["$ref", "$dynamicRef"].into_iter().filter_map(move |keyword| schema.get(keyword)?.as_str())
}

/// Decodes `text`, the fragment of a reference, in which characters may be percent-encoded.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        let code = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
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
