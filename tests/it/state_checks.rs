//! `sockhop check NEW.wasm --state DIR`: a version is run on a copy of real state.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, PATIENCE, Service, TestClient, TestHost, binary, directory_of, drop_in, guest,
};

/// A command whose temporary files are in `temporary`.
fn command(temporary: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("check").args(args).env("TMPDIR", temporary);
    command
}

/// The result of a check, and what it printed. It leaves nothing behind.
fn check(args: &[&str]) -> (bool, String, String) {
    let temporary = tempfile::tempdir().expect("a directory");
    let output = command(temporary.path(), args).output().expect("the command runs");
    let left = std::fs::read_dir(temporary.path()).expect("a directory").count();
    assert_eq!(left, 0, "copies of state are removed");
    let Output { status, stdout, stderr } = output;
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.success(), text(stdout), text(stderr))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn plugin(name: &str) -> String {
    path(&guest(name)).to_owned()
}

/// All files below a directory, with their content.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        if entry.path().is_dir() {
            found.extend(content(&entry.path()));
        } else {
            let bytes = std::fs::read(entry.path()).expect("a file");
            found.insert(entry.path(), bytes);
        }
    }
    found
}

async fn put(client: &TestClient, ids: std::ops::Range<u64>) {
    for id in ids {
        let put = json!({"id": id, "owner": format!("o{}", id % 7), "cents": id});
        assert_eq!(client.ask("put", put).await, json!(null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_converts_a_copy_and_reports_what_a_version_cannot_read() {
    let data = tempfile::tempdir().expect("a directory");
    let plugins = directory_of(&[guest("ledger1")]);
    let mut host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    put(&client, 0..150).await;
    let (dir, second) = (path(data.path()).to_owned(), plugin("ledger2"));

    // Beside a running host, whose last commits are in the log.
    let (is_ok, said, error) = check(&[&second, "--state", &dir]);
    assert!(is_ok, "{said}{error}");
    assert!(said.contains("  $load    finished after 3 calls\n"), "{said}");
    assert!(said.contains("  records  150 checked: this version reads all\n"), "{said}");
    put(&client, 150..160).await;
    let (_, said, _) = check(&[&second, "--state", &dir, "--json"]);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let state = &said["plugins"][0]["state"];
    assert_eq!(state["load"], json!({"state": "finished", "calls": 3}));
    let records = json!({"checked": 160, "unreadable": 0, "examples": []});
    assert_eq!((&state["records"], &state["ok"]), (&records, &json!(true)));
    let version_1 = client.ask("get", json!(0)).await;
    assert_eq!(version_1["cents"], 0, "the host still has format 1: {version_1}");
    host.terminate();

    // Of a stopped host, also by the directory of the files. It stays as it is.
    let before = content(data.path());
    let state = format!("{dir}/state");
    for dir in [&dir, &state] {
        let (is_ok, said, error) = check(&[&second, "--state", dir]);
        assert!(is_ok && said.contains("160 checked"), "{said}{error}");
    }
    assert!(before == content(data.path()), "a check only reads");

    // After the next version, this one reads nothing.
    let host = TestHost::with_data(&[guest("ledger3")], data.path()).await;
    host.until("ledger", |row| row["load"]["state"] == "finished").await;
    host.stop().await;
    let (is_ok, said, _) = check(&[&second, "--state", &dir]);
    assert!(!is_ok);
    assert!(said.contains("  records  160 of 160 can't be read:\n"), "{said}");
    assert!(said.contains("has format 3, and this version of the plugin reads formats up to 2"));
    assert!(said.ends_with("    and 60 more\n"), "{said}");
    let [third, other] = ["ledger3", "clockwork_without"].map(plugin);
    let (is_ok, said, _) = check(&[&third, &other, "--state", &dir]);
    assert!(is_ok && said.contains("  $load    has finished on this host before\n"), "{said}");
    assert!(said.contains(&format!("  state    none in {dir}\n")), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_of_state_fails_with_load_and_reaches_no_other_service() {
    let service = Service::start().await;
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[guest("mover")], data.path()).await;
    host.until("mover", |row| row["load"]["state"] == "finished").await;
    host.stop().await;
    let config = data.path().join("check.toml");
    let (dir, mover) = (path(data.path()).to_owned(), plugin("mover"));
    let check_with = |mood: &str, outbound: &str| {
        let plugin = format!("[plugins.mover]\n{outbound}\nconfig = {{ mood = \"{mood}\" }}\n");
        std::fs::write(&config, plugin).expect("a file");
        // Another version, because this one has finished.
        let bytes = std::fs::read(&mover).expect("a plugin");
        let other = drop_in(data.path(), "other.wasm", &sockhop_tests::another(bytes, 7));
        check(&[path(&other), "--state", &dir, "--config", path(&config)])
    };
    let check_in = |seconds: &str, mood: &str| {
        let plugin = format!("[plugins.mover]\nconfig = {{ mood = \"{mood}\" }}\n");
        std::fs::write(&config, plugin).expect("a file");
        let bytes = std::fs::read(&mover).expect("a plugin");
        let other = drop_in(data.path(), "other.wasm", &sockhop_tests::another(bytes, 7));
        let config = path(&config);
        check(&[path(&other), "--state", &dir, "--config", config, "--timeout", seconds])
    };
    let (is_ok, said, error) = check_with("refuse", "");
    assert!(!is_ok);
    let failed = "  $load    FAILED at 0 of 0: refused: the list is missing\n";
    assert!(said.contains(failed), "{said}{error}");
    assert!(said.contains("  records  not checked, because $load has failed\n"), "{said}");
    let (is_ok, said, _) = check_in("0", "slow 100");
    assert!(!is_ok && said.contains("FAILED at 0 of 0: the time of --timeout is over"), "{said}");
    let (is_ok, said, _) = check_in("1", "slow 100");
    let failed = said.split("FAILED at ").nth(1).expect("a failure");
    assert!(!is_ok && !failed.starts_with('0') && failed.contains(" of 100: the time"), "{said}");

    let (is_ok, said, _) = check_with("steps 4", "");
    assert!(is_ok && said.contains("  $load    finished after 4 calls\n"), "{said}");
    assert!(said.contains("this version does not handle $check"), "{said}");

    let origin = format!("http://{}", service.address);
    let listed = format!("outbound = [\"{origin}\"]");
    let (is_ok, said, _) = check_with(&format!("send {origin}/ok"), &listed);
    assert!(!is_ok && said.contains("the service can't be reached"), "{said}");
    assert!(said.contains("  network  none: requests to other services were refused"), "{said}");
    assert_eq!(service.connections(), 0);

    let empty = tempfile::tempdir().expect("a directory");
    let (is_ok, _, error) = check(&[&mover, "--state", path(empty.path())]);
    assert!(!is_ok && error.contains("neither a host's data directory nor"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_interrupted_leaves_no_copy_of_the_state() {
    let (data, temporary) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let host = TestHost::with_data(&[guest("mover")], data.path()).await;
    host.until("mover", |row| row["load"]["state"] == "finished").await;
    host.client().await.ask("mood", json!("slow 1000")).await;
    host.stop().await;
    let bytes = std::fs::read(guest("mover")).expect("a plugin");
    let other = drop_in(data.path(), "other.wasm", &sockhop_tests::another(bytes, 7));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut command = command(temporary.path(), &[path(&other), "--state", path(data.path())]);
        let mut child = command.stdout(Stdio::null()).spawn().expect("the command runs");
        let began = Instant::now();
        // One belongs to the version as it registers, which has no state yet.
        let copies =
            || walk(temporary.path()).filter(|file| file.ends_with("mover.sqlite")).count();
        while copies() < 2 {
            assert!(began.elapsed() < PATIENCE && child.try_wait().expect("a process").is_none());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        kill(Pid::from_raw(child.id().try_into().expect("an id")), signal).expect("a process");
        let status = tokio::task::spawn_blocking(move || child.wait()).await.expect("its end");
        assert_eq!(status.expect("its end").code(), Some(130), "{signal}");
        let left = std::fs::read_dir(temporary.path()).expect("a directory").count();
        assert_eq!(left, 0, "{signal}");
    }
}

/// Takes or gives back the lock that a check shares with others while it copies.
fn share(lock: &File, kind: i32) {
    let kind = kind.try_into().expect("a kind of lock");
    let whence = libc::SEEK_SET.try_into().expect("a place");
    let lock_of = libc::flock { l_type: kind, l_whence: whence, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(lock, FcntlArg::F_SETLK(&lock_of)).expect("no other process has the lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_waits_at_its_start_until_a_check_has_copied_its_state() {
    let data = tempfile::tempdir().expect("a directory");
    let plugins = directory_of(&[guest("mover")]);
    HostProcess::start(plugins.path(), data.path()).terminate();
    let lock = File::open(data.path().join("host.lock")).expect("the lock");
    share(&lock, libc::F_RDLCK);
    // A check shares the lock.
    let (is_ok, said, error) = check(&[&plugin("mover"), "--state", path(data.path())]);
    assert!(is_ok && said.contains("  state    a copy of "), "{said}{error}");
    let dir = data.path().to_owned();
    let start = std::thread::spawn(move || HostProcess::start(plugins.path(), &dir).terminate());
    sockhop_tests::moment(500).await;
    assert!(!start.is_finished(), "it waits, and has not failed");
    share(&lock, libc::F_UNLCK);
    tokio::task::spawn_blocking(|| start.join().expect("it starts")).await.expect("its end");
}

/// The files below a directory. Another process may create and remove some meanwhile.
fn walk(dir: &Path) -> Box<dyn Iterator<Item = PathBuf>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    Box::new(entries.flat_map(|entry| {
        let path = entry.path();
        let below = if path.is_dir() { walk(&path) } else { Box::new(std::iter::empty()) };
        std::iter::once(path).chain(below)
    }))
}
