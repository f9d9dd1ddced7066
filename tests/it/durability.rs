//! What was acknowledged is not lost.

use serde_json::json;
use sockhop_tests::{HostProcess, TestClient, bundled_plugin, directory_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_survives_the_kill_of_the_host() {
    const KILLS: usize = 5;
    let (plugins, data) = (directory_of(&[bundled_plugin("memory_logs")]), tempfile::tempdir().expect("a directory"));
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 0..KILLS {
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        for number in 0..20 {
            let record = client.ask("memory_log_create", json!({"user_id": 1, "content": format!("{round}/{number}")})).await;
            let id = record["id"].as_u64().unwrap_or_else(|| panic!("{record}"));
            assert!(acknowledged.last().is_none_or(|last| *last < id), "ids grow, also over a kill: {id} after {acknowledged:?}");
            acknowledged.push(id);
        }
        // In the middle of more, which nobody has acknowledged.
        for _ in 0..50 {
            client.emit("memory_log_create", json!({"user_id": 1, "content": "unacknowledged"})).await;
        }
        host.kill();
    }
    let host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    let mut stored = Vec::new();
    let mut before = None;
    loop {
        let page = client.ask("memory_log_list", before.map_or(json!({"limit": 100}), |id: u64| json!({"limit": 100, "before": id}))).await;
        stored.extend(page["items"].as_array().expect("items").iter().filter_map(|record| record["id"].as_u64()));
        before = page["next"].as_u64();
        if before.is_none() {
            break;
        }
    }
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}
