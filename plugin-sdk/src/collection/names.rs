//! The keys under which a collection is stored. All begin with `@` and the collection's name.

use sockhop_core::key::encode_key;
use sockhop_core::limits;
use sockhop_core::state::check_key;

use crate::refusal::{Refusal, Result};

/// Maximum bytes of an id as text. The longest key of a record without index entries has 91 bytes
/// beside the id; see [`Names::exception`]. So also a version that does not know an index can write
/// each key that it needs.
pub(super) const MAX_ID: usize = 384;

/// Maximum bytes of the name of a collection or of an index.
pub(super) const MAX_NAME: usize = 32;

/// Returns whether `name` can be the name of a collection or of an index: `[a-z][a-z0-9_]*`, at
/// most [`MAX_NAME`] bytes. The compiler evaluates it.
pub(super) const fn is_name(name: &str) -> bool {
    let [first, rest @ ..] = name.as_bytes() else { return false };
    let mut rest = rest;
    if name.len() > MAX_NAME || !first.is_ascii_lowercase() {
        return false;
    }
    while let [byte, others @ ..] = rest {
        if !byte.is_ascii_lowercase() && !byte.is_ascii_digit() && *byte != b'_' {
            return false;
        }
        rest = others;
    }
    true
}

/// Returns whether two names are equal. `==` can't be evaluated by the compiler.
pub(super) const fn is_same(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.as_bytes(), other.as_bytes());
    while let ([a, one_rest @ ..], [b, other_rest @ ..]) = (one, other) {
        if *a != *b {
            return false;
        }
        (one, other) = (one_rest, other_rest);
    }
    one.is_empty() && other.is_empty()
}

/// The keys of the collection with this name. Ids and the keys of entries are texts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names(pub(super) &'static str);

impl Names {
    /// The prefix of the records.
    pub(super) fn records(self) -> String {
        format!("@{}/record/", self.0)
    }

    /// The record with this id.
    pub(super) fn record(self, id: &str) -> String {
        format!("@{}/record/{id}", self.0)
    }

    /// The prefix of the entries of an index.
    pub(super) fn index(self, index: &str) -> String {
        format!("@{}/index/{index}/", self.0)
    }

    /// An entry of an index. Its value is the id, as JSON.
    pub(super) fn entry(self, index: &str, key: &str, id: &str) -> String {
        format!("@{}/index/{index}/{key}{id}", self.0)
    }

    /// The prefix of the entries of records that expire, in the order of their times.
    pub(super) fn expiring(self) -> String {
        format!("@{}/expires/", self.0)
    }

    /// The entry of a record that expires at `time`. Its value is the id, as JSON.
    pub(super) fn expiry(self, time: u64, id: &str) -> String {
        format!("@{}/expires/{}{id}", self.0, encode_key(&time))
    }

    /// The prefix of the counts.
    pub(super) fn counts(self) -> String {
        format!("@{}/count/", self.0)
    }

    /// The count that contains the record with this id.
    ///
    /// A single count would let each two events conflict that add records at the same time.
    /// [`SHARDS`] counts make this rare, and one scan reads all of them. The id decides, so a
    /// record is added to and removed from the same count.
    pub(super) fn count(self, id: &str) -> String {
        // FNV-1a: all versions of the SDK must choose the same count.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("@{}/count/{:x}", self.0, hash % SHARDS)
    }

    /// The properties that all records have.
    pub(super) fn properties(self) -> String {
        format!("@{}/properties", self.0)
    }

    /// The prefix of all exceptions.
    pub(super) fn exceptions(self) -> String {
        format!("@{}/except/", self.0)
    }

    /// The prefix of the records that do not have `property`.
    pub(super) fn exceptions_of(self, property: &str) -> String {
        format!("@{}/except/{property}/", self.0)
    }

    /// The mark of a record that does not have `property`. The longest has 1 + 32 + 8 + 6 + 32 + 11
    /// + 1 bytes beside the id.
    pub(super) fn exception(self, property: &str, id: &str) -> String {
        format!("@{}/except/{property}/{id}", self.0)
    }

    /// Exists if a record was marked since a migration has begun to visit the exceptions.
    pub(super) fn marked(self) -> String {
        format!("@{}/marked", self.0)
    }

    /// The migration that has begun.
    pub(super) fn migration(self) -> String {
        format!("@{}/migration", self.0)
    }

    /// The sequence of new ids.
    pub(super) fn sequence(self) -> String {
        format!("@{}", self.0)
    }
}

/// Number of counts of one collection. Stored counts depend on it, so it never changes.
pub(super) const SHARDS: u64 = 16;

/// Checks the text of an id.
pub(super) fn check_id(id: &str) -> Result {
    if id.len() <= MAX_ID {
        return Ok(());
    }
    Err(limit(format!("an id may have at most {MAX_ID} bytes as text, this one has {}", id.len())))
}

/// Checks the key of an index entry, before anything is written.
pub(super) fn check_entry(index: &str, entry: &str) -> Result {
    check_key(entry, limits::STATE_KEY_BYTES)
        .map_err(|error| limit(format!("the key of a record in the index `{index}`: {error}")))
}

fn limit(message: String) -> Refusal {
    Refusal::new("limit", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_in_snake_case() {
        for good in ["a", "notes", "a1_", &"x".repeat(MAX_NAME)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "_a", "1a", "A", "a-b", "a/b", "a.b", "é", &"x".repeat(MAX_NAME + 1)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_same("ab", "ab") && is_same("", ""));
        assert!(!is_same("ab", "a") && !is_same("a", "ab") && !is_same("ab", "ac"));
    }

    #[test]
    fn each_key_of_a_record_without_entries_is_short_enough() {
        let names = Names("nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn");
        assert_eq!(names.0.len(), MAX_NAME);
        let id = "i".repeat(MAX_ID);
        let property = format!("index.{}.{}", "x".repeat(MAX_NAME), u32::MAX);
        for key in [names.record(&id), names.expiry(u64::MAX, &id), names.exception(&property, &id)]
        {
            assert!(key.len() <= limits::STATE_KEY_BYTES, "{}", key.len());
        }
    }
}
