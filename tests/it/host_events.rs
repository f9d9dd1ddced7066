//! Plugins are told of every connection in order, independently of other plugins, and also after a
//! time in which they did not serve.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use serde_json::{Value, json};
use sockhop::config::Config;
#[cfg(target_os = "linux")]
use sockhop_tests::{HostProcess, directory_of};
use sockhop_tests::{TestClient, TestHost, bundled_plugin, drop_in, eventually, guest};

async fn host(change: impl FnOnce(&mut Config)) -> TestHost {
    TestHost::with(&[bundled_plugin("connection"), guest("presence")], change).await
}

async fn id(client: &TestClient) -> String {
    client.ask("presence_id", json!(null)).await.as_str().expect("an id").to_owned()
}

/// Waits until the plugin was told of at least `count` events, and returns them.
async fn told(client: &TestClient, count: usize) -> Vec<String> {
    eventually("the plugin to be told", async || {
        let told = client.ask("told", json!(null)).await;
        let told: Option<Vec<String>> = serde_json::from_value(told).ok();
        told.filter(|told| told.len() >= count)
    })
    .await
}

async fn until_connections(host: &TestHost, count: usize) {
    let line = format!("sockhop_connections {count}");
    eventually("the connections to end", async || {
        metrics(host).await.lines().any(|shown| shown == line).then_some(())
    })
    .await;
}

async fn metrics(host: &TestHost) -> String {
    host.http("/metrics", None).await.1.as_str().expect("text").to_owned()
}

async fn set(host: &TestHost, what: &str) {
    assert_eq!(host.http(&format!("/api/plugins/presence/{what}"), Some(json!({}))).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connect_delays_the_plugins_own_events_and_no_others() {
    // Only the gate must end a held handler, so the limits are very high.
    let host = host(|config| {
        config.limits.event_wall_ms = sockhop_tests::PATIENCE * 10;
        config.limits.event_cpu_ms = sockhop_tests::PATIENCE * 10;
    })
    .await;
    let first = host.client().await;
    first.ask("hold", json!(null)).await;
    let mut clients = Vec::new();
    for number in 0..20 {
        let client = host.client().await;
        // At this time, each earlier `$connect` is still running or waiting.
        assert_eq!(
            client.ask("ping", json!({"timestamp": number})).await["timestamp"],
            json!(number)
        );
        let own = client.ask_later(r#"["presence_id",null]"#).await;
        clients.push((client, own));
    }
    assert_eq!(told(&first, 1).await.len(), 1, "only of the first");
    assert!(metrics(&host).await.contains(r#"sockhop_host_events_waiting{plugin="presence"} "#));
    first.ask("release", json!(null)).await;
    for (client, own) in &mut clients {
        let own = tokio::time::timeout(sockhop_tests::PATIENCE, own)
            .await
            .expect("an answer in time")
            .expect("an answer");
        let told: Vec<String> =
            serde_json::from_value(client.ask("told", json!(null)).await).expect("a list");
        assert!(
            told.contains(&format!("+{}", own.as_str().expect("an id"))),
            "its event came after its `$connect`"
        );
    }
    assert_eq!(told(&first, 21).await.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_plugin_is_told_in_order_when_it_is_enabled() {
    let host = host(|_| {}).await;
    let first = host.client().await;
    let me = id(&first).await;
    set(&host, "disable").await;
    drop(host.client().await);
    // No event of this client is waiting for the plugin, because the connection has ended.
    until_connections(&host, 1).await;
    let third = host.client().await;
    assert_eq!(third.ask("told", json!(null)).await["error"]["code"], json!("unavailable"));
    set(&host, "enable").await;
    let third_id = eventually("the plugin to serve", async || {
        third.ask("presence_id", json!(null)).await.as_str().map(str::to_owned)
    })
    .await;
    let told = told(&third, 4).await;
    assert_eq!(told[0], format!("+{me}"));
    // The order is kept for each connection. Connections do not wait for each other.
    let others: Vec<_> = told[1..].iter().filter(|line| line[1..] != third_id).collect();
    let [begin, end] = others.as_slice() else { panic!("{told:?}") };
    assert!(begin.starts_with('+') && end.starts_with('-') && begin[1..] == end[1..], "{told:?}");
}

/// Returns what `lab` was told of the connection `id`. It listens for `$disconnect`, and not for
/// `$resync`.
async fn notes(client: &TestClient, id: &str) -> Option<Vec<String>> {
    serde_json::from_value(client.ask("notes", json!(id)).await).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_was_away_for_a_moment_is_told_unless_it_was_forgotten() {
    let lab = std::fs::read(guest("lab")).expect("a guest");
    let host = TestHost::with(&[bundled_plugin("connection"), guest("lab")], |_| {}).await;
    let operate = async |what: &str| {
        assert_eq!(host.http(&format!("/api/plugins/lab/{what}"), Some(json!({}))).await.0, 200);
    };
    let remove = async || {
        std::fs::remove_file(host.plugins().join("lab.wasm")).expect("its file");
        host.until("lab", Value::is_null).await;
    };
    let come_back = async || {
        drop_in(host.plugins(), "lab.wasm", &lab);
        host.until("lab", |row| !row.is_null() && row["state"] != "loading").await;
    };
    let witness = host.client().await;
    let (before, meanwhile) = (host.client().await, host.client().await);
    let me = async |client: &TestClient| {
        client.ask("me", json!(null)).await.as_str().expect("an id").to_owned()
    };
    let ids = [me(&before).await, me(&meanwhile).await];
    operate("disable").await;
    drop(before);
    until_connections(&host, 2).await;
    remove().await;
    drop(meanwhile);
    until_connections(&host, 1).await;
    come_back().await;
    operate("enable").await;
    for id in &ids {
        let told = eventually("the plugin to be told", async || {
            notes(&witness, id).await.filter(|notes| !notes.is_empty())
        });
        assert_eq!(told.await.len(), 1, "once");
    }
    let forgotten = host.client().await;
    let id = me(&forgotten).await;
    operate("disable").await;
    drop(forgotten);
    until_connections(&host, 1).await;
    remove().await;
    operate("forget").await;
    come_back().await;
    let waiting = r#"sockhop_host_events_waiting{plugin="lab"} 0"#;
    assert!(metrics(&host).await.contains(waiting));
    eventually("the plugin to serve", async || notes(&witness, &ids[0]).await).await;
    assert_eq!(notes(&witness, &id).await, Some(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_breaker_was_open_is_told_when_it_closes() {
    let host = host(|config| {
        config.limits.breaker_failures = NonZeroU32::new(3).expect("not zero");
        config.limits.breaker_open_ms = Duration::from_millis(500);
    })
    .await;
    let client = host.client().await;
    for _ in 0..3 {
        assert_eq!(
            client.ask("presence_trap", json!(null)).await["error"]["code"],
            json!("plugin_failed")
        );
    }
    assert_eq!(host.row("presence").await["state"], json!("quarantined"));
    drop(host.client().await);
    until_connections(&host, 1).await;
    // No client sends an event to the plugin, so a waiting host event is the probe.
    host.until("presence", |row| row["state"] == "active").await;
    let told = told(&client, 3).await;
    assert!(
        told[1].starts_with('+') && told[2].starts_with('-') && told[1][1..] == told[2][1..],
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_missed_too_much_reads_the_connections_again() {
    let host =
        host(|config| config.limits.host_events = NonZeroUsize::new(5).expect("not zero")).await;
    let mut clients = vec![host.client().await];
    told(&clients[0], 1).await;
    set(&host, "disable").await;
    for _ in 0..8 {
        clients.push(host.client().await);
    }
    clients.truncate(6);
    until_connections(&host, 6).await;
    set(&host, "enable").await;
    let mut expected = Vec::new();
    for client in &clients {
        expected.push(format!(
            "={}",
            eventually("the plugin to serve", async || client
                .ask("presence_id", json!(null))
                .await
                .as_str()
                .map(str::to_owned))
            .await
        ));
    }
    expected.sort();
    let mut last = Vec::new();
    eventually("the plugin to read the connections", async || {
        last = told(&clients[0], 1).await;
        (last == expected).then_some(())
    })
    .await;
    // After that, the plugin is told of new connections again.
    let late = host.client().await;
    expected.push(format!("+{}", id(&late).await));
    assert_eq!(told(&late, expected.len()).await, expected);
    let metrics = metrics(&host).await;
    assert!(metrics.contains("sockhop_resyncs_total{plugin=\"presence\"} 1\n"), "{metrics}");
    assert!(metrics.contains("sockhop_host_events_waiting{plugin=\"presence\"} 0\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_is_loaded_beside_connections_reads_them() {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    let client = host.client().await;
    let other = host.client().await;
    // The host knows a connection once its first event is answered.
    for client in [&client, &other] {
        assert_eq!(client.ask("ping", json!({"timestamp": 1})).await["timestamp"], json!(1));
    }
    drop_in(host.plugins(), "presence.wasm", &std::fs::read(guest("presence")).expect("a guest"));
    host.until("presence", |row| row["state"] == "active").await;
    let mut expected = [format!("={}", id(&client).await), format!("={}", id(&other).await)];
    expected.sort();
    assert_eq!(told(&client, 2).await, expected);
    drop(other);
    assert!(told(&client, 3).await[2].starts_with('-'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_fails_to_read_the_connections_reads_them_again() {
    // The list of three connections exceeds the limit, and the list of one does not.
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.effects_bytes = NonZeroUsize::new(80).expect("not zero");
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(host.client().await);
    }
    until_connections(&host, 3).await;
    drop_in(host.plugins(), "presence.wasm", &std::fs::read(guest("presence")).expect("a guest"));
    eventually("the plugin to fail", async || {
        let failed = metrics(&host)
            .await
            .lines()
            .any(|line| line.starts_with("sockhop_resync_failures_total{plugin=\"presence\"}"));
        failed.then_some(())
    })
    .await;
    clients.truncate(1);
    let only = format!("={}", id(&clients[0]).await);
    eventually("the plugin to read the connections", async || {
        (clients[0].ask("told", json!(null)).await == json!([only])).then_some(())
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_state_could_not_be_written_is_told_when_it_can() {
    let (plugins, data) =
        (directory_of(&[guest("presence")]), tempfile::tempdir().expect("a directory"));
    let host = HostProcess::start_with(
        plugins.path(),
        data.path(),
        &[("SOCKHOP_PLUGINS__REQUIRED", r#"["presence"]"#)],
    );
    let key = std::fs::read_to_string(data.path().join("key")).expect("the host's key");
    let first = TestClient::connect(&host.url).await;
    told(&first, 1).await;
    host.limit_files(Some(0));
    let second = TestClient::connect(&host.url).await;
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    eventually("the state can't be written", async || {
        let request = agent
            .get(format!("{}/metrics", host.url))
            .header("Authorization", format!("Bearer {}", key.trim()));
        let metrics =
            request.call().expect("an answer").body_mut().read_to_string().expect("a body");
        metrics
            .contains(r#"sockhop_plugin_state_failing{plugin="presence",kind="write"} 1"#)
            .then_some(())
    })
    .await;
    host.limit_files(None);
    let second = eventually("the plugin to serve", async || {
        second.ask("presence_id", json!(null)).await.as_str().map(str::to_owned)
    })
    .await;
    assert_eq!(told(&first, 2).await[1], format!("+{second}"));
}
