//! The steps in which a host stops, their time limits, and the second signal, which skips them.

#![cfg(unix)]

use std::fs::File;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sockhop::config::{Limits, SocketIo};
use sockhop_tests::{
    HostProcess, PATIENCE, PollingSession, TestClient, directory_of, eventually, guest, serve,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// The request that begins a session.
const HANDSHAKE: &str = "/socket.io/?EIO=4&transport=polling";

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

async fn connected(host: &HostProcess, number: usize) -> Vec<TestClient> {
    let mut clients = Vec::new();
    for _ in 0..number {
        clients.push(TestClient::connect(&host.url).await);
    }
    clients
}

/// Returns how long after this call each client is closed, in ascending order.
async fn closing_times(clients: Vec<TestClient>) -> Vec<Duration> {
    let began = Instant::now();
    let closing = clients.into_iter().map(|client| {
        tokio::spawn(async move {
            client.closed().await;
            began.elapsed()
        })
    });
    let mut times = Vec::new();
    for task in closing.collect::<Vec<_>>() {
        times.push(task.await.expect("a connection that is closed"));
    }
    times.sort_unstable();
    times
}

/// systemd starts a host with `Type=notify`, and with a watchdog.
#[cfg(target_os = "linux")]
#[test]
fn systemd_is_told_that_a_host_is_ready_alive_reloading_and_stopping() {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    let data = tempfile::tempdir().expect("a directory");
    let plugins = directory_of(&[guest("lab")]);
    let place = data.path().join("notify");
    let socket = UnixDatagram::bind(&place).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let serve = serve(plugins.path(), data.path());
    let mut command = Command::new("sh");
    // The watchdog is for one process, which the shell becomes.
    command.args(["-c", "export WATCHDOG_PID=$$; exec \"$0\" \"$@\""]).arg(serve.get_program());
    command.args(serve.get_args());
    for (name, value) in serve.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("NOTIFY_SOCKET", &place).env("WATCHDOG_USEC", "200000");
    let mut host = HostProcess::of(command, data.path());
    let told = || {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut messages = Vec::new();
    while messages.iter().filter(|message: &&String| message.contains("WATCHDOG=1")).count() < 3 {
        messages.push(told());
    }
    let ready = messages.iter().filter(|message| message.contains("READY=1")).count();
    assert_eq!(ready, 1, "{messages:?}");
    host.signal(Signal::SIGHUP);
    let until =
        |text: &str| std::iter::from_fn(|| Some(told())).take(50).find(|m| m.contains(text));
    assert!(until("RELOADING=1").is_some_and(|message| message.contains("MONOTONIC_USEC=")));
    assert!(
        until("READY=1").is_some_and(|message| message.contains("STATUS=configuration reloaded"))
    );
    let (status, _) = host.terminate();
    assert!(status.success(), "{status}");
    let is_stopping = |message: &String| message.contains("STOPPING=1");
    let stopping = std::iter::from_fn(|| Some(told())).take(10).find(is_stopping);
    assert!(stopping.is_some_and(|message| message.contains("EXTEND_TIMEOUT_USEC=")));
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
    eventually("a host that accepts no new clients", async || {
        (host.http(HANDSHAKE, None).0 == 503).then_some(())
    })
    .await;
    assert!(answer.try_recv().is_err(), "the event still runs");
    host.signal(Signal::SIGTERM);
    let (status, took) = host.ended();
    assert!(status.success() && took < SOON, "{status}, {took:?}");
}

/// Such a client fetches its answers one by one, each with a request of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_polls_receives_every_answer_of_a_host_that_stops() {
    const EVENTS: usize = 4;
    let (mut host, _directories) = start(&[
        ("SOCKHOP_LIMITS__SHUTDOWN_UNREADY_MS", "1"),
        ("SOCKHOP_LIMITS__SHUTDOWN_DRAIN_MS", LONG),
    ]);
    let client = PollingSession::connect(&host.url).await;
    let events: Vec<_> =
        (0..EVENTS).map(|id| format!(r#"42{id}["slow_note",{}]"#, 500 * (1 + id % 2))).collect();
    client.send(&events.join("\u{1e}")).await;
    host.signal(Signal::SIGTERM);
    let mut refused = None;
    for id in 0..EVENTS {
        let answer = client.poll().await;
        assert_eq!(answer, Some(format!("43{id}[null]")));
        let disable = || host.http("/api/plugins/lab/disable", Some(json!({})));
        if id == 1 {
            refused = Some([host.http(HANDSHAKE, None), disable()]);
            assert_eq!([host.http("/healthz", None).0, host.http("/readyz", None).0], [200, 503]);
        }
    }
    for (status, problem) in refused.expect("two answers") {
        assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{problem}");
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_closed_one_after_the_other_over_the_time_that_is_set() {
    const CLIENTS: usize = 40;
    const OVER: Duration = Duration::from_millis(2_000);
    if sockhop_tests::socketio() != SocketIo::Builtin {
        // The library can't close a single connection whose client is to return.
        return;
    }
    let over = OVER.as_millis().to_string();
    let (mut host, _directories) = start(&[("SOCKHOP_LIMITS__SHUTDOWN_CLOSE_MS", &over)]);
    let clients = connected(&host, CLIENTS).await;
    host.signal(Signal::SIGTERM);
    let closed = closing_times(clients).await;
    let span = *closed.last().expect("clients") - closed[0];
    assert!(span >= OVER.mul_f64(0.8), "{closed:?}");
    // No burst: in each quarter of the time, some are closed and some are not.
    for quarter in 1..4_usize {
        let until = closed[0] + OVER.mul_f64(0.25 * quarter as f64);
        let before = closed.iter().filter(|time| **time <= until).count();
        let expected = CLIENTS * quarter / 4;
        assert!(before.abs_diff(expected) <= CLIENTS / 5, "{before} of {expected}: {closed:?}");
    }
    assert!(host.ended().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_two_namespaces_is_answered_in_both_by_a_host_that_stops() {
    let (mut host, _directories) = start(&[("SOCKHOP_SERVER__NAMESPACES", r#"["/", "/chat"]"#)]);
    let client = PollingSession::connect(&host.url).await;
    client.send("40/chat,").await;
    let until = async |text: &str| {
        while !client.poll().await.expect("a session").contains(text) {}
    };
    until("40/chat,{").await;
    client.send(r#"42/chat,7["slow_note",1500]"#).await;
    host.signal(Signal::SIGTERM);
    until("43/chat,7[null]").await;
    assert!(host.ended().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_in_a_drain_closes_the_rest_over_the_time_of_a_usual_stop() {
    const CLIENTS: usize = 20;
    const OVER: Duration = Duration::from_millis(2_000);
    if sockhop_tests::socketio() != SocketIo::Builtin {
        return;
    }
    let over = OVER.as_millis().to_string();
    let (mut host, _directories) = start(&[("SOCKHOP_LIMITS__SHUTDOWN_CLOSE_MS", &over)]);
    let clients = connected(&host, CLIENTS).await;
    host.http("/api/drain", Some(json!({"over_ms": 3_600_000})));
    eventually("a host that accepts no new clients", async || {
        (host.http(HANDSHAKE, None).0 == 503).then_some(())
    })
    .await;
    host.signal(Signal::SIGTERM);
    let closed = closing_times(clients).await;
    let late = closed.iter().filter(|time| **time > OVER / 2).count();
    assert!((CLIENTS / 4..CLIENTS).contains(&late), "{late} of {CLIENTS}");
    assert!(host.ended().0.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drains_a_host_which_serves_meanwhile_and_a_signal_ends_the_rest() {
    let (mut host, _directories) = start(&[]);
    let clients = connected(&host, 5).await;
    let drain = |over: u64| host.http("/api/drain", Some(json!({"over_ms": over})));
    assert_eq!(drain(3_600_001).0, 400);
    if sockhop_tests::socketio() != SocketIo::Builtin {
        // The library can only close all connections, and the answer says so.
        assert_eq!(drain(600_000), (202, json!({"over_ms": 0, "connections": 5})));
        return;
    }
    assert_eq!(drain(600_000), (202, json!({"over_ms": 600_000, "connections": 5})));
    assert_eq!(drain(1).0, 409);
    eventually("a host that is not ready", async || {
        (host.http("/readyz", None).0 == 503).then_some(())
    })
    .await;
    // The first one is closed at once, the others within the ten minutes.
    let mut answered = 0;
    for client in &clients {
        if !client.is_closed() {
            let asked = tokio::time::timeout(Duration::from_secs(5), client.ask("echo", json!(1)));
            answered += usize::from(asked.await.is_ok_and(|answer| answer == json!(1)));
        }
    }
    assert!(answered >= 3, "{answered}");
    // About those who are still connected, operators decide until the end.
    let emitted =
        host.http("/api/emit", Some(json!({"event": "noise", "data": null, "room": "lab"})));
    assert_eq!(emitted.0, 202, "{}", emitted.1);
    assert_eq!(host.http("/api/users/7/disconnect", Some(json!({}))).0, 200);
    let (status, problem) = host.http("/api/reload", Some(json!({})));
    assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{problem}");
    let (status, took) = host.terminate();
    assert!(status.success() && took < SOON, "{status} {took:?}");
}
