//! A good new file is served, a bad one changes nothing, and no connection is interrupted.

use serde_json::{Value, json};
use sockhop::config::Limits;
use sockhop_tests::{TestClient, TestHost, bundled_plugin, chameleon, directory_of, drop_in};
use tokio::sync::oneshot;

fn serves(version: &str) -> impl Fn(&Value) -> bool {
    let version = format!("{version}.0.0");
    move |row| row["version"] == version.as_str() && row["state"] == "active"
}

async fn host_with_version(version: &str) -> TestHost {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
    host.until("chameleon", serves(version)).await;
    host
}

/// Starts a host on which a handler may run as long as a slow machine needs to load another
/// version.
async fn patient_host() -> TestHost {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.event_wall_ms = sockhop_tests::PATIENCE;
        config.limits.drain_ms = sockhop_tests::PATIENCE;
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_dropped_into_the_directory_is_served_and_one_that_is_taken_out_is_unknown() {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    let client = host.client().await;
    assert_eq!(client.ask("which", json!(null)).await["error"]["code"], json!("unknown_event"));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    assert_eq!(client.ask("which", json!(null)).await["error"]["code"], json!("unknown_event"));
}

/// `rm` followed by `cp` replaces a file with a gap. If the host scanned at once, it would remove
/// the plugin and forget the operator's choices and the kept versions.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_goes_has_time_to_come_back() {
    let host = host_with_version("1").await;
    // Leaves the host idle for longer than it waits after a change.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let went = std::time::Instant::now();
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("chameleon", |row| row.is_null() || row["state"] == "draining").await;
    assert!(went.elapsed() >= std::time::Duration::from_millis(50), "{:?}", went.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_a_plugin_lets_running_events_finish_on_the_old_one() {
    let host = patient_host().await;
    let client = host.client().await;
    let running = client.ask_later(r#"["hold"]"#).await;
    host.until("chameleon", |row| row["instances"] == 1).await;
    let queued = client.ask_later(r#"["which"]"#).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2")).await;
    let other = host.client().await;
    assert_eq!(
        other.ask("which", json!(null)).await["version"],
        json!("2"),
        "others are served by the new one meanwhile"
    );
    other.ask("enter", json!(null)).await;
    assert_eq!(running.await, Ok(json!("1")));
    assert_eq!(
        queued.await.map(|reply| reply["version"].clone()),
        Ok(json!("2")),
        "what was queued runs on the new one"
    );
    host.until("chameleon", |row| row["draining"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_outlive_the_drain_are_ended() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.event_wall_ms = std::time::Duration::from_secs(60);
        config.limits.drain_ms = std::time::Duration::from_millis(200);
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let client = host.client().await;
    let running = client.ask_later(r#"["slow",50000]"#).await;
    client.emit("which", json!(null)).await;
    host.until("chameleon", |row| row["calls"] == 0 && row["instances"] == 1).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2")).await;
    let soon = Limits::default().drain_ms / 2;
    let answer = tokio::time::timeout(soon, running)
        .await
        .expect("an answer long before the default")
        .expect("an answer");
    assert_eq!(answer["error"]["code"], json!("timed_out"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_changes_nothing_and_is_shown_with_its_reason() {
    let host = host_with_version("1").await;
    let client = host.client().await;
    let digest = host.row("chameleon").await["digest"].clone();
    drop_in(host.plugins(), "chameleon.wasm", b"\0asm nothing");
    let row = host.until("chameleon", |row| !row["last_error"].is_null()).await;
    assert_eq!((&row["state"], &row["digest"]), (&json!("active"), &digest));
    assert!(
        row["last_error"]["reason"]
            .as_str()
            .expect("a reason")
            .contains("no WebAssembly component"),
        "{row}"
    );
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=3"));
    let row = host.until("chameleon", serves("3")).await;
    assert_eq!(row["last_error"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_one_word_and_holds_until_the_file_changes() {
    let host = host_with_version("1").await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2")).await;
    let client = host.client().await;
    client.ask("call", json!(null)).await;
    let (status, row) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
    assert_eq!((status, &row["version"]), (200, &json!("1.0.0")));
    // A rollback changes the code, not the state.
    assert_eq!(client.ask("call", json!(null)).await, json!({"version": "1", "calls": 2}));
    // A change of another file does not make the host look at this one again.
    drop_in(host.plugins(), "other.wasm", &chameleon("version=1 name=other claims=other"));
    host.until("other", serves("1")).await;
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=4"));
    host.until("chameleon", serves("4")).await;
    let (status, problem) =
        host.http("/api/plugins/chameleon/rollback", Some(json!({"to": "ffff"}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("refused")));
    assert_eq!(host.http("/api/plugins/nobody/rollback", Some(json!({}))).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_to_the_version_before_asks_neither_the_disk_nor_the_compiler() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("connection")], data.path()).await;
    for version in ["1", "2"] {
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
        host.until("chameleon", serves(version)).await;
    }
    for dir in ["plugins", "cache"].map(|dir| data.path().join(dir)) {
        for entry in std::fs::read_dir(dir).expect("what the host keeps of versions") {
            std::fs::write(entry.expect("an entry").path(), "nothing")
                .expect("a file to overwrite");
        }
    }
    let client = host.client().await;
    for version in ["1", "2"] {
        let (status, row) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
        assert_eq!((status, &row["version"]), (200, &json!(format!("{version}.0.0"))), "{row}");
        assert_eq!(
            (&row["calls"], &row["state"]),
            (&json!(0), &json!("active")),
            "it begins anew: {row}"
        );
        assert_eq!(client.ask("which", json!(null)).await["version"], json!(version));
    }
    host.until("chameleon", |row| row["draining"] == 0).await;
    // If the version can't be kept for the next start, it serves, but the operator's request
    // reports that.
    std::fs::remove_dir_all(data.path().join("plugins")).expect("what the host keeps of versions");
    let (status, told) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
    assert_eq!((status, &told["code"]), (503, &json!("unavailable")), "{told}");
    assert_eq!(client.ask("which", json!(null)).await["version"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_chose_survives_a_restart() {
    let data = tempfile::tempdir().expect("a directory");
    let (first, second) = (chameleon("version=1"), chameleon("version=2"));
    let dir = directory_of(&[bundled_plugin("connection")]);
    drop_in(dir.path(), "chameleon.wasm", &first);
    let files = || vec![dir.path().join("chameleon.wasm"), dir.path().join("connection.wasm")];
    let host = TestHost::with_data(&files(), data.path()).await;
    drop_in(host.plugins(), "chameleon.wasm", &second);
    host.until("chameleon", serves("2")).await;
    assert_eq!(host.http("/api/plugins/chameleon/disable", Some(json!({}))).await.0, 200);
    let client = host.client().await;
    let refused = client.ask("which", json!(null)).await;
    assert_eq!(
        refused["error"]["code"],
        json!("unavailable"),
        "its events are still its own: {refused}"
    );
    assert_eq!(host.row("chameleon").await["state"], json!("disabled"));
    let plugins = host.plugins().to_owned();
    let host = host.restart().await;
    assert_eq!(host.plugins(), plugins);
    assert_eq!(host.row("chameleon").await["state"], json!("disabled"));
    assert_eq!(host.http("/api/plugins/chameleon/enable", Some(json!({}))).await.0, 200);
    assert_eq!(
        host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await.1["version"],
        json!("1.0.0")
    );
    let host = host.restart().await;
    assert_eq!(host.client().await.ask("which", json!(null)).await["version"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_bad_new_file_serves_the_last_good_one() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[bundled_plugin("connection")], data.path()).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let host = host.restart_after(|dir| drop(drop_in(dir, "chameleon.wasm", b"broken"))).await;
    let row = host.row("chameleon").await;
    assert_eq!((&row["state"], &row["version"]), (&json!("active"), &json!("1.0.0")), "{row}");
    assert!(row["last_error"]["reason"].is_string(), "{row}");
    assert_eq!(host.client().await.ask("which", json!(null)).await["version"], json!("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_leave_a_room_whose_rule_was_tightened() {
    let host = host_with_version("1").await;
    let client = host.client().await;
    client.ask("enter", json!(null)).await;
    assert_eq!(client.ask("rooms", json!(null)).await, json!(["chameleons"]));
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 rooms=closed"));
    host.until("chameleon", serves("2")).await;
    assert_eq!(client.ask("rooms", json!(null)).await, json!([]));
    assert_eq!(client.ask("enter", json!(null)).await["error"]["code"], json!("forbidden"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_handlers_of_its_plugin_let_clients_into_a_room_with_the_rule_handler() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = drop_in(dir.path(), "chameleon.wasm", &chameleon("version=1"));
    let host = TestHost::start(&[bundled_plugin("subscription"), open]).await;
    let (invited, other) = (host.client().await, host.client().await);
    let subscribe = async |client: &TestClient| {
        client.ask("subscribe_event", json!({"event_type": "chameleons"})).await
    };
    let rooms = async |client: &TestClient| client.ask("rooms", json!(null)).await;
    assert_eq!(subscribe(&other).await["status"], json!("subscribed"));
    // Under the new rule, nobody has let this client in.
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 rooms=handler"));
    host.until("chameleon", serves("2")).await;
    assert_eq!(rooms(&other).await, json!([]));
    assert_eq!(subscribe(&other).await["error"]["code"], json!("forbidden"));
    assert_eq!(invited.ask("enter", json!(null)).await, json!(null));
    assert_eq!(rooms(&invited).await, json!(["chameleons"]));
    // A client stays in the room when its plugin is upgraded.
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=3 rooms=handler"));
    host.until("chameleon", serves("3")).await;
    assert_eq!(rooms(&invited).await, json!(["chameleons"]));
    assert_eq!(rooms(&other).await, json!([]));
}

/// The handler joined while the old rule allowed it, and ends under the new rule.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_began_before_a_rule_was_tightened_leaves_nobody_in_the_room() {
    let host = patient_host().await;
    let client = host.client().await;
    let entering = client.ask_later(r#"["enter_late"]"#).await;
    host.until("chameleon", |row| row["instances"] == 1).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 rooms=closed"));
    host.until("chameleon", serves("2")).await;
    // `opener` must stay in the room until the handler has seen it there.
    let opener = host.client().await;
    opener.ask("open_gate", json!(null)).await;
    assert_eq!(entering.await, Ok(json!(null)));
    assert_eq!(client.ask("rooms", json!(null)).await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_another_file_name_goes_on_with_the_slot() {
    let host = host_with_version("1").await;
    let client = host.client().await;
    client.ask("enter", json!(null)).await;
    drop_in(host.plugins(), "chameleon-2.wasm", &chameleon("version=2"));
    sockhop_tests::eventually("the second file's row", async || {
        let (_, rows) = host.http("/api/plugins", None).await;
        let of_it = |row: &&Value| {
            row["file"].as_str().is_some_and(|file| file.ends_with("chameleon-2.wasm"))
        };
        rows.as_array()?.iter().find(of_it).filter(|row| row["state"] == "failed").cloned()
    })
    .await;
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    let mut version = json!("1");
    while version != "2" {
        version = client.ask("which", json!(null)).await["version"].clone();
        assert!(version == "1" || version == "2", "it was never unknown: {version}");
    }
    assert_eq!(
        client.ask("rooms", json!(null)).await,
        json!(["chameleons"]),
        "and nobody left a room"
    );
    assert_eq!(
        host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await.1["version"],
        json!("1.0.0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_that_claims_a_taken_event_fails_until_it_is_free() {
    let host = host_with_version("1").await;
    drop_in(host.plugins(), "late.wasm", &chameleon("version=1 name=late claims=which"));
    let row = host.until("late", |row| row["state"] == "failed").await;
    assert!(
        row["last_error"]["reason"]
            .as_str()
            .expect("a reason")
            .contains("taken by plugin `chameleon`"),
        "{row}"
    );
    assert_eq!(host.row("chameleon").await["state"], json!("active"));
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("late", serves("1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_claims_what_another_serves_leaves_both_as_they_were() {
    let host = host_with_version("1").await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2 claims=ping"));
    let row = host.until("chameleon", |row| !row["last_error"].is_null()).await;
    assert_eq!((&row["version"], &row["state"]), (&json!("1.0.0"), &json!("active")), "{row}");
    assert_eq!(
        host.client().await.ask("ping", json!({"timestamp": 1})).await["timestamp"],
        json!(1)
    );
}

/// Versions alternate as fast as they load. Each event must be answered once, in order, by one of
/// the versions.
#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_lose_nothing() {
    const CLIENTS: usize = 20;
    const RELOADS: usize = 20;
    let host = host_with_version("1").await;
    let versions = [chameleon("version=1"), chameleon("version=2")];
    let stop = tokio_util::sync::CancellationToken::new();
    let mut load = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, stop) = (host.client().await, stop.clone());
        load.spawn(async move {
            let mut asked = 0_u64;
            while !stop.is_cancelled() {
                let answer = client.ask("count", json!(asked)).await;
                assert_eq!(answer[0], json!(asked), "{answer}");
                assert!(answer[1] == "1" || answer[1] == "2", "{answer}");
                asked += 1;
            }
            assert!(client.was_acked_in_order());
            asked
        });
    }
    for reload in 1..=RELOADS {
        drop_in(host.plugins(), "chameleon.wasm", &versions[reload % 2]);
        host.until("chameleon", serves(&(reload % 2 + 1).to_string())).await;
    }
    stop.cancel();
    let mut answers = 0;
    while let Some(client) = load.join_next().await {
        answers += client.expect("a client without a fault");
    }
    assert!(
        answers > (CLIENTS * RELOADS) as u64,
        "{answers} events were answered while {RELOADS} versions were loaded"
    );
    host.until("chameleon", |row| row["draining"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_has_settings_and_limits_of_its_own() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        let mut settings = config.of_plugin("chameleon");
        settings.config.insert("greeting".to_owned(), "hello".to_owned());
        settings.limits.effects = std::num::NonZeroUsize::new(1).expect("not zero");
        config.plugins.by_name.insert("chameleon".to_owned(), settings);
    })
    .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let client = host.client().await;
    assert_eq!(client.ask("setting", json!("greeting")).await, json!("hello"));
    assert_eq!(client.ask("setting", json!("other")).await, json!(null));
    assert_eq!(client.ask("two_keys", json!(null)).await["error"]["code"], json!("too_large"));
}

/// Starts a host in which `chameleon` has other limits, with a client whose event runs until
/// [`let_go`].
async fn busy_host(
    change: impl FnOnce(&mut Limits),
) -> (TestHost, TestClient, oneshot::Receiver<Value>) {
    let host =
        TestHost::with(&[bundled_plugin("connection"), bundled_plugin("subscription")], |config| {
            config.limits.event_wall_ms = sockhop_tests::PATIENCE;
            let mut settings = config.of_plugin("chameleon");
            change(&mut settings.limits);
            config.plugins.by_name.insert("chameleon".to_owned(), settings);
        })
        .await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
    host.until("chameleon", serves("1")).await;
    let client = host.client().await;
    let holding = client.ask_later(r#"["hold"]"#).await;
    host.until("chameleon", |row| row["instances"] == 1).await;
    (host, client, holding)
}

/// Ends the held handler by a join through another plugin.
async fn let_go(host: &TestHost) -> TestClient {
    let client = host.client().await;
    assert_eq!(
        client.ask("subscribe_event", json!({"event_type": "chameleons"})).await["status"],
        json!("subscribed")
    );
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_instances_of_a_plugin_run_at_once_than_may() {
    let (host, _busy, holding) =
        busy_host(|limits| limits.instances = std::num::NonZeroUsize::new(1)).await;
    let other = host.client().await;
    let mut waiting = other.ask_later(r#"["which"]"#).await;
    assert_eq!(
        host.client().await.ask("ping", json!({"timestamp": 1})).await["timestamp"],
        json!(1)
    );
    assert!(waiting.try_recv().is_err(), "it waits for the only instance");
    let _entered = let_go(&host).await;
    assert_eq!(holding.await, Ok(json!("1")));
    assert_eq!(waiting.await.map(|reply| reply["version"].clone()), Ok(json!("1")));
}

/// Each event of a burst starts an instance. All but one are dropped after the burst.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_a_burst_has_started_do_not_stay() {
    const BURST: u64 = 6;
    let (host, _busy, holding) =
        busy_host(|limits| limits.instances = std::num::NonZeroUsize::new(16)).await;
    let mut burst = vec![holding];
    let mut clients = Vec::new();
    for _ in 1..BURST {
        let client = host.client().await;
        burst.push(client.ask_later(r#"["hold"]"#).await);
        clients.push(client);
    }
    host.until("chameleon", |row| row["instances"] == BURST).await;
    let _entered = let_go(&host).await;
    for holding in burst {
        assert_eq!(holding.await, Ok(json!("1")));
    }
    let row = host.until("chameleon", |row| row["instances"] == 1).await;
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| bytes < 3 << 20), "{row}");
    // The remaining instance serves.
    assert_eq!(clients[0].ask("which", json!(null)).await["version"], json!("1"));
    assert_eq!(
        host.until("chameleon", |row| row["calls"] == BURST + 1).await["instances"],
        json!(1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_instances_of_a_plugin_share_what_memory_it_may_have() {
    let (host, _busy, holding) = busy_host(|limits| {
        // One instance of a small guest in Rust uses a little over a MiB.
        limits.plugin_memory_bytes = std::num::NonZeroUsize::new(2 << 20).expect("not zero");
    })
    .await;
    let other = host.client().await;
    assert_eq!(other.ask("which", json!(null)).await["error"]["code"], json!("busy"));
    let _entered = let_go(&host).await;
    assert_eq!(holding.await, Ok(json!("1")));
    assert_eq!(other.ask("which", json!(null)).await["version"], json!("1"));
}
