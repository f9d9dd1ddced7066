//! Migrations to another version.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::fake::Db;
use super::versions::{LIFETIME, Meaning, V1, V2, V3, Version};
use crate::collection::{Collection, Older, Progress, Record, encode_key};
use crate::{Context, Result};

fn meaning(id: u32) -> Meaning {
    Meaning { id, owner: "ada".to_owned(), text: format!("t{}", id % 10) }
}

fn put<V: Version>(db: &mut Db, id: u32) {
    db.handle(0, |ctx| V::ITEMS.put(ctx, &V::write(&meaning(id)))).expect("stored");
}

fn migrate<V: Version>(limit: u32) -> impl Fn(&Context) -> Result<Progress> {
    move |ctx| V::ITEMS.migrate(ctx, limit)
}

/// Returns the ids that a query of the first index returns.
fn list<V: Version>(db: &mut Db) -> Result<Vec<u32>> {
    db.handle(0, |ctx| {
        let (select, _) = V::queries(&meaning(0)).remove(0);
        let page = V::ITEMS.list(ctx, select.limit(1000))?;
        Ok(page.items.iter().map(|item| V::read(item).id).collect())
    })
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> String {
    result.expect_err("a refusal").code
}

#[test]
fn a_migration_that_crashes_ten_times_completes_and_stores_each_record_once() {
    let mut db = Db::default();
    for ids in (0..1_000).collect::<Vec<u32>>().chunks(50) {
        db.handle(0, |ctx| {
            ids.iter().try_for_each(|id| V1::ITEMS.put(ctx, &V1::write(&meaning(*id))))
        })
        .expect("stored");
    }
    db.sets.clear();
    let (mut batches, mut shown) = (0, Vec::new());
    loop {
        let (progress, transaction) = db.run(0, migrate::<V3>(500));
        let progress = progress.expect("a batch");
        batches += 1;
        // A crash: nothing of the batch is stored.
        if batches % 2 == 0 && batches <= 20 {
            continue;
        }
        assert!(db.commit(&transaction));
        shown.push(progress.done);
        assert_eq!(progress.total, 1_000);
        if progress.is_finished() {
            break;
        }
    }
    assert!(batches > 20, "{batches}");
    assert!(shown.is_sorted() && shown.first() < shown.last(), "{shown:?}");
    let stored = db.values();
    for id in 0..1_000_u32 {
        let key = format!("@items/record/{}", encode_key(&id));
        assert_eq!(db.sets.get(&key), Some(&1), "{key}");
        assert_eq!(stored[&key]["format"], json!(3));
    }
    assert_eq!(list::<V3>(&mut db).map(|ids| ids.len()), Ok(1_000));
    // A finished migration writes nothing.
    let (progress, transaction) = db.run(0, migrate::<V3>(500));
    assert_eq!(progress, Ok(Progress { done: 1_000, total: 1_000, newer: 0 }));
    assert_eq!(transaction.writes(), 0);
}

#[test]
fn an_index_refuses_queries_until_all_records_are_in_it() {
    let mut db = Db::default();
    for id in 0..20 {
        put::<V1>(&mut db, id);
    }
    let by_tag = |db: &mut Db| {
        db.handle(0, |ctx| {
            let (select, _) = V2::queries(&meaning(3)).remove(1);
            V2::ITEMS.list(ctx, select).map(|page| page.items.len())
        })
    };
    assert_eq!(code(by_tag(&mut db)), "unavailable");
    // The keys in the other index have not changed since format 1.
    assert_eq!(list::<V2>(&mut db).map(|ids| ids.len()), Ok(20));
    // In version 3 they have.
    assert_eq!(code(list::<V3>(&mut db)), "unavailable");
    while !db.handle(0, migrate::<V2>(7)).expect("a batch").is_finished() {
        assert_eq!(code(by_tag(&mut db)), "unavailable");
    }
    assert_eq!(by_tag(&mut db), Ok(2));
}

#[test]
fn a_new_collection_needs_no_migration() {
    let mut db = Db::default();
    assert_eq!(db.handle(0, migrate::<V3>(10)), Ok(Progress::default()));
    assert!(Progress::default().is_finished());
    assert_eq!(list::<V3>(&mut db), Ok(vec![]));
    put::<V3>(&mut db, 1);
    assert_eq!(list::<V3>(&mut db), Ok(vec![1]));
}

#[test]
fn records_that_an_older_version_stores_after_the_migration_are_found_too() {
    let mut db = Db::default();
    put::<V1>(&mut db, 0);
    assert!(db.handle(0, migrate::<V3>(10)).is_ok_and(|progress| progress.is_finished()));
    // The older version handles its last events. It can't read the others any more.
    for id in 1..=8 {
        put::<V1>(&mut db, id);
    }
    assert_eq!(list::<V3>(&mut db), Ok((0..=8).collect()));
    assert_eq!(db.values()["@items/record/a8!"]["format"], json!(3));
    // More than a query converts: they wait for the migration, and no query leaves them out.
    for id in 11..=19 {
        put::<V1>(&mut db, id);
    }
    assert_eq!(code(list::<V3>(&mut db)), "unavailable");
    let mut batches = 0;
    while !db.handle(0, migrate::<V3>(5)).expect("a batch").is_finished() {
        batches += 1;
    }
    assert!(batches < 10, "only the exceptions are visited");
    assert_eq!(list::<V3>(&mut db), Ok((0..=8).chain(11..=19).collect()));
}

#[test]
fn a_migration_counts_the_records_in_a_newer_format_and_goes_on() {
    let mut db = Db::default();
    for id in 0..4 {
        put::<V1>(&mut db, id);
        put::<V2>(&mut db, 10 + id);
        put::<V3>(&mut db, 20 + id);
    }
    let before = db.values();
    let mut progress = Progress::default();
    while !progress.is_finished() || progress.done == 0 {
        progress = db.handle(0, migrate::<V2>(5)).expect("a batch");
    }
    assert_eq!(progress, Progress { done: 12, total: 12, newer: 4 });
    let after = db.values();
    for id in 0..4_u32 {
        let newer = format!("@items/record/{}", encode_key(&(20 + id)));
        assert_eq!(before[&newer], after[&newer]);
        assert_eq!(after[&format!("@items/record/{}", encode_key(&id))]["format"], json!(2));
    }
    // An index can't say what the keys of these would be in this version.
    assert_eq!(code(list::<V2>(&mut db)), "corrupt_state");
    assert_eq!(
        serde_json::to_value(progress).ok(),
        Some(json!({"done": 12, "total": 12, "newer": 4}))
    );
    // Each later call counts them again.
    let again = db.handle(0, migrate::<V2>(100)).expect("a batch");
    assert_eq!((again.is_finished(), again.newer), (true, 4));
}

#[test]
fn several_collections_migrate_in_one_event_within_its_limits() {
    let mut db = Db::default();
    for id in 0..300 {
        put::<V1>(&mut db, id);
    }
    let both = |ctx: &Context| {
        let first = V3::ITEMS.migrate(ctx, 1_000)?;
        Ok((first, V3::ITEMS.migrate(ctx, 1_000)?))
    };
    let (progress, transaction) = db.run(0, both);
    let (first, second) = progress.expect("not too many effects");
    assert!(first.done > 30 && first.done == second.done, "{first:?} {second:?}");
    assert!(transaction.writes() <= 200, "{}", transaction.writes());
    let sum: Progress = [first, second].into_iter().sum();
    assert_eq!((sum.done, sum.total), (2 * first.done, 600));
    assert_eq!(serde_json::to_value(first).ok(), Some(json!({"done": first.done, "total": 300})));
}

fn expires_at(db: &Db, id: u32) -> Value {
    db.values()[&format!("@items/record/{}", encode_key(&id))]["expires_at"].clone()
}

#[test]
fn a_migration_gives_a_time_to_live_to_records_without_one() {
    let mut db = Db::default();
    put::<V1>(&mut db, 1);
    db.handle(0, |ctx| V3::ITEMS.put(ctx, &V3::write(&meaning(2)))).expect("stored");
    while !db.handle(500, migrate::<V3>(10)).expect("a batch").is_finished() {}
    assert_eq!(expires_at(&db, 1), json!(500 + LIFETIME));
    assert_eq!(expires_at(&db, 2), json!(LIFETIME));
}

/// A session, whose format changes and nothing else.
#[derive(Serialize, Deserialize)]
struct Session<const FORMAT: u32> {
    id: u32,
}

impl<const FORMAT: u32> Record for Session<FORMAT> {
    type Id = u32;
    const FORMAT: u32 = FORMAT;

    fn id(&self) -> u32 {
        self.id
    }

    fn upgrade_from(older: &Older<'_>) -> Result<Self> {
        older.read()
    }
}

const fn sessions<const FORMAT: u32>() -> Collection<Session<FORMAT>> {
    Collection::new("items").time_to_live(Duration::from_millis(LIFETIME))
}

#[test]
fn a_migration_of_the_format_alone_does_not_renew_the_time_to_live() {
    let mut db = Db::default();
    db.handle(0, |ctx| sessions::<1>().put(ctx, &Session { id: 1 })).expect("stored");
    while !db.handle(500, |ctx| sessions::<2>().migrate(ctx, 10)).expect("a batch").is_finished() {}
    assert_eq!(db.values()["@items/record/a1!"]["format"], json!(2));
    assert_eq!(expires_at(&db, 1), json!(LIFETIME));
}

#[test]
fn a_version_that_takes_over_a_half_done_migration_begins_anew() {
    let mut db = Db::default();
    for id in 0..30 {
        put::<V1>(&mut db, id);
    }
    db.handle(0, migrate::<V3>(10)).expect("a batch");
    // After the rollback, version 1 drops the entries that it does not maintain.
    let mut progress = Progress::default();
    while progress.done == 0 || !progress.is_finished() {
        progress = db.handle(0, migrate::<V1>(10)).expect("a batch");
    }
    assert_eq!(progress, Progress { done: 30, total: 30, newer: 10 });
    put::<V1>(&mut db, 99);
    while !db.handle(0, migrate::<V3>(10)).expect("a batch").is_finished() {}
    assert_eq!(list::<V3>(&mut db).map(|ids| ids.len()), Ok(31));
}
