//! The state files of plugins: their disk usage, and the behaviour of the host when the disk fails.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, TestClient, TestHost, binary, directory_of, do_nothing_as, drop_in, eventually,
    guest,
};

/// Size in bytes of the write-ahead log of the plugin `lab`, or 0 if it does not exist.
fn wal_bytes(data: &Path) -> u64 {
    std::fs::metadata(data.join("state/lab.sqlite-wal")).map_or(0, |file| file.len())
}

/// One client updates one record continuously, while handlers of other clients hold snapshots of
/// the state.
#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_short_while_one_record_is_written_and_handlers_wait() {
    const WAL_BYTES: u64 = 512 * 1024;
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.state_wal_bytes = NonZeroU64::new(WAL_BYTES).expect("not zero");
        // Each waiting reader occupies an instance.
        config.limits.instances = std::num::NonZeroUsize::new(8);
    })
    .await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let client = host.client().await;
        readers.push(tokio::spawn(async move {
            for _ in 0..4 {
                let counted = client.ask("slow_read", json!(400)).await;
                assert!(counted.is_u64(), "{counted}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    let client = host.client().await;
    let (mut most, mut number) = (0, 0_u64);
    while readers.iter().any(|reader| !reader.is_finished()) || number < 400 {
        number += 1;
        assert_eq!(client.ask("increment", json!(null)).await, json!(number));
        most = most.max(wal_bytes(host.data()));
    }
    for reader in readers {
        reader.await.expect("a reader that is answered");
    }
    // The limit, and one transaction.
    assert!(most > 0 && most <= WAL_BYTES + WAL_BYTES / 2, "{most} after {number} commits");
    eventually("the log of an idle plugin gives its space back", async || {
        (wal_bytes(host.data()) == 0).then_some(())
    })
    .await;
    assert_eq!(client.ask("counter", json!(null)).await, json!(number));
}

/// A client can make a plugin store more than its quota. Operators see that, and other plugins are
/// not affected.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_quota_is_shown_to_operators_and_goes_when_there_is_room() {
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.state_bytes = NonZeroU64::new(1024 * 1024).expect("not zero");
        config.plugins.required = vec!["lab".to_owned()];
    })
    .await;
    let client = host.client().await;
    let text = "x".repeat(20_000);
    let mut answer = Value::Null;
    for _ in 0..100 {
        answer = client.ask("note", json!(text)).await;
        if answer != Value::Null {
            break;
        }
    }
    assert_eq!(answer["error"]["code"], json!("too_large"), "{answer}");
    let row = host.row("lab").await;
    assert_eq!((&row["state"], &row["failures"]), (&json!("active"), &json!(1)));
    assert!(
        row["last_error"]["reason"].as_str().is_some_and(|reason| reason.contains("quota")),
        "{row}"
    );
    let (_, metrics) = host.http("/metrics", None).await;
    let metrics = metrics.as_str().expect("text");
    for line in [
        r#"sockhop_plugin_state_failing{plugin="lab",kind="quota"} 1"#,
        r#"sockhop_plugin_state_failures_total{plugin="lab",kind="quota"} 1"#,
        r#"sockhop_plugin_state_quota_bytes{plugin="lab"} 1048576"#,
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line}:\n{metrics}");
    }
    assert_eq!(
        host.http("/readyz", None).await.0,
        200,
        "clients must not take the host away from others"
    );
    // A small write still fits.
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    assert_eq!(host.row("lab").await["last_error"], Value::Null);
}

/// A failed read is the host's failure, even if the handler traps because of it.
#[tokio::test(flavor = "multi_thread")]
async fn state_that_cannot_be_read_is_the_hosts_failure_and_shown_to_operators() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    // The host opens the file again when it is needed, and then the file does not exist.
    let (file, away) = (host.data().join("state/lab.sqlite"), host.data().join("away"));
    eventually("the state of an idle plugin is closed", async || {
        (!file.with_extension("sqlite-wal").exists()).then_some(())
    })
    .await;
    std::fs::rename(&file, &away).expect("a file that is moved away");
    for (failures, event) in ["counter", "stubborn"].into_iter().enumerate() {
        let answer = client.ask(event, json!(null)).await;
        assert_eq!(answer["error"]["code"], json!("unavailable"), "{event}: {answer}");
        let row = host.row("lab").await;
        assert_eq!(
            (&row["state"], &row["failures"]),
            (&json!("active"), &json!(failures + 1)),
            "{event}"
        );
        assert!(
            row["last_error"]["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("reading its state failed")),
            "{row}"
        );
    }
    std::fs::rename(&away, &file).expect("a file that is moved back");
    assert_eq!(client.ask("stubborn", json!(null)).await, json!(1));
    assert_eq!(host.row("lab").await["last_error"], Value::Null);
}

/// The host runs on one thread, so anything that blocks would block everything.
#[tokio::test]
async fn a_handler_that_waits_for_the_next_number_keeps_nobody_waiting() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (client, other) = (host.client().await, host.client().await);
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    // A lock of an operator's tool, held for less time than the host waits.
    let tool = rusqlite::Connection::open(host.data().join("state/lab.sqlite"))
        .expect("a file of SQLite's");
    tool.execute_batch("BEGIN IMMEDIATE").expect("a lock");
    let mut waiting = client.ask_later(r#"["began",null]"#).await;
    for number in 0..20 {
        assert_eq!(other.ask("echo", json!(number)).await, json!(number));
    }
    assert!(waiting.try_recv().is_err(), "it waits for the tool");
    tool.execute_batch("COMMIT").expect("no lock");
    assert_eq!(waiting.await, Ok(json!(0)));
}

/// Runs `sockhop` with these arguments. Returns whether it succeeded, its JSON output, and its
/// whole output as text.
fn command(arguments: &[&str], data: &Path, url: &str) -> (bool, Value, String) {
    let mut command = std::process::Command::new(binary());
    command.args(arguments).arg("--data").arg(data);
    if !url.is_empty() {
        command.args(["--url", url]);
    }
    let output = command.output().expect("the command runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), serde_json::from_str(&text).unwrap_or_default(), said)
}

#[cfg(target_os = "linux")]
fn get(url: &str, key: &str) -> (u16, String) {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let mut answer = agent
        .get(url)
        .header("Authorization", format!("Bearer {key}"))
        .call()
        .expect("an answer over HTTP");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a body"))
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_shown_to_operators_and_ends_when_there_is_room() {
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start_with(
        plugins.path(),
        data.path(),
        &[("SOCKHOP_PLUGINS__REQUIRED", r#"["lab"]"#)],
    );
    let key = std::fs::read_to_string(data.path().join("key")).expect("the host's key");
    let key = key.trim();
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    host.limit_files(Some(0));
    let answer = client.ask("increment", json!(null)).await;
    assert_eq!(answer["error"]["code"], json!("unavailable"), "{answer}");
    let (_, row, said) = command(&["plugins", "show", "lab", "--json"], data.path(), &host.url);
    assert_eq!((&row["state"], &row["failures"]), (&json!("active"), &json!(1)), "{said}");
    assert!(
        row["last_error"]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("writing its state failed")),
        "{row}"
    );
    let (_, metrics) = get(&format!("{}/metrics", host.url), key);
    assert!(
        metrics.contains(r#"sockhop_plugin_state_failing{plugin="lab",kind="write"} 1"#),
        "{metrics}"
    );
    let (status, said) = get(&format!("{}/readyz", host.url), key);
    assert!(status == 503 && said.contains("`lab`"), "{status} {said}");
    assert_eq!(client.ask("counter", json!(null)).await, json!(1), "what is there can be read");
    host.limit_files(None);
    // The host recovers although no event arrives.
    eventually("the host is ready again", async || {
        (get(&format!("{}/readyz", host.url), key).0 == 200).then_some(())
    })
    .await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(2));
    let (_, row, _) = command(&["plugins", "show", "lab", "--json"], data.path(), &host.url);
    assert_eq!(row["last_error"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_state_is_no_empty_state_and_an_operator_decides() {
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    host.kill();
    let (is_good, checked, said) = command(&["data", "verify", "--json"], data.path(), "");
    assert!(
        is_good && checked[0]["plugin"] == "lab" && checked[0]["problems"] == json!([]),
        "{said}"
    );
    assert!(!command(&["data", "accept-loss", "lab"], data.path(), "").0, "nothing is lost");

    let file = data.path().join("state/lab.sqlite");
    let log = data.path().join("state/lab.sqlite-wal");
    for (lost, counter) in [(&log, 1), (&file, 1)] {
        std::fs::remove_file(lost).expect("a file of the state");
        let (is_good, _, said) = command(&["data", "verify", "lab"], data.path(), "");
        assert!(!is_good && said.contains(&*lost.to_string_lossy()), "{said}");
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        assert_eq!(
            client.ask("increment", json!(null)).await["error"]["code"],
            json!("unknown_event")
        );
        // The plugin is `loading` for the short times in which it is tried again.
        let row = eventually("the plugin fails", async || {
            let (_, row, _) =
                command(&["plugins", "show", "lab", "--json"], data.path(), &host.url);
            (row["state"] == "failed").then_some(row)
        })
        .await;
        assert!(
            row["last_error"]["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("sockhop data accept-loss lab")),
            "{row}"
        );
        let (is_accepted, _, said) = command(&["data", "accept-loss", "lab"], data.path(), "");
        assert!(is_accepted && said.contains("accepted"), "{said}");
        eventually("the plugin serves", async || {
            let (_, row, _) =
                command(&["plugins", "show", "lab", "--json"], data.path(), &host.url);
            (row["state"] == "active").then_some(())
        })
        .await;
        assert_eq!(client.ask("increment", json!(null)).await, json!(counter));
        let (is_good, checked, said) =
            command(&["data", "verify", "lab", "--json"], data.path(), "");
        assert!(
            is_good && checked[0]["entries"].as_u64() > Some(0),
            "beside a running host: {said}"
        );
        host.kill();
    }
}

/// Each plugin has its own store. The host is started once for all of them.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_at_rest_holds_two_file_descriptors_at_most() {
    const MORE: usize = 8;
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    let sqlite = || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", host.pid())).expect("its descriptors");
        open.flatten()
            .filter_map(|open| std::fs::read_link(open.path()).ok())
            .filter(|file| file.to_string_lossy().contains("/state/"))
            .count()
    };
    assert_eq!(client.ask("increment", json!(null)).await, json!(1));
    assert_eq!(client.ask("counter", json!(null)).await, json!(1));
    eventually("the state of an idle plugin is closed", async || (sqlite() == 0).then_some(()))
        .await;
    let (_, _, before) = host.footprint();
    for number in 0..MORE {
        let (name, bytes) = do_nothing_as(number);
        drop_in(plugins.path(), &format!("{name}.wasm"), &bytes);
    }
    eventually("they serve", async || {
        let (_, rows, _) = command(&["plugins", "list", "--json"], data.path(), &host.url);
        let active = rows
            .as_array()
            .map_or(0, |rows| rows.iter().filter(|row| row["state"] == "active").count());
        (active == MORE + 1).then_some(())
    })
    .await;
    eventually("what they hold at rest", async || {
        (host.footprint().2 <= before + 2 * MORE && sqlite() == 0).then_some(())
    })
    .await;
    assert_eq!(client.ask("counter", json!(null)).await, json!(1), "it is opened again");
}
