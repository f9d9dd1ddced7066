//! What an event costs, by what can be counted: so that nobody makes the hot path dearer without seeing it. Times are measured by
//! `cargo xtask bench`.

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

/// What the host allocates for one event in a warm instance; the guest's memory is not counted.
fn allocations_of(plugin: &str, event: &str, payload: &str) -> AllocationInfo {
    let runtime = runtime();
    let dispatcher = runtime.block_on(TestDispatcher::new(&[bundled_plugin(plugin)], InstancePolicy::Warm));
    let ask = || {
        let reply = runtime.block_on(dispatcher.ask(event, payload)).expect("a reply");
        assert!(!reply.json.as_str().is_empty());
    };
    // The first events make the instance, and grow what is reused.
    for _ in 0..10 {
        ask();
    }
    let info = measure(ask);
    // The same each time, or it could not be a limit.
    assert_eq!(measure(ask).count_total, info.count_total);
    info
}

#[test]
fn a_ping_costs_the_host_no_more_allocations_than_it_did() {
    let ping = allocations_of("connection", "ping", r#"{"timestamp":1767225600123}"#);
    assert!(ping.count_total <= 16, "{} allocations of {} bytes", ping.count_total, ping.bytes_total);
}

/// From the socket to the socket: what the task that serves the connection allocates, and all others of the host beside it.
#[test]
fn a_ping_costs_the_whole_server_at_most_20_allocations() {
    const PINGS: u32 = 1_000;
    let runtime = runtime();
    let host = runtime.block_on(TestHost::start(&[bundled_plugin("connection")]));
    let (warmed, is_warm) = oneshot::channel();
    let (start, started) = oneshot::channel::<()>();
    let (answered, is_answered) = oneshot::channel();
    let url = host.url.clone();
    // Only this thread's allocations count, and the client has another one.
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
    assert!((10.0..=20.0).contains(&each), "{each} allocations of {} bytes", info.bytes_total / u64::from(PINGS));
    runtime.block_on(host.stop());
}

#[test]
fn a_payload_is_held_in_few_copies() {
    let content = "x".repeat(10_000);
    let small = allocations_of("memory_logs", "memory_log_list", r#"{"limit":1}"#);
    let large = allocations_of("memory_logs", "memory_log_list", &format!(r#"{{"limit":1,"ignored":"{content}"}}"#));
    // The event's own text, and the document that is checked.
    let copies = (large.bytes_max - small.bytes_max) as f64 / content.len() as f64;
    assert!(copies < 2.5, "{copies} copies at once");
}
