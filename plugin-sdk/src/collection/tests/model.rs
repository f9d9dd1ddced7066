//! Random operations of three versions at once, with conflicts and crashes, against a plain model.
//! After each step, everything that is stored must agree: records, indexes, counts and exceptions.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;

use super::fake::Db;
use super::versions::{Item1, Item2, Item3, LIFETIME, Meaning, V1, V2, V3, Version, keys};
use crate::collection::names::Names;
use crate::collection::{Collection, encode_key};
use crate::{Context, Result};

const NAMES: Names = Names("items");

#[derive(Debug, Clone)]
enum Operation {
    Put(Meaning),
    Insert(Meaning),
    Update(u32, String),
    Remove(u32),
    Get(u32),
    Count,
    /// All queries for the keys of a record.
    List(Meaning),
    Migrate(u32),
    Sweep(u32),
}

/// What becomes of an event.
#[derive(Debug, Clone)]
enum Fate {
    Commit,
    /// The host stops before the commit.
    Crash,
    /// Another version handles another event at the same time, and commits first.
    Race(u32, Operation),
}

#[derive(Debug, Clone)]
struct Step {
    version: u32,
    operation: Operation,
    fate: Fate,
    /// Milliseconds since the step before.
    passed: u64,
}

/// What a handler returns.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Done,
    Found(Option<Meaning>),
    Removed(bool),
    Count(u64),
    /// For each query, what it returned and which ids it selects among those of the model.
    Lists(Vec<(Result<Vec<Meaning>>, BTreeSet<u32>)>),
}

#[derive(Debug, Clone)]
struct Stored {
    meaning: Meaning,
    format: u32,
    expires_at: Option<u64>,
}

/// What should be stored.
#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    records: BTreeMap<u32, Stored>,
}

impl Model {
    fn is_visible(&self, stored: &Stored) -> bool {
        stored.expires_at.is_none_or(|time| time > self.now)
    }

    fn visible(&self, id: u32) -> Option<&Stored> {
        self.records.get(&id).filter(|stored| self.is_visible(stored))
    }

    /// Runs an operation in a version of the plugin.
    fn run<V: Version>(&self, ctx: &Context, operation: &Operation) -> Result<Answer> {
        let items = &V::ITEMS;
        Ok(match operation {
            Operation::Put(meaning) => {
                items.put(ctx, &V::write(meaning))?;
                Answer::Done
            }
            Operation::Insert(meaning) => {
                items.insert(ctx, &V::write(meaning))?;
                Answer::Done
            }
            Operation::Update(id, text) => {
                Answer::Found(Some(V::read(&items.update(ctx, id, |item| {
                    *item = V::write(&Meaning { text: text.clone(), ..V::read(item) });
                })?)))
            }
            Operation::Remove(id) => Answer::Removed(items.remove(ctx, id)?),
            Operation::Get(id) => Answer::Found(items.get(ctx, id)?.as_ref().map(V::read)),
            Operation::Count => Answer::Count(items.count(ctx)?),
            Operation::List(meaning) => {
                let queries = V::queries(meaning).into_iter();
                let lists = queries.map(|(select, selects)| {
                    let visible = self.records.values().filter(|stored| self.is_visible(stored));
                    let selected = visible.filter(|stored| selects(&stored.meaning));
                    (pages::<V>(ctx, select), selected.map(|stored| stored.meaning.id).collect())
                });
                Answer::Lists(lists.collect())
            }
            Operation::Migrate(limit) => {
                items.migrate(ctx, *limit)?;
                Answer::Done
            }
            Operation::Sweep(limit) => {
                items.sweep(ctx, *limit)?;
                Answer::Done
            }
        })
    }

    /// Checks what a handler has returned.
    fn check(&self, version: u32, operation: &Operation, answer: &Result<Answer>, db: &Db) {
        let newer = |id: u32| {
            self.records.get(&id).filter(|stored| stored.format > version).map(|_| "corrupt_state")
        };
        let seen = |id: u32| self.visible(id).map(|stored| stored.meaning.clone());
        let expected: Result<Answer, &str> = match operation {
            Operation::Put(meaning) => newer(meaning.id).map_or(Ok(Answer::Done), Err),
            Operation::Insert(meaning) => match (newer(meaning.id), seen(meaning.id)) {
                (Some(code), _) => Err(code),
                (None, Some(_)) => Err("already_exists"),
                (None, None) => Ok(Answer::Done),
            },
            Operation::Update(id, text) => match (seen(*id), newer(*id)) {
                (None, _) => Err("not_found"),
                (Some(_), Some(code)) => Err(code),
                (Some(meaning), None) => {
                    Ok(Answer::Found(Some(Meaning { text: text.clone(), ..meaning })))
                }
            },
            Operation::Remove(id) => Ok(Answer::Removed(seen(*id).is_some())),
            Operation::Get(id) => match (seen(*id), newer(*id)) {
                (Some(_), Some(code)) => Err(code),
                (seen, _) => Ok(Answer::Found(seen)),
            },
            Operation::Count => {
                let visible = self.records.values().filter(|stored| self.is_visible(stored));
                Ok(Answer::Count(visible.count() as u64))
            }
            Operation::Migrate(_) | Operation::Sweep(_) => Ok(Answer::Done),
            Operation::List(_) => {
                let Ok(Answer::Lists(lists)) = answer else { panic!("{answer:?}") };
                for (list, expected) in lists {
                    self.check_list(version, list, expected, db);
                }
                return;
            }
        };
        assert_eq!(
            answer.as_ref().map_err(|refusal| refusal.code.as_str()),
            expected.as_ref().map_err(|code| *code)
        );
    }

    /// A query returns all records that it selects, or refuses.
    fn check_list(
        &self,
        version: u32,
        list: &Result<Vec<Meaning>>,
        expected: &BTreeSet<u32>,
        db: &Db,
    ) {
        let is_newer = |id: &u32| self.records[id].format > version;
        match list {
            Ok(found) => {
                assert!(!expected.iter().any(is_newer), "a newer record is missing: {found:?}");
                let ids: BTreeSet<u32> = found.iter().map(|meaning| meaning.id).collect();
                assert_eq!((&ids, ids.len()), (expected, found.len()));
                assert!(found.iter().all(|found| self.records[&found.id].meaning == *found));
            }
            Err(refusal) if refusal.code == "corrupt_state" => {
                let mut all = self.records.keys();
                assert!(all.any(is_newer), "{refusal}");
            }
            Err(refusal) => {
                assert_eq!(refusal.code, "unavailable");
                let index = refusal.message.split('`').nth(1).expect("the name of the index");
                let property = format!("index.{index}");
                let values = db.values();
                let holds = &values[&NAMES.properties()]["holds"];
                let prefix = NAMES.exceptions_of(&property);
                let marks = values.keys().filter(|key| key.starts_with(&prefix)).count();
                let is_held = holds.as_array().is_some_and(|all| all.contains(&property.into()));
                assert!(!is_held || marks > 8, "the index is complete");
            }
        }
    }

    /// Takes over what a committed operation has changed.
    fn apply(&mut self, version: u32, operation: &Operation, answer: &Result<Answer>, db: &Db) {
        if answer.is_err() {
            return;
        }
        let expires_at = (version == 3).then_some(self.now + LIFETIME);
        match (operation, answer) {
            (Operation::Put(meaning) | Operation::Insert(meaning), _)
            | (Operation::Update(..), Ok(Answer::Found(Some(meaning)))) => {
                let stored = Stored { meaning: meaning.clone(), format: version, expires_at };
                self.records.insert(meaning.id, stored);
            }
            (Operation::Remove(id), _) => {
                self.records.remove(id);
            }
            (Operation::Sweep(_), _) => {
                let values = db.values();
                let now = self.now;
                self.records.retain(|id, stored| {
                    let is_stored = values.contains_key(&NAMES.record(&encode_key(id)));
                    assert!(is_stored || stored.expires_at.is_some_and(|time| time <= now));
                    is_stored
                });
            }
            (Operation::Migrate(_) | Operation::List(_), _) => {
                let values = db.values();
                for (id, stored) in &mut self.records {
                    let value = &values[&NAMES.record(&encode_key(id))];
                    let format = number(&value["format"]) as u32;
                    assert!([stored.format, stored.format.max(version)].contains(&format));
                    if format != stored.format {
                        stored.format = format;
                        stored.expires_at = stored.expires_at.or(expires_at);
                    }
                }
            }
            _ => {}
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number, not {value}"))
}

/// Returns all pages of a query.
fn pages<V: Version>(
    ctx: &Context,
    select: crate::collection::Select<V::Item>,
) -> Result<Vec<Meaning>> {
    let (mut found, mut cursor) = (Vec::new(), None);
    loop {
        let page = V::ITEMS.list(ctx, select.clone().limit(2).after(cursor))?;
        found.extend(page.items.iter().map(V::read));
        cursor = page.next;
        if cursor.is_none() {
            return Ok(found);
        }
    }
}

/// Returns what a stored record says, whatever its format.
fn meaning_of(value: &Value) -> Meaning {
    let record = value["record"].clone();
    match number(&value["format"]) {
        1 => V1::read(&serde_json::from_value::<Item1>(record).expect("format 1")),
        2 => V2::read(&serde_json::from_value::<Item2>(record).expect("format 2")),
        3 => V3::read(&serde_json::from_value::<Item3>(record).expect("format 3")),
        format => panic!("no version writes format {format}"),
    }
}

/// Checks that everything that is stored agrees with the model and with itself.
fn check_stored(db: &Db, model: &Model) {
    let values = db.values();
    let below = |prefix: String| -> Vec<(String, Value)> {
        let entries = values.iter().filter(|(key, _)| key.starts_with(&prefix));
        entries.map(|(key, value)| (key[prefix.len()..].to_owned(), value.clone())).collect()
    };
    let records: BTreeMap<String, Value> = below(NAMES.records()).into_iter().collect();
    let ids: BTreeSet<String> = model.records.keys().map(encode_key).collect();
    assert_eq!(records.keys().cloned().collect::<BTreeSet<_>>(), ids, "a record is lost");

    // The entries that the records say they have, and no others.
    let mut entries = BTreeMap::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for stored in model.records.values() {
        let (meaning, id) = (&stored.meaning, encode_key(&stored.meaning.id));
        let value = &records[&id];
        assert_eq!(meaning_of(value), *meaning, "a record is misread");
        assert_eq!(number(&value["format"]), u64::from(stored.format));
        assert_eq!(value.get("expires_at").and_then(Value::as_u64), stored.expires_at);
        for (index, known) in value["keys"].as_object().expect("keys") {
            let expected = keys(index, meaning);
            assert_eq!(*known, Value::from(expected.clone()), "{index}");
            for key in expected {
                entries.insert(NAMES.entry(index, &key, &id), Value::from(id.clone()));
            }
        }
        if let Some(time) = stored.expires_at {
            entries.insert(NAMES.expiry(time, &id), Value::from(id.clone()));
        }
        *counts.entry(NAMES.count(&id)).or_default() += 1;
    }
    let is_entry = |key: &String| key.starts_with("@items/index/") || key.starts_with("@items/exp");
    let stored: BTreeMap<_, _> = values
        .iter()
        .filter(|(key, _)| is_entry(key))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    assert_eq!(stored, entries, "an index and its records disagree");
    let stored: BTreeMap<_, _> = values
        .iter()
        .filter(|(key, _)| key.starts_with(&NAMES.counts()))
        .map(|(key, value)| (key.clone(), number(value)))
        .collect();
    assert_eq!(stored, counts, "the count is wrong");
    check_properties(&values, &records);
}

/// Each record has the properties of the collection, or is marked.
fn check_properties(values: &BTreeMap<String, Value>, records: &BTreeMap<String, Value>) {
    let Some(properties) = values.get(&NAMES.properties()) else {
        assert!(records.is_empty());
        return;
    };
    let names = |value: &Value| -> Vec<String> {
        let names = value.as_array().into_iter().flatten();
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    };
    let (holds, building) = (names(&properties["holds"]), names(&properties["building"]));
    let visited = values.get(&NAMES.migration()).and_then(|migration| {
        (migration["part"] == "records").then(|| migration["cursor"].as_str().unwrap_or_default())
    });
    for (id, value) in records {
        let is_built = visited.is_none_or(|cursor| id.as_str() <= cursor);
        let built = building.iter().filter(|_| is_built);
        for property in holds.iter().chain(built) {
            let has = match property.split_once('.') {
                Some(("format", format)) => {
                    number(&value["format"]) >= format.parse().expect("a number")
                }
                Some((_, index)) => value["keys"].get(index).is_some(),
                None => value.get("expires_at").is_some(),
            };
            let is_marked = values.contains_key(&NAMES.exception(property, id));
            assert!(has || is_marked, "{id} has no {property}");
        }
    }
}

/// Runs an operation on what is stored, and returns its answer and what it would write.
fn start(
    db: &Db,
    model: &Model,
    version: u32,
    operation: &Operation,
) -> (Result<Answer>, std::rc::Rc<super::fake::Transaction>) {
    let (answer, transaction) = db.run(model.now, |ctx| match version {
        1 => model.run::<V1>(ctx, operation),
        2 => model.run::<V2>(ctx, operation),
        _ => model.run::<V3>(ctx, operation),
    });
    model.check(version, operation, &answer, db);
    (answer, transaction)
}

/// Handles an event to its end.
fn finish(db: &mut Db, model: &mut Model, version: u32, operation: &Operation) {
    let (answer, transaction) = start(db, model, version, operation);
    if answer.is_ok() {
        assert!(db.commit(&transaction));
    }
    model.apply(version, operation, &answer, db);
    check_stored(db, model);
}

fn perform(db: &mut Db, model: &mut Model, step: &Step) {
    let Step { version, operation, fate, passed } = step;
    model.now += passed;
    match fate {
        Fate::Commit => finish(db, model, *version, operation),
        Fate::Crash => {
            let before = db.values();
            drop(start(db, model, *version, operation));
            assert_eq!(db.values(), before);
        }
        Fate::Race(other, first) => {
            let (answer, transaction) = start(db, model, *version, operation);
            finish(db, model, *other, first);
            // Without writes, it is as if it had come before the other event.
            if answer.is_err() || transaction.writes() == 0 {
                return;
            }
            if !db.commit(&transaction) {
                finish(db, model, *version, operation);
                return;
            }
            model.apply(*version, operation, &answer, db);
            check_stored(db, model);
        }
    }
}

/// The newest version finishes its migration, and can then read everything.
fn settle(db: &mut Db, model: &mut Model) {
    let items: Collection<Item3> = V3::ITEMS;
    let mut batches = 0;
    while !db.handle(model.now, |ctx| items.migrate(ctx, 3)).expect("a batch").is_finished() {
        batches += 1;
        assert!(batches < 50, "the migration does not end");
    }
    model.apply(3, &Operation::Migrate(3), &Ok(Answer::Done), db);
    check_stored(db, model);
    assert!(model.records.values().all(|stored| stored.format == 3));
    let is_rest = |key: &String| {
        let own = ["@items/index/owner.3/", "@items/index/size.3/"];
        let is_foreign =
            key.starts_with("@items/index/") && !own.iter().any(|own| key.starts_with(own));
        is_foreign || key.starts_with(&NAMES.exceptions()) || *key == NAMES.migration()
    };
    assert_eq!(db.values().into_keys().find(is_rest), None);
    for stored in model.records.clone().into_values() {
        let (answer, _) = start(db, model, 3, &Operation::List(stored.meaning));
        let Ok(Answer::Lists(lists)) = answer else { panic!("{answer:?}") };
        assert!(lists.iter().all(|(list, _)| list.is_ok()), "{lists:?}");
    }
}

fn meaning() -> impl Strategy<Value = Meaning> {
    let owner = prop_oneof![Just("ada"), Just("Ada"), Just("bob")];
    let text = prop_oneof![Just("x"), Just("y zz"), Just(""), Just("x y")];
    (0..14_u32, owner, text).prop_map(|(id, owner, text)| Meaning {
        id,
        owner: owner.to_owned(),
        text: text.to_owned(),
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        6 => meaning().prop_map(Operation::Put),
        1 => meaning().prop_map(Operation::Insert),
        2 => meaning().prop_map(|meaning| Operation::Update(meaning.id, meaning.text)),
        2 => (0..14_u32).prop_map(Operation::Remove),
        1 => (0..14_u32).prop_map(Operation::Get),
        1 => Just(Operation::Count),
        4 => meaning().prop_map(Operation::List),
        5 => (1..8_u32).prop_map(Operation::Migrate),
        2 => (1..4_u32).prop_map(Operation::Sweep),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let fate = prop_oneof![
        4 => Just(Fate::Commit),
        1 => Just(Fate::Crash),
        2 => (1..=3_u32, operation()).prop_map(|(version, other)| Fate::Race(version, other)),
    ];
    (1..=3_u32, operation(), fate, 0..200_u64).prop_map(|(version, operation, fate, passed)| Step {
        version,
        operation,
        fate,
        passed,
    })
}

proptest! {
    #[test]
    fn an_index_never_disagrees_with_its_records(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let (mut db, mut model) = (Db::default(), Model::default());
        for step in &steps {
            perform(&mut db, &mut model, step);
        }
        settle(&mut db, &mut model);
    }
}

#[test]
fn the_host_of_these_tests_finds_conflicts() {
    let mut db = Db::default();
    let add = |id| {
        move |ctx: &Context| -> Result {
            let meaning = Meaning { id, owner: "ada".to_owned(), text: String::new() };
            V1::ITEMS.put(ctx, &V1::write(&meaning))
        }
    };
    db.handle(0, add(1)).expect("the first");
    let (_, late) = db.run(0, add(2));
    db.handle(0, add(2)).expect("the same");
    assert!(!db.commit(&late));
}
