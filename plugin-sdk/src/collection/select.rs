//! Which records of a collection a query returns, in which order and how many.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

use schemars::JsonSchema;
use serde::Serialize;
use sockhop_core::key::{Key, after_key, before_key};

use super::walk::Walk;
use crate::state::{Scan, State};

/// Selects records of a [`Collection`](super::Collection), by their ids or by the keys of an
/// [`Index`](super::Index). [`Collection::list`](super::Collection::list) returns them page by
/// page.
///
/// ```
/// # use sockhop_sdk::{Context, Result};
/// # use sockhop_sdk::collection::{Collection, Page, Record};
/// # fn page<R: Record>(ctx: &Context, notes: &Collection<R>, cursor: Option<String>)
/// # -> Result<Page<R>> {
/// notes.list(ctx, notes.all().backwards().limit(20).after(cursor))
/// # }
/// ```
#[must_use]
pub struct Select<R> {
    pub(super) source: Source,
    /// The beginning of the texts of all selected keys.
    within: String,
    /// Less than the texts of all selected keys. No key has this text.
    from: Option<String>,
    /// Greater than the texts of all selected keys. No key has this text.
    to: Option<String>,
    backwards: bool,
    pub(super) limit: u32,
    cursor: Option<String>,
    record: PhantomData<fn() -> R>,
}

/// What a query reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The records, in the order of their ids.
    Records,
    /// The entries of this index.
    Index(String),
}

impl<R> Select<R> {
    /// The maximum [`limit`](Self::limit).
    pub const MAX_LIMIT: u32 = Scan::MAX_LIMIT;

    /// Everything in `source`, in pages of 100.
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            within: String::new(),
            from: None,
            to: None,
            backwards: false,
            limit: 100,
            cursor: None,
            record: PhantomData,
        }
    }

    pub(super) fn within(self, text: String) -> Self {
        Self { within: text, ..self }
    }

    pub(super) fn between(self, from: Option<String>, to: Option<String>) -> Self {
        Self { from, to, ..self }
    }

    /// In reverse order, from the last record to the first.
    pub fn backwards(self) -> Self {
        Self { backwards: true, ..self }
    }

    /// At most `limit` records on a page, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT); 100 by default.
    pub fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }

    /// Only the records after those of the page whose [`next`](Page::next) is `cursor`. `None` is
    /// the first page. A cursor can come from a client: with any text, only records of this
    /// selection are returned.
    pub fn after(self, cursor: Option<String>) -> Self {
        Self { cursor, ..self }
    }

    /// Returns the walk over the selected entries below `prefix`.
    pub(super) fn walk<'a>(&self, state: State<'a>, prefix: String) -> Walk<'a> {
        let (start, end) =
            if self.backwards { (&self.to, &self.from) } else { (&self.from, &self.to) };
        // The later of the two in the order of the walk: a cursor never leads out of the range.
        let start = match (start, &self.cursor) {
            (Some(start), Some(cursor)) if (start < cursor) == self.backwards => Some(start),
            (start, cursor) => cursor.as_ref().or(start.as_ref()),
        };
        let shared = match (&self.from, &self.to) {
            (Some(from), Some(to)) => shared(from, to),
            _ => &self.within,
        };
        Walk::new(state, prefix)
            .within(shared)
            .backwards(self.backwards)
            .after(start.map(String::as_str))
            .before(end.clone())
    }
}

/// Returns the texts between which the keys of `range` are.
pub(super) fn bounds<K: Key>(range: &impl RangeBounds<K>) -> (Option<String>, Option<String>) {
    let from = match range.start_bound() {
        Bound::Included(key) => Some(before_key(key)),
        Bound::Excluded(key) => Some(after_key(key)),
        Bound::Unbounded => None,
    };
    let to = match range.end_bound() {
        Bound::Included(key) => Some(after_key(key)),
        Bound::Excluded(key) => Some(before_key(key)),
        Bound::Unbounded => None,
    };
    (from, to)
}

/// Returns the beginning that two texts have in common. Each text between them has it too.
fn shared<'a>(one: &'a str, other: &str) -> &'a str {
    let pairs = one.chars().zip(other.chars());
    let bytes = pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    one.get(..bytes).unwrap_or_default()
}

impl<R> Clone for Select<R> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            within: self.within.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            cursor: self.cursor.clone(),
            ..*self
        }
    }
}

impl<R> fmt::Debug for Select<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Select")
            .field("source", &self.source)
            .field("within", &self.within)
            .field("from", &self.from)
            .field("to", &self.to)
            .field("backwards", &self.backwards)
            .field("limit", &self.limit)
            .field("cursor", &self.cursor)
            .finish()
    }
}

/// A part of the records that a [`Select`] selects. It can be the reply of a handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Page<R> {
    /// The records. Before the last page there can be fewer than the limit, or none: a page ends
    /// when its records have 256 KiB, and when 1,000 entries were read, those of expired records
    /// included.
    pub items: Vec<R>,
    /// The cursor of the next page. Null on the last page.
    pub next: Option<String>,
}
