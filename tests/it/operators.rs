//! What operators decided holds, whatever becomes of files, directories and the host.

use serde_json::{Value, json};
use sockhop_tests::{TestHost, bundled_plugin, chameleon, drop_in, eventually};

fn serves(version: &str) -> impl Fn(&Value) -> bool {
    let version = format!("{version}.0.0");
    move |row| row["version"] == version.as_str() && row["state"] == "active"
}

/// A host in which these versions of `chameleon` have served, one after the other.
async fn host_after(versions: &[&str], data: &std::path::Path) -> TestHost {
    let host = TestHost::with_data(&[bundled_plugin("connection")], data).await;
    for version in versions {
        drop_in(host.plugins(), "chameleon.wasm", &chameleon(&format!("version={version}")));
        host.until("chameleon", serves(version)).await;
    }
    host
}

async fn operate(host: &TestHost, word: &str) -> Value {
    let (status, row) = host.http(&format!("/api/plugins/chameleon/{word}"), Some(json!({}))).await;
    assert_eq!(status, 200, "{word}: {row}");
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_whose_file_was_away_comes_back_to_what_was_decided() {
    let data = tempfile::tempdir().expect("a directory");
    let host = host_after(&["1", "2"], data.path()).await;
    operate(&host, "rollback").await;
    operate(&host, "disable").await;
    let file = host.plugins().join("chameleon.wasm");
    std::fs::remove_file(&file).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    let row = host.until("chameleon", |row| !row.is_null() && row["state"] != "loading").await;
    assert_eq!((&row["state"], &row["version"]), (&json!("disabled"), &json!("1.0.0")), "{row}");
    let row = operate(&host, "enable").await;
    assert_eq!(row["kept"].as_array().map(Vec::len), Some(2), "{row}");
    assert_eq!(host.client().await.ask("which", json!(null)).await["version"], json!("1"));
    // Another content is followed, and what served before can still be gone back to.
    std::fs::remove_file(&file).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=3"));
    host.until("chameleon", serves("3")).await;
    assert_eq!(operate(&host, "rollback").await["version"], json!("1.0.0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_a_file_is_remembered_over_a_restart_until_it_is_forgotten() {
    let data = tempfile::tempdir().expect("a directory");
    let host = host_after(&["1", "2"], data.path()).await;
    let (status, problem) = host.http("/api/plugins/chameleon/forget", Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("refused")), "its file is there: {problem}");
    std::fs::remove_file(host.plugins().join("chameleon.wasm")).expect("a file to remove");
    host.until("chameleon", Value::is_null).await;
    let host = host.restart().await;
    let (_, row) = host.http("/api/plugins/chameleon", None).await;
    assert_eq!((&row["state"], row["kept"].as_array().map(Vec::len)), (&json!(null), Some(2)), "{row}");
    assert!(row["absent_since"].is_string() && row["forgotten_at"].is_string(), "{row}");
    let (_, rows) = host.http("/api/plugins?all=true", None).await;
    assert!(rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["name"] == "chameleon")), "{rows}");
    let (status, problem) = host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await;
    assert_eq!((status, &problem["code"]), (409, &json!("refused")), "{problem}");
    assert_eq!(operate(&host, "forget").await, json!({"name": "chameleon", "forgotten": true}));
    assert_eq!(host.http("/api/plugins/chameleon", None).await.0, 404);
    drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=2"));
    host.until("chameleon", serves("2")).await;
    assert_eq!(host.http("/api/plugins/chameleon/rollback", Some(json!({}))).await.0, 409, "there is nothing to go back to");
}

/// Waits until the host says whether the plugin directory is as it should be.
async fn until_directory_is(host: &TestHost, ok: u8) {
    let line = format!("sockhop_plugin_directory_ok {ok}");
    eventually("the gauge of the directory", async || {
        let (_, metrics) = host.http("/metrics", None).await;
        metrics.as_str()?.lines().any(|found| found == line).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_suddenly_empty_or_away_stops_nothing() {
    let host = TestHost::start(&[bundled_plugin("connection"), bundled_plugin("subscription")]).await;
    let client = host.client().await;
    let ping = async || client.ask("ping", json!({"timestamp": 1})).await["timestamp"].clone();
    let outside = tempfile::tempdir_in(host.plugins().parent().expect("a directory above")).expect("a directory");
    let files = ["connection.wasm", "subscription.wasm"];
    let move_all = |from: &std::path::Path, to: &std::path::Path| {
        files.iter().for_each(|file| std::fs::rename(from.join(file), to.join(file)).expect("a file to move"));
    };
    move_all(host.plugins(), outside.path());
    until_directory_is(&host, 0).await;
    assert_eq!(ping().await, json!(1));
    assert_eq!(host.row("subscription").await["state"], json!("active"));
    move_all(outside.path(), host.plugins());
    until_directory_is(&host, 1).await;
    assert_eq!(ping().await, json!(1));
    let away = outside.path().join("away");
    std::fs::rename(host.plugins(), &away).expect("a directory to rename");
    until_directory_is(&host, 0).await;
    assert_eq!(ping().await, json!(1));
    std::fs::rename(&away, host.plugins()).expect("a directory to rename");
    until_directory_is(&host, 1).await;
    assert_eq!(ping().await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_stays_empty_serves_nothing() {
    let host = TestHost::with(&[bundled_plugin("connection"), bundled_plugin("subscription")], |config| {
        config.plugins.empty_after_s = std::time::Duration::from_millis(100);
    })
    .await;
    for file in ["connection.wasm", "subscription.wasm"] {
        std::fs::remove_file(host.plugins().join(file)).expect("a file to remove");
    }
    host.until("connection", Value::is_null).await;
    let client = host.client().await;
    assert_eq!(client.ask("ping", json!({"timestamp": 1})).await["error"]["code"], json!("unknown_event"));
}
