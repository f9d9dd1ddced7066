//! What a document must look like: compiles the JSON Schemas of plugins, checks documents against them, and says what is wrong in words
//! that may reach a client. The only file that knows jsonschema.
//!
//! Refuses to know where a document comes from, and fetches nothing: a schema is whole in itself. Both sides are hostile here: a schema is a
//! plugin's, a document a client's. Neither may make a check overflow the stack, and what a check says never repeats the document.

mod findings;
mod forms;
mod graph;
#[cfg(test)]
mod tests;

use std::fmt;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::rejection::Detail;

use findings::{describe, refusal};
use graph::Graph;

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

/// What one check may cost, in evaluations of a plain subschema: about a tenth of a second. A choice between two forms that both recurse
/// doubles the work at every level of the document.
const MAX_COST: usize = 1_000_000;

/// Subschemas in a row, over all levels of a document, that the caller's own stack holds: some 128 KiB where nothing is optimised. A check
/// may run on a guest's fibre, of which the guest leaves the host little.
const LINKS_ON_CALLERS_STACK: usize = 128;

/// Bytes of stack for one of these links: four times what was needed without optimisation.
const STACK_OF_A_LINK: usize = 4 * 1024;

/// A compiled schema. Two are equal when they were written as the same document.
pub struct Schema {
    source: Value,
    validator: Validator,
    /// The most subschemas that apply to one value in a row.
    chain: usize,
    /// What a check costs for each value of a document at most; nothing where the schema recurs, and so has no such number.
    cost_of_a_value: Option<usize>,
    graph: Graph,
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
        let graph = Graph::read(&source)?;
        let chain = graph.longest_chain().filter(|chain| *chain <= MAX_CHAIN).ok_or(SchemaError::TooNested)?;
        let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(&source)
            .map_err(|error| refusal(&error))?;
        Ok(Self { source, validator, chain, cost_of_a_value: graph.cost_of_a_value(), graph })
    }

    /// The document that was compiled.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// How many patterns it has.
    pub fn patterns(&self) -> usize {
        self.graph.patterns()
    }

    /// Checks `value`.
    ///
    /// # Errors
    /// What was found, at least one and at most 16; nothing of `value` is in it but the names of properties, in paths.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Detail>> {
        let extent = Extent::of(value);
        let links = extent.levels * self.chain;
        if links <= LINKS_ON_CALLERS_STACK {
            return self.check_here(value, extent);
        }
        stacker::grow(links * STACK_OF_A_LINK, || self.check_here(value, extent))
    }

    /// The same on the stack of its caller, whatever that takes.
    fn check_here(&self, value: &Value, extent: Extent) -> Result<(), Vec<Detail>> {
        let is_cheap = self.cost_of_a_value.is_some_and(|cost| cost.saturating_mul(extent.values + extent.bytes) <= MAX_COST);
        if !is_cheap && self.graph.cost(value, MAX_COST).is_none() {
            return Err(vec![finding("takes too much work to be checked against its schema")]);
        }
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
            details.push(finding("does not fit the schema"));
        }
        Err(details)
    }

    /// Whether the schema names a property `name` of the document itself, wherever it may do so: in `properties` or `required`, its own or
    /// those of what it refers to or combines.
    pub fn allows_top_level_property(&self, name: &str) -> bool {
        self.graph.names_property(name)
    }

    /// Whether a document may have a property `name` at its top: one that the schema names, or any one where it lists none.
    pub fn may_have_property(&self, name: &str) -> bool {
        self.graph.names_property(name) || self.graph.takes_any_property()
    }
}

/// A finding about the whole document that no keyword stands for.
fn finding(message: &str) -> Detail {
    Detail { path: String::new(), rule: "schema".to_owned(), message: message.to_owned() }
}

/// How large a document is. JSON that was parsed has at most 128 levels, so measuring may recurse.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    /// 1 for a plain value.
    levels: usize,
    /// All of them, the document itself included.
    values: usize,
    /// Of all its strings.
    bytes: usize,
}

impl Extent {
    fn of(value: &Value) -> Self {
        let mut extent = Self { levels: 0, values: 1, bytes: 0 };
        let mut add = |inner: &Value| {
            let inner = Self::of(inner);
            extent.levels = extent.levels.max(inner.levels);
            extent.values += inner.values;
            extent.bytes += inner.bytes;
        };
        match value {
            Value::Array(items) => items.iter().for_each(&mut add),
            Value::Object(members) => members.values().for_each(&mut add),
            Value::String(text) => extent.bytes += text.len(),
            _ => {}
        }
        extent.levels += 1;
        extent
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
