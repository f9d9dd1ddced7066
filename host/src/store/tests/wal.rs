//! Tests: the write-ahead log stays within its bound with any readers and writers, and no commit
//! waits without a limit.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;
use crate::store::limits::SNAPSHOT_GRACE;

/// A small bound, so that the tests reach it often.
const WAL_BYTES: u64 = 1024 * 1024;

fn open_small(dir: &TempDir, snapshot_grace: Duration) -> Arc<Store> {
    open(dir, StoreLimits { wal: WAL_BYTES, snapshot_grace, ..StoreLimits::default() })
}

fn wal_bytes(dir: &TempDir) -> u64 {
    std::fs::metadata(dir.path().join("state.db-wal")).map_or(0, |file| file.len())
}

/// Does what a dispatcher does after an event.
fn checkpoint_if_due(store: &Arc<Store>) {
    if store.claim_due_checkpoint() {
        store.checkpoint().unwrap();
    }
}

#[test]
fn one_record_updated_over_and_over_keeps_the_log_short() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir, Duration::from_millis(20));
    let is_done = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        // Runs beside the writer, as in the host: the log grows during every checkpoint.
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                checkpoint_if_due(&store);
                thread::yield_now();
            }
        });
        let mut most = 0;
        for number in 0..2_000 {
            put(&store, &[("record", &format!("{number:0500}"))]);
            most = most.max(wal_bytes(&dir));
        }
        is_done.store(true, Ordering::Relaxed);
        most
    });
    assert!(most <= WAL_BYTES + WAL_BYTES / 4, "{most}");
    assert_eq!(get(&store, "record"), Some(format!("{:0500}", 1_999)));
}

#[test]
fn overlapping_readers_do_not_make_the_log_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir, Duration::from_millis(20));
    put(&store, &[("read", "as it was")]);
    // At any time a reader holds a snapshot, and none ends by itself before the next has begun.
    let mut readers: VecDeque<View> = VecDeque::new();
    let mut most = 0;
    for number in 0..1_000 {
        if number % 50 == 0 {
            let mut view = store.view();
            assert_eq!(view.get("read").unwrap(), Some(b"as it was".to_vec()));
            readers.push_back(view);
            if readers.len() > 4 {
                let mut oldest = readers.pop_front().unwrap();
                assert_eq!(
                    oldest.get("read").unwrap(),
                    Some(b"as it was".to_vec()),
                    "what it reads is unchanged, so it goes on"
                );
            }
        }
        put(&store, &[("record", &format!("{number:0500}"))]);
        checkpoint_if_due(&store);
        most = most.max(wal_bytes(&dir));
    }
    assert!(most <= WAL_BYTES + WAL_BYTES / 4, "{most}");
}

#[test]
fn a_view_that_waits_holds_no_reader_and_goes_on_unless_what_it_read_has_changed() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "1")]);
    let (mut view, mut other) = (store.view(), store.view());
    for view in [&mut view, &mut other] {
        view.get("a").unwrap();
    }
    other.get("b").unwrap();
    let idle = || lock(&store.readers).idle.len();
    let before = idle();
    for (view, more) in [(&view, 1), (&other, 2), (&view, 2)] {
        view.end_snapshot();
        assert_eq!(idle(), before + more);
    }
    put(&store, &[("b", "2")]);
    assert_eq!(view.get("b").unwrap(), Some(b"2".to_vec()));
    assert!(matches!(other.get("a"), Err(ViewError::Outdated)));
}

#[test]
fn a_view_whose_snapshot_was_ended_goes_on_unless_what_it_read_has_changed() {
    let (_dir, store) = fresh();
    put(&store, &[("a", "1"), ("b", "1"), ("c", "1")]);
    let mut view = store.view();
    assert_eq!(view.get("a").unwrap(), Some(b"1".to_vec()));
    store.end_snapshots(Duration::ZERO);
    put(&store, &[("b", "2")]);
    assert_eq!(
        view.get("b").unwrap(),
        Some(b"2".to_vec()),
        "`a` is as it was read, so the view sees what there is now"
    );
    store.end_snapshots(Duration::ZERO);
    put(&store, &[("a", "2")]);
    assert!(matches!(view.get("c"), Err(ViewError::Outdated)));
    assert!(matches!(view.scan("", None, false, 10), Err(ViewError::Outdated)), "it stays so");
    view.set("d", Vec::new()).unwrap();
    assert!(is_conflict(store.commit(&view.into_changes())));
}

#[test]
fn a_reader_of_another_process_makes_writers_wait_and_not_the_log_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir, Duration::ZERO);
    put(&store, &[("record", "")]);
    let tool = Connection::open(dir.path().join("state.db")).unwrap();
    tool.execute_batch("BEGIN; SELECT * FROM meta").unwrap();
    let write = |number: u32| {
        let mut view = store.view();
        view.set("record", vec![1; number as usize % 500]).unwrap();
        checkpoint_if_due(&store);
        store.commit(&view.into_changes())
    };
    let refused = (0..1_000).map(write).find_map(Result::err).expect("the log is full");
    assert!(matches!(refused, CommitError::Contended), "{refused}");
    assert!(wal_bytes(&dir) <= WAL_BYTES + WAL_BYTES / 4);
    assert!(store.next_id_at_once("ids").is_none(), "it would wait");
    assert!(matches!(store.next_id("ids"), Err(ViewError::Contended)));
    let changes = |key: &str| {
        let mut view = store.view();
        view.set(key, vec![1]).unwrap();
        view.into_changes()
    };
    // The host probes each second whether the store works again; a probe must not make the log
    // longer.
    let before = wal_bytes(&dir);
    store.health.failed(FailureKind::Write, "the disk is full".to_owned());
    for _ in 0..3 {
        store.probe();
        assert!(store.is_failing(FailureKind::Write) && store.is_failing(FailureKind::Contended));
    }
    assert_eq!(wal_bytes(&dir), before);
    store.health.worked(FailureKind::Write);
    assert!(
        store.trouble().is_some_and(|trouble| !trouble.kind.is_outage()),
        "a backup is no outage"
    );
    let (one, two) = (changes("one"), changes("two"));
    assert!(store.try_commit(&[&one]).is_none(), "it would wait");
    let began = Instant::now();
    let refused = store.commit_all(&[&one, &two]);
    assert!(matches!(
        refused.as_slice(),
        [Err(CommitError::Contended), Err(CommitError::Contended)]
    ));
    assert!(began.elapsed() < 2 * super::super::wal::STALL, "they wait together");
    tool.execute_batch("COMMIT").unwrap();
    store.probe();
    assert_eq!(store.trouble(), None);
    write(1).unwrap();
    assert!(store.next_id_at_once("ids").is_some());
}

#[test]
fn the_log_of_an_idle_store_is_truncated() {
    let (dir, store) = fresh();
    put(&store, &[("record", "1")]);
    let mut waiting = store.view();
    waiting.get("record").unwrap();
    store.tend().unwrap();
    assert!(wal_bytes(&dir) > 0, "it was in use just now");
    thread::sleep(SNAPSHOT_GRACE);
    store.tend().unwrap();
    assert_eq!(wal_bytes(&dir), 0, "also under a view that waits");
    assert_eq!(waiting.get("record").unwrap(), Some(b"1".to_vec()));
}

#[test]
fn connections_that_a_burst_of_readers_has_opened_are_closed_while_the_store_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir, SNAPSHOT_GRACE);
    let read =
        |views: &mut [View]| views.iter_mut().for_each(|view| drop(view.get("key").unwrap()));
    let mut burst: Vec<_> = (0..8).map(|_| store.view()).collect();
    read(&mut burst);
    drop(burst);
    assert_eq!(lock(&store.readers).idle.len(), 8);
    for _ in 0..2 {
        store.tend().unwrap();
        // One reader at a time needs one connection.
        read(&mut [store.view()]);
        read(&mut [store.view()]);
    }
    assert_eq!(lock(&store.readers).idle.len(), 1);
}

#[test]
fn many_writers_are_committed_in_transactions_of_limited_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_small(&dir, Duration::ZERO);
    let changes: Vec<Changes> = (0..64)
        .map(|number| {
            let mut view = store.view();
            view.set(&format!("{number}"), vec![1; 128 * 1024]).unwrap();
            view.into_changes()
        })
        .collect();
    let committed = store.commit_all(&changes.iter().collect::<Vec<_>>());
    assert!(committed.len() == 64 && committed.iter().all(Result::is_ok));
    // The bound, and one transaction of one MiB.
    assert!(wal_bytes(&dir) <= 2 * WAL_BYTES + WAL_BYTES / 2, "{}", wal_bytes(&dir));
    assert!((0..64).all(|number| store.view().get(&number.to_string()).unwrap().is_some()));
}

#[test]
fn the_quota_is_that_of_the_disk() {
    const QUOTA: u64 = 2 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let store = open(
        &dir,
        StoreLimits {
            quota: QUOTA,
            wal: WAL_BYTES,
            transaction_keys: 1,
            transaction_bytes: 2_000,
            snapshot_grace: Duration::ZERO,
            ..StoreLimits::default()
        },
    );
    let on_disk = || {
        std::fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum::<u64>()
    };
    let write = |number: u32| {
        let mut view = store.view();
        view.set(&format!("{number:0200}"), vec![1; 1_000]).map_err(|error| error.to_string())?;
        checkpoint_if_due(&store);
        store.commit(&view.into_changes()).map_err(|error| error.to_string())
    };
    let refused = (0..5_000).map(write).find_map(Result::err).expect("the quota is full");
    assert!(refused.contains("quota"), "{refused}");
    assert!(on_disk() <= QUOTA && on_disk() > QUOTA / 2, "{}", on_disk());
    for number in 0..100 {
        let mut view = store.view();
        view.delete(&format!("{number:0200}")).unwrap();
        store.commit(&view.into_changes()).unwrap();
    }
    write(0).expect("what was deleted makes space");
}

#[test]
fn a_new_sequence_finds_the_quota_full_and_not_the_disk_broken() {
    const QUOTA: u64 = 2 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let limits = StoreLimits {
        quota: QUOTA,
        wal: WAL_BYTES,
        transaction_keys: 1,
        transaction_bytes: 2_000,
        ..StoreLimits::default()
    };
    let store = open(&dir, limits);
    let full = (0..5_000).map(|number| format!("{number:0200}")).find_map(|key| {
        let mut view = store.view();
        let set = view.set(&key, vec![1; 1_000]).err().map(|error| error.to_string());
        checkpoint_if_due(&store);
        set.or_else(|| store.commit(&view.into_changes()).err().map(|error| error.to_string()))
    });
    assert!(full.is_some_and(|error| error.contains("quota")));
    // Sequences take pages of their own, until there is none left.
    let refused = (0..1_000).find_map(|number| store.next_id(&format!("{number:0>128}")).err());
    assert!(matches!(refused, Some(ViewError::Full { quota: QUOTA, .. })), "{refused:?}");
    let trouble = store.trouble().expect("the operator is told");
    assert_eq!(trouble.kind, FailureKind::Quota);
}

/// Writes as much as the quota allows, in the largest events: of new keys, of replaced values and
/// of removals. Returns the most bytes that all files have had.
fn write_largest_events(store: &Arc<Store>, keys: usize, value: usize) -> u64 {
    let mut most = 0;
    let mut commit = |view: View| {
        checkpoint_if_due(store);
        let committed = store.commit(&view.into_changes());
        most = most.max(store.disk().bytes);
        committed
    };
    // An odd factor spreads the keys of one event over the whole file.
    let key = |number: usize| format!("{:08x}", (number as u32).wrapping_mul(0x9E37_79B1));
    for fill in [1, 2] {
        let mut stored = 0;
        loop {
            let mut view = store.view();
            let set = |number| view.set(&key(number), vec![fill; value]);
            if (stored..stored + keys).try_for_each(set).is_err() || commit(view).is_err() {
                break;
            }
            stored += keys;
        }
        assert!(stored > 0, "one event fits");
        for begin in 0..stored / keys {
            let mut view = store.view();
            for number in (0..keys).map(|number| begin + number * (stored / keys)) {
                view.delete(&key(number)).unwrap();
            }
            commit(view).unwrap();
        }
    }
    most
}

#[test]
fn the_largest_events_do_not_exceed_the_quota_whatever_the_limits_are() {
    const MIB: u64 = 1024 * 1024;
    for (quota, wal, keys, value) in [
        (MIB, 1, 64, 100),
        (2 * MIB, 1, 128, 4_000),
        (8 * MIB, MIB, 256, 4_000),
        (8 * MIB, 1, 8, 256 * 1024),
        (8 * MIB, 1, 1_024, 100),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let limits = StoreLimits {
            quota,
            wal,
            transaction_keys: keys,
            transaction_bytes: keys * (value + 8),
            snapshot_grace: Duration::ZERO,
            ..StoreLimits::default()
        };
        let most = write_largest_events(&open(&dir, limits), keys, value);
        assert!(most <= quota && most > quota / 3, "{keys} keys, {value} bytes: {most} of {quota}");
    }
}
