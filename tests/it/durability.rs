//! Acknowledged writes and good versions survive a kill of the host.

use serde_json::json;
use sockhop_tests::{HostProcess, TestClient, bundled_plugin, chameleon, directory_of, drop_in};

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_write_survives_the_kill_of_the_host() {
    const KILLS: usize = 5;
    let (plugins, data) =
        (directory_of(&[bundled_plugin("memory_logs")]), tempfile::tempdir().expect("a directory"));
    let mut acknowledged: Vec<u64> = Vec::new();
    for round in 0..KILLS {
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        for number in 0..20 {
            let record = client
                .ask(
                    "memory_log_create",
                    json!({"user_id": 1, "content": format!("{round}/{number}")}),
                )
                .await;
            let id = record["id"].as_u64().unwrap_or_else(|| panic!("{record}"));
            assert!(
                acknowledged.last().is_none_or(|last| *last < id),
                "ids grow, also over a kill: {id} after {acknowledged:?}"
            );
            acknowledged.push(id);
        }
        // The host is killed while it handles more events, which were not acknowledged.
        for _ in 0..50 {
            client
                .emit("memory_log_create", json!({"user_id": 1, "content": "unacknowledged"}))
                .await;
        }
        host.kill();
    }
    let host = HostProcess::start(plugins.path(), data.path());
    let client = TestClient::connect(&host.url).await;
    let mut stored = Vec::new();
    let mut before = None;
    loop {
        let page = client
            .ask(
                "memory_log_list",
                before.map_or(json!({"limit": 100}), |id: u64| json!({"limit": 100, "before": id})),
            )
            .await;
        stored.extend(
            page["items"]
                .as_array()
                .expect("items")
                .iter()
                .filter_map(|record| record["id"].as_u64()),
        );
        before = page["next"].as_u64();
        if before.is_none() {
            break;
        }
    }
    let lost: Vec<_> = acknowledged.iter().filter(|id| !stored.contains(id)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

/// A host that is killed at any moment of loading starts cleanly, with the last good versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_killed_while_it_loads_starts_clean_the_next_time() {
    let kills: u64 =
        std::env::var("SOCKHOP_TEST_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(15);
    let (plugins, data) =
        (directory_of(&[bundled_plugin("connection")]), tempfile::tempdir().expect("a directory"));
    drop_in(plugins.path(), "chameleon.wasm", &chameleon("version=1"));
    let mut good = 1;
    for round in 0..kills {
        let host = HostProcess::start(plugins.path(), data.path());
        let client = TestClient::connect(&host.url).await;
        let version = client.ask("which", json!(null)).await["version"].clone();
        assert_eq!(version, json!(good.to_string()), "round {round}");
        assert_eq!(client.ask("ping", json!({"timestamp": 1})).await["timestamp"], json!(1));
        // The host is killed while it loads a good or a broken version, at a different moment in
        // each round.
        if round % 3 == 2 {
            drop_in(plugins.path(), "chameleon.wasm", b"broken");
        } else {
            good += 1;
            drop_in(plugins.path(), "chameleon.wasm", &chameleon(&format!("version={good}")));
        }
        tokio::time::sleep(std::time::Duration::from_millis(round * 37 % 700)).await;
        host.kill();
        if round % 3 == 2 {
            good += 1;
            drop_in(plugins.path(), "chameleon.wasm", &chameleon(&format!("version={good}")));
        }
    }
}
