//! The limit of a handler's CPU time counts only CPU time. It counts neither the time in which the
//! handler waits for a processor nor the time in which the whole host is stopped. The limit of its
//! elapsed time does not count the latter either.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sockhop_tests::{HostProcess, TestClient, directory_of, guest};
use tempfile::TempDir;

/// The default of `event_cpu_ms`.
const LIMIT: Duration = Duration::from_millis(250);

async fn host(settings: &[(&str, &str)]) -> (HostProcess, TestClient, [TempDir; 2]) {
    let (plugins, data) =
        (directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start_with(plugins.path(), data.path(), settings);
    let client = TestClient::connect(&host.url).await;
    // The first event creates the instance.
    assert_eq!(client.ask("echo", json!(1)).await, json!(1));
    (host, client, [plugins, data])
}

/// Waits until the host has used `more` CPU time since `before`.
fn until_used(host: &HostProcess, before: Duration, more: Duration) {
    let until = Instant::now() + sockhop_tests::PATIENCE;
    while host.cpu_time() < before + more {
        assert!(Instant::now() < until, "the handler does not run");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_which_the_host_is_stopped_is_not_the_handlers() {
    let (host, client, _directories) = host(&[]).await;
    let before = host.cpu_time();
    let answer = client.ask_later(r#"["run_for",500]"#).await;
    until_used(&host, before, Duration::from_millis(20));
    host.signal(Signal::SIGSTOP);
    // Longer than the handler's limit, and longer than the handler wants to run.
    tokio::time::sleep(LIMIT * 3).await;
    host.signal(Signal::SIGCONT);
    let answer = sockhop_tests::answered("run_for", answer).await;
    assert_eq!(answer, json!(null));
}

/// The stop is twice as long as the limit. Enough events wait for the breaker to open if they
/// failed.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_wait_while_the_host_is_stopped_are_answered() {
    // Also on a busy machine, all handlers run within this time.
    const WALL: Duration = Duration::from_secs(8);
    const EVENTS: usize = 6;
    let (host, client, _directories) =
        host(&[("SOCKHOP_LIMITS__EVENT_WALL_MS", "8000"), ("SOCKHOP_LIMITS__INSTANCES", "8")])
            .await;
    let mut clients = vec![client];
    while clients.len() < EVENTS {
        clients.push(TestClient::connect(&host.url).await);
    }
    let mut answers = Vec::new();
    for client in &clients {
        // Three seconds of naps. The handler goes on after the stop, also if the stop comes before
        // its first nap.
        answers.push(client.ask_later(r#"["nap",30]"#).await);
    }
    host.until("lab", |row| row["instances"].as_u64() >= Some(EVENTS as u64));
    host.signal(Signal::SIGSTOP);
    // The tested condition: this time passes while the host is stopped.
    tokio::time::sleep(WALL + Duration::from_secs(1)).await;
    host.signal(Signal::SIGCONT);
    for answer in answers {
        let answer = sockhop_tests::answered("nap", answer).await;
        assert_eq!(answer, json!(null));
    }
    assert_eq!(host.row("lab")["state"], json!("active"));
}

/// CPU time that the host itself may use meanwhile, on a busy machine. A handler that polls
/// repeatedly once used 190 ms more than its limit.
const MARGIN: Duration = Duration::from_millis(170);

/// The used CPU time ends the handler, even on a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_never_ends_is_ended_near_its_limit() {
    let (host, client, _directories) = host(&[]).await;
    for event in ["spin", "busy_poll"] {
        let before = host.cpu_time();
        let answer = client.ask(event, json!(null)).await;
        let used = host.cpu_time() - before;
        assert_eq!(answer["error"]["code"], json!("timed_out"), "{event}: {answer}");
        assert!(
            used > LIMIT - Duration::from_millis(20) && used < LIMIT + MARGIN,
            "{event} used {used:?}"
        );
    }
}
