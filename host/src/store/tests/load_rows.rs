//! Tests of what is recorded of `$load`.

use sockhop_core::load::Progress;

use super::*;
use crate::store::load_rows::{LoadMark, LoadRow};
use crate::store::{ImportMode, verify};

fn mark(digest: &str, at: u64, progress: Option<(u64, u64)>) -> LoadMark {
    let progress = progress.map(|(done, total)| Progress { done, total });
    LoadMark { digest: digest.to_owned(), at, progress }
}

/// The changes of a handler that writes a key.
fn changes(store: &Arc<Store>, key: &str, mark: LoadMark) -> Changes {
    let mut view = store.view();
    view.set(key, vec![1]).unwrap();
    let mut changes = view.into_changes();
    changes.mark_load(mark);
    changes
}

fn row(store: &Store, digest: &str) -> Option<LoadRow> {
    store.load_row(digest).unwrap()
}

fn running(done: u64, total: u64) -> Option<LoadRow> {
    Some(LoadRow { progress: Progress { done, total }, finished: None })
}

fn finished(at: u64) -> Option<LoadRow> {
    Some(LoadRow { finished: Some(at), ..LoadRow::default() })
}

#[test]
fn how_far_a_version_is_is_stored_with_the_changes_of_its_handler_or_not_at_all() {
    let (dir, store) = fresh();
    assert_eq!(row(&store, "one"), None);
    store.commit(&changes(&store, "a", mark("one", 5, Some((1, 3))))).unwrap();
    // It is a write, although nothing else is.
    let mut alone = Changes::default();
    alone.mark_load(mark("two", 6, None));
    assert!(alone.has_writes());
    let committed = store.try_commit(&[&alone]).unwrap();
    assert!(matches!(committed.as_slice(), [Ok(())]));
    assert_eq!((row(&store, "one"), row(&store, "two")), (running(1, 3), finished(6)));

    let mut view = store.view();
    view.get("a").unwrap();
    let mut outdated = view.into_changes();
    outdated.mark_load(mark("one", 7, None));
    put(&store, &[("a", "2")]);
    assert!(is_conflict(store.commit(&outdated)));
    assert_eq!(row(&store, "one"), running(1, 3));
    store.commit(&changes(&store, "b", mark("one", 8, None))).unwrap();
    drop(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!((row(&store, "one"), row(&store, "two")), (finished(8), finished(6)));
}

#[test]
fn a_file_has_format_5_only_after_its_plugin_has_handled_load() {
    let (dir, store) = fresh();
    let format = || {
        let connection = Connection::open(dir.path().join("state.db")).unwrap();
        connection.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).unwrap()
    };
    put(&store, &[("a", "1")]);
    assert_eq!((row(&store, "one"), format()), (None, 1));
    // A delivery and a timer in the same commit find their tables too.
    let mut first = changes(&store, "b", mark("one", 1, None));
    let mut view = store.view();
    view.set_timer("remind".to_owned(), "k".to_owned(), 1, "1".to_owned(), None).unwrap();
    first.timers = view.into_changes().timers;
    store.commit(&first).unwrap();
    assert_eq!((format(), row(&store, "one")), (5, finished(1)));
    assert_eq!(store.timer_counts().live, 1);
    let mut view = store.view();
    view.set_timer("remind".to_owned(), "l".to_owned(), 1, "1".to_owned(), None).unwrap();
    store.commit(&view.into_changes()).unwrap();
    assert_eq!((format(), store.timer_counts().live), (5, 2));
}

#[test]
fn the_last_64_versions_are_remembered_and_count_no_bytes() {
    let (_dir, store) = fresh();
    store.commit(&changes(&store, "a", mark("0", 0, None))).unwrap();
    let used = store.used();
    for version in 1..=64 {
        let mut changes = Changes::default();
        changes.mark_load(mark(&version.to_string(), version, None));
        store.commit(&changes).unwrap();
    }
    assert_eq!(store.used(), used);
    assert_eq!(row(&store, "0"), None);
    assert!((1..=64).all(|version| row(&store, &version.to_string()) == finished(version)));
    // A version that is known does not take the place of another one.
    let mut changes = Changes::default();
    changes.mark_load(mark("1", 99, None));
    store.commit(&changes).unwrap();
    assert_eq!((row(&store, "1"), row(&store, "2")), (finished(99), finished(2)));
}

#[test]
fn an_import_lets_each_version_begin_again_also_one_that_is_at_work() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("state")).unwrap();
    let store = || Arc::new(crate::store::open(dir.path(), "lab", StoreLimits::default()).unwrap());
    let opened = store();
    opened.commit(&changes(&opened, "a", mark("one", 1, None))).unwrap();
    opened.commit(&changes(&opened, "a", mark("two", 2, Some((1, 2))))).unwrap();
    // It has read what the import then replaces.
    let mut view = opened.view();
    view.get("a").unwrap();
    let mut at_work = view.into_changes();
    at_work.mark_load(mark("two", 3, None));
    let entries = [("a".to_owned(), vec![7])];
    for mode in [ImportMode::Replace, ImportMode::Merge] {
        opened.import(mode, &entries, &BTreeMap::new()).unwrap();
        assert_eq!((row(&opened, "one"), row(&opened, "two")), (None, None));
        assert!(is_conflict(opened.commit(&at_work)));
        opened.commit(&changes(&opened, "b", mark("one", 4, None))).unwrap();
    }
    assert_eq!(row(&opened, "one"), finished(4));
    drop(opened);
    let verified = verify(dir.path(), "lab", None);
    assert_eq!((verified.loads, verified.problems), (Some(1), Vec::new()));
    drop(store());
}

#[test]
fn a_version_that_finishes_while_an_import_runs_begins_again() {
    let (dir, store) = fresh();
    store.commit(&changes(&store, "a", mark("one", 1, None))).unwrap();
    // The import stores 256 entries at once. This is as if a handler committed after the second
    // part and before the third one.
    let other = Connection::open(dir.path().join("state.db")).unwrap();
    let trigger = "CREATE TRIGGER meanwhile AFTER INSERT ON entries WHEN NEW.key = x'333030'
                   BEGIN INSERT INTO loads (digest, done, total, finished)
                         VALUES ('two', 0, 0, 7); END";
    other.execute_batch(trigger).unwrap();
    let entries: Vec<_> = (0..600).map(|number| (number.to_string(), vec![1])).collect();
    store.import(ImportMode::Merge, &entries[..400], &BTreeMap::new()).unwrap();
    assert_eq!(row(&store, "two"), finished(7), "the handler has committed");
    store.import(ImportMode::Replace, &entries, &BTreeMap::new()).unwrap();
    assert_eq!((row(&store, "one"), row(&store, "two")), (None, None));
}
