//! Tests of the store's public interface. Tests of internals are in their modules.

mod content;
mod damage;
mod deliveries;
mod load_rows;
mod timers;
mod wal;

use std::collections::BTreeMap;
use std::thread;

use proptest::prelude::*;
use sockhop_core::state::MAX_SEQUENCES;
use tempfile::TempDir;

use super::connection::{ENTRY_BYTES, integer};
use super::format::FORMAT;
use super::ids::{END_OF_IDS, IDS_PER_BLOCK};
use super::snapshot::max_readers;
use super::*;

type Entries = Vec<(String, Vec<u8>)>;

fn open(dir: &TempDir, limits: StoreLimits) -> Arc<Store> {
    Arc::new(try_open(dir, limits).unwrap())
}

fn try_open(dir: &TempDir, limits: StoreLimits) -> Result<Store, StoreError> {
    Store::open(&dir.path().join("state.db"), &manifest(dir), limits)
}

fn manifest(dir: &TempDir) -> PathBuf {
    dir.path().join("manifest").join("state.json")
}

pub(super) fn fresh() -> (TempDir, Arc<Store>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits::default());
    (dir, store)
}

fn put(store: &Arc<Store>, entries: &[(&str, &str)]) {
    let mut view = store.view();
    for (key, value) in entries {
        view.set(key, value.as_bytes().to_vec()).unwrap();
    }
    store.commit(&view.into_changes()).unwrap();
}

fn get(store: &Arc<Store>, key: &str) -> Option<String> {
    store.view().get(key).unwrap().map(|value| String::from_utf8(value).unwrap())
}

fn keys(
    view: &mut View,
    prefix: &str,
    cursor: Option<&str>,
    backwards: bool,
    limit: u32,
) -> Vec<String> {
    view.scan(prefix, cursor, backwards, limit).unwrap().into_iter().map(|(key, _)| key).collect()
}

fn all(store: &Arc<Store>) -> Entries {
    store.view().scan("", None, false, 1000).unwrap()
}

fn is_conflict(result: Result<(), CommitError>) -> bool {
    match result {
        Ok(()) => false,
        Err(CommitError::Conflict) => true,
        Err(error) => panic!("{error}"),
    }
}

fn is_limit<T>(result: Result<T, ViewError>) -> bool {
    matches!(result, Err(ViewError::Limit(_) | ViewError::Full { .. }))
}

fn is_misuse<T>(result: Result<T, ViewError>) -> bool {
    matches!(result, Err(ViewError::Misuse(_)))
}

#[test]
fn a_view_sees_its_own_writes_and_others_do_not_until_the_commit() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "2")]);
    let mut view = store.view();
    assert_eq!(view.pending_keys(), 0);
    view.set("a", b"3".to_vec()).unwrap();
    view.delete("b").unwrap();
    view.delete("nothing").unwrap();
    assert_eq!((view.pending_keys(), view.pending_bytes()), (3, 10));
    assert_eq!(
        (view.get("a").unwrap(), view.get("b").unwrap(), view.get("c").unwrap()),
        (Some(b"3".to_vec()), None, None)
    );
    assert_eq!((get(&store, "a"), get(&store, "b")), (Some("1".into()), Some("2".into())));
    store.commit(&view.into_changes()).unwrap();
    assert_eq!((get(&store, "a"), get(&store, "b")), (Some("3".into()), None));
}

#[test]
fn a_snapshot_stays_what_it_was_while_others_commit() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1")]);
    let mut view = store.view();
    assert_eq!(view.get("a").unwrap(), Some(b"1".to_vec()));
    put(&store, &[("a", "2"), ("b", "2")]);
    assert_eq!((view.get("a").unwrap(), view.get("b").unwrap()), (Some(b"1".to_vec()), None));
    assert_eq!(keys(&mut view, "", None, false, 10), ["a"]);
    // The view only read, so nothing can conflict.
    assert!(!is_conflict(store.commit(&view.into_changes())));
}

#[test]
fn a_commit_conflicts_when_a_key_that_was_read_has_changed() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "1")]);
    let other_value: fn(&Arc<Store>) = |store| put(store, &[("a", "2")]);
    let same_value: fn(&Arc<Store>) = |store| put(store, &[("a", "1")]);
    let removal: fn(&Arc<Store>) = |store| {
        let mut view = store.view();
        view.delete("a").unwrap();
        store.commit(&view.into_changes()).unwrap();
    };
    for change in [other_value, same_value, removal, same_value] {
        let mut view = store.view();
        view.get("a").unwrap();
        view.set("x", b"1".to_vec()).unwrap();
        change(&store);
        assert!(is_conflict(store.commit(&view.into_changes())));
        assert_eq!(get(&store, "x"), None);
    }
    let mut view = store.view();
    view.get("a").unwrap();
    view.set("x", b"1".to_vec()).unwrap();
    put(&store, &[("b", "2")]);
    assert!(!is_conflict(store.commit(&view.into_changes())));
}

#[test]
fn a_blind_write_conflicts_with_nobody() {
    let (_dir, store) = fresh();
    let (mut one, mut two) = (store.view(), store.view());
    one.set("a", b"1".to_vec()).unwrap();
    two.set("a", b"2".to_vec()).unwrap();
    assert_eq!(two.get("a").unwrap(), Some(b"2".to_vec()));
    store.commit(&one.into_changes()).unwrap();
    store.commit(&two.into_changes()).unwrap();
    assert_eq!(get(&store, "a"), Some("2".into()));
}

#[test]
fn a_commit_conflicts_with_a_new_key_in_what_was_scanned_and_not_beyond() {
    let (_dir, store) = fresh();
    put(&store, &[("r/2", ""), ("r/4", ""), ("r/6", ""), ("s", "")]);
    for (backwards, limit, new, conflict) in [
        (false, 2, "r/3", true),
        (false, 2, "r/1", true),
        (false, 2, "r/5", false),
        (false, 9, "r/7", true),
        (false, 9, "t", false),
        (true, 2, "r/5", true),
        (true, 2, "r/7", true),
        (true, 2, "r/3", false),
        (true, 9, "r/1", true),
    ] {
        let mut view = store.view();
        keys(&mut view, "r/", None, backwards, limit);
        view.set("x", Vec::new()).unwrap();
        put(&store, &[(new, "")]);
        assert_eq!(
            is_conflict(store.commit(&view.into_changes())),
            conflict,
            "{backwards} {limit} {new}"
        );
        let mut view = store.view();
        view.delete(new).unwrap();
        store.commit(&view.into_changes()).unwrap();
    }
}

#[test]
fn a_view_that_read_more_than_is_remembered_conflicts_with_every_commit() {
    let (_dir, store) = fresh();
    let mut view = store.view();
    for i in 0..5000 {
        view.get(&format!("k{i}")).unwrap();
    }
    view.set("x", Vec::new()).unwrap();
    put(&store, &[("elsewhere", "")]);
    assert!(is_conflict(store.commit(&view.into_changes())));
    let mut view = store.view();
    for i in 0..5000 {
        view.get(&format!("k{i}")).unwrap();
    }
    view.set("x", Vec::new()).unwrap();
    assert!(!is_conflict(store.commit(&view.into_changes())));
}

#[test]
fn a_scan_merges_own_writes_in_both_directions() {
    let (_dir, store) = fresh();
    put(
        &store,
        &[("r/1", "a"), ("r/2", "b"), ("r/3", "c"), ("r/5", "e"), ("q", ""), ("r", ""), ("s", "")],
    );
    let mut view = store.view();
    view.set("r/0", b"own".to_vec()).unwrap();
    view.set("r/4", b"own".to_vec()).unwrap();
    view.set("r/2", b"own".to_vec()).unwrap();
    view.delete("r/3").unwrap();
    view.delete("r/1").unwrap();
    view.set("r/6", Vec::new()).unwrap();
    view.delete("r/6").unwrap();
    let own = || b"own".to_vec();
    let expected = [
        ("r/0".into(), own()),
        ("r/2".into(), own()),
        ("r/4".into(), own()),
        ("r/5".into(), b"e".to_vec()),
    ];
    assert_eq!(view.scan("r/", None, false, 1000).unwrap(), expected);
    assert_eq!(keys(&mut view, "r/", None, true, 1000), ["r/5", "r/4", "r/2", "r/0"]);
    assert_eq!(keys(&mut view, "r/", None, false, 2), ["r/0", "r/2"]);
    assert_eq!(keys(&mut view, "r/", Some("r/2"), false, 2), ["r/4", "r/5"]);
    assert_eq!(keys(&mut view, "r/", Some("r/3"), false, 1), ["r/4"]);
    assert_eq!(keys(&mut view, "r/", Some("r/4"), true, 9), ["r/2", "r/0"]);
    assert_eq!(keys(&mut view, "r/", Some("a"), false, 1), ["r/0"]);
    assert_eq!(keys(&mut view, "r/", Some("a"), true, 1), [""; 0]);
    assert_eq!(keys(&mut view, "r/", Some("z"), true, 1), ["r/5"]);
    assert_eq!(keys(&mut view, "r/", Some("z"), false, 1), [""; 0]);
    assert_eq!(keys(&mut view, "", None, false, 3), ["q", "r", "r/0"]);
    assert_eq!(keys(&mut view, "", None, true, 2), ["s", "r/5"]);
}

#[test]
fn keys_are_ordered_by_their_bytes() {
    let (_dir, store) = fresh();
    put(
        &store,
        &[
            ("é", ""),
            ("z", ""),
            ("\u{10FFFF}x", ""),
            ("\u{10FFFF}", ""),
            ("a\0b", ""),
            ("a", ""),
            ("Z", ""),
        ],
    );
    let mut view = store.view();
    assert_eq!(
        keys(&mut view, "", None, false, 9),
        ["Z", "a", "a\0b", "z", "é", "\u{10FFFF}", "\u{10FFFF}x"]
    );
    assert_eq!(keys(&mut view, "\u{10FFFF}", None, true, 9), ["\u{10FFFF}x", "\u{10FFFF}"]);
    assert_eq!(keys(&mut view, "a", Some("a"), false, 9), ["a\0b"]);
}

#[test]
fn keys_values_and_scans_have_limits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits { key: 4, value: 8, scan: 20, ..StoreLimits::default() });
    let mut view = store.view();
    assert!(
        is_misuse(view.get(""))
            && is_misuse(view.set("", Vec::new()))
            && is_misuse(view.delete(""))
    );
    assert!(
        is_limit(view.get("12345"))
            && is_limit(view.set("12345", Vec::new()))
            && is_limit(view.delete("12345"))
    );
    assert!(is_limit(view.set("a", vec![0; 9])));
    assert!(
        is_misuse(view.scan("", None, false, 0)) && is_misuse(view.scan("", None, false, 1001))
    );
    assert_eq!(view.pending_keys(), 0);
    for key in ["a", "b", "c"] {
        view.set(key, vec![0; 8]).unwrap();
    }
    assert_eq!(keys(&mut view, "", None, false, 2), ["a", "b"]);
    assert!(is_limit(view.scan("", None, false, 3)));
    store.commit(&view.into_changes()).unwrap();
    let mut view = store.view();
    assert!(is_limit(view.scan("", None, true, 3)));
    assert_eq!(keys(&mut view, "", Some("c"), true, 3), ["b", "a"]);
}

#[test]
fn a_plugin_has_no_more_than_its_quota_and_can_always_shrink() {
    let dir = tempfile::tempdir().unwrap();
    let entry = 1 + 10 + ENTRY_BYTES;
    let store = open(&dir, StoreLimits { quota: 3 * entry, ..StoreLimits::default() });
    let mut view = store.view();
    for key in ["a", "b", "c"] {
        view.set(key, vec![0; 10]).unwrap();
    }
    assert!(is_limit(view.set("d", vec![0; 10])));
    assert_eq!(view.get("d").unwrap(), None);
    assert!(is_limit(view.set("a", vec![0; 11])));
    assert_eq!(view.get("a").unwrap(), Some(vec![0; 10]));
    store.commit(&view.into_changes()).unwrap();
    assert_eq!(store.used(), 3 * entry);

    // Replacing does not grow the state, nor does adding as much as another key frees.
    let mut view = store.view();
    view.set("a", vec![1; 10]).unwrap();
    view.delete("b").unwrap();
    view.set("d", vec![1; 10]).unwrap();
    assert!(is_limit(view.set("e", Vec::new())));
    store.commit(&view.into_changes()).unwrap();
    assert_eq!(store.used(), 3 * entry);

    // Two views that fit separately do not fit together.
    let mut view = store.view();
    view.delete("d").unwrap();
    store.commit(&view.into_changes()).unwrap();
    let (mut one, mut two) = (store.view(), store.view());
    one.set("x", vec![0; 10]).unwrap();
    two.set("y", vec![0; 10]).unwrap();
    store.commit(&one.into_changes()).unwrap();
    match store.commit(&two.into_changes()) {
        Err(CommitError::Full { used, quota }) => assert_eq!((used, quota), (4 * entry, 3 * entry)),
        other => panic!("{other:?}"),
    }
    assert_eq!(get(&store, "y"), None);

    // A lowered quota keeps the existing state, and allows it to shrink.
    drop(store);
    let store = open(&dir, StoreLimits { quota: entry, ..StoreLimits::default() });
    let mut view = store.view();
    view.set("a", vec![0; 5]).unwrap();
    assert!(is_limit(view.set("c", vec![0; 20])));
    store.commit(&view.into_changes()).unwrap();
    assert_eq!(store.used(), 3 * entry - 5);
}

#[test]
fn what_was_committed_is_there_after_a_reopen_with_and_without_close() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    store.close().unwrap();
    put(&store, &[("b", "2")]);
    // As after a `kill -9`: nothing is closed, and the log is not checkpointed.
    let used = store.used();
    std::mem::forget(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!(all(&store), [("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec())]);
    assert_eq!(store.used(), used);
}

#[test]
fn numbers_grow_from_1_and_are_never_given_twice() {
    let (dir, store) = fresh();
    let ids: Vec<u64> = (0..100).map(|_| store.next_id("a").unwrap()).collect();
    assert_eq!(ids, (1..=100).collect::<Vec<u64>>());
    assert_eq!(store.next_id("b").unwrap(), 1);

    std::mem::forget(store);
    let store = open(&dir, StoreLimits::default());
    let next = store.next_id("a").unwrap();
    assert!(next > 100 && next <= 100 + IDS_PER_BLOCK, "{next}");

    // A clean close leaves no gap, and the store can be used after it.
    store.close().unwrap();
    assert_eq!(store.next_id("a").unwrap(), next + 1);
    store.close().unwrap();
    drop(store);
    let store = open(&dir, StoreLimits::default());
    assert_eq!(store.next_id("a").unwrap(), next + 2);
}

#[test]
fn a_sequence_has_a_name_an_end_and_a_limited_number_of_siblings() {
    let (_dir, store) = fresh();
    assert!(is_misuse(store.next_id("")));
    assert!(is_limit(store.next_id(&"x".repeat(129))));
    lock(&store.writer)
        .as_ref()
        .unwrap()
        .execute("INSERT INTO sequences VALUES ('end', ?1)", [integer(END_OF_IDS - 2)])
        .unwrap();
    assert_eq!(
        (store.next_id("end").unwrap(), store.next_id("end").unwrap()),
        (END_OF_IDS - 2, END_OF_IDS - 1)
    );
    assert!(is_limit(store.next_id("end")));
    for i in 1..MAX_SEQUENCES {
        store.next_id(&i.to_string()).unwrap();
    }
    assert!(is_limit(store.next_id("one more")));
    assert_eq!(store.next_id("1").unwrap(), 2);
}

#[test]
fn four_threads_that_count_and_try_again_lose_nothing() {
    let (_dir, store) = fresh();
    let rounds = 200;
    let count = |store: &Arc<Store>| {
        for _ in 0..rounds {
            loop {
                let mut view = store.view();
                let old = view
                    .get("n")
                    .unwrap()
                    .map_or(0, |value| String::from_utf8(value).unwrap().parse::<u32>().unwrap());
                view.set("n", (old + 1).to_string().into_bytes()).unwrap();
                view.set(&format!("id/{}", store.next_id("ids").unwrap()), Vec::new()).unwrap();
                if !is_conflict(store.commit(&view.into_changes())) {
                    break;
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| count(&store));
        }
    });
    assert_eq!(get(&store, "n"), Some((4 * rounds).to_string()));
    assert_eq!(keys(&mut store.view(), "id/", None, false, 1000).len(), 4 * rounds as usize);
}

#[test]
fn a_file_of_something_else_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.db");
    let open_error = || try_open(&dir, StoreLimits::default()).err().unwrap();
    std::fs::write(
        &file,
        "a text that is long enough to be looked at as a database, were it one".repeat(100),
    )
    .unwrap();
    assert!(matches!(open_error(), StoreError::NotOurs { .. }));

    std::fs::remove_file(&file).unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(open_error(), StoreError::NotOurs { .. }));
    assert_eq!(std::fs::read(&file).unwrap(), before);

    std::fs::remove_file(&file).unwrap();
    drop(open(&dir, StoreLimits::default()));
    Connection::open(&file).unwrap().pragma_update(None, "user_version", FORMAT + 1).unwrap();
    assert!(
        matches!(open_error(), StoreError::Newer { found, .. } if found == i64::from(FORMAT) + 1)
    );

    assert!(matches!(
        Store::open(
            &dir.path().join("no/such"),
            &dir.path().join("unknown.json"),
            StoreLimits::default()
        ),
        Err(StoreError::Open { .. })
    ));
}

#[cfg(unix)]
#[test]
fn the_files_are_readable_by_nobody_else() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    let files =
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().metadata().unwrap());
    let modes: Vec<u32> = files
        .filter(std::fs::Metadata::is_file)
        .map(|file| file.permissions().mode() & 0o777)
        .collect();
    assert_eq!(modes, [0o600; 3]);
}

/// Earlier versions can damage a file if two connections write and checkpoint at once, as they do
/// here (sqlite.org/wal.html#walresetbug).
#[test]
fn sqlite_is_one_without_the_wal_reset_bug() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
}

#[test]
fn readers_are_used_again() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1")]);
    for _ in 0..10 {
        get(&store, "a");
    }
    assert_eq!(lock(&store.readers).idle.len(), 1);
    let mut views: Vec<View> = (0..max_readers() + 5).map(|_| store.view()).collect();
    for view in &mut views {
        view.get("a").unwrap();
    }
    drop(views);
    assert_eq!(lock(&store.readers).idle.len(), max_readers());
}

/// Number of file descriptors of this process for files in `dir`.
#[cfg(target_os = "linux")]
fn descriptors(dir: &TempDir) -> u64 {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let is_here = |file: PathBuf| file.starts_with(dir.path());
    open.filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(is_here))
        .count() as u64
}

#[cfg(target_os = "linux")]
#[test]
fn handlers_that_wait_after_a_read_hold_no_more_descriptors_than_are_reserved() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "1")]);
    let mut waiting: Vec<View> = (0..200).map(|_| store.view()).collect();
    for view in &mut waiting {
        assert_eq!(view.get("a").unwrap(), Some(b"1".to_vec()));
    }
    assert!(descriptors(&dir) <= max_descriptors(), "{}", descriptors(&dir));
    // Every handler goes on, because what it has read is unchanged.
    put(&store, &[("b", "2")]);
    for view in &mut waiting {
        assert_eq!(view.get("a").unwrap(), Some(b"1".to_vec()));
    }
    store.checkpoint().unwrap();
    assert!(descriptors(&dir) <= max_descriptors(), "{}", descriptors(&dir));
    drop(waiting);
    thread::scope(|scope| {
        for _ in 0..2 * max_readers() {
            scope.spawn(|| (0..100).for_each(|_| drop(get(&store, "a"))));
        }
    });
    assert!(descriptors(&dir) <= max_descriptors(), "{}", descriptors(&dir));
}

/// One step of one of several open views.
#[derive(Debug, Clone)]
enum Step {
    Get(String),
    Set(String, u8),
    Delete(String),
    Scan {
        prefix: String,
        cursor: Option<String>,
        backwards: bool,
        limit: u32,
    },
    Commit,
    /// The store ends all snapshots.
    End,
}

fn key() -> impl Strategy<Value = String> {
    "[ab]{1,3}"
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => key().prop_map(Step::Get),
        4 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Set(key, value)),
        2 => key().prop_map(Step::Delete),
        3 => ("[ab]{0,2}", proptest::option::of(key()), any::<bool>(), 1..5_u32)
            .prop_map(|(prefix, cursor, backwards, limit)| Step::Scan { prefix, cursor, backwards, limit }),
        3 => Just(Step::Commit),
        1 => Just(Step::End),
    ]
}

/// What a view should see, and its reads.
#[derive(Default)]
struct Model {
    seen: Option<BTreeMap<String, (u8, usize)>>,
    own: BTreeMap<String, Option<u8>>,
    asked: Vec<Asked>,
    /// Whether the store has ended the view's snapshot since its last read.
    is_ended: bool,
}

impl Model {
    /// Whether something that the view has read has changed.
    fn is_changed(&self, state: &BTreeMap<String, (u8, usize)>) -> bool {
        self.asked.iter().any(|asked| {
            self.seen.as_ref().is_some_and(|seen| asked.part(seen) != asked.part(state))
        })
    }

    /// Takes the snapshot for the next read. Returns `None` if it is not consistent with earlier
    /// reads.
    fn read(
        &mut self,
        state: &BTreeMap<String, (u8, usize)>,
    ) -> Option<&BTreeMap<String, (u8, usize)>> {
        if self.is_ended {
            if self.is_changed(state) {
                return None;
            }
            (self.seen, self.is_ended) = (None, false);
        }
        Some(self.seen.get_or_insert_with(|| state.clone()))
    }
}

/// A read, which determines the part of the stored state that it depends on.
enum Asked {
    Key(String),
    /// The keys of a prefix, after `cursor` in the order of the scan, up to and including the last
    /// returned key.
    Range {
        prefix: String,
        cursor: Option<String>,
        backwards: bool,
        last: Option<String>,
    },
}

impl Asked {
    /// The part of `state` that this read depends on, with the version of each entry.
    fn part(&self, state: &BTreeMap<String, (u8, usize)>) -> Vec<(String, usize)> {
        let is_in = |key: &String| match self {
            Self::Key(own) => key == own,
            Self::Range { prefix, cursor, backwards, last } => {
                let is_after = |a: &String, b: &String| if *backwards { a < b } else { a > b };
                key.starts_with(prefix.as_str())
                    && cursor.as_ref().is_none_or(|cursor| is_after(key, cursor))
                    && last.as_ref().is_none_or(|last| !is_after(key, last))
            }
        };
        state
            .iter()
            .filter(|(key, _)| is_in(key))
            .map(|(key, (_, version))| (key.clone(), *version))
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_behave_as_a_map_with_versions(steps in proptest::collection::vec((0..3_usize, step()), 1..60)) {
        let (_dir, store) = fresh();
        // Each value with the number of the commit that wrote it.
        let mut state: BTreeMap<String, (u8, usize)> = BTreeMap::new();
        let mut commits = 0;
        let mut views: Vec<(View, Model)> = (0..3).map(|_| (store.view(), Model::default())).collect();
        for (index, step) in steps {
            let (view, model) = views.get_mut(index).unwrap();
            match step {
                Step::Set(key, value) => {
                    view.set(&key, vec![value]).unwrap();
                    model.own.insert(key, Some(value));
                }
                Step::Delete(key) => {
                    view.delete(&key).unwrap();
                    model.own.insert(key, None);
                }
                Step::Get(key) => {
                    let expected = match model.own.get(&key) {
                        Some(own) => *own,
                        None => {
                            let Some(seen) = model.read(&state) else {
                                prop_assert!(matches!(view.get(&key), Err(ViewError::Outdated)));
                                views[index] = (store.view(), Model::default());
                                continue;
                            };
                            let value = seen.get(&key).map(|(value, _)| *value);
                            model.asked.push(Asked::Key(key.clone()));
                            value
                        }
                    };
                    prop_assert_eq!(view.get(&key).unwrap(), expected.map(|value| vec![value]));
                }
                Step::Scan { prefix, cursor, backwards, limit } => {
                    let found = view.scan(&prefix, cursor.as_deref(), backwards, limit);
                    let may_be_empty = !backwards && cursor.as_ref().is_some_and(|c| *c > prefix && !c.starts_with(prefix.as_str()))
                        || backwards && cursor.as_ref().is_some_and(|c| *c <= prefix);
                    // An empty range reads nothing, so it takes no snapshot.
                    let seen = if may_be_empty { Some(BTreeMap::new()) } else { model.read(&state).cloned() };
                    let Some(seen) = seen else {
                        prop_assert!(matches!(found, Err(ViewError::Outdated)));
                        views[index] = (store.view(), Model::default());
                        continue;
                    };
                    let found = found.unwrap();
                    let mut merged: BTreeMap<&str, u8> = seen.iter().map(|(key, (value, _))| (key.as_str(), *value)).collect();
                    for (key, own) in &model.own {
                        match own {
                            Some(value) => merged.insert(key, *value),
                            None => merged.remove(key.as_str()),
                        };
                    }
                    let mut expected: Vec<(String, Vec<u8>)> = merged.into_iter()
                        .filter(|(key, _)| key.starts_with(prefix.as_str()))
                        .filter(|(key, _)| cursor.as_deref().is_none_or(|cursor| if backwards { *key < cursor } else { *key > cursor }))
                        .map(|(key, value)| (key.to_owned(), vec![value]))
                        .collect();
                    if backwards {
                        expected.reverse();
                    }
                    expected.truncate(limit as usize);
                    prop_assert_eq!(&found, &expected);
                    let last = found.last().filter(|_| found.len() == limit as usize).map(|(key, _)| key.clone());
                    if !may_be_empty {
                        model.asked.push(Asked::Range { prefix, cursor, backwards, last });
                    }
                }
                Step::End => {
                    store.end_snapshots(Duration::ZERO);
                    views.iter_mut().for_each(|(_, model)| model.is_ended = model.seen.is_some());
                }
                Step::Commit => {
                    let (view, model) = std::mem::replace(&mut views[index], (store.view(), Model::default()));
                    let changed = model.is_changed(&state);
                    let conflict = is_conflict(store.commit(&view.into_changes()));
                    prop_assert_eq!(conflict, changed && !model.own.is_empty());
                    if !conflict {
                        commits += 1;
                        for (key, own) in model.own {
                            match own {
                                Some(value) => state.insert(key, (value, commits)),
                                None => state.remove(&key),
                            };
                        }
                    }
                    let expected: Entries = state.iter().map(|(key, (value, _))| (key.clone(), vec![*value])).collect();
                    prop_assert_eq!(all(&store), expected);
                    let bytes: u64 = state.keys().map(|key| key.len() as u64 + 1 + ENTRY_BYTES).sum();
                    prop_assert_eq!(store.used(), bytes);
                }
            }
        }
    }
}

#[test]
fn a_group_is_committed_as_one_after_the_other_and_who_is_refused_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, StoreLimits { quota: 1_000, ..StoreLimits::default() });
    put(&store, &[("read", "old")]);
    let view = |reads: bool, key: &str, bytes: usize| {
        let mut view = store.view();
        if reads {
            view.get("read").unwrap();
        }
        view.set(key, vec![b'x'; bytes]).unwrap();
        view.into_changes()
    };
    let group = [
        view(true, "first", 1),
        view(false, "read", 1),
        view(true, "conflicts", 1),
        view(false, "last", 1),
    ];
    let [too_much, full] = [view(false, "a", 800), view(false, "b", 800)];
    let mut committed = store.commit_all(&group.iter().collect::<Vec<_>>()).into_iter();
    let expected = [false, false, true, false];
    assert_eq!(expected.map(|_| is_conflict(committed.next().unwrap())), expected);
    let stored: Vec<_> = all(&store).into_iter().map(|(key, _)| key).collect();
    assert_eq!(stored, ["first", "last", "read"]);
    let before = store.used();
    let committed = store.try_commit(&[&too_much, &full]).unwrap();
    assert!(
        matches!(committed.as_slice(), [Ok(()), Err(CommitError::Full { .. })]),
        "{committed:?}"
    );
    assert_eq!(store.used(), before + 1 + 800 + ENTRY_BYTES);
    assert!(get(&store, "a").is_some() && get(&store, "b").is_none());
}
