//! Decisions of operators stay in force after changes of files and directories and after restarts
//! of the host.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, TestHost, binary, bundled_plugin, chameleon, directory_of, drop_in, eventually,
    guest,
};

fn serves(version: &str) -> impl Fn(&Value) -> bool {
    let version = format!("{version}.0.0");
    move |row| row["version"] == version.as_str() && row["state"] == "active"
}

/// Starts a host in which these versions of `chameleon` have served, one after the other.
async fn host_after(versions: &[&str], data: &Path) -> TestHost {
    let host = TestHost::with_data(&[bundled_plugin("connection")], data).await;
    for version in versions {
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
        host.until("chameleon", serves(version)).await;
    }
    host
}

async fn operate(host: &TestHost, word: &str) -> Value {
    let (status, row) = host.http(&format!("/api/plugins/chameleon/{word}"), Some(json!({}))).await;
    assert_eq!(status, 200, "{word}: {row}");
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_was_away_comes_back_to_what_was_decided() {
    let data = tempfile::tempdir().expect("a directory");
    let host = host_after(&["1", "2"], data.path()).await;
    operate(&host, "rollback").await;
    operate(&host, "disable").await;
    let file = host.plugins().join("chameleon.wasm");
    std::fs::remove_file(&file).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    let row = host.until("chameleon", |row| !row.is_null() && row["state"] != "loading").await;
    assert_eq!((&row["state"], &row["version"]), (&json!("disabled"), &json!("1.0.0")), "{row}");
    let row = operate(&host, "enable").await;
    assert_eq!(row["kept"].as_array().map(Vec::len), Some(2), "{row}");
    assert_eq!(host.client().await.ask("which", json!(null)).await["version"], json!("1"));
    // A file with new content is served, and the previous version is still available for a
    // rollback.
    std::fs::remove_file(&file).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=3"));
    host.until("chameleon", serves("3")).await;
    assert_eq!(operate(&host, "rollback").await["version"], json!("1.0.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_a_file_is_remembered_over_a_restart_until_it_is_forgotten() {
    let data = tempfile::tempdir().expect("a directory");
    let host = host_after(&["1", "2"], data.path()).await;
    let (status, problem) = host.http("/api/plugins/chameleon/forget", Some(json!({}))).await;
    assert_eq!(
        (status, &problem["code"]),
        (409, &json!("refused")),
        "its file is there: {problem}"
    );
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    let host = host.restart().await;
    let (_, row) = host.http("/api/plugins/chameleon", None).await;
    assert_eq!(
        (&row["state"], row["kept"].as_array().map(Vec::len)),
        (&json!(null), Some(2)),
        "{row}"
    );
    assert!(row["absent_since"].is_string() && row["forgotten_at"].is_string(), "{row}");
    let (_, rows) = host.http("/api/plugins?all=true", None).await;
    assert!(
        rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == "chameleon")),
        "{rows}"
    );
    let (status, problem) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("refused")), "{problem}");
    assert_eq!(operate(&host, "forget").await, json!({"name": "chameleon", "forgotten": true}));
    assert_eq!(host.http("/api/plugins/chameleon", None).await.0, 404);
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2")).await;
    assert_eq!(
        host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await.0,
        409,
        "there is nothing to go back to"
    );
}

/// Waits until the metric for the plugin directory has the value `ok`.
async fn until_directory_is(host: &TestHost, ok: u8) {
    let line = format!("sockhop_plugin_directory_ok {ok}");
    eventually("the gauge of the directory", async || {
        let (_, metrics) = host.http("/metrics", None).await;
        metrics.as_str()?.lines().any(|found| found == line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_suddenly_empty_or_away_stops_nothing() {
    let host =
        TestHost::start(&[bundled_plugin("connection"), bundled_plugin("subscription")]).await;
    let client = host.client().await;
    let ping = async || client.ask("ping", json!({"timestamp": 1})).await["timestamp"].clone();
    let outside = tempfile::tempdir_in(host.plugins().parent().expect("a directory above"))
        .expect("a directory");
    let files = ["connection.wasm", "subscription.wasm"];
    let move_all = |from: &Path, to: &Path| {
        files.iter().for_each(|file| {
            std::fs::rename(from.join(file), to.join(file)).expect("a file to move")
        });
    };
    move_all(host.plugins(), outside.path());
    until_directory_is(&host, 0).await;
    assert_eq!(ping().await, json!(1));
    assert_eq!(host.row("subscription").await["state"], json!("active"));
    move_all(outside.path(), host.plugins());
    until_directory_is(&host, 1).await;
    assert_eq!(ping().await, json!(1));
    let away = outside.path().join("away");
    std::fs::rename(host.plugins(), &away).expect("a directory to rename");
    until_directory_is(&host, 0).await;
    assert_eq!(ping().await, json!(1));
    std::fs::rename(&away, host.plugins()).expect("a directory to rename");
    until_directory_is(&host, 1).await;
    assert_eq!(ping().await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_stays_empty_serves_nothing() {
    let host =
        TestHost::with(&[bundled_plugin("connection"), bundled_plugin("subscription")], |config| {
            config.plugins.empty_after_s = std::time::Duration::from_millis(100);
        })
        .await;
    for file in ["connection.wasm", "subscription.wasm"] {
        std::fs::remove_file(host.plugins().join(file)).expect("a file to remove");
    }
    host.until("connection", Value::is_null).await;
    let client = host.client().await;
    assert_eq!(
        client.ask("ping", json!({"timestamp": 1})).await["error"]["code"],
        json!("unknown_event")
    );
}

/// A version that can't read the records of the previous version is treated like one that traps.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_cannot_read_what_is_stored_fails_and_goes_back_in_its_first_minute() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.breaker_failures = std::num::NonZeroU32::new(5).expect("not zero");
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let client = host.client().await;
    assert_eq!(client.ask("call", json!(null)).await["calls"], json!(1));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 reads=text"));
    host.until("chameleon", serves("2")).await;
    let mut failed = 0;
    eventually("the version before serves again", async || {
        let answer = client.ask("call", json!(null)).await;
        match answer["error"]["code"].as_str() {
            None => {
                assert_eq!(answer["version"], json!("1"), "{answer}");
                Some(())
            }
            Some("unavailable") => None,
            Some(code) => {
                assert_eq!(
                    (code, &answer["error"]["reason"]),
                    ("plugin_failed", &json!(null)),
                    "{answer}"
                );
                failed += 1;
                None
            }
        }
    })
    .await;
    assert!(failed >= 5, "{failed} failures were told to the client");
    let row = host.until("chameleon", serves("1")).await;
    let reason = row["last_error"]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("first minute")
            && reason.contains("corrupt_state")
            && reason.contains("`calls`"),
        "{row}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantined_plugin_says_why() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.breaker_failures = std::num::NonZeroU32::new(5).expect("not zero");
        config.limits.breaker_open_ms = std::time::Duration::from_secs(60);
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let client = host.client().await;
    for _ in 0..5 {
        assert_eq!(
            client.ask("behave", json!("trap")).await["error"]["code"],
            json!("plugin_failed")
        );
    }
    let row = host.until("chameleon", |row| row["state"] == "quarantined").await;
    assert!(
        row["last_error"]["reason"].as_str().is_some_and(|reason| reason.contains("behave")),
        "{row}"
    );
    assert_eq!(operate(&host, "enable").await["last_error"], json!(null));
}

/// Runs `sockhop` with this data directory, from which it reads the address and the key. Returns
/// the exit status and both outputs.
fn sockhop(data: &Path, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(binary())
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("SOCKHOP_KEY")
        .output()
        .expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit status"), text(output.stdout) + &text(output.stderr))
}

fn file_in(dir: &Path, name: &str, bytes: &[u8]) -> String {
    std::fs::write(dir.join(name), bytes).expect("a file");
    dir.join(name).to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_newcomer_that_was_refused_stays_so_after_a_restart_whatever_its_file_is_called() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    // The file comes before `connection.wasm` in the order of the files.
    drop_in(plugins.path(), "a_collider.wasm", &chameleon("version=1 name=collider claims=ping"));
    let is_refused = |row: &Value| {
        let reason = row["last_error"]["reason"].as_str().unwrap_or_default();
        row["state"] == "failed" && reason.contains("event `ping` is taken by plugin `connection`")
    };
    host.until("collider", is_refused);
    host.kill();
    let host = HostProcess::start(plugins.path(), data.path());
    assert_eq!(
        (&host.row("connection")["state"], &host.row("connection")["last_error"]),
        (&json!("active"), &json!(null))
    );
    host.until("collider", is_refused);
    // When the event is free, the new plugin gets it.
    std::fs::remove_file(plugins.path().join("connection.wasm")).expect("a file to remove");
    host.until("collider", |row| row["state"] == "active");
}

#[test]
fn a_plugin_that_cannot_be_loaded_at_a_start_keeps_its_events_from_a_newcomer() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    drop_in(plugins.path(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1"));
    host.kill();
    std::fs::remove_file(data.path().join("state/chameleon.sqlite")).expect("its state");
    // The file comes before `chameleon.wasm` in the order of the files.
    drop_in(plugins.path(), "a_newcomer.wasm", &chameleon("version=1 name=newcomer claims=which"));
    let host = HostProcess::start(plugins.path(), data.path());
    host.until("chameleon", |row| row["state"] == "failed");
    let is_refused = |row: &Value| {
        let reason = row["last_error"]["reason"].as_str().unwrap_or_default();
        row["state"] == "failed" && reason.contains("taken by plugin `chameleon`")
    };
    host.until("newcomer", is_refused);
    let (status, said) = sockhop(data.path(), &["data", "accept-loss", "chameleon"]);
    assert_eq!(status, 0, "{said}");
    host.until("chameleon", serves("1"));
    assert!(is_refused(&host.row("newcomer")));
    std::fs::remove_file(plugins.path().join("chameleon.wasm")).expect("a file to remove");
    host.until("newcomer", serves("1"));
}

#[test]
fn a_plugin_whose_file_was_away_for_a_moment_takes_back_what_a_newcomer_took() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let start = || {
        HostProcess::start_with(
            plugins.path(),
            data.path(),
            &[("SOCKHOP_PLUGINS__EMPTY_AFTER_S", "600")],
        )
    };
    let (file, aside) = (plugins.path().join("connection.wasm"), data.path().join("aside.wasm"));
    let (away, back) = (
        || std::fs::rename(&file, &aside).expect("a file"),
        || std::fs::rename(&aside, &file).expect("a file"),
    );
    let is = |state| move |row: &Value| row["state"] == state;
    let host = start();
    // The file comes before `connection.wasm` in the order of the files.
    drop_in(plugins.path(), "a_collider.wasm", &chameleon("version=1 name=collider claims=ping"));
    host.until("collider", is("failed"));
    away();
    host.until("collider", is("active"));
    back();
    host.until("connection", is("active"));
    host.until("collider", is("failed"));
    // The same happens if the host is restarted meanwhile, before or after the file returns.
    away();
    host.until("collider", is("active"));
    host.kill();
    let host = start();
    host.until("collider", is("active"));
    back();
    host.until("connection", is("active"));
    away();
    host.until("collider", is("active"));
    host.kill();
    back();
    let host = start();
    host.until("connection", is("active"));
    host.until("collider", is("failed"));
}

#[test]
fn a_start_with_an_empty_directory_gives_nothing_away() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let start = || {
        HostProcess::start_with(
            plugins.path(),
            data.path(),
            &[("SOCKHOP_PLUGINS__EMPTY_AFTER_S", "600")],
        )
    };
    let host = start();
    drop_in(plugins.path(), "a_collider.wasm", &chameleon("version=1 name=collider claims=ping"));
    drop_in(plugins.path(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1"));
    drop_in(plugins.path(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2"));
    assert_eq!(host.http("/api/plugins/chameleon/rollback", Some(json!({}))).0, 200);
    assert_eq!(host.http("/api/plugins/chameleon/disable", Some(json!({}))).0, 200);
    host.kill();
    let (full, empty) = (data.path().join("full"), plugins.path());
    std::fs::rename(empty, &full).expect("a directory");
    std::fs::create_dir(empty).expect("a directory");
    let host = start();
    assert_eq!(host.http("/api/plugins", None).1, json!([]));
    std::fs::remove_dir(empty).expect("a directory");
    std::fs::rename(&full, empty).expect("a directory");
    let row = host.until("chameleon", |row| row["state"] == "disabled");
    assert_eq!(row["version"], json!("1.0.0"), "{row}");
    host.until("connection", |row| row["state"] == "active");
    host.until("collider", |row| row["state"] == "failed");
}

#[test]
fn deploy_leaves_nothing_behind_of_a_plugin_that_the_host_refuses() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let (files, _host) = (
        tempfile::tempdir().expect("a directory"),
        HostProcess::start(plugins.path(), data.path()),
    );
    let names = || {
        let mut names: Vec<_> = std::fs::read_dir(plugins.path())
            .expect("entries")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        names.sort();
        names
    };
    let collider =
        file_in(files.path(), "collider.wasm", &chameleon("version=1 name=collider claims=ping"));
    for arguments in [&["deploy", &collider, "--wait"][..], &["deploy", &collider]] {
        let (status, said) = sockhop(data.path(), arguments);
        assert_eq!(status, 1, "{said}");
        assert!(said.contains("taken by plugin `connection`"), "{said}");
        assert_eq!(names(), ["connection.wasm"]);
    }
}

#[test]
fn deploy_puts_back_what_it_replaced_where_only_the_host_finds_the_fault() {
    // `user_{anyone}`, which the guest `taker` declares, overlaps a room of `subscription`.
    let (plugins, data) = (
        directory_of(&[bundled_plugin("subscription")]),
        tempfile::tempdir().expect("a directory"),
    );
    let (files, _host) = (
        tempfile::tempdir().expect("a directory"),
        HostProcess::start(plugins.path(), data.path()),
    );
    let (taker, place) =
        (guest("taker").to_str().expect("UTF-8").to_owned(), plugins.path().join("taker.wasm"));
    let (status, said) = sockhop(data.path(), &["deploy", &taker, "--wait"]);
    assert!(
        status == 1 && said.contains("room `user_{anyone}` is taken by plugin `subscription`"),
        "{said}"
    );
    assert!(said.contains("removed") && !place.exists(), "{said}");
    let good = chameleon("version=1 name=taker claims=free");
    let (status, said) =
        sockhop(data.path(), &["deploy", &file_in(files.path(), "good.wasm", &good), "--wait"]);
    assert!(status == 0 && said.contains("serves"), "{said}");
    let (status, said) = sockhop(data.path(), &["deploy", &taker, "--wait"]);
    assert!(status == 1 && said.contains("was put back"), "{said}");
    assert!(std::fs::read(&place).expect("a file") == good);
    let (status, said) = sockhop(data.path(), &["plugins", "list"]);
    assert!(
        status == 0
            && said.lines().any(|line| line.starts_with("taker") && line.contains("active")),
        "{said}"
    );
}

#[test]
fn deploy_that_does_not_wait_leaves_the_reason_of_the_host_in_the_list_of_plugins() {
    let (plugins, data) = (
        directory_of(&[bundled_plugin("subscription")]),
        tempfile::tempdir().expect("a directory"),
    );
    let host = HostProcess::start(plugins.path(), data.path());
    let taker = guest("taker").to_str().expect("UTF-8").to_owned();
    let (status, said) = sockhop(data.path(), &["deploy", &taker]);
    assert!(status == 0 && said.contains("deployed"), "{said}");
    host.until("taker", |row| row["state"] == "failed" && !row["last_error"].is_null());
    let (_, said) = sockhop(data.path(), &["plugins", "list"]);
    let row = said.lines().find(|line| line.starts_with("taker")).unwrap_or_default();
    assert!(row.contains("failed") && row.contains("is taken by plugin `subscription`"), "{said}");
}

#[test]
fn deploy_that_waits_for_a_host_that_is_not_there_places_nothing() {
    let (plugins, data) =
        (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::fs::write(data.path().join("key"), "0123456789abcdef0123456789abcdef\n").expect("a file");
    let (dir, connection) = (plugins.path().to_str().expect("UTF-8"), bundled_plugin("connection"));
    let arguments = [
        "deploy",
        connection.to_str().expect("UTF-8"),
        "--wait",
        "--plugins",
        dir,
        "--url",
        "http://127.0.0.1:9",
    ];
    let (status, said) = sockhop(data.path(), &arguments);
    assert!(
        status == 1 && said.contains("nothing was deployed") && said.contains("can't reach a host"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(plugins.path()).expect("entries").count(), 0);
}

#[test]
fn deploy_says_at_once_why_the_same_bytes_do_not_serve() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let (files, _host) = (
        tempfile::tempdir().expect("a directory"),
        HostProcess::start(plugins.path(), data.path()),
    );
    let deployed = |version: u8| {
        let file =
            file_in(files.path(), "chameleon.wasm", &chameleon(&format!("version={version}")));
        sockhop(data.path(), &["deploy", &file, "--wait", "--timeout", "600"])
    };
    assert_eq!((deployed(1).0, deployed(2).0), (0, 0));
    assert_eq!(sockhop(data.path(), &["plugins", "disable", "chameleon"]).0, 0);
    let (status, said) = deployed(2);
    assert!(status == 1 && said.contains("sockhop plugins enable chameleon"), "{said}");
    assert_eq!(sockhop(data.path(), &["plugins", "enable", "chameleon"]).0, 0);
    assert_eq!(sockhop(data.path(), &["plugins", "rollback", "chameleon"]).0, 0);
    let (status, said) = deployed(2);
    assert!(status == 1 && said.contains("sockhop plugins rollback chameleon --to"), "{said}");
    let (_, said) = sockhop(data.path(), &["plugins", "show", "chameleon"]);
    let kept: Vec<_> = said.lines().filter(|line| line.starts_with("kept")).collect();
    assert!(
        kept.len() == 2
            && kept[0].contains("1.0.0")
            && kept[1].contains("2.0.0")
            && kept[0].contains("since 20"),
        "{said}"
    );
}

#[test]
fn a_version_that_cannot_be_kept_is_not_said_to_serve() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let (files, _host) = (
        tempfile::tempdir().expect("a directory"),
        HostProcess::start(plugins.path(), data.path()),
    );
    // As on a full disk, nothing can be written to the directory of kept versions.
    let kept = data.path().join("plugins");
    std::fs::rename(&kept, data.path().join("aside")).expect("a directory to rename");
    std::fs::write(&kept, "").expect("a file");
    let file = file_in(files.path(), "chameleon.wasm", &chameleon("version=1"));
    let (status, said) = sockhop(data.path(), &["deploy", &file, "--wait"]);
    assert!(
        status == 1 && !said.contains("chameleon serves") && said.contains("next start"),
        "{said}"
    );
    let (_, said) = sockhop(data.path(), &["plugins", "list"]);
    assert!(
        said.lines().any(|line| line.starts_with("chameleon")
            && line.contains("active")
            && line.contains("next start")),
        "{said}"
    );
    std::fs::remove_file(&kept).expect("a file to remove");
    std::fs::rename(data.path().join("aside"), &kept).expect("a directory to rename");
    // Any change makes the host scan again.
    drop_in(plugins.path(), "other.wasm", &chameleon("version=1 name=other claims=other"));
    let until = std::time::Instant::now() + sockhop_tests::PATIENCE;
    while sockhop(data.path(), &["plugins", "list"]).1.contains("next start") {
        assert!(std::time::Instant::now() < until, "it is never said to be kept again");
    }
    let (status, said) = sockhop(data.path(), &["deploy", &file, "--wait"]);
    assert!(status == 0 && said.contains("serves"), "{said}");
}

#[test]
fn a_starting_host_says_what_is_disabled_and_where_it_listens() {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    assert_eq!(
        std::fs::read_to_string(data.path().join("address")).expect("an address").trim(),
        host.url
    );
    assert_eq!(sockhop(data.path(), &["plugins", "disable", "connection"]).0, 0);
    host.kill();
    let host = HostProcess::start(plugins.path(), data.path());
    assert!(
        host.said.iter().any(|line| line.starts_with("disabled connection")),
        "{:?}",
        host.said
    );
    assert!(!host.said.iter().any(|line| line.starts_with("active")), "{:?}", host.said);
}

#[cfg(unix)]
#[test]
fn signals_that_others_take_for_words_do_not_end_a_host() {
    use nix::sys::signal::Signal;
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    let log = data.path().join("log");
    let host = HostProcess::start_logging(plugins.path(), data.path(), &log);
    for (signal, said) in [
        (Signal::SIGHUP, "SIGHUP: reading the configuration again"),
        (Signal::SIGUSR1, "plugin status"),
        (Signal::SIGUSR2, "SIGUSR2: ignored"),
    ] {
        host.signal(signal);
        let until = std::time::Instant::now() + sockhop_tests::PATIENCE;
        while !std::fs::read_to_string(&log).expect("a log").contains(said) {
            assert!(std::time::Instant::now() < until, "`{said}` is never logged");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    assert_eq!(sockhop(data.path(), &["plugins", "list"]).0, 0, "it serves on");
}
