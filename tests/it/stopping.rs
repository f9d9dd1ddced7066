//! The steps in which a host stops, their time limits, and the second signal, which skips them.

#![cfg(unix)]

use std::fs::File;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockhop::config::Limits;
use sockhop_tests::{HostProcess, TestClient, directory_of, eventually, guest};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Ten minutes: a host that waited for so long would fail its test.
const LONG: &str = "600000";

/// Far less than that, and long enough for a busy machine.
const SOON: Duration = Duration::from_secs(40);

fn start(settings: &[(&str, &str)]) -> (HostProcess, [TempDir; 2]) {
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    (HostProcess::start_with(plugins.path(), data.path(), settings), [plugins, data])
}

/// Starts an event that outlives the test, and waits until it runs.
async fn endless_event(host: &HostProcess) -> (TestClient, oneshot::Receiver<Value>) {
    let (client, watcher) =
        (TestClient::connect(&host.url).await, TestClient::connect(&host.url).await);
    let answer = client.ask_later(&format!(r#"["slow_note",{LONG}]"#)).await;
    let mut asked_before = 0;
    eventually("the slow handler to run", async || {
        // Each question is counted as well.
        let began = watcher.ask("began", json!(null)).await.as_u64().expect("a count");
        let is_running = began - asked_before == 1;
        asked_before += 1;
        is_running.then_some(())
    })
    .await;
    (client, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_host_is_not_ready_and_serves_until_a_load_balancer_knows() {
    let (mut host, _directories) = start(&[("SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS", LONG)]);
    let client = TestClient::connect(&host.url).await;
    assert_eq!(client.ask("echo", json!(1)).await, json!(1));
    assert_eq!(host.http("/readyz", None).0, 200);
    host.signal(Signal::SIGTERM);
    let problem = eventually("a host that is not ready", async || {
        let (status, problem) = host.http("/readyz", None);
        (status == 503).then_some(problem)
    })
    .await;
    assert_eq!(problem["code"], json!("unavailable"), "{problem}");
    // The tested condition: longer than by default.
    tokio::time::sleep(Limits::default().shutdown_unready_ms + Duration::from_secs(1)).await;
    assert_eq!(host.http("/healthz", None).0, 200);
    assert_eq!(client.ask("echo", json!(2)).await, json!(2));
    let late = TestClient::connect(&host.url).await;
    assert_eq!(late.ask("echo", json!(3)).await, json!(3), "new clients are served as well");
    host.signal(Signal::SIGINT);
    let (status, took) = host.ended();
    assert!(status.success() && took < SOON, "a second signal ends it at once: {status}, {took:?}");
    client.closed().await;
    late.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_host_that_waits_for_running_events() {
    let (mut host, _directories) = start(&[
        ("SOCKHOP_LIMITS__SHUTDOWN_DRAIN_MS", LONG),
        ("SOCKHOP_LIMITS__EVENT_WALL_MS", LONG),
    ]);
    let (_client, mut answer) = endless_event(&host).await;
    host.signal(Signal::SIGTERM);
    let address = host.url.trim_start_matches("http://").to_owned();
    eventually("a host that accepts nobody", async || {
        TcpStream::connect(&address).is_err().then_some(())
    })
    .await;
    assert!(answer.try_recv().is_err(), "the event still runs");
    host.signal(Signal::SIGTERM);
    let (status, took) = host.ended();
    assert!(status.success() && took < SOON, "{status}, {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_running_events_no_longer_than_is_set() {
    const DRAIN: Duration = Duration::from_millis(1_500);
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let log = data.path().join("log");
    let mut host = HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .env("SOCKHOP_LIMITS__SHUTDOWN_DRAIN_MS", DRAIN.as_millis().to_string())
            .env("SOCKHOP_LIMITS__EVENT_WALL_MS", LONG)
            .stderr(File::create(&log).expect("a file"));
    });
    let (_client, _answer) = endless_event(&host).await;
    let began = Instant::now();
    host.signal(Signal::SIGTERM);
    eventually("the end of the wait", async || {
        let log = std::fs::read_to_string(&log).expect("its log");
        log.contains("some events did not finish in time").then_some(())
    })
    .await;
    let (took, default) = (began.elapsed(), Limits::default().shutdown_drain_ms);
    assert!((DRAIN..default).contains(&took), "{took:?}");
    let (status, took) = host.ended();
    assert!(status.success() && took < SOON, "{status}, {took:?}");
}
