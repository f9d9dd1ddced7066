//! The cost of an event in countable units, so that no change makes the hot path more expensive
//! unnoticed. `cargo xtask bench` measures times.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod locks;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use std::collections::BTreeMap;
use std::thread;

use allocation_counter::{AllocationInfo, measure};
use serde_json::json;
use sockhop::config::InstancePolicy;
use sockhop_tests::{TestClient, TestDispatcher, TestHost, bundled_plugin};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Returns the host's allocations for one event in a warm instance. The guest's memory is not
/// counted.
fn allocations_of(plugin: &str, event: &str, payload: &str) -> AllocationInfo {
    let runtime = runtime();
    let dispatcher =
        runtime.block_on(TestDispatcher::new(&[bundled_plugin(plugin)], InstancePolicy::Warm));
    let ask = || {
        let reply = runtime.block_on(dispatcher.ask(event, payload)).expect("a reply");
        assert!(!reply.json.as_str().is_empty());
    };
    // The first events create the instance and grow reused buffers.
    for _ in 0..10 {
        ask();
    }
    // Nearly every event takes the same number. On a busy machine, a handler that loses its
    // processor yields at a tick, which allocates.
    let least = (0..3).map(|_| measure(ask)).min_by_key(|info| info.count_total);
    least.expect("an event")
}

#[test]
fn a_ping_costs_the_host_no_more_allocations_than_it_did() {
    let ping = allocations_of("connection", "ping", r#"{"timestamp":1767225600123}"#);
    assert!(
        ping.count_total <= 16,
        "{} allocations of {} bytes",
        ping.count_total,
        ping.bytes_total
    );
}

/// Counts the allocations of all tasks of the host, from the read of an event to the write of its
/// answer.
#[test]
fn a_ping_costs_the_whole_server_at_most_20_allocations() {
    const PINGS: u32 = 1_000;
    let runtime = runtime();
    let host = runtime.block_on(TestHost::start(&[bundled_plugin("connection")]));
    let (warmed, is_warm) = oneshot::channel();
    let (start, started) = oneshot::channel::<()>();
    let (answered, is_answered) = oneshot::channel();
    let url = host.url.clone();
    // Only the allocations of this thread are counted, and the client runs on another thread.
    let client = thread::spawn(move || {
        self::runtime().block_on(async {
            let client = TestClient::connect(&url).await;
            let ask = async |times| {
                for _ in 0..times {
                    client.ask("ping", json!({"timestamp": 1_767_225_600_123_u64})).await;
                }
            };
            ask(100).await;
            warmed.send(()).expect("a host");
            started.await.expect("a host");
            ask(PINGS).await;
            answered.send(()).expect("a host");
        });
    });
    runtime.block_on(is_warm).expect("a client");
    let info = measure(|| {
        start.send(()).expect("a client");
        runtime.block_on(is_answered).expect("a client");
    });
    client.join().expect("a client");
    let each = info.count_total as f64 / f64::from(PINGS);
    assert!(each <= 20.0, "{each} allocations of {} bytes", info.bytes_total / u64::from(PINGS));
    assert!(each >= 5.0, "{each} allocations: the host does not run on this thread");
    runtime.block_on(host.stop());
}

/// Counts the locks of all threads of the host, from the read of an event to the write of its
/// answer, in the process of the built command.
///
/// On an idle machine, most pings cost 15 locks. The runtime and the clocks of the host take locks
/// beside the pings too, the more the longer a ping takes: beside other tests, only a part of the
/// pings shows what a ping costs. So the tenth of the pings with the fewest locks must be within
/// the limit. The runtime's own locks are fewer if a ping is there before the worker pauses, so the
/// median of the host's own locks, which are the same for each ping, is compared on its own too.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
#[allow(clippy::print_stderr, reason = "a test that counts nothing says so")]
fn a_ping_costs_the_whole_server_at_most_15_locks() {
    const PINGS: usize = 200;
    // Seven of the runtime: the worker pauses and continues, looks at its timers, and is woken by
    // the TCP connection.
    const MOST: u64 = 15;
    // `cargo test --workspace` builds the host with tokio's feature `test-util`, for the tests of
    // another crate. tokio then takes a lock for each of the three looks at its clock.
    const OF_TEST_CLOCK: u64 = 3;
    // Three of the session: the two messages to the client are queued, and written together. Two
    // each of the mailbox and of the pool of instances: the event begins and ends. One of the
    // breaker.
    const MOST_OF_HOST: u64 = 8;
    let data = tempfile::tempdir().expect("a directory");
    let plugins = sockhop_tests::directory_of(&[bundled_plugin("connection")]);
    let host = sockhop_tests::HostProcess::with(plugins.path(), data.path(), |command| {
        // One thread handles all events, so that no two threads meet at a breakpoint.
        command.env("TOKIO_WORKER_THREADS", "1");
    });
    runtime().block_on(async {
        let client = TestClient::connect(&host.url).await;
        let ask = async |times: u64| {
            for _ in 0..times {
                client.ask("ping", json!({"timestamp": 1_767_225_600_123_u64})).await;
            }
        };
        ask(100).await;
        let binary = sockhop_tests::binary();
        let Some(counter) = locks::LockCounter::attach(host.pid(), &binary) else {
            eprintln!("locks are not counted: this machine does not allow a process to be traced");
            return;
        };
        ask(20).await;
        let (mut all, mut of_host) = (Vec::new(), Vec::new());
        for _ in 0..PINGS {
            let before = counter.by_name();
            ask(1).await;
            let mut locks = counter.by_name();
            for (name, count) in &mut locks {
                *count -= before.get(name).copied().unwrap_or_default();
            }
            locks.retain(|_, count| *count > 0);
            all.push(locks.clone());
            locks.retain(|name, _| name.starts_with("sockhop"));
            of_host.push(locks);
        }
        let most = MOST + if counter.has_test_clock { OF_TEST_CLOCK } else { 0 };
        for (mut counts, at, most) in [(all, PINGS / 10, most), (of_host, PINGS / 2, MOST_OF_HOST)]
        {
            let sum = |locks: &BTreeMap<String, u64>| locks.values().sum::<u64>();
            counts.sort_by_key(sum);
            let locks = &counts[at];
            let count = sum(locks);
            assert!(count <= most, "{count} locks: {locks:#?}");
            assert!(count >= 2, "{count} locks: were the functions found? {locks:#?}");
        }
        drop(client);
    });
}

#[test]
fn a_payload_is_held_in_few_copies() {
    let content = "x".repeat(10_000);
    let small = allocations_of("memory_logs", "memory_log_list", r#"{"limit":1}"#);
    let large = allocations_of(
        "memory_logs",
        "memory_log_list",
        &format!(r#"{{"limit":1,"ignored":"{content}"}}"#),
    );
    // One copy is the text of the event, the other is the parsed document that is validated.
    let copies = (large.bytes_max - small.bytes_max) as f64 / content.len() as f64;
    assert!(copies < 2.5, "{copies} copies at once");
}
