//! Represents a schema as a graph of subschemas: which apply to the same value, and which to its
//! members. Before the library gets the schema, this module finds references that the library would
//! fetch, and recursion that is too deep or endless. It also calculates what a check costs.

mod reader;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use crate::arguments::Arguments;

use super::SchemaError;

/// Maximum number of (subschema, value) pairs that one calculation of a cost visits.
const MAX_PAIRS: usize = 100_000;

/// The subschemas of a schema by number; the root is 0.
pub(super) struct Graph {
    nodes: Vec<Node>,
    patterns: usize,
}

/// One subschema. Its fields say which other subschemas it applies, and to what.
struct Node {
    /// Subschemas for the same value: `$ref`, `allOf`, `if` and similar keywords.
    in_place: Vec<usize>,
    /// Subschemas for members, by the member's name.
    properties: HashMap<String, usize>,
    /// The members that the value must have. Used only to find out whether a property is named.
    required: HashSet<String>,
    /// Subschemas that may apply to any member: those of `patternProperties`, one for each pattern,
    /// because names are not matched here.
    every_member: Vec<usize>,
    /// Subschemas for members that `properties` does not name.
    unlisted_members: Vec<usize>,
    /// Subschemas for the name of each member.
    member_names: Vec<usize>,
    /// Subschemas for items, by position (`prefixItems`).
    first_items: Vec<usize>,
    /// Subschemas for the items after `first_items`.
    later_items: Vec<usize>,
    /// Subschemas that may apply to every item (`contains`, `unevaluatedItems`).
    every_item: Vec<usize>,
    /// Whether `unevaluated...` is present: the library then evaluates `in_place` a second time, to
    /// find the members that it covers. It also matches names a second time.
    evaluates_twice: bool,
    /// Cost of the subschema itself: 1, and more if it compares with many constants.
    cost: usize,
    /// Whether it has a pattern, and so reads every byte of a string.
    has_pattern: bool,
    /// Whether it accepts objects.
    admits_objects: bool,
    /// Whether it allows properties that `properties` does not list, by a keyword with a schema for
    /// them.
    allows_unlisted: bool,
}

impl Node {
    /// All subschemas that this one applies to any value.
    fn all(&self) -> Vec<usize> {
        let lists = [
            &self.in_place,
            &self.every_member,
            &self.unlisted_members,
            &self.member_names,
            &self.first_items,
            &self.later_items,
            &self.every_item,
        ];
        lists.into_iter().flatten().chain(self.properties.values()).copied().collect()
    }

    /// How many times the subschemas in `in_place` are evaluated and names are matched.
    fn times(&self) -> usize {
        if self.evaluates_twice { 2 } else { 1 }
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
        let (nodes, patterns) = reader::read(root)?;
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

    /// Returns an upper bound for the cost of checking one value or one byte of text of any
    /// document: the sum over all paths from the root. Multiply it by the number of values and
    /// bytes. `None` if the schema is recursive: the number of paths is then infinite.
    pub(super) fn cost_of_a_value(&self) -> Option<usize> {
        let costs = self.measure(Node::all, |node, below| {
            let below = below.iter().copied().fold(0, usize::saturating_add);
            below.saturating_mul(node.times()).saturating_add(node.cost)
        })?;
        costs.first().copied()
    }

    /// Whether the schema names a property `name` of the document itself, or of the first element
    /// of the document if that is a list of arguments.
    pub(super) fn names_property(&self, arguments: Arguments, name: &str) -> bool {
        self.subject_nodes(arguments)
            .iter()
            .any(|node| node.properties.contains_key(name) || node.required.contains(name))
    }

    /// Whether properties that the schema does not list are expected: it has a keyword for them, or
    /// it accepts an object and lists no properties.
    pub(super) fn allows_any_property(&self, arguments: Arguments) -> bool {
        let nodes = self.subject_nodes(arguments);
        let lists_some = nodes.iter().any(|node| !node.properties.is_empty());
        nodes.iter().any(|node| node.allows_unlisted)
            || !lists_some && nodes.iter().any(|node| node.admits_objects)
    }

    /// Returns the subschemas that may apply to the document itself, or to its first element if it
    /// is a list of arguments.
    fn subject_nodes(&self, arguments: Arguments) -> Vec<&Node> {
        let root = self.nodes_from(vec![0]);
        if !arguments.are_list() {
            return root;
        }
        let first = root.iter().flat_map(|node| {
            let items = match node.first_items.first() {
                Some(first) => std::slice::from_ref(first),
                None => &node.later_items,
            };
            items.iter().chain(&node.every_item).copied()
        });
        self.nodes_from(first.collect())
    }

    /// Returns these subschemas, and those that they apply to the same value.
    fn nodes_from(&self, mut to_visit: Vec<usize>) -> Vec<&Node> {
        let (mut seen, mut nodes) = (HashSet::new(), Vec::new());
        while let Some(number) = to_visit.pop() {
            let Some(node) = self.nodes.get(number).filter(|_| seen.insert(number)) else {
                continue;
            };
            nodes.push(node);
            to_visit.extend(&node.in_place);
        }
        nodes
    }

    /// Returns the cost of a check of `value` that does not end early. Returns `None` if the cost
    /// is more than `max`, or if there are more than [`MAX_PAIRS`] pairs to count. Recurses as
    /// deep as the check would.
    pub(super) fn cost(&self, value: &Value, max: usize) -> Option<usize> {
        Count { graph: self, max, known: HashMap::new(), names: HashMap::new() }.of(0, value)
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
            // followed. The last one is at work.
            let mut stack: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut next = Some(start);
            loop {
                if let Some(number) = next {
                    let measure = measures.get_mut(number)?;
                    match measure {
                        Measure::Done(_) => {}
                        Measure::Begun => return None,
                        Measure::None => {
                            *measure = Measure::Begun;
                            stack.push((number, edges(self.nodes.get(number)?)));
                        }
                    }
                }
                let Some((number, edges_left)) = stack.last_mut() else { break };
                next = edges_left.pop();
                if next.is_none() {
                    let number = *number;
                    stack.pop();
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
    /// The cost above which the calculation ends.
    max: usize,
    /// The costs on values calculated so far.
    known: HashMap<(usize, *const Value), usize>,
    /// The costs on names calculated so far.
    names: HashMap<usize, NameCost>,
}

/// The cost of a subschema on the name of a member.
#[derive(Clone, Copy)]
struct NameCost {
    /// The cost without patterns.
    base: usize,
    /// How many patterns read the name.
    patterns: usize,
}

impl NameCost {
    fn of(self, name: &str) -> usize {
        self.patterns.saturating_mul(name.len()).saturating_add(self.base)
    }
}

impl Count<'_> {
    /// The cost of subschema `number` on `value`, from the memo if known. Returns `None` as
    /// [`Graph::cost`] does.
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
                        None => self.sum(&node.unlisted_members, member)?,
                    });
                    total = total.saturating_add(self.sum(&node.every_member, member)?);
                    // Each pattern of `patternProperties` reads the name.
                    let readings = node.every_member.len().saturating_mul(node.times());
                    total = total.saturating_add(readings.saturating_mul(name.len()));
                    for number in &node.member_names {
                        total = total.saturating_add(self.of_name(*number)?.of(name));
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    total = total.saturating_add(match node.first_items.get(index) {
                        Some(number) => self.of(*number, item)?,
                        None => self.sum(&node.later_items, item)?,
                    });
                    total = total.saturating_add(self.sum(&node.every_item, item)?);
                }
            }
            Value::String(text) if node.has_pattern => total = total.saturating_add(text.len()),
            _ => {}
        }
        if total > self.max || self.known.len() >= MAX_PAIRS {
            return None;
        }
        self.known.insert(key, total);
        Some(total)
    }

    /// The cost of subschema `number` on a name, from the memo if known. A name is a plain value:
    /// only subschemas in place apply to it.
    fn of_name(&mut self, number: usize) -> Option<NameCost> {
        if let Some(cost) = self.names.get(&number) {
            return Some(*cost);
        }
        let node = self.graph.nodes.get(number)?;
        let (mut base, mut patterns) = (0_usize, 0_usize);
        for number in &node.in_place {
            let below = self.of_name(*number)?;
            base = base.saturating_add(below.base);
            patterns = patterns.saturating_add(below.patterns);
        }
        let cost = NameCost {
            base: base.saturating_mul(node.times()).saturating_add(node.cost),
            patterns: patterns
                .saturating_mul(node.times())
                .saturating_add(usize::from(node.has_pattern)),
        };
        self.names.insert(number, cost);
        Some(cost)
    }

    /// The sum of the costs of the subschemas `numbers` on `value`.
    fn sum(&mut self, numbers: &[usize], value: &Value) -> Option<usize> {
        numbers
            .iter()
            .try_fold(0_usize, |sum, number| Some(sum.saturating_add(self.of(*number, value)?)))
    }
}
