//! Reloads under load: what clients notice when versions of a plugin alternate under them. Prints the figures; `cargo xtask load` runs it.
//!
//! Three phases on one host: as fast as it goes (closed loop), to find its peak; half of that, without reloads; the same with reloads. In
//! the last two each connection sends at fixed times, and latency counts from the time at which an event was to be sent, so that a host
//! that stalls can't hide it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a measurement fails by panicking, and prints what it found"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::{Value, json};
use sockhop_tests::{HostProcess, TestClient, bundled_plugin, chameleon, drop_in};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Measures what clients notice of reloads.
#[derive(Debug, Parser)]
struct Arguments {
    /// Connections at once
    #[arg(long, default_value_t = 500)]
    connections: usize,
    /// Reloads under load
    #[arg(long, default_value_t = 200)]
    reloads: usize,
    /// Seconds of the phases without reloads
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// After the load: reloads without any, whose memory, threads and file descriptors are compared with those after the 50th
    #[arg(long, default_value_t = 1_000)]
    memory_reloads: usize,
    /// Prints one JSON document instead
    #[arg(long)]
    json: bool,
}

/// What one phase found.
#[derive(Debug, Default)]
struct Found {
    answers: usize,
    lost: usize,
    wrong: usize,
    /// Microseconds, sorted.
    latencies: Vec<u64>,
    seconds: f64,
}

impl Found {
    fn percentile(&self, share: f64) -> u64 {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).copied().unwrap_or_default()
    }

    fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }

    fn document(&self) -> Value {
        json!({"answers": self.answers, "lost_acks": self.lost, "wrong_answers": self.wrong, "events_per_second": self.rate().round(),
            "p50_us": self.percentile(0.5), "p99_us": self.percentile(0.99), "p999_us": self.percentile(0.999)})
    }
}

fn is_right(answer: &Value, asked: u64) -> bool {
    answer[0] == json!(asked) && (answer[1] == "1" || answer[1] == "2")
}

/// One connection that sends at fixed times until `stop`.
async fn open_loop(client: Arc<TestClient>, first: Instant, period: Duration, stop: CancellationToken) -> Found {
    let (sender, mut asked) = tokio::sync::mpsc::channel(10_000);
    let asking = Arc::clone(&client);
    let ask = tokio::spawn(async move {
        for number in 0_u32.. {
            let due = first + period * number;
            sleep_until(due).await;
            if stop.is_cancelled() {
                return;
            }
            let answer = asking.ask_later(&format!(r#"["count",{number}]"#)).await;
            sender.send((due, u64::from(number), answer)).await.expect("a receiver");
        }
    });
    let mut found = Found::default();
    while let Some((due, number, answer)) = asked.recv().await {
        match tokio::time::timeout(Duration::from_secs(30), answer).await {
            Ok(Ok(answer)) => {
                found.answers += 1;
                found.wrong += usize::from(!is_right(&answer, number));
                found.latencies.push(due.elapsed().as_micros() as u64);
            }
            _ => found.lost += 1,
        }
    }
    ask.await.expect("an asking task");
    found
}

/// All connections at `rate` events a second together.
async fn at_rate(clients: &[Arc<TestClient>], rate: f64, stop: CancellationToken) -> Found {
    let period = Duration::from_secs_f64(clients.len() as f64 / rate);
    let (began, mut tasks, mut all) = (Instant::now(), JoinSet::new(), Found::default());
    for (place, client) in clients.iter().enumerate() {
        let first = began + period.mul_f64(place as f64 / clients.len() as f64);
        tasks.spawn(open_loop(Arc::clone(client), first, period, stop.clone()));
    }
    while let Some(one) = tasks.join_next().await {
        let one = one.expect("a connection");
        all.answers += one.answers;
        all.lost += one.lost;
        all.wrong += one.wrong;
        all.latencies.extend(one.latencies);
    }
    all.latencies.sort_unstable();
    all.seconds = began.elapsed().as_secs_f64();
    all
}

/// Events a second when every connection always has one in flight.
async fn peak(clients: &[Arc<TestClient>], time: Duration) -> f64 {
    let (until, mut tasks, mut answers) = (Instant::now() + time, JoinSet::new(), 0_u64);
    for client in clients {
        let client = Arc::clone(client);
        tasks.spawn(async move {
            let mut asked = 0;
            while Instant::now() < until {
                assert!(is_right(&client.ask("count", json!(asked)).await, asked));
                asked += 1;
            }
            asked
        });
    }
    while let Some(one) = tasks.join_next().await {
        answers += one.expect("a connection");
    }
    answers as f64 / time.as_secs_f64()
}

/// Asks the host over HTTP for the version that serves.
fn serving(url: &str, key: &str) -> String {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let answer = agent.get(format!("{url}/api/plugins/chameleon")).header("Authorization", format!("Bearer {key}")).call();
    let text = answer.expect("an answer").body_mut().read_to_string().expect("a body");
    let row: Value = serde_json::from_str(&text).unwrap_or_default();
    row["version"].as_str().unwrap_or_default().to_owned()
}

/// Puts a version into the directory, and waits until it serves; how long that took.
async fn reload(url: &str, key: &str, plugins: &Path, version: usize, bytes: &[u8]) -> Duration {
    drop_in(plugins, "chameleon.wasm", bytes);
    let (began, wanted) = (Instant::now(), format!("{version}.0.0"));
    loop {
        let (url, key) = (url.to_owned(), key.to_owned());
        if tokio::task::spawn_blocking(move || serving(&url, &key)).await.expect("an answer") == wanted {
            return began.elapsed();
        }
        assert!(began.elapsed() < Duration::from_secs(30), "version {version} never served");
        sleep(Duration::from_millis(5)).await;
    }
}

/// From the rename of a bundled plugin that the host has never seen to the first event that it answers.
async fn first_answer(host: &HostProcess, plugins: &Path) -> Duration {
    let client = TestClient::connect(&host.url).await;
    let bytes = std::fs::read(bundled_plugin("memory_logs")).expect("a plugin");
    drop_in(plugins, "memory_logs.wasm", &bytes);
    let began = Instant::now();
    while client.ask("memory_log_list", json!({})).await["items"].is_null() {
        assert!(began.elapsed() < Duration::from_secs(30), "it was never served");
    }
    began.elapsed()
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let (plugins, data) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let versions = [chameleon("version=2"), chameleon("version=1")];
    drop_in(plugins.path(), "chameleon.wasm", &versions[1]);
    let host = HostProcess::start(plugins.path(), data.path());
    let key = std::fs::read_to_string(data.path().join("key")).expect("the host's key").trim().to_owned();
    let first_seen = first_answer(&host, plugins.path()).await;
    let mut clients = Vec::new();
    for _ in 0..arguments.connections {
        clients.push(Arc::new(TestClient::connect(&host.url).await));
    }

    let peak = peak(&clients, Duration::from_secs(arguments.seconds.min(5))).await;
    let stop = CancellationToken::new();
    let (seconds, stopping) = (Duration::from_secs(arguments.seconds), stop.clone());
    tokio::spawn(async move {
        sleep(seconds).await;
        stopping.cancel();
    });
    let steady = at_rate(&clients, peak / 2.0, stop).await;

    let stop = CancellationToken::new();
    let reloading = {
        let (stop, url, key, dir, versions) = (stop.clone(), host.url.clone(), key.clone(), plugins.path().to_owned(), versions.clone());
        tokio::spawn(async move {
            let mut times = Vec::new();
            for turn in 0..arguments.reloads {
                times.push(reload(&url, &key, &dir, 2 - turn % 2, &versions[turn % 2]).await.as_millis() as u64);
            }
            stop.cancel();
            times.sort_unstable();
            times
        })
    };
    let reloaded = at_rate(&clients, peak / 2.0, stop).await;
    let times = reloading.await.expect("reloads");
    let reordered = clients.iter().filter(|client| !client.was_acked_in_order()).count();
    let disconnected = clients.iter().filter(|client| client.is_closed()).count();
    drop(clients);

    let mut after_50 = host.footprint();
    for turn in 0..arguments.memory_reloads {
        reload(&host.url, &key, plugins.path(), 2 - turn % 2, &versions[turn % 2]).await;
        if turn == 49 {
            after_50 = host.footprint();
        }
    }
    let last = host.footprint();

    let ratio = reloaded.percentile(0.99) as f64 / steady.percentile(0.99).max(1) as f64;
    let document = json!({
        "new_plugin_to_first_answer_ms": first_seen.as_millis(),
        "connections": arguments.connections, "peak_events_per_second": peak.round(),
        "steady": steady.document(), "with_reloads": reloaded.document(), "reloads": times.len(),
        "reload_ms_median": times.get(times.len() / 2), "reload_ms_most": times.last(), "p99_ratio": (ratio * 100.0).round() / 100.0,
        "reordered_connections": reordered, "disconnects": disconnected,
        "memory_reloads": arguments.memory_reloads,
        "after_50": {"resident_kib": after_50.0, "threads": after_50.1, "file_descriptors": after_50.2},
        "at_the_end": {"resident_kib": last.0, "threads": last.1, "file_descriptors": last.2},
    });
    match arguments.json {
        true => println!("{document}"),
        false => println!("{document:#}"),
    }
    let is_good = steady.lost + reloaded.lost + steady.wrong + reloaded.wrong + reordered + disconnected == 0;
    assert!(is_good, "acks were lost, answers wrong, connections reordered or closed");
}
