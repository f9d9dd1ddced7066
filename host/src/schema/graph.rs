//! Represents a schema as a graph of subschemas: which apply to the same value, and which to its
//! members. Before the library gets the schema, this module finds references that the library would
//! fetch, and recursion that is too deep or endless.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::findings::{cut, quote};
use super::{DIALECT, MAX_PATTERNS, SchemaError};

/// Keywords that apply a schema, a list of schemas or a map of schemas to the same value.
const IN_PLACE_ONE: [&str; 4] = ["not", "if", "then", "else"];
const IN_PLACE_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const IN_PLACE_MAP: [&str; 1] = ["dependentSchemas"];
/// Keywords that apply schemas to the value's members, or only define schemas.
const BELOW_ONE: [&str; 6] = [
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const BELOW_LIST: [&str; 1] = ["prefixItems"];
const BELOW_MAP: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

/// Maximum pairs of a subschema and a value that are visited to calculate the cost of a check.
const MAX_PAIRS: usize = 100_000;

/// The subschemas of a schema by number; the root is 0.
pub(super) struct Graph {
    nodes: Vec<Node>,
    patterns: usize,
}

/// One subschema. Its fields say which other subschemas it applies, and to what.
struct Node {
    /// Subschemas for the same value.
    in_place: Vec<usize>,
    /// Subschemas for members, by the member's name.
    properties: HashMap<String, usize>,
    required: HashSet<String>,
    /// Subschemas for members in `patternProperties`; counted as if each applied to every member.
    members: Vec<usize>,
    /// Subschemas for members that `properties` does not name.
    other_members: Vec<usize>,
    /// Subschemas for the name of each member.
    names: Vec<usize>,
    /// Subschemas for items, by position (`prefixItems`).
    prefix: Vec<usize>,
    /// Subschemas for the items after those of `prefix`.
    other_items: Vec<usize>,
    /// Subschemas for every item.
    items: Vec<usize>,
    /// Whether the subschemas in `in_place` are evaluated a second time, to find which members they
    /// have evaluated.
    asks_twice: bool,
    /// Cost of the subschema itself: 1, and more if it compares with many constants.
    cost: usize,
    /// Whether it has a pattern, and so reads every byte of a string.
    has_pattern: bool,
    /// Whether it accepts objects.
    is_object: bool,
    /// Whether it allows properties that `properties` does not list, by a keyword with a schema for
    /// them.
    takes_others: bool,
}

/// Constants of an `enum` that can be compared at the cost of one evaluation.
const CONSTANTS_PER_COST: usize = 8;

impl Node {
    /// All subschemas that this one applies to any value.
    fn all(&self) -> Vec<usize> {
        let lists = [
            &self.in_place,
            &self.members,
            &self.other_members,
            &self.names,
            &self.prefix,
            &self.other_items,
            &self.items,
        ];
        lists.into_iter().flatten().chain(self.properties.values()).copied().collect()
    }

    /// How many times the subschemas in `in_place` are evaluated.
    fn times(&self) -> usize {
        if self.asks_twice { 2 } else { 1 }
    }
}

/// Progress of measuring a subschema.
#[derive(Clone, Copy)]
enum Measure {
    None,
    Begun,
    Done(usize),
}

impl Graph {
    /// Reads the schema `root`.
    ///
    /// # Errors
    /// Returns an error if the schema refers to something that it does not contain, has an `$id`
    /// below its root, names another dialect, or has too many patterns.
    pub(super) fn read(root: &Value) -> Result<Self, SchemaError> {
        let mut reader =
            Reader { root, anchors: HashMap::new(), schemas: Vec::new(), numbers: HashMap::new() };
        let patterns = reader.walk()?;
        let nodes =
            reader.schemas.iter().map(|schema| reader.node(schema)).collect::<Result<_, _>>()?;
        Ok(Self { nodes, patterns })
    }

    /// The number of patterns in the schema.
    pub(super) fn patterns(&self) -> usize {
        self.patterns
    }

    /// Returns the length of the longest chain of subschemas that apply to one value, or `None` if
    /// there is a cycle.
    pub(super) fn longest_chain(&self) -> Option<usize> {
        let chains = self.measure(
            |node| node.in_place.clone(),
            |_, below| 1 + below.iter().max().unwrap_or(&0),
        )?;
        chains.into_iter().max()
    }

    /// Returns the maximum cost of a check for each value, and for each byte of text, of a
    /// document: the cost of all paths from the root to any subschema. Returns `None` if the schema
    /// is recursive, because then the number of paths is infinite.
    pub(super) fn cost_of_a_value(&self) -> Option<usize> {
        let costs = self.measure(Node::all, |node, below| {
            let below = below.iter().copied().fold(0, usize::saturating_add);
            below.saturating_mul(node.times()).saturating_add(node.cost)
        })?;
        costs.first().copied()
    }

    /// Whether the schema names a property `name` of the document itself.
    pub(super) fn names_property(&self, name: &str) -> bool {
        self.of_the_document()
            .iter()
            .any(|node| node.properties.contains_key(name) || node.required.contains(name))
    }

    /// Whether properties that the schema does not list are expected: it has a keyword for them, or
    /// it accepts an object and lists no properties.
    pub(super) fn takes_any_property(&self) -> bool {
        let nodes = self.of_the_document();
        let lists_some = nodes.iter().any(|node| !node.properties.is_empty());
        nodes.iter().any(|node| node.takes_others)
            || !lists_some && nodes.iter().any(|node| node.is_object)
    }

    /// The subschemas that may apply to the document itself.
    fn of_the_document(&self) -> Vec<&Node> {
        let (mut seen, mut open, mut nodes) = (HashSet::new(), vec![0], Vec::new());
        while let Some(number) = open.pop() {
            let Some(node) = self.nodes.get(number).filter(|_| seen.insert(number)) else {
                continue;
            };
            nodes.push(node);
            open.extend(&node.in_place);
        }
        nodes
    }

    /// Returns the cost of a check of `value` that does not end early. Returns `None` if the cost
    /// is more than `most`, or if there are more than [`MAX_PAIRS`] pairs to count. Recurses as
    /// deep as the check would.
    pub(super) fn cost(&self, value: &Value, most: usize) -> Option<usize> {
        Count { graph: self, most, known: HashMap::new() }.of(0, value)
    }

    /// Calculates a measure for each subschema from the measures of its `edges`. Returns `None` if
    /// there is a cycle. It is not recursive, because it protects the check from recursion that is
    /// too deep.
    fn measure(
        &self,
        edges: impl Fn(&Node) -> Vec<usize>,
        combine: impl Fn(&Node, &[usize]) -> usize,
    ) -> Option<Vec<usize>> {
        let mut measures = vec![Measure::None; self.nodes.len()];
        for start in 0..self.nodes.len() {
            // Subschemas that are being measured, each with the edges that are still to be
            // followed.
            let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut next = Some(start);
            loop {
                if let Some(number) = next {
                    let measure = measures.get_mut(number)?;
                    match measure {
                        Measure::Done(_) => {}
                        Measure::Begun => return None,
                        Measure::None => {
                            *measure = Measure::Begun;
                            open.push((number, edges(self.nodes.get(number)?)));
                        }
                    }
                }
                let Some((number, left)) = open.last_mut() else { break };
                next = left.pop();
                if next.is_none() {
                    let number = *number;
                    open.pop();
                    let node = self.nodes.get(number)?;
                    let done = |number: usize| {
                        if let Some(Measure::Done(measure)) = measures.get(number) {
                            Some(*measure)
                        } else {
                            None
                        }
                    };
                    let below = edges(node).into_iter().map(done).collect::<Option<Vec<_>>>()?;
                    *measures.get_mut(number)? = Measure::Done(combine(node, &below));
                }
            }
        }
        measures
            .into_iter()
            .map(|measure| if let Measure::Done(measure) = measure { Some(measure) } else { None })
            .collect()
    }
}

/// Calculates the cost of a check. Each pair of a subschema and a value is calculated once.
struct Count<'graph> {
    graph: &'graph Graph,
    most: usize,
    known: HashMap<(usize, *const Value), usize>,
}

impl Count<'_> {
    fn of(&mut self, number: usize, value: &Value) -> Option<usize> {
        let key = (number, std::ptr::from_ref(value));
        if let Some(count) = self.known.get(&key) {
            return Some(*count);
        }
        let node = self.graph.nodes.get(number)?;
        let mut total =
            self.sum(&node.in_place, value)?.saturating_mul(node.times()).saturating_add(node.cost);
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    total = total.saturating_add(match node.properties.get(name) {
                        Some(number) => self.of(*number, member)?,
                        None => self.sum(&node.other_members, member)?,
                    });
                    total = total.saturating_add(self.sum(&node.members, member)?);
                    // A name is a plain value: it has no members for which subschemas would apply.
                    total = total.saturating_add(self.sum(&node.names, &Value::Null)?);
                }
            }
            Value::Array(items) => {
                for (place, item) in items.iter().enumerate() {
                    total = total.saturating_add(match node.prefix.get(place) {
                        Some(number) => self.of(*number, item)?,
                        None => self.sum(&node.other_items, item)?,
                    });
                    total = total.saturating_add(self.sum(&node.items, item)?);
                }
            }
            Value::String(text) if node.has_pattern => total = total.saturating_add(text.len()),
            _ => {}
        }
        if total > self.most || self.known.len() >= MAX_PAIRS {
            return None;
        }
        self.known.insert(key, total);
        Some(total)
    }

    fn sum(&mut self, numbers: &[usize], value: &Value) -> Option<usize> {
        numbers
            .iter()
            .try_fold(0_usize, |sum, number| Some(sum.saturating_add(self.of(*number, value)?)))
    }
}

/// Reads the subschemas of a schema and the targets of their references.
struct Reader<'a> {
    root: &'a Value,
    anchors: HashMap<&'a str, &'a Value>,
    /// All subschemas that can be reached.
    schemas: Vec<&'a Value>,
    /// Their positions in `schemas`.
    numbers: HashMap<*const Value, usize>,
}

impl<'a> Reader<'a> {
    /// Numbers all subschemas. Returns how many patterns they have.
    fn walk(&mut self) -> Result<usize, SchemaError> {
        let mut open = vec![self.root];
        // A reference may name an anchor that comes later, or a location that no keyword leads to.
        // So references are resolved after each walk, and the schemas that they add are walked
        // next.
        let mut unresolved = Vec::new();
        let mut patterns = 0;
        loop {
            while let Some(schema) = open.pop() {
                let number = self.schemas.len();
                if *self.numbers.entry(std::ptr::from_ref(schema)).or_insert(number) != number {
                    continue;
                }
                self.schemas.push(schema);
                self.read_names(schema)?;
                patterns += usize::from(schema.get("pattern").is_some());
                patterns += schema
                    .get("patternProperties")
                    .and_then(Value::as_object)
                    .map_or(0, serde_json::Map::len);
                if patterns > MAX_PATTERNS {
                    return Err(SchemaError::TooManyPatterns);
                }
                unresolved.extend(references(schema));
                open.extend(subschemas(schema, &IN_PLACE_ONE, &IN_PLACE_LIST, &IN_PLACE_MAP));
                open.extend(subschemas(schema, &BELOW_ONE, &BELOW_LIST, &BELOW_MAP));
            }
            if unresolved.is_empty() {
                return Ok(patterns);
            }
            for reference in unresolved.drain(..) {
                open.push(self.resolve(reference)?);
            }
        }
    }

    /// Checks `$schema` and `$id` of `schema`, and records its anchors.
    fn read_names(&mut self, schema: &'a Value) -> Result<(), SchemaError> {
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

    /// Returns the location in this document that `reference` names.
    fn resolve(&self, reference: &str) -> Result<&'a Value, SchemaError> {
        let id = self
            .root
            .get("$id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .map(|id| id.trim_end_matches('#'));
        let own = id
            .and_then(|id| reference.strip_prefix(id))
            .filter(|rest| rest.is_empty() || rest.starts_with('#'));
        let fragment = match own.unwrap_or(reference) {
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
            members: of(&[], &[], &["patternProperties"]),
            other_members: of(&["additionalProperties", "unevaluatedProperties"], &[], &[]),
            names: of(&["propertyNames"], &[], &[]),
            prefix: of(&[], &["prefixItems"], &[]),
            other_items: of(&["items"], &[], &[]),
            items: of(&["contains", "unevaluatedItems"], &[], &[]),
            cost: 1 + schema.get("enum").and_then(Value::as_array).map_or(0, Vec::len)
                / CONSTANTS_PER_COST,
            has_pattern: schema.get("pattern").is_some(),
            is_object: admits_objects(schema),
            takes_others: ["additionalProperties", "unevaluatedProperties", "patternProperties"]
                .iter()
                .any(|keyword| {
                    schema.get(keyword).is_some_and(|others| *others != Value::Bool(false))
                }),
            asks_twice: ["unevaluatedItems", "unevaluatedProperties"]
                .iter()
                .any(|keyword| schema.get(keyword).is_some()),
        })
    }
}

/// Returns the schemas directly within `schema` under these keywords.
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
/// for a schema with references or combinations, because its subschemas decide.
fn admits_objects(schema: &Value) -> bool {
    let named = schema.get("type").is_none_or(|kind| {
        kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&"object".into()))
    });
    let constants = schema.get("enum").and_then(Value::as_array);
    let combines = ["$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"]
        .iter()
        .any(|keyword| schema.get(keyword).is_some());
    named
        && !combines
        && *schema != Value::Bool(false)
        && schema.get("const").is_none_or(Value::is_object)
        && constants.is_none_or(|constants| constants.iter().any(Value::is_object))
}

/// The references of `schema`. A `$dynamicRef` counts as a `$ref`: in a document without inner
/// `$id`s they have the same meaning.
fn references(schema: &Value) -> impl Iterator<Item = &str> {
    ["$ref", "$dynamicRef"].into_iter().filter_map(move |keyword| schema.get(keyword)?.as_str())
}

/// Decodes the percent-encoding of `text`, in which JSON pointers in references are written.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
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
