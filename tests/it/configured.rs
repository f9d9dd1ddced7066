//! Plugins whose declarations depend on their settings.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop_tests::{TestClient, TestHost, eventually, guest, put};

/// The first settings of the plugin `configured`.
fn configure(config: &mut Config) {
    let mut settings = config.of_plugin("configured");
    settings.config = BTreeMap::from([("event", "hello"), ("greeting", "Hi")])
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    config.plugins.by_name.insert("configured".to_owned(), settings);
}

/// Reloads the configuration with these settings of the plugin.
async fn reload(host: &TestHost, settings: &str) {
    let text = format!(
        "[limits]\nregister_cpu_ms = 10_000\nevent_cpu_ms = 1_000\n[plugins.configured.config]\n\
         {settings}"
    );
    std::fs::write(host.data().join("sockhop.toml"), text).expect("a file");
    let (status, answer) = host.http("/api/reload", Some(json!({}))).await;
    assert_eq!(status, 200, "{answer}");
}

fn reason(row: &Value) -> &str {
    row["last_error"]["reason"].as_str().unwrap_or_default()
}

/// Asserts that `event` is answered with this greeting.
async fn greets(client: &TestClient, event: &str, greeting: &str) {
    assert_eq!(client.ask(event, json!("Ada")).await, json!([greeting, "Ada"]));
}

/// Asserts that no plugin handles `event`.
async fn is_unknown(client: &TestClient, event: &str) {
    let answer = client.ask(event, json!("Ada")).await;
    assert_eq!(answer["error"]["code"], "unknown_event", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_declares_by_its_settings_and_again_when_they_change() {
    let host = TestHost::with(&[guest("configured")], configure).await;
    let client = host.client().await;
    greets(&client, "hello", "Hi").await;
    // When the reload is answered, the new declarations apply.
    reload(&host, "event = \"bye\"\ngreeting = \"See you\"").await;
    greets(&client, "bye", "See you").await;
    is_unknown(&client, "hello").await;
    assert_eq!(client.ask("fixed", json!(null)).await, json!(null));
    let host = host
        .restart_with(|config| {
            configure(config);
            config.limits.drain_ms = std::time::Duration::from_millis(10);
        })
        .await;
    let client = host.client().await;
    greets(&client, "hello", "Hi").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_plugin_refuses_change_nothing_that_it_serves() {
    let host = TestHost::with(&[guest("configured")], configure).await;
    let client = host.client().await;
    for (settings, expected) in [
        ("", "the setting `event` is missing"),
        ("event = \"bye\"\ngreting = \"Hi\"", "there is no setting `greting`"),
    ] {
        reload(&host, settings).await;
        let row = host.row("configured").await;
        assert!(reason(&row).contains(expected), "{row:#}");
        greets(&client, "hello", "Hi").await;
    }
    // The same settings as at first, and then others.
    reload(&host, "event = \"hello\"\ngreeting = \"Hi\"").await;
    greets(&client, "hello", "Hi").await;
    reload(&host, "event = \"bye\"").await;
    greets(&client, "bye", "").await;
    assert_eq!(host.row("configured").await["last_error"], json!(null));
    // The file is not to blame for settings that it has refused.
    reload(&host, "").await;
    let host = host.restart_with(configure).await;
    greets(&host.client().await, "hello", "Hi").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_can_not_register_again_now_is_tried_again() {
    let host = TestHost::with(&[guest("configured")], configure).await;
    let client = host.client().await;
    let digest = host.row("configured").await["digest"].as_str().expect("a digest").to_owned();
    // It registers again from the copy that the host keeps.
    let copy = host.data().join("plugins").join(format!("{digest}.wasm"));
    std::fs::remove_file(&copy).expect("a file");
    std::fs::create_dir(&copy).expect("a directory");
    reload(&host, "event = \"bye\"").await;
    let (_, row) = host.http("/api/plugins/configured", None).await;
    assert!(reason(&row).contains("the kept version"), "{row:#}");
    assert_eq!(row["retried"], json!(true));
    greets(&client, "hello", "Hi").await;
    std::fs::remove_dir(&copy).expect("a directory");
    eventually("it has registered again", async || {
        // The scan makes the copy from the file of the plugin.
        host.monitor.request_scan();
        (client.ask("bye", json!("Ada")).await == json!(["", "Ada"])).then_some(())
    })
    .await;
    assert_eq!(host.row("configured").await["last_error"], json!(null));
}

/// Only what the plugin has declared depends on the settings before.
#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_removed_is_not_kept_by_settings_that_a_plugin_refuses() {
    let host = TestHost::with(&[guest("configured")], configure).await;
    let client = host.client().await;
    let refused = "greting = \"Hi\"\n[plugins.configured]\noutbound = ";
    for outbound in [json!(["http://a.test"]), json!([])] {
        reload(&host, &format!("{refused}{outbound}")).await;
        let (_, row) = host.http("/api/plugins/configured", None).await;
        assert!(reason(&row).contains("there is no setting `greting`"), "{row:#}");
        assert_eq!(row["outbound"], outbound);
        greets(&client, "hello", "Hi").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_take_the_event_of_another_plugin_wait_until_it_is_free() {
    let host = TestHost::with(&[guest("configured"), guest("caller")], configure).await;
    let client = host.client().await;
    reload(&host, "event = \"bump\"").await;
    greets(&client, "hello", "Hi").await;
    assert_eq!(client.ask("bump", json!(null)).await, json!(1));
    let row = host.row("configured").await;
    assert!(reason(&row).contains("caller"), "{row:#}");
    std::fs::remove_file(host.plugins().join("caller.wasm")).expect("a file");
    eventually("the event is free", async || {
        (client.ask("bump", json!("Ada")).await == json!(["", "Ada"])).then_some(())
    })
    .await;
    is_unknown(&client, "hello").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_moves_from_one_plugin_to_another_in_one_step() {
    let host = TestHost::start(&[]).await;
    let client = host.client().await;
    let moved = "event = \"hello\"\n[plugins.moved.config]\nevents = \"enter say\"";
    let back = "event = \"enter\"\n[plugins.moved.config]\nevents = \"say\"";
    reload(&host, back).await;
    for plugin in ["configured", "moved"] {
        put(host.plugins(), &guest(plugin));
        host.until(plugin, |row| row["state"] == "active").await;
    }
    greets(&client, "enter", "").await;
    for round in 0..6 {
        let is_moved = round % 2 == 0;
        let moving = async {
            reload(&host, if is_moved { moved } else { back }).await;
        };
        let asking = async {
            loop {
                let answer = client.ask("enter", json!("Ada")).await;
                assert!(answer["error"].is_null(), "{answer}");
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = moving => {}
            () = asking => {}
        }
        let client = host.client().await;
        let answer = client.ask("enter", json!("Ada")).await;
        let expected = if is_moved { json!({"room": "chat"}) } else { json!(["", "Ada"]) };
        assert_eq!(answer, expected);
        for plugin in ["configured", "moved"] {
            assert_eq!(host.row(plugin).await["last_error"], json!(null));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_without_its_settings_is_refused_by_name_and_loaded_once_they_are_there() {
    let host = TestHost::start(&[]).await;
    put(host.plugins(), &guest("configured"));
    let row = host.until("configured", |row| !reason(row).is_empty()).await;
    assert!(reason(&row).contains("`register` was refused: the setting `event`"), "{row:#}");
    reload(&host, "event = \"hello\"").await;
    host.until("configured", |row| row["state"] == "active").await;
    greets(&host.client().await, "hello", "").await;
}
