//! Pages, ranges, counts and records that expire.

use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fake::Db;
use crate::collection::{Collection, Index, Page, Record, Select};
use crate::{Context, Result};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Task {
    id: (String, u64),
    due: Option<i64>,
    text: String,
}

impl Record for Task {
    type Id = (String, u64);
    const FORMAT: u32 = 1;

    fn id(&self) -> (String, u64) {
        self.id.clone()
    }
}

const BY_DUE: Index<Task, (Option<i64>, bool)> =
    Index::new("due", |task| (task.due, task.text.is_empty()));
const UNDECLARED: Index<Task, u64> = Index::new("undeclared", |task| task.id.1);
const TASKS: Collection<Task> = Collection::new("tasks").index(&BY_DUE);

const HOUR: Duration = Duration::from_secs(3_600);
const SHORT_LIVED: Collection<Task> = Collection::new("short").index(&BY_DUE).time_to_live(HOUR);

fn task(owner: &str, number: u64, due: Option<i64>) -> Task {
    Task { id: (owner.to_owned(), number), due, text: String::new() }
}

/// Tasks of two owners, some of which are due.
fn tasks() -> Db {
    let mut db = Db::default();
    for owner in ["ada", "ad", "bob"] {
        for number in [1, 2, 9, 10, 11, 200] {
            let due = (number != 9).then_some(number as i64 * 10 - 100);
            db.handle(0, |ctx| TASKS.put(ctx, &task(owner, number, due))).expect("stored");
        }
    }
    db
}

fn numbers(db: &mut Db, select: Select<Task>) -> Vec<u64> {
    let page = db.handle(0, |ctx| TASKS.list(ctx, select)).expect("a page");
    page.items.iter().map(|task| task.id.1).collect()
}

#[test]
fn records_are_listed_by_ranges_of_ids_in_their_order() {
    let mut db = tasks();
    let ada = |number| ("ada".to_owned(), number);
    assert_eq!(numbers(&mut db, TASKS.starting_with("ada")), [1, 2, 9, 10, 11, 200]);
    assert_eq!(numbers(&mut db, TASKS.range(ada(2)..ada(11))), [2, 9, 10]);
    assert_eq!(numbers(&mut db, TASKS.range(ada(2)..=ada(11)).backwards()), [11, 10, 9, 2]);
    assert_eq!(numbers(&mut db, TASKS.range(ada(10)..).limit(4)), [10, 11, 200, 1]);
    assert_eq!(numbers(&mut db, TASKS.range(..ada(2))), [1, 2, 9, 10, 11, 200, 1]);
    let exclusive = (Bound::Excluded(ada(2)), Bound::Excluded(ada(10)));
    assert_eq!(numbers(&mut db, TASKS.range(exclusive.clone())), [9]);
    assert_eq!(numbers(&mut db, TASKS.range(exclusive).backwards()), [9]);
    assert!(numbers(&mut db, TASKS.range(ada(10)..ada(2))).is_empty());
    assert_eq!(numbers(&mut db, TASKS.all()).len(), 18);
}

#[test]
fn records_are_listed_by_the_keys_of_an_index() {
    let mut db = tasks();
    assert_eq!(numbers(&mut db, BY_DUE.at(&(None, true))), [9, 9, 9]);
    assert_eq!(numbers(&mut db, BY_DUE.starting_with(&Some(-80))), [2, 2, 2]);
    let overdue = BY_DUE.range((Some(i64::MIN), false)..(Some(10), false));
    assert_eq!(numbers(&mut db, overdue.clone()), [1, 1, 1, 2, 2, 2, 10, 10, 10]);
    assert_eq!(numbers(&mut db, overdue.backwards().limit(4)), [10, 10, 10, 2]);
    assert_eq!(numbers(&mut db, BY_DUE.all().limit(1)), [9]);
    let first = db.handle(0, |ctx| TASKS.first(ctx, BY_DUE.all().backwards()));
    assert_eq!(first, Ok(Some(task("bob", 200, Some(1_900)))));
}

#[test]
fn pages_follow_each_other_in_both_directions() {
    let mut db = tasks();
    let selections = [TASKS.all(), TASKS.starting_with("ada"), BY_DUE.all(), BY_DUE.range(..)];
    for select in selections {
        let all = db.handle(0, |ctx| TASKS.list(ctx, select.clone())).expect("a page").items;
        for limit in [1, 4, 18] {
            let forward = pages(&mut db, select.clone().limit(limit));
            assert_eq!(forward, all);
            let mut backward = pages(&mut db, select.clone().limit(limit).backwards());
            backward.reverse();
            assert_eq!(backward, all);
        }
    }
}

fn pages(db: &mut Db, select: Select<Task>) -> Vec<Task> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let select = select.clone().after(cursor);
        let Page { items, next } = db.handle(0, |ctx| TASKS.list(ctx, select)).expect("a page");
        assert!(!items.is_empty(), "a last page that is empty");
        all.extend(items);
        cursor = next;
        if cursor.is_none() {
            return all;
        }
    }
}

#[test]
fn a_cursor_never_leads_out_of_the_selection() {
    let mut db = tasks();
    let ada = |number| ("ada".to_owned(), number);
    for cursor in ["", "!", "ad!a200!", "ada!a1!", "\u{10ffff}", "bob!a1!", "@tasks/"] {
        let select = TASKS.range(ada(2)..ada(11)).after(Some(cursor.to_owned()));
        for select in [select.clone(), select.backwards()] {
            let page = db.handle(0, |ctx| TASKS.list(ctx, select)).expect("a page");
            let is_inside = |task: &Task| task.id >= ada(2) && task.id < ada(11);
            assert!(page.items.iter().all(is_inside), "{cursor}: {page:?}");
        }
    }
}

#[test]
fn a_page_ends_when_its_records_are_large() {
    let mut db = Db::default();
    for number in 0..40 {
        let text = "x".repeat(100 * 1024);
        let large = Task { text, ..task("ada", number, None) };
        db.handle(0, |ctx| TASKS.put(ctx, &large)).expect("stored");
    }
    for select in [TASKS.all(), BY_DUE.all()] {
        let page = db.handle(0, |ctx| TASKS.list(ctx, select.clone())).expect("a page");
        assert_eq!(page.items.len(), 3, "256 KiB");
        assert!(page.next.is_some());
        assert_eq!(pages(&mut db, select).len(), 40);
    }
}

#[test]
fn a_wrong_query_is_a_misuse() {
    let mut db = tasks();
    for select in [TASKS.all().limit(0), TASKS.all().limit(1_001), UNDECLARED.all()] {
        let refusal = db.handle(0, |ctx| TASKS.list(ctx, select)).expect_err("a misuse");
        assert_eq!(refusal.code, "misuse", "{refusal}");
    }
    let refused = db.handle(0, |ctx| TASKS.migrate(ctx, 0)).map(drop);
    assert_eq!(refused.map_err(|refusal| refusal.code), Err("misuse".to_owned()));
    let refused = db.handle(0, |ctx| TASKS.sweep(ctx, 0)).map(drop);
    assert_eq!(refused.map_err(|refusal| refusal.code), Err("misuse".to_owned()));
}

#[test]
fn an_expired_record_is_hidden_and_removed_by_a_sweep() {
    let mut db = Db::default();
    let hour = 3_600_000;
    let put = |db: &mut Db, at, number| {
        db.handle(at, |ctx| SHORT_LIVED.put(ctx, &task("ada", number, None))).expect("stored");
    };
    for number in 0..10 {
        put(&mut db, 0, number);
    }
    put(&mut db, 1, 10);
    // A later put begins the time to live again.
    put(&mut db, hour / 2, 0);

    let see = |db: &mut Db, at: u64, select: Select<Task>| {
        db.handle(at, |ctx| {
            let page = SHORT_LIVED.list(ctx, select)?;
            let ids: Vec<u64> = page.items.iter().map(|task| task.id.1).collect();
            assert_eq!(SHORT_LIVED.count(ctx)?, ids.len() as u64);
            for number in 0..=10 {
                let record = SHORT_LIVED.get(ctx, &("ada".to_owned(), number))?;
                assert_eq!(record.is_some(), ids.contains(&number));
            }
            Ok(ids)
        })
    };
    for select in [SHORT_LIVED.all(), BY_DUE.all()] {
        assert_eq!(see(&mut db, hour - 1, select.clone()), Ok((0..=10).collect()));
        assert_eq!(see(&mut db, hour, select.clone()), Ok(vec![0, 10]));
        assert_eq!(see(&mut db, hour + 1, select), Ok(vec![0]));
    }
    let first = db.handle(hour, |ctx| SHORT_LIVED.first(ctx, BY_DUE.all().backwards()));
    assert_eq!(first.map(|task| task.map(|task| task.id.1)), Ok(Some(10)));
    let removed = db.handle(hour, |ctx| SHORT_LIVED.remove(ctx, &("ada".to_owned(), 1)));
    assert_eq!(removed, Ok(false));

    let sweep = |db: &mut Db, at, limit| {
        let sweep = db.handle(at, |ctx| SHORT_LIVED.sweep(ctx, limit)).expect("a sweep");
        (sweep.removed, sweep.is_finished)
    };
    assert_eq!(sweep(&mut db, hour - 1, 100), (0, true));
    assert_eq!(sweep(&mut db, hour, 5), (5, false));
    assert_eq!(sweep(&mut db, hour, 5), (3, true));
    let records = |db: &Db| db.values().keys().filter(|key| key.contains("/record/")).count();
    assert_eq!(records(&db), 2);
    assert_eq!(sweep(&mut db, 2 * hour, 5), (2, true));
    assert_eq!(db.values().into_keys().collect::<Vec<_>>(), ["@short/properties"]);
}

#[test]
fn a_sweep_and_a_count_are_bounded() {
    let mut db = Db::default();
    let put = |db: &mut Db, from: u64, to: u64| {
        db.handle(0, |ctx| {
            (from..to).try_for_each(|number| SHORT_LIVED.put(ctx, &task("ada", number, None)))
        })
        .expect("stored");
    };
    for from in (0..4_050).step_by(50) {
        put(&mut db, from, from + 50);
    }
    let late = 3_600_001;
    let (swept, transaction) = db.run(late, |ctx| SHORT_LIVED.sweep(ctx, 1_000));
    assert!(swept.is_ok_and(|swept| swept.removed > 40 && !swept.is_finished));
    assert!(transaction.writes() <= 192);

    let count = |db: &Db| db.run(late, |ctx| SHORT_LIVED.count(ctx)).0;
    assert_eq!(count(&db).map_err(|refusal| refusal.code), Err("unavailable".to_owned()));
    let first = db.run(late, |ctx| SHORT_LIVED.first(ctx, SHORT_LIVED.all())).0;
    assert_eq!(first.map_err(|refusal| refusal.code), Err("unavailable".to_owned()));
    let page = db.run(late, |ctx| SHORT_LIVED.list(ctx, SHORT_LIVED.all())).0.expect("a page");
    assert!(page.items.is_empty() && page.next.is_some(), "it ends after 1,000 entries");
    for _ in 0..2 {
        db.handle(late, |ctx| SHORT_LIVED.sweep(ctx, 50)).expect("a sweep");
    }
    assert_eq!(count(&db), Ok(0));
}

#[test]
fn a_count_is_exact_after_events_that_run_at_the_same_time() {
    let mut db = Db::default();
    let put =
        |number| move |ctx: &Context| -> Result { TASKS.put(ctx, &task("ada", number, None)) };
    db.handle(0, put(0)).expect("the first, which writes the properties");
    let mut conflicts = 0;
    for number in (1..400).step_by(2) {
        let (_, one) = db.run(0, put(number));
        db.handle(0, put(number + 1)).expect("stored");
        if !db.commit(&one) {
            conflicts += 1;
            db.handle(0, put(number)).expect("stored");
        }
    }
    assert_eq!(db.handle(0, |ctx| TASKS.count(ctx)), Ok(401));
    // One of 16 counts is written by both, on average.
    assert!((1..40).contains(&conflicts), "{conflicts} conflicts in 200 pairs");
}
