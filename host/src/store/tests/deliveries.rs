//! Tests of deliveries: examples, and a model with random steps.

use std::collections::BTreeMap;

use sockhop_core::delivery::{Delivery, End};
use sockhop_core::outbound::Request;

use super::*;
use crate::store::deliveries::{Attempted, DueDelivery};
use crate::store::delivery_rows::NewDelivery;
use crate::store::rows::{RowCounts, Which};

/// A time after that of every step, as the latest time that is believed.
const NEVER: u64 = u64::MAX / 2;

fn new(key: &str, id: &str, created: u64) -> NewDelivery {
    let request = Request {
        method: "POST".to_owned(),
        url: "https://a.test/hook".to_owned(),
        headers: vec![("x-key".to_owned(), key.as_bytes().to_vec())],
        body: id.as_bytes().to_vec(),
        timeout: None,
    };
    NewDelivery {
        id: id.to_owned(),
        origin: "https://a.test".to_owned(),
        created,
        delivery: Delivery { key: key.to_owned(), request, result: None },
    }
}

fn with_result(key: &str, id: &str, created: u64) -> NewDelivery {
    let mut new = new(key, id, created);
    new.delivery.result = Some("ended".to_owned());
    new
}

fn of_origin(origin: &str, key: &str, created: u64) -> NewDelivery {
    NewDelivery { origin: origin.to_owned(), ..new(key, key, created) }
}

fn changed(store: &Arc<Store>, all: Vec<NewDelivery>) -> Changes {
    let mut view = store.view();
    all.into_iter().for_each(|new| view.deliver(new).unwrap());
    view.into_changes()
}

fn deliver(store: &Arc<Store>, all: Vec<NewDelivery>) {
    store.commit(&changed(store, all)).unwrap();
}

fn due(store: &Store, now: u64) -> Vec<DueDelivery> {
    store.due_deliveries(now, 100).unwrap().due
}

fn ids(store: &Store, now: u64) -> Vec<String> {
    due(store, now).into_iter().map(|due| due.delivery).collect()
}

fn retry(next: u64) -> Attempted {
    Attempted::Retry { next, status: Some(503), error: "status 503".to_owned() }
}

fn dead() -> Attempted {
    let end = End::Dead { status: None, reason: "no answer".to_owned() };
    Attempted::Ended { end, error: None }
}

fn delivered() -> Attempted {
    Attempted::Ended { end: End::Delivered { status: 204 }, error: None }
}

/// Records an attempt of the delivery that is due first.
fn attempt(store: &Store, now: u64, attempted: &Attempted) -> DueDelivery {
    let first = due(store, now).remove(0);
    store.delivery_attempted(first.id, first.attempts + 1, now, attempted).unwrap();
    first
}

fn counts(store: &Store) -> (u64, u64) {
    let RowCounts { live, dead } = store.delivery_counts();
    (live, dead)
}

/// The results that are set as timers: the keys and the data.
fn results(store: &Store) -> Vec<(String, serde_json::Value)> {
    let timers = store.due_timers(&["ended"], NEVER, 100).unwrap().due;
    let data = |id| serde_json::from_str(&store.timer_data(id).unwrap().unwrap()).unwrap();
    timers.into_iter().map(|timer| (timer.key, data(timer.id))).collect()
}

/// Compares what is recorded of the rows with the file.
fn check(dir: &TempDir, store: &Store) {
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    let one =
        |sql: &str| natural(connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap());
    assert_eq!(one("SELECT count(*) FROM deliveries"), store.delivery_count());
    let dead = one("SELECT count(*) FROM deliveries WHERE died IS NOT NULL");
    assert_eq!(dead, store.delivery_counts().dead);
    assert_eq!(one("SELECT count(*) FROM timers"), store.timer_count());
    let wrongly_marked = "SELECT count(*) FROM deliveries WHERE first != (id IN \
         (SELECT min(id) FROM deliveries WHERE died IS NULL GROUP BY key))";
    assert_eq!(one(wrongly_marked), 0);
    let bytes = one("SELECT coalesce(sum(bytes), 0) FROM timers")
        + one("SELECT coalesce(sum(bytes), 0) FROM deliveries")
        + one("SELECT coalesce(sum(length(key) + length(value) + 32), 0) FROM entries");
    assert_eq!(bytes, store.used());
}

#[test]
fn deliveries_are_added_together_with_the_state_or_not_at_all() {
    let (dir, store) = fresh();
    put(&store, &[("read", "1")]);
    let mut view = store.view();
    view.set("state", b"1".to_vec()).unwrap();
    view.deliver(new("k", "one", 10)).unwrap();
    view.deliver(new("k", "two", 10)).unwrap();
    view.deliver(new("other", "three", 20)).unwrap();
    assert_eq!((view.pending_keys(), view.pending_deliveries()), (4, 3));
    store.commit(&view.into_changes()).unwrap();
    let found = store.due_deliveries(10, 100).unwrap();
    assert_eq!(found.next, Some(20));
    let [first] = found.due.as_slice() else { panic!("{found:?}") };
    assert_eq!((first.delivery.as_str(), first.attempts), ("one", 0));
    let request = store.delivery_request(first.id).unwrap().unwrap();
    assert_eq!(request, new("k", "one", 10).delivery.request);

    // A handler that only delivers is validated too.
    let mut view = store.view();
    view.get("read").unwrap();
    view.deliver(new("k", "outdated", 10)).unwrap();
    let outdated = view.into_changes();
    put(&store, &[("read", "2")]);
    assert!(is_conflict(store.commit(&outdated)));
    assert_eq!(counts(&store), (3, 0));
    check(&dir, &store);
    drop(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!((ids(&store, 20), counts(&store)), (vec!["one".into(), "three".into()], (3, 0)));
}

#[test]
fn a_file_has_the_newest_format_only_after_its_plugin_has_asked_for_a_delivery() {
    let (dir, store) = fresh();
    let format = || {
        let connection = Connection::open(dir.path().join("state.db")).unwrap();
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap()
    };
    put(&store, &[("a", "1")]);
    assert_eq!((due(&store, NEVER), format()), (Vec::new(), 1));
    let mut view = store.view();
    view.set_timer("remind".to_owned(), "k".to_owned(), 1, "1".to_owned(), None).unwrap();
    store.commit(&view.into_changes()).unwrap();
    assert_eq!(format(), 2);
    deliver(&store, vec![new("k", "one", 10)]);
    assert_eq!((format(), counts(&store)), (4, (1, 0)));
    // Without timers before, a file gets both tables at once.
    let (_dir, store) = fresh();
    deliver(&store, vec![with_result("k", "one", 10)]);
    attempt(&store, 10, &delivered());
    assert_eq!(results(&store).len(), 1);
}

#[test]
fn a_commit_with_deliveries_waits_for_the_disk_and_no_other_does() {
    let (_dir, store) = fresh();
    deliver(&store, vec![new("k", "first", 10)]);
    store
        .lock_writer()
        .connection()
        .unwrap()
        .execute_batch(
            "CREATE TEMP TABLE seen (level INTEGER);
             CREATE TEMP TRIGGER delivers AFTER INSERT ON main.deliveries BEGIN
                 INSERT INTO seen SELECT synchronous FROM pragma_synchronous;
             END;
             CREATE TEMP TRIGGER stores AFTER INSERT ON main.entries BEGIN
                 INSERT INTO seen SELECT 10 * synchronous FROM pragma_synchronous;
             END;",
        )
        .unwrap();
    let seen = || -> Vec<i64> {
        let mut writer = store.lock_writer();
        let mut rows = writer.connection().unwrap().prepare("SELECT level FROM seen").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    put(&store, &[("a", "1")]);
    let second = changed(&store, vec![new("k", "second", 10)]);
    assert!(store.try_commit(&[&second]).is_none(), "the disk takes milliseconds");
    store.commit(&second).unwrap();
    put(&store, &[("b", "1")]);
    // 1 is NORMAL, 2 is FULL.
    assert_eq!(seen(), [10, 2, 10]);
}

#[test]
fn one_delivery_of_a_key_is_due_at_a_time_and_a_dead_one_lets_the_next_pass() {
    let (dir, store) = fresh();
    deliver(&store, vec![new("k", "one", 10), new("k", "two", 10), with_result("k", "three", 10)]);
    assert_eq!(attempt(&store, 10, &retry(500)).delivery, "one");
    assert_eq!(ids(&store, 499), [""; 0], "it makes the others wait");
    assert_eq!(store.due_deliveries(499, 100).unwrap().next, Some(500));
    let again = attempt(&store, 500, &dead());
    assert_eq!((again.delivery.as_str(), again.attempts), ("one", 1));
    assert_eq!((ids(&store, 500), counts(&store)), (vec!["two".to_owned()], (2, 1)));
    attempt(&store, 500, &delivered());
    assert_eq!((ids(&store, 500), counts(&store)), (vec!["three".to_owned()], (1, 1)));
    let row = store.deliveries(true, 0, 10).unwrap().remove(0);
    assert_eq!((row.died, row.attempts, row.status), (Some(500), 2, None));
    assert_eq!(row.error.as_deref(), Some("no answer"));

    // One that is sent again comes first.
    assert_eq!(store.retry_deliveries(&Which::AllDead, 600).unwrap(), 1);
    assert_eq!((ids(&store, 600), counts(&store)), (vec!["one".to_owned()], (2, 0)));
    attempt(&store, 600, &retry(5_000));
    assert_eq!(store.retry_deliveries(&Which::AllDead, 700).unwrap(), 0);
    assert_eq!(store.retry_deliveries(&Which::Ids(vec![again.id, 99]), 700).unwrap(), 1);
    assert_eq!((due(&store, 700)[0].attempts, due(&store, 700).len()), (0, 1));
    assert_eq!(store.drop_deliveries(&Which::Ids(vec![again.id, 99])).unwrap(), 1);
    // Dropped while it was sent.
    store.delivery_attempted(again.id, 1, 700, &retry(800)).unwrap();
    store.delivery_attempted(again.id, 1, 700, &delivered()).unwrap();
    assert_eq!((ids(&store, 700), counts(&store)), (vec!["three".to_owned()], (1, 0)));
    assert_eq!(store.delivery_request(again.id).unwrap(), None);
    check(&dir, &store);
}

#[test]
fn deliveries_of_a_development_build_keep_their_order() {
    let (dir, store) = fresh();
    let keys = ["k", "k", "other", "k", "dead"];
    let all = keys.iter().zip(["one", "two", "three", "four", "five"]);
    deliver(&store, all.map(|(key, id)| new(key, id, 10)).collect());
    let five = due(&store, 10).into_iter().find(|due| due.delivery == "five").unwrap();
    store.delivery_attempted(five.id, 1, 10, &dead()).unwrap();
    drop(store);
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    let back = "DROP INDEX deliveries_first; DROP INDEX deliveries_waiting;
                ALTER TABLE deliveries DROP COLUMN first;
                CREATE INDEX deliveries_waiting ON deliveries (key, origin, next) WHERE died IS NULL;
                PRAGMA user_version = 3;";
    connection.execute_batch(back).unwrap();
    connection.close().unwrap();

    let store = open(&dir, StoreLimits::default());
    check(&dir, &store);
    assert_eq!(
        (ids(&store, 10), counts(&store)),
        (vec!["one".to_owned(), "three".to_owned()], (4, 1))
    );
    attempt(&store, 10, &delivered());
    assert_eq!(ids(&store, 10), ["two", "three"]);
    drop(store);
    check(&dir, &open(&dir, StoreLimits::default()));
}

#[test]
fn a_result_is_set_in_the_same_transaction_and_replaces_an_earlier_one() {
    let (dir, store) = fresh();
    deliver(&store, vec![with_result("k", "one", 10), with_result("k", "two", 10)]);
    attempt(&store, 10, &retry(20));
    assert_eq!(results(&store), []);
    attempt(&store, 20, &dead());
    let dead_one = serde_json::json!({
        "id": "one", "key": "k", "outcome": "dead", "attempts": 2, "reason": "no answer",
    });
    assert_eq!(results(&store), [("one".to_owned(), dead_one)]);
    attempt(&store, 20, &delivered());
    store.retry_deliveries(&Which::AllDead, 30).unwrap();
    attempt(&store, 30, &delivered());
    let of = |id: &str| {
        let (id, key, outcome) = (id, "k", "delivered");
        let data = serde_json::json!({
            "id": id, "key": key, "outcome": outcome, "status": 204, "attempts": 1,
        });
        (id.to_owned(), data)
    };
    let mut found = results(&store);
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(found, [of("one"), of("two")]);
    assert_eq!((store.timer_count(), counts(&store)), (2, (0, 0)));
    check(&dir, &store);
}

#[test]
fn each_origin_gets_its_share_of_a_look() {
    let (_dir, store) = fresh();
    let mut all: Vec<_> =
        (0..50).map(|number| of_origin("https://slow", &format!("s{number}"), 10)).collect();
    all.push(of_origin("https://good", "g", 20));
    deliver(&store, all);
    let found = store.due_deliveries(20, 3).unwrap().due;
    let keys: Vec<_> = found.iter().map(|due| due.key.as_str()).collect();
    assert_eq!(keys, ["s0", "s1", "s2", "g"]);
    // More than all looks together return.
    for origin in 0..30 {
        let key = |number| format!("{origin}-{number}");
        deliver(
            &store,
            (0..50).map(|n| of_origin(&format!("https://o{origin}"), &key(n), 10)).collect(),
        );
    }
    let found = store.due_deliveries(20, 1_000).unwrap().due;
    let of_slow = found.iter().filter(|due| due.origin == "https://slow").count();
    assert!(found.len() <= 1_000 && of_slow >= 31, "{} {of_slow}", found.len());
    assert!(found.iter().any(|due| due.key == "g"));
}

#[test]
fn a_clock_that_was_ahead_delays_none() {
    const HOUR: u64 = 3_600_000;
    let (_dir, store) = fresh();
    let ahead = 100 * HOUR;
    deliver(&store, vec![new("new", "new", ahead), new("behind", "first", 10)]);
    deliver(&store, vec![new("behind", "second", ahead)]);
    let tried = due(&store, 10).remove(0);
    store.delivery_attempted(tried.id, 1, 10, &retry(ahead)).unwrap();
    assert_eq!(ids(&store, 20), [""; 0]);
    let now = 99 * HOUR;
    // The attempt may really be that late.
    store.bring_deliveries_forward(now, now + 24 * HOUR).unwrap();
    assert_eq!(ids(&store, now), ["new"]);
    store.bring_deliveries_forward(now, now + HOUR - 1).unwrap();
    assert_eq!(ids(&store, now), ["new", "first"]);
    let [new, first] = due(&store, now).try_into().unwrap();
    store.delivery_attempted(first.id, 2, now, &delivered()).unwrap();
    assert_eq!(ids(&store, now), [new.delivery.as_str(), "second"]);
}

#[test]
fn attempts_are_recorded_though_the_plugin_has_filled_its_file() {
    for (body, number) in [(20, 400), (8_000, 60), (100_000, 8)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, StoreLimits { quota: 8 << 20, ..StoreLimits::default() });
        for id in 0..number {
            let mut new = with_result(&format!("k{id}"), &id.to_string(), 10);
            new.delivery.request.body = vec![b'x'; body];
            deliver(&store, vec![new]);
        }
        let fill = || {
            for bytes in [100_000, 10_000, 1_000, 10] {
                for key in 0.. {
                    let mut view = store.view();
                    view.set(&format!("{bytes}/{key}/{}", store.used()), vec![b'x'; bytes])
                        .unwrap();
                    if store.commit(&view.into_changes()).is_err() {
                        break;
                    }
                }
            }
        };
        fill();
        let error = "e".repeat(500);
        for round in 1..4 {
            for due in store.due_deliveries(10 * round, 1_000).unwrap().due {
                let next = 10 * (round + 1);
                let failed = Attempted::Retry { next, status: Some(500), error: error.clone() };
                store.delivery_attempted(due.id, round as u32, 10, &failed).unwrap();
            }
            // A handler gets nothing of what the records have left.
            fill();
            assert_eq!(store.delivery_counts().live, number);
        }
        for due in store.due_deliveries(100, 1_000).unwrap().due {
            let ended = if due.id % 2 == 0 { delivered() } else { dead() };
            store.delivery_attempted(due.id, 4, 100, &ended).unwrap();
        }
        assert_eq!((store.timer_count(), store.delivery_counts().live), (number, 0));
        check(&dir, &store);
        let pages = store.disk().bytes;
        assert!(pages <= 8 << 20, "{pages}");
    }
}

#[test]
fn a_plugin_has_so_many_deliveries_as_is_set_and_their_bytes_count() {
    let dir = tempfile::tempdir().unwrap();
    let limits = StoreLimits { deliveries: 3, timers: 2, quota: 1 << 20, ..StoreLimits::default() };
    let store = open(&dir, limits);
    let refused = |store: &Arc<Store>| {
        let refused = store.view().deliver(new("k", "more", 10));
        matches!(refused, Err(ViewError::Limit(_)))
    };
    let mut view = store.view();
    for id in ["one", "two", "three"] {
        view.deliver(with_result("k", id, 10)).unwrap();
    }
    assert!(matches!(view.deliver(new("k", "four", 10)), Err(ViewError::Limit(_))));
    store.commit(&view.into_changes()).unwrap();
    attempt(&store, 10, &dead());
    assert!(refused(&store), "a dead one counts too");
    store.drop_deliveries(&Which::AllDead).unwrap();
    // Two handlers that do not know of each other.
    let [first, other] = ["a", "b"].map(|id| changed(&store, vec![new("k", id, 10)]));
    store.commit(&first).unwrap();
    assert!(matches!(store.commit(&other), Err(CommitError::TooManyDeliveries { max: 3 })));
    check(&dir, &store);
    // Results that are not handled count together with the timers.
    for _ in 0..3 {
        attempt(&store, 10, &delivered());
    }
    assert_eq!((counts(&store), store.timer_count()), ((0, 0), 3));
    deliver(&store, vec![with_result("k", "c", 10), with_result("k", "d", 10)]);
    let third = changed(&store, vec![new("k", "e", 10)]);
    assert!(matches!(store.commit(&third), Err(CommitError::TooManyDeliveries { .. })));
    check(&dir, &store);

    let mut large = new("k", "large", 10);
    large.delivery.request.body = vec![0; 1 << 20];
    store.drop_deliveries(&Which::Ids(vec![due(&store, 10)[0].id])).unwrap();
    assert!(matches!(store.commit(&changed(&store, vec![large])), Err(CommitError::Full { .. })));
}

#[derive(Debug, Clone)]
enum DeliveryStep {
    /// One transaction with deliveries of these keys, and whether it is rolled back.
    Deliver(Vec<(u8, bool)>, bool),
    Delivered(u8),
    Retry(u8, u64),
    Die(u8),
    Revive,
    DropDead,
    Reopen,
}

fn delivery_step() -> impl Strategy<Value = DeliveryStep> {
    let some = prop::collection::vec((0..4_u8, any::<bool>()), 1..4);
    prop_oneof![
        4 => (some, prop::bool::weighted(0.2)).prop_map(|(keys, back)| DeliveryStep::Deliver(keys, back)),
        3 => (0..4_u8).prop_map(DeliveryStep::Delivered),
        2 => (0..4_u8, 0..100_u64).prop_map(|(key, next)| DeliveryStep::Retry(key, next)),
        1 => (0..4_u8).prop_map(DeliveryStep::Die),
        1 => Just(DeliveryStep::Revive),
        1 => Just(DeliveryStep::DropDead),
        1 => Just(DeliveryStep::Reopen),
    ]
}

/// A delivery of the model: its key, the time of its next attempt, its attempts, and whether it has
/// a result.
type Known = (u8, u64, u32, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model: what waits and what is dead, by the order of the commits.
    #[test]
    fn deliveries_behave_as_a_model(steps in prop::collection::vec(delivery_step(), 1..40)) {
        let (dir, mut store) = fresh();
        let (mut waiting, mut dead_ones) = (BTreeMap::<u32, Known>::new(), BTreeMap::<u32, Known>::new());
        let (mut number, mut ended) = (0, BTreeMap::<u32, &str>::new());
        // The first of a key, as the store knows it.
        let first_of = |store: &Store, key: u8| {
            due(store, 1_000).into_iter().find(|due| due.key == key.to_string())
        };
        for step in steps {
            match step {
                DeliveryStep::Deliver(keys, is_rolled_back) => {
                    let mut view = store.view();
                    view.get("read").unwrap();
                    for (key, has_result) in keys {
                        let id = number.to_string();
                        let key_text = key.to_string();
                        view.deliver(if has_result { with_result(&key_text, &id, 7) } else { new(&key_text, &id, 7) }).unwrap();
                        if !is_rolled_back {
                            waiting.insert(number, (key, 7, 0, has_result));
                        }
                        number += 1;
                    }
                    let changes = view.into_changes();
                    if is_rolled_back {
                        put(&store, &[("read", &number.to_string())]);
                        prop_assert!(is_conflict(store.commit(&changes)));
                    } else {
                        store.commit(&changes).unwrap();
                    }
                }
                DeliveryStep::Delivered(key) | DeliveryStep::Retry(key, _) | DeliveryStep::Die(key) => {
                    let Some(first) = first_of(&store, key) else { continue };
                    let place: u32 = first.delivery.parse().unwrap();
                    let known = waiting.get_mut(&place).unwrap();
                    known.2 += 1;
                    let attempted = match step {
                        DeliveryStep::Retry(_, next) => {
                            known.1 = next;
                            retry(next)
                        }
                        DeliveryStep::Die(_) => {
                            let known = waiting.remove(&place).unwrap();
                            dead_ones.insert(place, known);
                            if known.3 { ended.insert(place, "dead"); }
                            dead()
                        }
                        _ => {
                            let known = waiting.remove(&place).unwrap();
                            if known.3 { ended.insert(place, "delivered"); }
                            delivered()
                        }
                    };
                    store.delivery_attempted(first.id, first.attempts + 1, 50, &attempted).unwrap();
                }
                DeliveryStep::Revive => {
                    prop_assert_eq!(store.retry_deliveries(&Which::AllDead, 60).unwrap(), dead_ones.len());
                    for (place, (key, _, _, has_result)) in std::mem::take(&mut dead_ones) {
                        waiting.insert(place, (key, 60, 0, has_result));
                    }
                }
                DeliveryStep::DropDead => {
                    prop_assert_eq!(store.drop_deliveries(&Which::AllDead).unwrap(), dead_ones.len());
                    dead_ones.clear();
                }
                DeliveryStep::Reopen => {
                    drop(store);
                    store = open(&dir, StoreLimits::default());
                }
            }
            let rows = |dead| -> Vec<(String, u32)> {
                store.deliveries(dead, 0, 100).unwrap().into_iter().map(|row| (row.delivery, row.attempts)).collect()
            };
            let of = |known: &BTreeMap<u32, Known>| -> Vec<(String, u32)> {
                known.iter().map(|(place, known)| (place.to_string(), known.2)).collect()
            };
            prop_assert_eq!((rows(false), rows(true)), (of(&waiting), of(&dead_ones)));
            prop_assert_eq!(counts(&store), (waiting.len() as u64, dead_ones.len() as u64));
            for now in [10, 50, 100] {
                let first = (0..4_u8).filter_map(|key| waiting.iter().find(|(_, known)| known.0 == key));
                let (mut expected, later): (Vec<_>, Vec<_>) = first.partition(|(_, known)| known.1 <= now);
                expected.sort_by_key(|(place, known)| (known.1, **place));
                let expected: Vec<_> = expected.into_iter().map(|(place, _)| place.to_string()).collect();
                prop_assert_eq!(ids(&store, now), expected);
                let next = later.into_iter().map(|(_, known)| known.1).min();
                prop_assert_eq!(store.due_deliveries(now, 100).unwrap().next, next);
            }
            let results: BTreeMap<u32, String> = results(&store)
                .into_iter()
                .map(|(key, data)| (key.parse().unwrap(), data["outcome"].as_str().unwrap().to_owned()))
                .collect();
            let expected: BTreeMap<u32, String> = ended.iter().map(|(place, outcome)| (*place, (*outcome).to_owned())).collect();
            prop_assert_eq!(results, expected);
            if number > 0 && store.has_tables(Rows::Deliveries) {
                check(&dir, &store);
            }
        }
    }
}
