//! Tests of what operators read and import.

use super::*;

fn entries(all: &[(&str, &str)]) -> Vec<Entry> {
    all.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
}

fn sequences(all: &[(&str, u64)]) -> BTreeMap<String, u64> {
    all.iter().map(|(name, next)| ((*name).to_owned(), *next)).collect()
}

fn import(store: &Store, mode: ImportMode, all: &[(&str, &str)]) -> Result<(), ImportError> {
    store.import(mode, &entries(all), &BTreeMap::new())
}

/// Compares the recorded bytes with the file.
fn check(dir: &TempDir, store: &Store) {
    let connection = Connection::open(dir.path().join("state.db")).unwrap();
    let sum = "SELECT coalesce(sum(length(key) + length(value) + 32), 0) FROM entries";
    let sum: i64 = connection.query_row(sum, [], |row| row.get(0)).unwrap();
    assert_eq!(natural(sum), store.used());
}

#[test]
fn an_import_begins_as_was_asked() {
    let (dir, store) = fresh();
    import(&store, ImportMode::Empty, &[("a", "1"), ("b", "2")]).unwrap();
    let refused = import(&store, ImportMode::Empty, &[("c", "3")]);
    assert!(matches!(refused, Err(ImportError::NotEmpty { entries: 2 })));
    import(&store, ImportMode::Merge, &[("b", "3"), ("c", "4")]).unwrap();
    assert_eq!(all(&store), entries(&[("a", "1"), ("b", "3"), ("c", "4")]));
    check(&dir, &store);
    import(&store, ImportMode::Replace, &[("d", "5")]).unwrap();
    assert_eq!(all(&store), entries(&[("d", "5")]));
    check(&dir, &store);
    drop(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!(all(&store), entries(&[("d", "5")]));
    check(&dir, &store);
}

#[test]
fn a_handler_that_has_read_what_an_import_changes_runs_again() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "1")]);
    let handler = |read: &str| {
        let mut view = store.view();
        view.get(read).unwrap();
        view.set("own", b"1".to_vec()).unwrap();
        view.into_changes()
    };
    let (of_a, of_b, of_new) = (handler("a"), handler("b"), handler("new"));
    import(&store, ImportMode::Merge, &[("a", "2"), ("new", "1")]).unwrap();
    assert!(is_conflict(store.commit(&of_a)) && is_conflict(store.commit(&of_new)));
    assert!(!is_conflict(store.commit(&of_b)));
    let of_b = handler("b");
    import(&store, ImportMode::Replace, &[]).unwrap();
    assert!(is_conflict(store.commit(&of_b)));
}

#[test]
fn sequences_go_on_after_what_was_imported_and_never_back() {
    let (_dir, store) = fresh();
    assert_eq!(store.next_id("used").unwrap(), 1);
    let all = sequences(&[("used", 50), ("new", 7)]);
    store.import(ImportMode::Merge, &[], &all).unwrap();
    assert_eq!((store.next_id("used").unwrap(), store.next_id("new").unwrap()), (50, 7));
    store.import(ImportMode::Replace, &[], &sequences(&[("used", 3)])).unwrap();
    assert_eq!(store.next_id("used").unwrap(), 51);
    assert_eq!(store.content_summary().unwrap().sequences["new"], 8);
    let too_many: BTreeMap<_, _> =
        (0..MAX_SEQUENCES).map(|number| (format!("s{number}"), 1)).collect();
    let refused = store.import(ImportMode::Merge, &[], &too_many);
    assert!(matches!(refused, Err(ImportError::Invalid { .. })));
    assert_eq!(store.content_summary().unwrap().sequences.len(), 2);
}

#[test]
fn what_a_handler_could_not_store_is_not_imported() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits { quota: 1 << 20, ..StoreLimits::default() });
    let long = "x".repeat(StoreLimits::default().key + 1);
    for wrong in ["", &long] {
        let refused = import(&store, ImportMode::Merge, &[("a", "1"), (wrong, "1")]);
        assert!(matches!(refused, Err(ImportError::Invalid { .. })), "{refused:?}");
    }
    let large = "x".repeat(StoreLimits::default().value + 1);
    let refused = import(&store, ImportMode::Merge, &[("a", &large)]);
    assert!(matches!(refused, Err(ImportError::Invalid { .. })), "{refused:?}");
    assert_eq!(all(&store), []);
    let value = "x".repeat(200 << 10);
    let many: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|key| (key, value.as_str())).to_vec();
    let refused = import(&store, ImportMode::Empty, &many);
    assert!(matches!(refused, Err(ImportError::Commit(CommitError::Full { .. }))), "{refused:?}");
    check(&dir, &store);
    import(&store, ImportMode::Replace, &[("a", "1")]).unwrap();
    assert_eq!(all(&store), entries(&[("a", "1")]));
}

#[test]
fn pages_have_all_entries_in_their_order_as_of_one_commit() {
    let (_dir, store) = fresh();
    let all: Vec<Entry> = (0..700).map(|n| (format!("k{n:03}"), vec![b'x'; n])).collect();
    store.import(ImportMode::Empty, &all, &sequences(&[("s", 3)])).unwrap();
    put(&store, &[("other", "1")]);
    let summary = store.content_summary().unwrap();
    assert_eq!((summary.entries, summary.sequences), (701, sequences(&[("s", 3)])));
    let page = |after: Option<String>, limit, max_bytes| {
        let query = PageQuery { prefix: "k".to_owned(), after, limit, max_bytes };
        store.content_page(&query).unwrap()
    };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let next = page(after, 90, 10_000);
        assert_eq!(next.commits, summary.commits);
        let bytes: usize = next.entries.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(next.entries.len() <= 90 && bytes <= 10_000, "{} {bytes}", next.entries.len());
        found.extend(next.entries);
        after = next.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, all);
    assert_eq!(page(None, 10, 1).entries.len(), 1, "at least one, however large it is");
    // A cursor that does not begin with the prefix, before it and after it.
    assert_eq!(page(Some("a".to_owned()), 1, 10).entries[0].0, "k000");
    assert_eq!(page(Some("l".to_owned()), 1, 10).entries, []);
    assert_eq!(store.content_of("other").unwrap(), Some(b"1".to_vec()));
    assert_eq!(store.content_of("missing").unwrap(), None);
}
