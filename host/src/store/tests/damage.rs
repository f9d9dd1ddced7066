//! Tests: missing or damaged state is detected, and an operator decides. Intact state is never
//! reported as damaged.

use std::fs;

use super::*;
use crate::store::limits::SNAPSHOT_GRACE;
use crate::store::manifest::Manifest;

/// A copy of the files as a host that is killed now would leave them.
fn killed(dir: &TempDir) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    fs::create_dir(image.path().join("manifest")).unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm", "manifest/state.json"] {
        if dir.path().join(name).exists() {
            fs::copy(dir.path().join(name), image.path().join(name)).unwrap();
        }
    }
    image
}

/// A store that was not closed, with some entries in its file and more in its write-ahead log.
fn killed_with_a_log() -> TempDir {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    store.close().unwrap();
    for number in 0..20 {
        put(&store, &[("b", &number.to_string())]);
    }
    killed(&dir)
}

fn lost(dir: &TempDir) -> StoreFaultKind {
    match try_open(dir, StoreLimits::default()).err() {
        Some(StoreError::Lost(fault)) => fault.kind,
        other => panic!("{other:?}"),
    }
}

fn log_of(dir: &TempDir) -> PathBuf {
    dir.path().join("state.db-wal")
}

#[test]
fn a_host_that_was_killed_finds_every_commit_and_nothing_wrong() {
    let dir = killed_with_a_log();
    for _ in 0..2 {
        let store = open(&dir, StoreLimits::default());
        assert_eq!((get(&store, "a"), get(&store, "b")), (Some("1".into()), Some("19".into())));
    }
    // At other moments: before any commit, after a checkpoint of each kind, and while the store is
    // idle.
    let (dir, store) = fresh();
    open(&killed(&dir), StoreLimits::default());
    put(&store, &[("a", "1")]);
    store.checkpoint().unwrap();
    open(&killed(&dir), StoreLimits::default());
    put(&store, &[("a", "2")]);
    assert_eq!(get(&open(&killed(&dir), StoreLimits::default()), "a"), Some("2".into()));
    for _ in 0..5 {
        store.tend().unwrap();
        assert_eq!(get(&open(&killed(&dir), StoreLimits::default()), "a"), Some("2".into()));
        thread::sleep(SNAPSHOT_GRACE / 4);
    }
}

/// As on a full disk: the record can't be replaced until the returned closure is called.
fn block_manifest(dir: &TempDir) -> impl FnOnce() {
    let (manifest, away) = (dir.path().join("manifest"), dir.path().join("away"));
    fs::rename(&manifest, &away).unwrap();
    fs::write(&manifest, "no directory").unwrap();
    move || {
        fs::remove_file(&manifest).unwrap();
        fs::rename(&away, &manifest).unwrap();
    }
}

#[test]
fn a_store_that_is_closed_while_its_record_cannot_be_written_is_not_lost() {
    for fill_sequence in [false, true] {
        let (dir, store) = fresh();
        put(&store, &[("a", "1")]);
        get(&store, "a");
        if fill_sequence {
            // Then sequence numbers can't be given back either.
            store.next_id("ids").unwrap();
            store
                .lock_writer()
                .connection()
                .unwrap()
                .pragma_update(None, "query_only", true)
                .unwrap();
        }
        let unblock = block_manifest(&dir);
        assert!(store.close().is_err());
        drop(store);
        unblock();
        assert!(log_of(&dir).exists(), "a log that the record expects");
        for _ in 0..2 {
            assert_eq!(get(&open(&dir, StoreLimits::default()), "a"), Some("1".into()));
        }
    }
}

#[test]
fn a_store_whose_last_numbers_cannot_be_given_back_is_closed_all_the_same() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    store.next_id("ids").unwrap();
    // The error occurs only in the transaction.
    store
        .lock_writer()
        .connection()
        .unwrap()
        .execute_batch("ALTER TABLE sequences RENAME TO away")
        .unwrap();
    assert!(store.close().is_err());
    assert!(!log_of(&dir).exists() && lock(&store.writer).is_none());
}

#[test]
fn a_file_that_is_gone_or_empty_is_no_empty_state() {
    for remove in
        [|file: &Path| fs::remove_file(file).unwrap(), |file: &Path| fs::write(file, "").unwrap()]
    {
        let (dir, store) = fresh();
        put(&store, &[("a", "1")]);
        drop(store);
        remove(&dir.path().join("state.db"));
        for _ in 0..2 {
            assert_eq!(lost(&dir), StoreFaultKind::Missing);
        }
        Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Older).unwrap();
        assert_eq!(lost(&dir), StoreFaultKind::Missing, "another loss was accepted");
        Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Missing).unwrap();
        let store = open(&dir, StoreLimits::default());
        assert_eq!(all(&store), []);
        put(&store, &[("a", "2")]);
        drop(store);
        fs::remove_file(dir.path().join("state.db")).unwrap();
        assert_eq!(lost(&dir), StoreFaultKind::Missing, "it was accepted once");
    }
}

#[test]
fn a_write_ahead_log_that_is_gone_cut_changed_or_exchanged_is_noticed() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("gone", |log| fs::remove_file(log).unwrap()),
        ("gone with its index", |log| {
            fs::remove_file(log.with_extension("db-shm")).unwrap();
            fs::remove_file(log).unwrap();
        }),
        ("empty", |log| fs::write(log, "").unwrap()),
        ("cut", |log| {
            let bytes = fs::read(log).unwrap();
            fs::write(log, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("changed", |log| {
            let mut bytes = fs::read(log).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(log, bytes).unwrap();
        }),
        ("another", |log| {
            let other = killed_with_a_log();
            fs::copy(log_of(&other), log).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let dir = killed_with_a_log();
        let before = fs::read(dir.path().join("state.db")).unwrap();
        damage(&log_of(&dir));
        for _ in 0..2 {
            assert_eq!(lost(&dir), StoreFaultKind::Older, "{what}: also when it is tried again");
        }
        assert_eq!(
            fs::read(dir.path().join("state.db")).unwrap(),
            before,
            "{what}: nothing is changed"
        );
        Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Older).unwrap();
        let store = open(&dir, StoreLimits::default());
        assert_eq!(get(&store, "a"), Some("1".into()), "{what}");
        put(&store, &[("c", "1")]);
        drop(store);
        open(&dir, StoreLimits::default());
    }
}

#[test]
fn a_log_that_a_power_cut_has_shortened_is_no_fault() {
    let dir = killed_with_a_log();
    fs::remove_file(log_of(&dir)).unwrap();
    let record = fs::read_to_string(manifest(&dir)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["boot"] = "another run of the machine".into();
    fs::write(manifest(&dir), record.to_string()).unwrap();
    assert_eq!(get(&open(&dir, StoreLimits::default()), "a"), Some("1".into()));
}

#[test]
fn an_older_copy_of_the_file_is_noticed() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    store.close().unwrap();
    let copy = fs::read(dir.path().join("state.db")).unwrap();
    put(&store, &[("a", "2")]);
    drop(store);
    fs::write(dir.path().join("state.db"), copy).unwrap();
    assert_eq!(lost(&dir), StoreFaultKind::Older);
    Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Older).unwrap();
    assert_eq!(get(&open(&dir, StoreLimits::default()), "a"), Some("1".into()));
}

#[test]
fn an_accepted_loss_is_not_recorded_any_more_even_if_a_reader_prevents_the_checkpoint() {
    let dir = killed_with_a_log();
    let record = fs::read_to_string(manifest(&dir)).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["commits"] = 1_000.into();
    fs::write(manifest(&dir), record.to_string()).unwrap();
    assert_eq!(lost(&dir), StoreFaultKind::Older);
    Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Older).unwrap();
    let reader = Connection::open(dir.path().join("state.db")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader.query_row("SELECT commits FROM meta", [], |row| row.get::<_, i64>(0)).unwrap();
    for _ in 0..2 {
        assert_eq!(get(&open(&dir, StoreLimits::default()), "b"), Some("19".into()));
        let record = Manifest::new(&manifest(&dir)).read().unwrap().unwrap();
        assert_eq!((record.fault, record.commits), (None, 0), "the log can't be checkpointed");
    }
    drop(reader);
    assert_eq!(get(&open(&dir, StoreLimits::default()), "b"), Some("19".into()));
}

#[test]
fn a_damaged_file_is_noticed_and_put_aside_when_that_is_accepted() {
    let (dir, store) = fresh();
    let records: Vec<String> = (0..500).map(|number| format!("record {number}")).collect();
    put(&store, &records.iter().map(|key| (key.as_str(), "value")).collect::<Vec<_>>());
    drop(store);
    let file = dir.path().join("state.db");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 512].fill(0xA5);
    fs::write(&file, &bytes).unwrap();
    assert_eq!(lost(&dir), StoreFaultKind::Damaged);
    Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Damaged).unwrap();
    assert_eq!(all(&open(&dir, StoreLimits::default())), []);
    // The log and its index may be beside it.
    let is_aside =
        |name: &str| name.contains(".lost-") && !name.ends_with("-wal") && !name.ends_with("-shm");
    let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    let aside: Vec<PathBuf> = files.filter(|file| is_aside(&file.to_string_lossy())).collect();
    assert!(aside.len() == 1 && fs::read(&aside[0]).unwrap() == bytes, "{aside:?}");

    // A file with a different first page is damaged as well.
    fs::write(&file, "this is no database any more".repeat(300)).unwrap();
    assert_eq!(lost(&dir), StoreFaultKind::Damaged);
}

#[test]
fn an_idle_store_holds_no_file_and_goes_on_as_before() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    let number = store.next_id("ids").unwrap();
    get(&store, "a");
    let is_closed = || lock(&store.writer).is_none() && lock(&store.readers).idle.is_empty();
    for _ in 0..3 {
        assert!(!is_closed());
        store.tend().unwrap();
    }
    store.tend().unwrap();
    assert!(is_closed() && !log_of(&dir).exists());
    assert!(
        store.next_id_at_once("other").is_none(),
        "to open a file is nothing for a thread that serves others"
    );
    assert_eq!(get(&store, "a"), Some("1".into()));
    assert_eq!(store.next_id("ids").unwrap(), number + 1);
    put(&store, &[("a", "2")]);
    assert!(store.next_id_at_once("other").is_some());
    assert_eq!(get(&store, "a"), Some("2".into()));
    drop(store);
    assert_eq!(get(&open(&dir, StoreLimits::default()), "a"), Some("2".into()));
}

#[test]
fn a_file_that_goes_while_the_store_is_idle_is_not_made_anew() {
    let (dir, store) = fresh();
    put(&store, &[("a", "1")]);
    for _ in 0..5 {
        store.tend().unwrap();
    }
    fs::remove_file(dir.path().join("state.db")).unwrap();
    assert!(matches!(store.view().get("a"), Err(ViewError::Store(_))));
    let mut view = store.view();
    view.set("a", Vec::new()).unwrap();
    assert!(matches!(store.commit(&view.into_changes()), Err(CommitError::Store(_))));
    assert!(!dir.path().join("state.db").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_store_whose_record_cannot_be_written_is_served_and_says_so() {
    let dir = killed_with_a_log();
    // The system's directory can be read, but not written, also by root.
    let (records, away) = (dir.path().join("manifest"), dir.path().join("away"));
    fs::rename(&records, &away).unwrap();
    std::os::unix::fs::symlink("/proc/sys/kernel/random", &records).unwrap();
    let open = || {
        let record = records.join("boot_id");
        let file = dir.path().join("state.db");
        Arc::new(Store::open(&file, &record, StoreLimits::default()).unwrap())
    };
    let store = open();
    assert_eq!(get(&store, "b"), Some("19".into()));
    put(&store, &[("c", "1")]);
    assert!(
        store.is_failing(FailureKind::Record)
            && store.trouble().is_some_and(|trouble| !trouble.kind.is_outage())
    );
    fs::remove_file(&records).unwrap();
    fs::rename(&away, &records).unwrap();
    put(&store, &[("c", "2")]);
    assert_eq!(store.trouble(), None);
    drop(store);
    assert_eq!(get(&open(), "c"), Some("2".into()));
}

#[test]
fn a_loss_that_was_accepted_stays_so_when_the_host_is_killed_meanwhile() {
    type Killed = fn(&Path);
    let kills: [Killed; 3] = [
        |file| fs::remove_file(file).unwrap(),
        |file| fs::write(file, "").unwrap(),
        // The new file exists, but the record is the one of the old file.
        |file| {
            fs::remove_file(file).unwrap();
            drop(Store::open(file, &file.with_extension("json"), StoreLimits::default()).unwrap());
        },
    ];
    for kill in kills {
        let (dir, store) = fresh();
        put(&store, &[("a", "1")]);
        drop(store);
        let file = dir.path().join("state.db");
        fs::write(&file, "this is no database any more".repeat(300)).unwrap();
        assert_eq!(lost(&dir), StoreFaultKind::Damaged);
        Manifest::new(&manifest(&dir)).accept(StoreFaultKind::Damaged).unwrap();
        kill(&file);
        assert_eq!(all(&open(&dir, StoreLimits::default())), []);
    }
}

#[test]
fn a_backup_that_is_restored_serves_once_the_loss_is_accepted() {
    for is_told_before in [false, true] {
        let (dir, store) = fresh();
        put(&store, &[("a", "1")]);
        store.close().unwrap();
        let (file, backup) = (dir.path().join("state.db"), dir.path().join("backup"));
        fs::copy(&file, &backup).unwrap();
        put(&store, &[("a", "2")]);
        drop(store);
        fs::remove_file(&file).unwrap();
        assert_eq!(lost(&dir), StoreFaultKind::Missing);
        fs::copy(&backup, &file).unwrap();
        if !is_told_before {
            assert_eq!(lost(&dir), StoreFaultKind::Older);
        }
        let accepted = if is_told_before { StoreFaultKind::Missing } else { StoreFaultKind::Older };
        Manifest::new(&manifest(&dir)).accept(accepted).unwrap();
        assert_eq!(
            get(&open(&dir, StoreLimits::default()), "a"),
            Some("1".into()),
            "it keeps what is there"
        );
    }
}
