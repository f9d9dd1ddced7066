//! Tests of timers: examples, and a model with random steps.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::*;
use crate::event::FiredTimer;
use crate::store::rows::RowCounts;
use crate::store::timers::{Afterwards, DueTimer};

/// What a handler changes.
fn changed(store: &Arc<Store>, change: impl FnOnce(&mut View)) -> Changes {
    let mut view = store.view();
    change(&mut view);
    view.into_changes()
}

fn set(view: &mut View, key: &str, due: u64, data: &str) {
    let (timer, key, data) = ("remind".to_owned(), key.to_owned(), data.to_owned());
    view.set_timer(timer, key, due, data, None).unwrap();
}

fn cancel(view: &mut View, key: &str) {
    view.cancel_timer("remind".to_owned(), key.to_owned()).unwrap();
}

fn due(store: &Store, now: u64) -> Vec<DueTimer> {
    store.due_timers(&["remind", "daily"], now, 100).unwrap().due
}

fn data_of(store: &Store, timer: &DueTimer) -> String {
    store.timer_data(timer.id).unwrap().unwrap()
}

fn keys_due(store: &Store, now: u64) -> Vec<String> {
    due(store, now).into_iter().map(|timer| timer.key).collect()
}

fn fired(due: DueTimer, next: Option<u64>) -> FiredTimer {
    let DueTimer { id, timer, key, due, attempts, .. } = due;
    FiredTimer { id, timer, key, due, attempt: attempts + 1, next }
}

/// The changes of a handler of the first timer that is due.
fn handling(store: &Arc<Store>, change: impl FnOnce(&mut View)) -> (FiredTimer, Changes) {
    let fired = fired(due(store, u64::MAX / 2).remove(0), None);
    let mut changes = changed(store, change);
    changes.consume(Box::new(fired.clone()));
    (fired, changes)
}

fn counts(store: &Store) -> (u64, u64) {
    let RowCounts { live, dead } = store.timer_counts();
    (live, dead)
}

/// Compares what is recorded of the timers with the file.
fn check(dir: &TempDir, store: &Store) {
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(natural(one("SELECT count(*) FROM timers")), store.timer_count());
    let bytes = one("SELECT coalesce(sum(bytes), 0) FROM timers")
        + one("SELECT coalesce(sum(length(key) + length(value) + 32), 0) FROM entries");
    assert_eq!(natural(bytes), store.used());
}

#[test]
fn timers_are_set_and_cancelled_together_with_the_state_or_not_at_all() {
    let (dir, store) = fresh();
    put(&store, &[("read", "1")]);
    let both = changed(&store, |view| {
        view.set("state", b"1".to_vec()).unwrap();
        set(view, "a", 10, "1");
        set(view, "b", 20, "2");
    });
    store.commit(&both).unwrap();
    let found = store.due_timers(&["remind"], 10, 5).unwrap();
    assert_eq!(found.next, Some(20));
    let [timer] = found.due.as_slice() else { panic!("{found:?}") };
    assert_eq!((timer.key.as_str(), data_of(&store, timer)), ("a", "1".to_owned()));

    // A handler that sets a timer and nothing else is validated too.
    let outdated = changed(&store, |view| {
        view.get("read").unwrap();
        set(view, "c", 5, "3");
        cancel(view, "a");
    });
    put(&store, &[("read", "2")]);
    assert!(is_conflict(store.commit(&outdated)));
    assert_eq!(keys_due(&store, 100), ["a", "b"]);

    let again = changed(&store, |view| {
        cancel(view, "a");
        cancel(view, "unknown");
        set(view, "b", 7, "4");
    });
    store.commit(&again).unwrap();
    let left = due(&store, 100);
    let [timer] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!((timer.due, data_of(&store, timer)), (7, "4".to_owned()));
    check(&dir, &store);
    drop(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!((due(&store, 100), store.timer_count()), (left, 1), "after a restart");
}

#[test]
fn a_timer_that_was_handled_is_removed_unless_it_was_changed_meanwhile() {
    let (dir, store) = fresh();
    store.commit(&changed(&store, |view| set(view, "a", 10, "1"))).unwrap();
    let (_, handled) = handling(&store, |view| view.set("done", vec![1]).unwrap());
    let (_, late) = handling(&store, |view| view.set("done", vec![2]).unwrap());
    store.commit(&handled).unwrap();
    assert_eq!(keys_due(&store, 100), [""; 0]);
    assert!(matches!(store.commit(&late), Err(CommitError::TimerGone)));
    assert_eq!(get(&store, "done").unwrap().as_bytes(), [1]);

    for change in [
        (|view| cancel(view, "a")) as fn(&mut View),
        // The same deadline, but another timer.
        |view| set(view, "a", 10, "1"),
    ] {
        store.commit(&changed(&store, |view| set(view, "a", 10, "1"))).unwrap();
        let (_, handled) = handling(&store, |_| {});
        store.commit(&changed(&store, change)).unwrap();
        let before = due(&store, 100);
        assert!(matches!(store.commit(&handled), Err(CommitError::TimerGone)));
        assert_eq!(due(&store, 100), before);
    }

    // A handler may set its own timer again.
    let (old, handled) = handling(&store, |view| set(view, "a", 50, "2"));
    store.commit(&handled).unwrap();
    let set_again = due(&store, 100).remove(0);
    assert!(set_again.id > old.id && set_again.due == 50, "{set_again:?}");
    check(&dir, &store);
}

#[test]
fn a_file_has_the_newer_format_only_after_its_plugin_has_set_a_timer() {
    let (dir, store) = fresh();
    let format = || {
        let connection = Connection::open(dir.path().join("state.db")).unwrap();
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap()
    };
    put(&store, &[("a", "1")]);
    store.set_schedules(&[]).unwrap();
    assert_eq!((format(), counts(&store)), (1, (0, 0)));
    let refused = changed(&store, |view| {
        view.get("a").unwrap();
        set(view, "a", 1, "1");
    });
    put(&store, &[("a", "2")]);
    assert!(is_conflict(store.commit(&refused)));
    store.commit(&changed(&store, |view| set(view, "a", 1, "1"))).unwrap();
    assert_eq!((format(), counts(&store)), (2, (1, 0)));
}

#[test]
fn a_timer_whose_handler_fails_is_retried_later_and_a_dead_one_only_by_an_operator() {
    let (dir, store) = fresh();
    let setting = changed(&store, |view| {
        set(view, "a", 10, "1");
        set(view, "b", 20, "1");
    });
    store.commit(&setting).unwrap();
    let first = fired(due(&store, 10).remove(0), None);
    store.timer_failed(&first, Afterwards::Retry(500), "refused: no".to_owned()).unwrap();
    assert_eq!(keys_due(&store, 499), ["b"]);
    let again = due(&store, 500).remove(0);
    assert_eq!((again.key.as_str(), again.due, again.attempts), ("a", 10, 1));
    store.timer_failed(&fired(again, None), Afterwards::Dead(600), "again".to_owned()).unwrap();
    assert_eq!((keys_due(&store, 10_000), counts(&store)), (vec!["b".to_owned()], (1, 1)));
    let dead = store.timers(true, 0, 10).unwrap().remove(0);
    assert_eq!((dead.died, dead.attempts, dead.error.as_deref()), (Some(600), 2, Some("again")));

    // One that is set anew keeps the dead one dead: the key has one timer.
    store.commit(&changed(&store, |view| set(view, "a", 30, "2"))).unwrap();
    assert_eq!(store.retry_timers(&Which::AllDead, 700).unwrap(), 0);
    store.commit(&changed(&store, |view| cancel(view, "a"))).unwrap();
    assert_eq!(store.retry_timers(&Which::Ids(vec![dead.id, 99]), 700).unwrap(), 1);
    let retried = due(&store, 700).into_iter().find(|timer| timer.key == "a").unwrap();
    assert_eq!((retried.id, retried.due, retried.attempts), (dead.id, 10, 0));
    store.timer_failed(&fired(retried, None), Afterwards::Dead(800), String::new()).unwrap();
    assert_eq!(store.drop_timers(&Which::AllDead).unwrap(), 1);
    let pending = store.timers(false, 0, 10).unwrap().remove(0).id;
    assert_eq!(store.drop_timers(&Which::Ids(vec![pending])).unwrap(), 1);
    assert_eq!(counts(&store), (0, 0));
    check(&dir, &store);
}

#[test]
fn the_timers_of_schedules_are_set_by_what_the_version_declares() {
    let (dir, store) = fresh();
    let daily = |schedule: &str, next| ScheduledTimer {
        timer: "daily".to_owned(),
        schedule: schedule.to_owned(),
        next,
    };
    let is_due = |now| due(&store, now).into_iter().map(|timer| timer.due).collect::<Vec<_>>();
    store.set_schedules(&[daily("0 9 * * *", 100)]).unwrap();
    let changes = store.timer_changes();
    store.set_schedules(&[daily("0 9 * * *", 200)]).unwrap();
    assert_eq!((is_due(1_000), store.timer_changes()), (vec![100], changes), "it is set already");
    store.set_schedules(&[daily("0 9 * * *", 50)]).unwrap();
    assert_eq!(is_due(1_000), [50], "the clock was set back");
    store.set_schedules(&[daily("0 8 * * *", 300)]).unwrap();
    assert_eq!(is_due(1_000), [300], "another schedule");

    // The next time is set together with the effects of the handler, or when it is dead.
    let mut handled = changed(&store, |view| view.set("ran", vec![1]).unwrap());
    handled.consume(Box::new(fired(due(&store, 300).remove(0), Some(400))));
    store.commit(&handled).unwrap();
    assert_eq!(is_due(1_000), [400]);
    let failing = fired(due(&store, 400).remove(0), Some(500));
    store.timer_failed(&failing, Afterwards::Retry(450), String::new()).unwrap();
    assert_eq!(is_due(449), [0; 0]);
    store.timer_failed(&failing, Afterwards::Dead(460), String::new()).unwrap();
    assert_eq!((is_due(1_000), counts(&store)), (vec![500], (1, 1)));
    let dying = fired(due(&store, 500).remove(0), Some(600));
    store.timer_failed(&dying, Afterwards::Dead(560), String::new()).unwrap();
    assert_eq!((is_due(1_000), counts(&store)), (vec![600], (1, 1)), "one dead time is kept");
    check(&dir, &store);
    let of_schedule = store.timers(false, 0, 10).unwrap().remove(0).id;
    assert_eq!(store.drop_timers(&Which::Ids(vec![of_schedule])).unwrap(), 0, "it is declared");
    assert_eq!(store.retry_timers(&Which::AllDead, 570).unwrap(), 1);
    assert_eq!(is_due(570), [500], "beside the next one");
    let retried = fired(due(&store, 570).remove(0), None);
    let mut handled = Changes::default();
    handled.consume(Box::new(retried));
    store.commit(&handled).unwrap();
    assert_eq!(is_due(1_000), [600]);
    check(&dir, &store);

    store.set_schedules(&[]).unwrap();
    assert_eq!(counts(&store), (0, 0), "a version without it");
    check(&dir, &store);
}

#[test]
fn an_attempt_is_never_before_the_deadline_and_not_delayed_by_a_clock_that_was_ahead() {
    let (_dir, store) = fresh();
    store.commit(&changed(&store, |view| set(view, "a", 1_000, "1"))).unwrap();
    let early = fired(due(&store, 1_000).remove(0), None);
    // The clock was set back while the handler ran.
    store.timer_failed(&early, Afterwards::Retry(900), String::new()).unwrap();
    assert_eq!((keys_due(&store, 999).len(), keys_due(&store, 1_000).len()), (0, 1));
    store.timer_failed(&early, Afterwards::Dead(900), String::new()).unwrap();
    assert_eq!(store.retry_timers(&Which::AllDead, 900).unwrap(), 1);
    assert_eq!((keys_due(&store, 999).len(), keys_due(&store, 1_000).len()), (0, 1));
    store.timer_failed(&early, Afterwards::Retry(1_000_000), String::new()).unwrap();
    store.bring_retries_forward(2_000, 1_000_000).unwrap();
    assert_eq!(keys_due(&store, 2_000), [""; 0], "an ordinary delay");
    store.bring_retries_forward(2_000, 100).unwrap();
    assert_eq!(keys_due(&store, 2_000), ["a"]);
}

#[test]
fn a_commit_with_a_refused_writer_of_timers_stores_the_others() {
    let (dir, store) = fresh();
    put(&store, &[("read", "1")]);
    let refused = changed(&store, |view| {
        view.get("read").unwrap();
        set(view, "refused", 10, "1");
    });
    let cancelling = changed(&store, |view| cancel(view, "unknown"));
    put(&store, &[("read", "2")]);
    store.commit(&cancelling).unwrap();
    assert!(!store.has_tables(Rows::Timers), "nothing was set");
    let good = changed(&store, |view| set(view, "good", 20, "2"));
    let committed = store.commit_all(&[&refused, &good, &cancelling]);
    assert!(matches!(committed.as_slice(), [Err(CommitError::Conflict), Ok(()), Ok(())]));
    assert_eq!(keys_due(&store, 100), ["good"]);
    check(&dir, &store);
}

#[test]
fn near_the_limit_it_is_counted_how_many_timers_there_would_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits { timers: 3, ..StoreLimits::default() });
    let three =
        |view: &mut View| ["a", "b", "c"].into_iter().for_each(|key| set(view, key, 10, "1"));
    store.commit(&changed(&store, three)).unwrap();
    store.commit(&changed(&store, three)).unwrap();
    let replacing = changed(&store, |view| {
        cancel(view, "a");
        set(view, "d", 10, "1");
        set(view, "d", 20, "2");
    });
    store.commit(&replacing).unwrap();
    // The handler of a timer may set another one in its place.
    let own = fired(due(&store, 10).remove(0), None);
    let mut view = store.view();
    let next = |key: &str| ("remind".to_owned(), key.to_owned(), 30, "3".to_owned());
    let (timer, key, time, data) = next("e");
    view.set_timer(timer, key, time, data, Some(&own)).unwrap();
    let (timer, key, time, data) = next("f");
    let refused = view.set_timer(timer, key, time, data, Some(&own));
    assert!(matches!(refused, Err(ViewError::Limit(_))));
    let mut changes = view.into_changes();
    changes.consume(Box::new(own));
    store.commit(&changes).unwrap();
    assert_eq!(store.timer_count(), 3);
    check(&dir, &store);
}

#[test]
fn a_plugin_has_so_many_timers_as_is_set_and_their_bytes_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits { timers: 3, quota: 1 << 20, ..StoreLimits::default() });
    let three = changed(&store, |view| {
        ["a", "b", "c"].into_iter().for_each(|key| set(view, key, 10, "1"));
        let fourth = view.set_timer("remind".to_owned(), "d".to_owned(), 10, "1".to_owned(), None);
        assert!(matches!(fourth, Err(ViewError::Limit(_))));
    });
    store.commit(&three).unwrap();
    // A dead one counts too.
    let dying = fired(due(&store, 10).remove(0), None);
    store.timer_failed(&dying, Afterwards::Dead(20), String::new()).unwrap();
    let mut view = store.view();
    let one_more = view.set_timer("remind".to_owned(), "d".to_owned(), 10, "1".to_owned(), None);
    assert!(matches!(one_more, Err(ViewError::Limit(_))));
    set(&mut view, "b", 30, "2");
    store.commit(&view.into_changes()).unwrap();
    // Two handlers that do not know of each other.
    store.commit(&changed(&store, |view| cancel(view, "b"))).unwrap();
    let [one, other] = ["d", "e"].map(|key| changed(&store, |view| set(view, key, 10, "1")));
    store.commit(&one).unwrap();
    assert!(matches!(store.commit(&other), Err(CommitError::TooManyTimers { max: 3 })));
    assert_eq!(store.timer_count(), 3);
    let large = changed(&store, |view| set(view, "c", 10, &"1".repeat(200 << 10)));
    store.commit(&large).unwrap();
    assert!(store.used() > 200 << 10);
    check(&dir, &store);
}

#[derive(Debug, Clone)]
enum TimerStep {
    Set(u8, u64),
    Cancel(u8),
    Handle,
    HandleAndSetAgain(u64),
    Retry(u64),
    Die,
    Revive,
    Drop,
    Reopen,
}

fn timer_step() -> impl Strategy<Value = TimerStep> {
    prop_oneof![
        4 => (0..4_u8, 0..100_u64).prop_map(|(key, due)| TimerStep::Set(key, due)),
        2 => (0..4_u8).prop_map(TimerStep::Cancel),
        2 => Just(TimerStep::Handle),
        1 => (0..100_u64).prop_map(TimerStep::HandleAndSetAgain),
        1 => (0..100_u64).prop_map(TimerStep::Retry),
        1 => Just(TimerStep::Die),
        1 => Just(TimerStep::Revive),
        1 => Just(TimerStep::Drop),
        1 => Just(TimerStep::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The model: the deadline and the time of the next attempt of each key, and the keys that are
    /// dead, in the order of their timers.
    #[test]
    fn timers_behave_as_a_model(steps in prop::collection::vec(timer_step(), 1..40)) {
        let (dir, mut store) = fresh();
        let (mut model, mut dead) = (BTreeMap::<String, (u64, u64)>::new(), Vec::<String>::new());
        for step in steps {
            let first = due(&store, 1_000).into_iter().next();
            match step {
                TimerStep::Set(key, time) => {
                    store.commit(&changed(&store, |view| set(view, &key.to_string(), time, "1"))).unwrap();
                    model.insert(key.to_string(), (time, time));
                }
                TimerStep::Cancel(key) => {
                    store.commit(&changed(&store, |view| cancel(view, &key.to_string()))).unwrap();
                    model.remove(&key.to_string());
                }
                TimerStep::Handle | TimerStep::HandleAndSetAgain(_) => {
                    let Some(first) = first else { continue };
                    let key = first.key.clone();
                    model.remove(&key);
                    let mut changes = Changes::default();
                    if let TimerStep::HandleAndSetAgain(time) = step {
                        changes = changed(&store, |view| set(view, &key, time, "1"));
                        model.insert(key, (time, time));
                    }
                    changes.consume(Box::new(fired(first, None)));
                    store.commit(&changes).unwrap();
                }
                TimerStep::Retry(next) => {
                    let Some(first) = first else { continue };
                    let known = model.get_mut(&first.key).unwrap();
                    known.1 = next.max(known.0);
                    store.timer_failed(&fired(first, None), Afterwards::Retry(next), String::new()).unwrap();
                }
                TimerStep::Die => {
                    let Some(first) = first else { continue };
                    model.remove(&first.key);
                    dead.push(first.key.clone());
                    store.timer_failed(&fired(first, None), Afterwards::Dead(1), String::new()).unwrap();
                }
                TimerStep::Revive => {
                    let before = model.len();
                    let revived = store.retry_timers(&Which::AllDead, 50).unwrap();
                    let rows = store.timers(false, 0, 100).unwrap();
                    for row in rows {
                        let place = dead.iter().position(|key| *key == row.key);
                        if let Entry::Vacant(vacant) = model.entry(row.key) {
                            dead.remove(place.unwrap());
                            vacant.insert((row.due, row.due.max(50)));
                        }
                    }
                    prop_assert_eq!(model.len(), before + revived);
                    prop_assert!(dead.iter().all(|key| model.contains_key(key)));
                }
                TimerStep::Drop => {
                    prop_assert_eq!(store.drop_timers(&Which::AllDead).unwrap(), dead.len());
                    dead.clear();
                }
                TimerStep::Reopen => {
                    drop(store);
                    store = open(&dir, StoreLimits::default());
                }
            }
            let mut found: Vec<_> = store.timers(false, 0, 100).unwrap().into_iter().map(|row| (row.key, (row.due, row.next))).collect();
            found.sort();
            prop_assert_eq!(found, model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(counts(&store), (model.len() as u64, dead.len() as u64));
            for now in [10, 50, 100] {
                let late: Vec<_> = model.values().filter(|(_, next)| *next <= now).collect();
                prop_assert_eq!(due(&store, now).len(), late.len());
                let next = model.values().map(|(_, next)| *next).filter(|next| *next > now).min();
                prop_assert_eq!(store.due_timers(&["remind"], now, 100).unwrap().next, next);
            }
            if store.timer_count() > 0 {
                check(&dir, &store);
            }
        }
    }
}
