//! The indexes of a collection: each record has keys in an index, by which records are found and
//! ordered.

use std::borrow::Borrow;
use std::fmt;
use std::ops::RangeBounds;

use sockhop_core::key::{CompoundKey, Key, encode_key};

use super::names::is_name;
use super::record::Record;
use super::select::{Select, Source, bounds};

/// An index of a [`Collection`](super::Collection): a name, and a function from a record to its
/// key. Records with the same key are in the order of their ids.
///
/// Define it as a constant, and add it to the collection
/// ([`Collection::index`](super::Collection::index)):
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use sockhop_sdk::collection::{Collection, Index, Record};
/// # #[derive(Serialize, Deserialize)]
/// # struct Note { id: u64, owner: String, tags: Vec<String>, at: u64 }
/// # impl Record for Note {
/// #     type Id = u64;
/// #     const FORMAT: u32 = 1;
/// #     fn id(&self) -> u64 { self.id }
/// # }
/// /// The notes of an owner, in the order of their times.
/// const BY_OWNER: Index<Note, (String, u64)> =
///     Index::new("owner", |note| (note.owner.clone(), note.at));
///
/// /// The notes with a tag.
/// const BY_TAG: Index<Note, String> = Index::many("tag", |note| note.tags.clone());
///
/// const NOTES: Collection<Note> = Collection::new("notes").index(&BY_OWNER).index(&BY_TAG);
///
/// let notes_of_ada = BY_OWNER.starting_with("ada").backwards().limit(20);
/// let notes_of_ada_since = BY_OWNER.range(("ada".to_owned(), 1_700_000_000_000)..);
/// let urgent_notes = BY_TAG.at("urgent");
/// # let _ = (notes_of_ada, notes_of_ada_since, urgent_notes);
/// ```
///
/// A handler of a query sees all records that are in the index: an index refuses a query
/// (`unavailable`) as long as records are not in it. This is so
///
/// - for an index that a version adds to a collection with records. An index with another function
///   is another index: give it another name,
/// - for all indexes after a new [`FORMAT`](Record::FORMAT), because the records of the older
///   format may have other keys. [`since`](Self::since) tells that they do not.
///
/// [`Collection::migrate`](super::Collection::migrate) adds the records to the index, and removes
/// the entries of those that a version does no longer declare.
pub struct Index<R, K> {
    name: &'static str,
    since: Option<u32>,
    keys: Keys<R, K>,
}

/// The function of an index.
enum Keys<R, K> {
    One(fn(&R) -> K),
    Many(fn(&R) -> Vec<K>),
}

impl<R, K> Index<R, K> {
    /// An index in which each record has one key. The name matches `[a-z][a-z0-9_]*` and has at
    /// most 32 characters. The function depends on the record alone.
    ///
    /// # Panics
    /// The name is invalid. For a constant, the compiler shows this.
    #[must_use]
    pub const fn new(name: &'static str, key: fn(&R) -> K) -> Self {
        assert!(is_name(name), "the name of an index must match `[a-z][a-z0-9_]{{0,31}}`");
        Self { name, since: None, keys: Keys::One(key) }
    }

    /// An index in which each record has any number of keys. A record without keys is not in the
    /// index. Each key is a stored entry and counts as an effect of the event that writes it.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    #[must_use]
    pub const fn many(name: &'static str, keys: fn(&R) -> Vec<K>) -> Self {
        assert!(is_name(name), "the name of an index must match `[a-z][a-z0-9_]{{0,31}}`");
        Self { name, since: None, keys: Keys::Many(keys) }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Promises that the records of `format`, and of all later ones, had the same keys in this
    /// index when they were stored as they have now, after their upgrade. Then the index answers
    /// queries also while such records wait for their migration, and an older version can go on to
    /// use it after a rollback. Without this, only the keys of records with the
    /// [`FORMAT`](Record::FORMAT) of this version are trusted.
    ///
    /// ```
    /// # use serde::{Deserialize, Serialize};
    /// # use sockhop_sdk::Result;
    /// # use sockhop_sdk::collection::{Index, Older, Record};
    /// # #[derive(Serialize, Deserialize)]
    /// # struct Note { id: u64, owner: String, lines: Vec<String> }
    /// # impl Record for Note {
    /// #     type Id = u64;
    /// #     const FORMAT: u32 = 2;
    /// #     fn id(&self) -> u64 { self.id }
    /// # }
    /// // Format 2 has changed the text of a note, but not its owner.
    /// const BY_OWNER: Index<Note, String> =
    ///     Index::new("owner", |note: &Note| note.owner.clone()).since(1);
    /// # let _ = BY_OWNER;
    /// ```
    #[must_use]
    pub const fn since(self, format: u32) -> Self {
        Self { name: self.name, since: Some(format), keys: self.keys }
    }
}

impl<R: Record, K: Key> Index<R, K> {
    /// All records of the index, in the order of their keys. A record with several keys comes once
    /// for each.
    pub fn all(&self) -> Select<R> {
        Select::new(self.source())
    }

    /// The records with this key.
    pub fn at<Q>(&self, key: &Q) -> Select<R>
    where
        K: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.all().within(encode_key(key))
    }

    /// The records whose key begins with this component.
    pub fn starting_with<Q>(&self, first: &Q) -> Select<R>
    where
        K: CompoundKey,
        K::First: Borrow<Q>,
        Q: Key + ?Sized,
    {
        self.all().within(encode_key(first))
    }

    /// The records whose key is in `range`.
    pub fn range(&self, range: impl RangeBounds<K>) -> Select<R> {
        let (from, to) = bounds(&range);
        self.all().between(from, to)
    }

    fn source(&self) -> Source {
        Source::Index(self.id())
    }
}

/// An index, whatever the type of its keys.
pub(super) trait AnyIndex<R>: Send + Sync {
    /// Its name, and the format since which its keys are valid. The entries of another version with
    /// another number are those of another index.
    fn id(&self) -> String;

    /// The texts of the keys of `record`, sorted, each once.
    fn keys(&self, record: &R) -> Vec<String>;
}

impl<R: Record, K: Key> AnyIndex<R> for Index<R, K> {
    fn id(&self) -> String {
        format!("{}.{}", self.name, self.since.unwrap_or(R::FORMAT))
    }

    fn keys(&self, record: &R) -> Vec<String> {
        let mut texts: Vec<String> = match self.keys {
            Keys::One(key) => vec![encode_key(&key(record))],
            Keys::Many(keys) => keys(record).iter().map(encode_key).collect(),
        };
        texts.sort_unstable();
        texts.dedup();
        texts
    }
}

// Not derived, because `derive` would require the same traits of `R` and `K`.
impl<R, K> Clone for Index<R, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, K> Copy for Index<R, K> {}

impl<R, K> Clone for Keys<R, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R, K> Copy for Keys<R, K> {}

impl<R, K> fmt::Debug for Index<R, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("name", &self.name).field("since", &self.since).finish()
    }
}
