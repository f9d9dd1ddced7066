//! Compiles the JSON Schemas of plugins, checks documents against them, and describes faults in
//! messages that may be sent to clients. This is the only module that knows jsonschema.
//!
//! It does not know where a document comes from. It fetches nothing, so a schema must be complete
//! in itself. Both inputs may be hostile: plugins supply the schemas, clients the documents.
//! Neither may make a check overflow the stack. Messages never repeat values of the document.

mod forms;
#[doc(hidden)]
pub mod fuzzing;
mod graph;
mod message;
#[cfg(test)]
mod tests;
mod text;
mod violations;

use std::fmt;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use crate::arguments::Arguments;
use crate::rejection::Detail;

use graph::Graph;
use violations::{describe, refusal};

/// The only supported dialect, as `$schema` names it.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Maximum violations that one check reports: enough for a form, and small enough for an ack.
const MAX_DETAILS: usize = 16;

/// The budget of [`has_at_most`] within which a check reports all violations of a document. It
/// allows 2,048 values. For a larger document, a check reports only the first violation: the
/// library collects all violations before it returns one, and each may use a hundred times the
/// bytes of the value that it is about.
const MAX_VALUES_IN_FULL: usize = 4096;

/// Maximum bytes of a compiled pattern, and of the tables that matching may build. A plain pattern
/// needs a few KiB; counted repetitions multiply that.
const MAX_PATTERN_BYTES: usize = 256 * 1024;

/// Maximum patterns of one schema. Its memory is limited to this number times
/// [`MAX_PATTERN_BYTES`].
const MAX_PATTERNS: usize = 100;

/// Maximum length of a chain of subschemas that apply to the same value (through `$ref`, `allOf`
/// and similar keywords). A check recurses once for each of them, at every level of the document.
/// So this length times the depth of a document bounds the stack that a check needs.
const MAX_CHAIN: usize = 24;

/// Maximum cost of one check, in evaluations of a plain subschema: about a tenth of a second. A
/// choice between two recursive alternatives doubles the work at every level of the document.
const MAX_COST: usize = 1_000_000;

/// Maximum number of chained subschemas, over all levels of a document, for a check on the caller's
/// own stack. Without optimisation, this number needs about 128 KiB of stack. The caller may run on
/// a guest's fibre, where the guest already uses a part of the stack.
const LINKS_ON_CALLERS_STACK: usize = 128;

/// Bytes of stack for each chained subschema: four times what was needed without optimisation.
const STACK_OF_A_LINK: usize = 4 * 1024;

/// A compiled schema. Two schemas are equal if their source documents are equal.
pub struct Schema {
    source: Value,
    validator: Validator,
    /// Length of the longest chain of subschemas that apply to one value.
    chain: usize,
    /// Maximum cost of a check per value of a document. `None` if the schema is recursive, because
    /// then there is no maximum.
    cost_of_a_value: Option<usize>,
    graph: Graph,
}

/// Why a schema is refused, for the plugin's author.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The schema has more bytes than allowed.
    #[error("the schema has {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Bytes of the schema.
        bytes: usize,
        /// Maximum bytes.
        max: usize,
    },
    /// The text is not JSON, or is nested deeper than 128 levels.
    #[error("the schema is not JSON: {reason}")]
    NotJson {
        /// The parser's message, with line and column.
        reason: String,
    },
    /// The text is JSON, but not a valid schema.
    #[error("the schema is not valid at `{path}`: {message}")]
    Invalid {
        /// JSON pointer into the schema.
        path: String,
        /// What is wrong there.
        message: String,
    },
    /// `$schema` names a dialect other than 2020-12.
    #[error("the schema's `$schema` is {found}, only `{DIALECT}` is supported")]
    UnsupportedDialect {
        /// The value of `$schema`.
        found: String,
    },
    /// A `$ref` refers to another document.
    #[error(
        "`{reference}` is outside of the schema: nothing is fetched, so a `$ref` must begin with \
         `#`"
    )]
    ExternalReference {
        /// The reference.
        reference: String,
    },
    /// A `$ref` refers to a location that the schema does not have.
    #[error("`{reference}` names nothing in the schema")]
    DanglingReference {
        /// The reference.
        reference: String,
    },
    /// A chain of references and combinations is circular or too long.
    #[error(
        "more than {MAX_CHAIN} subschemas apply to one value in a row, or they refer to each other \
         in a circle"
    )]
    TooNested,
    /// The schema has more patterns than allowed.
    #[error("the schema has more than {MAX_PATTERNS} patterns")]
    TooManyPatterns,
    /// A pattern can't be matched in linear time, or needs too much memory.
    #[error(
        "the pattern at `{path}` is not supported: no look-around and no back-references, and at \
         most 256 KiB compiled"
    )]
    Pattern {
        /// JSON pointer into the schema.
        path: String,
    },
}

impl Schema {
    /// Compiles `text`, a schema of JSON Schema 2020-12 with at most `max_bytes` bytes.
    ///
    /// `format` is checked if the draft defines it. Patterns are matched in linear time. Everything
    /// that the schema refers to must be within it, by a `$ref` that begins with `#` (or with the
    /// schema's own `$id`).
    ///
    /// # Errors
    /// Returns what the author has to change, see [`SchemaError`].
    pub fn compile(text: &str, max_bytes: usize) -> Result<Self, SchemaError> {
        if text.len() > max_bytes {
            return Err(SchemaError::TooLarge { bytes: text.len(), max: max_bytes });
        }
        let source: Value = serde_json::from_str(text)
            .map_err(|error| SchemaError::NotJson { reason: error.to_string() })?;
        let graph = Graph::read(&source)?;
        let chain = graph
            .longest_chain()
            .filter(|chain| *chain <= MAX_CHAIN)
            .ok_or(SchemaError::TooNested)?;
        let patterns =
            PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .offline()
            .should_validate_formats(true)
            .with_pattern_options(patterns)
            .build(&source)
            .map_err(|error| refusal(&error))?;
        Ok(Self { source, validator, chain, cost_of_a_value: graph.cost_of_a_value(), graph })
    }

    /// The source document.
    pub fn source(&self) -> &Value {
        &self.source
    }

    /// The number of patterns in the schema.
    pub fn patterns(&self) -> usize {
        self.graph.patterns()
    }

    /// Checks `value` against the schema.
    ///
    /// # Errors
    /// Returns the violations: at least 1, at most 16. They contain nothing of `value` except the
    /// names of properties, in paths.
    pub fn check(&self, value: &Value) -> Result<(), Vec<Detail>> {
        let size = DocumentSize::of(value);
        let links = size.levels * self.chain;
        if links <= LINKS_ON_CALLERS_STACK {
            return self.check_here(value, size);
        }
        stacker::grow(links * STACK_OF_A_LINK, || self.check_here(value, size))
    }

    /// Like [`Schema::check`], but always on the caller's stack.
    fn check_here(&self, value: &Value, size: DocumentSize) -> Result<(), Vec<Detail>> {
        let is_cheap = self
            .cost_of_a_value
            .is_some_and(|cost| cost.saturating_mul(size.values + size.bytes) <= MAX_COST);
        if !is_cheap && self.graph.cost(value, MAX_COST).is_none() {
            return Err(vec![violation("is too expensive to check against its schema")]);
        }
        // Nearly every document is valid, and `is_valid` is several times cheaper than a check with
        // violations.
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
            details.push(violation("does not fit the schema"));
        }
        Err(details)
    }

    /// Whether the schema names the top-level property `name`, in its own `properties` or
    /// `required`, or in those of a subschema that it refers to or combines. Returns false if the
    /// schema allows the property without naming it.
    ///
    /// For a list of arguments, the property is one of the first argument, here and in
    /// [`Schema::may_have_property`].
    pub fn allows_top_level_property(&self, arguments: Arguments, name: &str) -> bool {
        self.graph.names_property(arguments, name)
    }

    /// Whether the author of the schema probably intends that a document may have the top-level
    /// property `name`. This is a guess: a schema allows every property that it does not forbid.
    ///
    /// Returns true if the schema names the property, if it has a keyword for unlisted properties
    /// (such as `additionalProperties`) that is not `false`, or if it accepts an object and lists
    /// no properties.
    pub fn may_have_property(&self, arguments: Arguments, name: &str) -> bool {
        self.graph.names_property(arguments, name) || self.graph.allows_any_property(arguments)
    }
}

/// A violation about the whole document that does not belong to a keyword.
fn violation(message: &str) -> Detail {
    Detail { path: String::new(), rule: "schema".to_owned(), message: message.to_owned() }
}

/// The size of a document. Parsed JSON has at most 128 levels, so measuring may recurse.
#[derive(Debug, Clone, Copy, Default)]
struct DocumentSize {
    /// Depth; 1 for a plain value.
    levels: usize,
    /// Number of values, the document itself included.
    values: usize,
    /// Total bytes of all string values, and of the names of all members.
    bytes: usize,
}

impl DocumentSize {
    fn of(value: &Value) -> Self {
        let mut size = Self { levels: 0, values: 1, bytes: 0 };
        let mut add = |inner: &Value| {
            let inner = Self::of(inner);
            size.levels = size.levels.max(inner.levels);
            size.values += inner.values;
            size.bytes += inner.bytes;
        };
        match value {
            Value::Array(items) => items.iter().for_each(&mut add),
            Value::Object(members) => {
                members.values().for_each(&mut add);
                size.bytes += members.keys().map(String::len).sum::<usize>();
            }
            Value::String(text) => size.bytes += text.len(),
            _ => {}
        }
        size.levels += 1;
        size
    }
}

/// Whether the values of a document fit into `budget`. The document itself costs 1, and every value
/// within it costs 2: 1 with its container, before it is visited, and 1 when it is visited. So the
/// list of values that are still to be visited is also limited by `budget`.
fn has_at_most(value: &Value, mut budget: usize) -> bool {
    let mut to_visit = vec![value];
    while let Some(value) = to_visit.pop() {
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
            Value::Array(items) => to_visit.extend(items),
            Value::Object(members) => to_visit.extend(members.values()),
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
