//! What an event costs, by what can be counted: so that nobody makes the hot path dearer without seeing it. Times are measured by
//! `cargo xtask bench`.

use allocation_counter::{AllocationInfo, measure};
use sockhop::config::InstancePolicy;
use sockhop_tests::{TestDispatcher, bundled_plugin};

/// What the host allocates for one event in a warm instance; the guest's memory is not counted.
fn allocations_of(plugin: &str, event: &str, payload: &str) -> AllocationInfo {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
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

#[test]
fn a_payload_is_held_in_few_copies() {
    let content = "x".repeat(10_000);
    let small = allocations_of("memory_logs", "memory_log_list", r#"{"limit":1}"#);
    let large = allocations_of("memory_logs", "memory_log_list", &format!(r#"{{"limit":1,"ignored":"{content}"}}"#));
    // The event's own text, and the document that is checked.
    let copies = (large.bytes_max - small.bytes_max) as f64 / content.len() as f64;
    assert!(copies < 2.5, "{copies} copies at once");
}
