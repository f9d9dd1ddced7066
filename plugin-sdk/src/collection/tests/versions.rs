//! Three versions of a plugin with one collection. Each version has another format, and each has
//! other indexes. All describe the same thing: an id, an owner and a text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::collection::{Collection, Index, Older, Record, Select, encode_key};

/// What a record says, in any format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) id: u32,
    pub(super) owner: String,
    pub(super) text: String,
}

/// A version of the plugin.
pub(super) trait Version {
    type Item: Record<Id = u32>;
    const ITEMS: Collection<Self::Item>;

    fn write(meaning: &Meaning) -> Self::Item;
    fn read(item: &Self::Item) -> Meaning;

    /// The queries of one key of an index: the query, and whether it selects a record.
    fn queries(meaning: &Meaning) -> Vec<(Select<Self::Item>, Selects)>;
}

/// Whether a query selects a record.
pub(super) type Selects = Box<dyn Fn(&Meaning) -> bool>;

/// Returns the keys that a record has in the index with this id.
pub(super) fn keys(index: &str, meaning: &Meaning) -> Vec<String> {
    match index {
        "owner.1" => vec![encode_key(&meaning.owner)],
        "tag.2" => tags(&meaning.text).iter().map(encode_key).collect(),
        "owner.3" => vec![encode_key(&meaning.owner.to_uppercase())],
        "size.3" => vec![encode_key(&size(&meaning.text))],
        _ => panic!("no version has the index `{index}`"),
    }
}

/// The words of a text, sorted, each once.
fn tags(text: &str) -> Vec<String> {
    let mut tags: Vec<_> = text.split(' ').map(str::to_owned).collect();
    tags.sort();
    tags.dedup();
    tags
}

fn size(text: &str) -> u64 {
    text.len() as u64
}

fn by_owner(meaning: &Meaning) -> Selects {
    let owner = meaning.owner.clone();
    Box::new(move |other| other.owner == owner)
}

/// Format 1: an index by owner.
pub(super) struct V1;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item1 {
    id: u32,
    owner: String,
    text: String,
}

impl Record for Item1 {
    type Id = u32;
    const FORMAT: u32 = 1;

    fn id(&self) -> u32 {
        self.id
    }
}

const BY_OWNER_1: Index<Item1, String> = Index::new("owner", |item| item.owner.clone());

impl Version for V1 {
    type Item = Item1;
    const ITEMS: Collection<Item1> = Collection::new("items").index(&BY_OWNER_1);

    fn write(Meaning { id, owner, text }: &Meaning) -> Item1 {
        Item1 { id: *id, owner: owner.clone(), text: text.clone() }
    }

    fn read(Item1 { id, owner, text }: &Item1) -> Meaning {
        Meaning { id: *id, owner: owner.clone(), text: text.clone() }
    }

    fn queries(meaning: &Meaning) -> Vec<(Select<Item1>, Selects)> {
        vec![(BY_OWNER_1.at(&meaning.owner), by_owner(meaning))]
    }
}

/// Format 2: the text is in words, which are a new index. The owners are the same.
pub(super) struct V2;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item2 {
    id: u32,
    owner: String,
    words: Vec<String>,
}

impl Record for Item2 {
    type Id = u32;
    const FORMAT: u32 = 2;

    fn id(&self) -> u32 {
        self.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        match older.format() {
            1 => Ok(V2::write(&V1::read(&older.read()?))),
            _ => Err(older.unknown()),
        }
    }
}

const BY_OWNER_2: Index<Item2, String> =
    Index::new("owner", |item: &Item2| item.owner.clone()).since(1);
const BY_TAG_2: Index<Item2, String> = Index::many("tag", |item| item.words.clone());

impl Version for V2 {
    type Item = Item2;
    const ITEMS: Collection<Item2> = Collection::new("items").index(&BY_OWNER_2).index(&BY_TAG_2);

    fn write(Meaning { id, owner, text }: &Meaning) -> Item2 {
        let words = text.split(' ').map(str::to_owned).collect();
        Item2 { id: *id, owner: owner.clone(), words }
    }

    fn read(Item2 { id, owner, words }: &Item2) -> Meaning {
        Meaning { id: *id, owner: owner.clone(), text: words.join(" ") }
    }

    fn queries(meaning: &Meaning) -> Vec<(Select<Item2>, Selects)> {
        let tag = tags(&meaning.text).remove(0);
        vec![
            (BY_OWNER_2.at(&meaning.owner), by_owner(meaning)),
            (BY_TAG_2.at(&tag), Box::new(move |other| tags(&other.text).contains(&tag))),
        ]
    }
}

/// Format 3: another name for the owner, and other keys; an index by size instead of by tag; a time
/// to live.
pub(super) struct V3;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Item3 {
    id: u32,
    by: String,
    text: String,
    size: u64,
}

impl Record for Item3 {
    type Id = u32;
    const FORMAT: u32 = 3;

    fn id(&self) -> u32 {
        self.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        match older.format() {
            1 => Ok(V3::write(&V1::read(&older.read()?))),
            2 => Ok(V3::write(&V2::read(&older.read()?))),
            _ => Err(older.unknown()),
        }
    }
}

const BY_OWNER_3: Index<Item3, String> = Index::new("owner", |item| item.by.to_uppercase());
const BY_SIZE_3: Index<Item3, u64> = Index::new("size", |item| item.size);

/// The time to live in version 3, in milliseconds.
pub(super) const LIFETIME: u64 = 1_000;

impl Version for V3 {
    type Item = Item3;
    const ITEMS: Collection<Item3> = Collection::new("items")
        .index(&BY_SIZE_3)
        .index(&BY_OWNER_3)
        .time_to_live(Duration::from_millis(LIFETIME));

    fn write(Meaning { id, owner, text }: &Meaning) -> Item3 {
        Item3 { id: *id, by: owner.clone(), text: text.clone(), size: size(text) }
    }

    fn read(Item3 { id, by, text, .. }: &Item3) -> Meaning {
        Meaning { id: *id, owner: by.clone(), text: text.clone() }
    }

    fn queries(meaning: &Meaning) -> Vec<(Select<Item3>, Selects)> {
        let (owner, size_of_this) = (meaning.owner.to_uppercase(), size(&meaning.text));
        vec![
            (BY_OWNER_3.at(&owner), Box::new(move |other| other.owner.to_uppercase() == owner)),
            (
                BY_SIZE_3.range(size_of_this..),
                Box::new(move |other| size(&other.text) >= size_of_this),
            ),
        ]
    }
}
