//! The HTTP API for business systems and operators.

use serde_json::{Value, json};
use sockhop_tests::{TestHost, bundled_plugin, guest};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_emitted_over_http_goes_where_its_declaration_sends_it() {
    let host =
        TestHost::start(&[bundled_plugin("memory_logs"), bundled_plugin("subscription")]).await;
    let mut client = host.client().await;
    client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    let record = json!({"id": 1, "user_id": 7, "content": "from outside", "created_at": "2026-01-01T00:00:00.000Z"});
    let (status, answer) =
        host.http("/api/emit", Some(json!({"event": "memory_log_created", "data": record}))).await;
    assert_eq!(
        (status, &answer["rooms"], &answer["receivers"]),
        (202, &json!(["memory_logs", "user_7"]), &json!(1))
    );
    assert_eq!(answer["id"].as_str().map(str::len), Some(26));
    assert_eq!(client.expect("memory_log_created").await, record);
    let body = json!({"event": "memory_log_created", "data": record, "room": "memory_logs"});
    assert_eq!(host.http("/api/emit", Some(body)).await.0, 202);
    assert_eq!(client.expect("memory_log_created").await, record);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_emit_is_told_and_emits_nothing() {
    let host = TestHost::start(&[
        bundled_plugin("memory_logs"),
        bundled_plugin("subscription"),
        bundled_plugin("connection"),
    ])
    .await;
    let mut client = host.client().await;
    client.expect("connected").await;
    client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    let record =
        json!({"id": 1, "user_id": 7, "content": "x", "created_at": "2026-01-01T00:00:00.000Z"});
    let deep: Value = (0..70).fold(json!(1), |inner, _| json!([inner]));
    let cases = [
        (json!({"event": "nobody", "data": 1}), 404, "unknown_event"),
        (json!({"event": "memory_log_create", "data": 1}), 404, "unknown_event"),
        (json!({"event": "memory_log_created", "data": {"id": "x"}}), 422, "invalid_payload"),
        (
            json!({"event": "memory_log_created", "data": record, "room": "a", "rooms": ["b"]}),
            422,
            "invalid_payload",
        ),
        (
            json!({"event": "memory_log_created", "data": record, "rooms": []}),
            422,
            "invalid_payload",
        ),
        (json!({"event": "memory_log_created", "data": record, "room": "admin"}), 403, "forbidden"),
        (
            json!({"event": "memory_log_created", "data": record, "everyone": true}),
            403,
            "forbidden",
        ),
        (
            json!({"event": "pong", "data": {"timestamp": 1, "server_time": "2026-01-01T00:00:00.000Z"}}),
            422,
            "invalid_payload",
        ),
        (json!({"event": "memory_log_created", "data": deep}), 413, "too_large"),
        (json!({"event": "memory_log_created", "data": "x".repeat(129 << 10)}), 413, "too_large"),
        (json!({"data": 1}), 422, "invalid_payload"),
    ];
    for (body, status, code) in cases {
        let answer = host.http("/api/emit", Some(body.clone())).await;
        let shown: String = body.to_string().chars().take(80).collect();
        assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)), "{shown}: {}", answer.1);
        assert_eq!(answer.1["status"], json!(status), "a problem document: {}", answer.1);
        if code == "unknown_event" {
            assert_eq!(answer.1["message"], json!("no plugin emits this event"), "{shown}");
        }
    }
    client.ask("memory_log_list", json!({})).await;
    assert_eq!(client.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_only_what_its_scopes_allow() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        let key = |name: &str, secret: &str, scope| sockhop::config::Key {
            name: name.to_owned(),
            secret: Some(secret.to_owned()),
            secret_file: None,
            scopes: vec![scope],
        };
        config.keys = vec![
            key("shop", "shop-secret-0123456", sockhop::config::Scope::Emit),
            key("operator", "operator-secret-0123", sockhop::config::Scope::Operate),
        ];
    })
    .await;
    let emit = || Some(json!({"event": "nobody", "data": 1}));
    let with = |secret: &str| Some(secret.to_owned());
    assert_eq!(host.http_with("/api/emit", emit(), with("shop-secret-0123456")).await.0, 404);
    assert_eq!(host.http_with("/api/emit", emit(), with("operator-secret-0123")).await.0, 403);
    assert_eq!(host.http_with("/api/plugins", None, with("operator-secret-0123")).await.0, 200);
    assert_eq!(host.http_with("/api/plugins", None, with("shop-secret-0123456")).await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_shows_every_event_with_its_schemas() {
    let host = TestHost::start(&[bundled_plugin("connection"), guest("newcomer")]).await;
    let (status, contract) = host.http_with("/api/events", None, None).await;
    assert_eq!(status, 200);
    let events: Vec<_> = contract["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| json!([event["plugin"], event["direction"], event["event"]]))
        .collect();
    let expected = [
        json!(["connection", "in", "ping"]),
        json!(["connection", "out", "connected"]),
        json!(["connection", "out", "pong"]),
        json!(["newcomer", "in", "tell"]),
        json!(["newcomer", "out", "news"]),
    ];
    assert_eq!(events, expected);
    assert_eq!(contract["events"][0]["data"]["properties"]["timestamp"]["type"], json!("number"));
    assert_eq!(
        contract["rooms"],
        json!([{"room": "newcomers", "access": "anyone", "plugin": "newcomer"}])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_plugins_are_shown() {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    assert_eq!(host.http_with("/healthz", None, None).await.0, 200);
    assert_eq!(host.http_with("/readyz", None, None).await.0, 200);
    assert_eq!(host.http_with("/api/plugins", None, None).await.0, 401);
    assert_eq!(host.http_with("/api/plugins", None, Some("wrong".to_owned())).await.0, 401);
    assert_eq!(host.http_with("/nowhere", None, None).await.0, 404);
    let client = host.client().await;
    client.ask("ping", json!({"timestamp": 1})).await;
    let (status, plugins) = host.http("/api/plugins", None).await;
    assert_eq!(status, 200);
    let row = &plugins[0];
    assert_eq!(
        (&row["name"], &row["state"], &row["events"]),
        (&json!("connection"), &json!("active"), &json!(["ping"]))
    );
    assert_eq!(
        (&row["calls"], &row["failures"], &row["last_error"]),
        (&json!(2), &json!(0), &json!(null)),
        "$connect and ping"
    );
    assert_eq!(row["digest"].as_str().map(str::len), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_happens_to_events() {
    let host = TestHost::start(&[bundled_plugin("connection")]).await;
    assert_eq!(host.http_with("/metrics", None, None).await.0, 401);
    let client = host.client().await;
    client.ask("ping", json!({"timestamp": 1})).await;
    client.ask("ping", json!({"timestamp": "now"})).await;
    client.ask("nobody", json!(1)).await;
    let (status, text) = host.http("/metrics", None).await;
    assert_eq!(status, 200);
    let text = text.as_str().expect("text").to_owned();
    for line in [
        r#"sockhop_events_total{plugin="connection",event="ping",outcome="ok"} 1"#,
        r#"sockhop_events_total{plugin="connection",event="ping",outcome="invalid_payload"} 1"#,
        r#"sockhop_events_total{plugin="",event="",outcome="unknown_event"} 1"#,
        r#"sockhop_handler_seconds_count{plugin="connection"} 2"#,
        r#"sockhop_reloads_total{plugin="connection",outcome="active"} 1"#,
        "sockhop_connections 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}:\n{text}");
    }
    assert!(!text.contains("nobody"), "no label is a client's choice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_required_plugin_is_not_ready() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.plugins.required = vec!["billing".to_owned()]
    })
    .await;
    let (status, problem) = host.http_with("/readyz", None, None).await;
    assert_eq!(status, 503);
    assert!(problem["message"].as_str().expect("a message").contains("billing"), "{problem}");
}
