//! `$load`: once for each version of a plugin on a host, until its handler has finished.

use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use sockhop_tests::{
    HostProcess, TestClient, TestHost, another, binary, directory_of, drop_in, eventually, guest,
};

/// A host with the plugin `mover` in this mood.
async fn mover(mood: &str) -> TestHost {
    TestHost::with(&[guest("mover")], |config| settings(config, mood)).await
}

fn settings(config: &mut sockhop::config::Config, mood: &str) {
    let limits = config.limits.clone();
    let plugin = config.plugins.by_name.entry("mover".to_owned()).or_default();
    plugin.limits = limits;
    plugin.config.insert("mood".to_owned(), mood.to_owned());
}

/// How far the plugin is, as operators see it.
async fn load(host: &TestHost, plugin: &str) -> Value {
    let (status, shown) = host.http(&format!("/api/plugins/{plugin}"), None).await;
    assert_eq!(status, 200, "{shown}");
    shown["load"].clone()
}

/// Waits until `is` accepts how far `mover` is.
async fn until(host: &TestHost, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || Some(load(host, "mover").await).filter(&is)).await
}

async fn finished(host: &TestHost) -> Value {
    until(host, "it has finished", |load| load["state"] == "finished").await
}

async fn failed(host: &TestHost, attempts: u32) -> Value {
    let is = |load: &Value| load["state"] == "failed" && load["attempts"] == attempts;
    until(host, &format!("{attempts} calls have failed"), is).await
}

async fn done(host: &TestHost) -> Value {
    host.client().await.ask("done", json!(null)).await
}

/// Disables or enables the plugin, or rolls it back.
async fn command(host: &TestHost, command: &str) {
    let path = format!("/api/plugins/mover/{command}");
    let (status, answer) = host.http(&path, Some(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
}

fn run(data: &Path, args: &[&str]) -> String {
    let mut command = Command::new(binary());
    let output = command.args(args).arg("--data").arg(data).output().expect("the command runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn it_comes_until_it_has_finished_once_for_each_version_on_a_host() {
    let host = mover("steps 3").await;
    let first = finished(&host).await;
    assert_eq!(done(&host).await, json!({"steps": 3, "runs": 1}));

    let host = host.restart_with(|config| settings(config, "steps 2")).await;
    assert_eq!(finished(&host).await, first, "a restart does not repeat it");

    let version = std::fs::read(guest("mover")).expect("a plugin");
    drop_in(host.plugins(), "mover.wasm", &another(version, 1));
    until(&host, "the next version has finished", |load| {
        load["state"] == "finished" && *load != first
    })
    .await;
    assert_eq!(done(&host).await, json!({"steps": 5, "runs": 2}));

    command(&host, "rollback").await;
    until(&host, "the first version serves", |load| *load == first).await;
    let host = host.restart().await;
    assert_eq!(finished(&host).await, first);
    assert_eq!(done(&host).await, json!({"steps": 5, "runs": 2}), "nor does a rollback");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_lets_each_version_prepare_its_state_again() {
    let host = mover("steps 2").await;
    let first = finished(&host).await;
    let file = host.data().join("export.jsonl");
    let file = file.to_str().expect("text").to_owned();
    run(host.data(), &["state", "export", "mover", &file]);
    let exported = std::fs::read_to_string(&file).expect("a file");
    assert_eq!(exported.lines().count(), 3, "a header, `steps` and `runs`: {exported}");

    command(&host, "disable").await;
    run(host.data(), &["state", "import", "mover", &file, "--replace"]);
    command(&host, "enable").await;
    until(&host, "it runs again", |load| load["state"] == "finished" && *load != first).await;
    assert_eq!(done(&host).await, json!({"steps": 4, "runs": 2}));

    let data = host.data().to_owned();
    let host = host
        .restart_after(|_| drop(run(&data, &["state", "import", "mover", &file, "--merge"])))
        .await;
    finished(&host).await;
    assert_eq!(done(&host).await["runs"], json!(2), "the imported number, plus 1");
    assert!(run(&data, &["data", "verify"]).contains("in order"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_while_the_plugin_is_disabled_and_operators_see_how_far_it_is() {
    let host = mover("slow 4").await;
    let client = host.client().await;
    let running = until(&host, "a call was handled", |load| load["done"] == 1).await;
    assert_eq!(running, json!({"state": "running", "done": 1, "total": 4}));
    assert_eq!(client.ask("done", json!(null)).await["runs"], 0, "the version serves meanwhile");
    let (_, metrics) = host.http("/metrics", None).await;
    let metrics = metrics.as_str().expect("text");
    assert!(metrics.contains(r#"sockhop_load_finished{plugin="mover"} 0"#), "{metrics}");
    assert!(metrics.contains(r#"sockhop_load_items{plugin="mover",state="done"}"#), "{metrics}");

    command(&host, "disable").await;
    let waiting = until(&host, "it waits", |load| load["state"] == "waiting").await;
    assert_eq!(waiting["total"], 4);
    let shown = run(host.data(), &["plugins", "show", "mover"]);
    let line = format!("load         waiting, {} of 4 done\n", waiting["done"]);
    assert!(shown.contains(&line), "{shown}");
    // A restart begins where it was.
    let host = host.restart_with(|config| settings(config, "slow 4")).await;
    let waiting = until(&host, "it waits", |load| load["done"] != 0).await;
    assert_eq!(waiting["state"], "waiting");
    command(&host, "enable").await;
    let at = finished(&host).await["finished_at"].as_str().expect("a time").to_owned();
    assert_eq!(done(&host).await, json!({"steps": 4, "runs": 1}));
    let shown = run(host.data(), &["plugins", "show", "mover"]);
    assert!(shown.contains(&format!("load         finished at {at}\n")), "{shown}");
    let (_, metrics) = host.http("/metrics", None).await;
    let metrics = metrics.as_str().expect("text");
    for line in [
        r#"sockhop_load_finished{plugin="mover"} 1"#,
        r#"sockhop_load_failing{plugin="mover"} 0"#,
        r#"sockhop_load_items{plugin="mover",state="left"} 0"#,
        r#"sockhop_load_calls_total{plugin="mover",outcome="finished"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_has_no_effects_is_repeated_later_and_does_not_open_the_breaker() {
    let host = TestHost::with(&[guest("mover")], |config| {
        config.limits.event_cpu_ms = Duration::from_millis(100);
        config.limits.breaker_failures = NonZeroU32::MIN;
        config.limits.breaker_calls = NonZeroU32::MIN;
        settings(config, "trap");
    })
    .await;
    let trapped = failed(&host, 1).await;
    assert!(trapped["error"].as_str().is_some_and(|error| !error.is_empty()), "{trapped}");
    let list = run(host.data(), &["plugins", "list"]);
    assert!(list.contains("$load failed 1 times, next attempt at "), "{list}");
    let client = host.client().await;
    assert_eq!(client.ask("done", json!(null)).await, json!({"steps": 0, "runs": 0}));

    // Each delay is at least nine tenths of what the documentation says.
    let mut shift = 0;
    for (attempts, mood, delay_ms, error) in [
        (2, "refuse", 1_000, "the list is missing"),
        (3, "spin", 5_000, "ran for more than 100 ms"),
        (4, "trap", 25_000, ""),
    ] {
        client.ask("mood", json!(mood)).await;
        shift += delay_ms * 8 / 10;
        host.monitor.shift_clock(shift);
        assert_eq!(load(&host, "mover").await["attempts"], attempts - 1, "too early");
        shift += delay_ms * 4 / 10;
        host.monitor.shift_clock(shift);
        let failed = failed(&host, attempts).await;
        assert!(failed["error"].as_str().expect("a reason").contains(error), "{failed}");
    }
    assert_eq!(host.row("mover").await["state"], "active");
    assert_eq!(client.ask("done", json!(null)).await, json!({"steps": 0, "runs": 0}));

    client.ask("mood", json!("steps 2")).await;
    // An operator does not wait for the next attempt.
    command(&host, "disable").await;
    command(&host, "enable").await;
    finished(&host).await;
    assert_eq!(done(&host).await, json!({"steps": 2, "runs": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_brings_no_progress_is_called_less_and_less() {
    let host = mover("stuck").await;
    let stuck = failed(&host, 1).await;
    let error = stuck["error"].as_str().expect("a reason");
    assert!(error.contains("no progress") && error.contains("1000"), "{error}");
    let steps = done(&host).await["steps"].as_u64().expect("a number");
    assert_eq!(steps, 1_001, "the first call brings progress");
    host.client().await.ask("mood", json!("steps 1")).await;
    host.monitor.shift_clock(1_200);
    finished(&host).await;
    assert_eq!(done(&host).await["runs"], 1);
}

/// How far the version is in the file, also that of a host that was killed: `(done, has finished)`.
fn stored(data: &Path) -> Option<(u64, bool)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let file = Connection::open_with_flags(data.join("state/mover.sqlite"), flags).ok()?;
    let row = file.query_row("SELECT done, finished IS NOT NULL FROM loads", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?))
    });
    let (done, has_finished) = row.ok()?;
    Some((done.try_into().expect("a number"), has_finished))
}

/// How often a host is killed: `SOCKHOP_TEST_KILLS`, or a few times.
fn kills() -> u32 {
    std::env::var("SOCKHOP_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(5)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_killed_repeats_no_call_and_leaves_none_out() {
    const PART: u64 = 400;
    let steps = PART * u64::from(kills() + 1);
    let mood = format!("steps {steps}");
    let settings = [("SOCKHOP_PLUGINS__MOVER__CONFIG__MOOD", mood.as_str())];
    let (plugins, data) =
        (directory_of(&[guest("mover")]), tempfile::tempdir().expect("a directory"));
    let mut seen = vec![0];
    for round in 0..kills() {
        let host = HostProcess::start_with(plugins.path(), data.path(), &settings);
        // Each kill comes when a part more is done than at the one before.
        let part = PART * u64::from(round) + 1;
        let last = seen.last().copied().unwrap_or_default();
        let wanted = part.max(last + 1);
        eventually("a part is done", async || {
            stored(data.path()).filter(|(done, _)| *done >= wanted)
        })
        .await;
        host.kill();
        let (done, has_finished) = stored(data.path()).expect("what is stored stays");
        assert!(!has_finished, "the kill has come after the last step: {seen:?}");
        seen.push(done);
    }
    assert!(seen.is_sorted_by(|before, then| before < then), "each start goes on: {seen:?}");
    let host = HostProcess::start_with(plugins.path(), data.path(), &settings);
    let (url, key) = (host.url.clone(), host.key.clone());
    eventually("it has finished", async || {
        let (url, key) = (url.clone(), key.clone());
        let ask = move || sockhop_tests::ask(&url, "/api/plugins/mover", None, Some(&key));
        let (_, shown) = tokio::task::spawn_blocking(ask).await.expect("an answer");
        (shown["load"]["state"] == "finished").then_some(())
    })
    .await;
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("done", json!(null)).await, json!({"steps": steps, "runs": 1}));
}
