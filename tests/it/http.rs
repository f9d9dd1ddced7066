//! The HTTP API for business systems and operators.

use serde_json::{Value, json};
use sockhop::config::DeclaredEvent;
use sockhop_tests::{TestClient, TestHost, bundled_plugin, guest, send};

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

const DELETED: &str =
    r#"{"event": "memory_log_deleted", "data": {"id": 7}, "room": "memory_logs"}"#;

/// Emits with these headers, and the host's own key.
fn emit(host: &TestHost, headers: &[(&str, &str)], body: &str) -> sockhop_tests::Answer {
    let key = format!("Bearer {}", host.key());
    let mut all = vec![("Authorization", key.as_str())];
    all.extend_from_slice(headers);
    send(&host.url, "POST /api/emit", &all, body)
}

async fn host_with_a_subscriber() -> (TestHost, TestClient) {
    let host = TestHost::start(&["subscription", "memory_logs"].map(bundled_plugin)).await;
    let client = host.client().await;
    client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    (host, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_answered_again_and_emits_nothing_also_after_a_restart() {
    let (host, mut client) = host_with_a_subscriber().await;
    let key = [("Idempotency-Key", "order-7"), ("Content-Type", "application/json")];
    let first = emit(&host, &key, DELETED);
    assert_eq!((first.status, &first.json()["receivers"]), (202, &json!(1)), "{first:?}");
    assert_eq!(client.expect("memory_log_deleted").await, json!({"id": 7}));
    let again = emit(&host, &key, DELETED);
    assert_eq!((again.status, again.json()), (202, first.json()));
    let other = emit(&host, &key, &DELETED.replace('7', "8"));
    assert_eq!((other.status, &other.json()["code"]), (422, &json!("invalid_payload")));
    // A rejected request is not kept.
    let bad = [("Idempotency-Key", "order-8")];
    assert_eq!(emit(&host, &bad, r#"{"event": "nobody"}"#).status, 404);
    assert_eq!(emit(&host, &bad, &DELETED.replace('7', "8")).status, 202);
    assert_eq!(client.expect("memory_log_deleted").await, json!({"id": 8}));
    client.ask("memory_log_list", json!({})).await;
    assert_eq!(client.pending(), []);

    let host = host.restart().await;
    let mut client = host.client().await;
    client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    assert_eq!(emit(&host, &key, DELETED).json(), first.json());
    client.ask("memory_log_list", json!({})).await;
    assert_eq!(client.pending(), []);
    let fresh = emit(&host, &[("Idempotency-Key", "\"order-9\"")], DELETED);
    assert_ne!(fresh.json()["id"], first.json()["id"]);
    assert_eq!(client.expect("memory_log_deleted").await, json!({"id": 7}));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_answers_of_one_key_have_no_more_bytes_than_is_set() {
    let plugins = ["subscription", "memory_logs"].map(bundled_plugin);
    let host = TestHost::with(&plugins, |config| {
        config.limits.idempotency_bytes = std::num::NonZeroUsize::new(600).expect("not zero");
    })
    .await;
    let mut full = None;
    for number in 0..10 {
        let answer = emit(&host, &[("Idempotency-Key", &number.to_string())], DELETED);
        if answer.status != 202 {
            full = Some(answer);
            break;
        }
    }
    let full = full.expect("an answer that finds no space");
    assert_eq!((full.status, &full.json()["code"]), (429, &json!("rate_limited")));
    assert!(host.figure("sockhop_idempotency_bytes").await >= 600);
    assert_eq!(emit(&host, &[("Idempotency-Key", "0")], DELETED).status, 202, "a known one");
    assert_eq!(emit(&host, &[], DELETED).status, 202, "without a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_emitted_as_a_whole_or_not_at_all() {
    let (host, mut client) = host_with_a_subscriber().await;
    let event =
        |id: u64| json!({"event": "memory_log_deleted", "data": {"id": id}, "room": "memory_logs"});
    let bad = json!([event(1), {"event": "memory_log_deleted", "data": {"id": "x"}}]);
    assert_eq!(emit(&host, &[], &bad.to_string()).status, 422);
    let many = json!((0..101).map(event).collect::<Vec<_>>());
    assert_eq!(emit(&host, &[], &many.to_string()).status, 413);
    let good = emit(&host, &[], &json!([event(1), event(2)]).to_string());
    let expected = json!([{"rooms": ["memory_logs"], "receivers": 1}, {"rooms": ["memory_logs"], "receivers": 1}]);
    assert_eq!((good.status, &good.json()["events"]), (202, &expected));
    for id in [1, 2] {
        assert_eq!(client.expect("memory_log_deleted").await, json!({"id": id}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_event_is_emitted_once_in_each_form() {
    let (host, mut client) = host_with_a_subscriber().await;
    let event = |id: &str| {
        json!({"specversion": "1.0", "type": "memory_log_deleted", "source": "/shop", "id": id,
               "room": "memory_logs", "data": {"id": 7}})
    };
    let structured = [("Content-Type", "application/cloudevents+json")];
    let batch = [("Content-Type", "application/cloudevents-batch+json")];
    let binary = [
        ("Content-Type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "memory_log_deleted"),
        ("ce-source", "/shop"),
        ("ce-id", "4"),
        ("ce-room", "memory_logs"),
    ];
    for (headers, body) in [
        (&structured[..], event("1").to_string()),
        (&batch, json!([event("2"), event("3")]).to_string()),
        (&binary, json!({"id": 7}).to_string()),
    ] {
        let answer = emit(&host, headers, &body);
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    for _ in 0..4 {
        assert_eq!(client.expect("memory_log_deleted").await, json!({"id": 7}));
    }
    // The source and the id are its key.
    assert_eq!(emit(&host, &structured, &event("1").to_string()).status, 202);
    client.ask("memory_log_list", json!({})).await;
    assert_eq!(client.pending(), []);
    assert_eq!(emit(&host, &[("Content-Type", "text/plain")], DELETED).status, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_declares_events_and_more_receivers() {
    let schemas = tempfile::tempdir().expect("a directory");
    let file = schemas.path().join("price.json");
    std::fs::write(&file, r#"{"type": "object", "required": ["price"]}"#).expect("a file");
    let declared = |event: &str, schema_file, rooms: &[&str], everyone| DeclaredEvent {
        event: event.to_owned(),
        schema_file,
        rooms: rooms.iter().map(|room| (*room).to_owned()).collect(),
        everyone,
    };
    let host = TestHost::with(&["subscription", "memory_logs"].map(bundled_plugin), |config| {
        config.events = vec![
            declared("price_changed", Some(file.clone()), &["memory_logs"], false),
            declared("memory_log_deleted", None, &[], true),
            declared("of_nobody", None, &[], true),
        ];
    })
    .await;
    let mut client = host.client().await;
    client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    let ask = |body: Value| emit(&host, &[], &body.to_string());
    assert_eq!(ask(json!({"event": "price_changed", "data": {"price": 1}})).status, 202);
    assert_eq!(client.expect("price_changed").await, json!({"price": 1}));
    assert_eq!(ask(json!({"event": "price_changed", "data": {}})).status, 422);
    let all = json!({"event": "price_changed", "data": {"price": 1}, "everyone": true});
    assert_eq!(ask(all).status, 403);
    let deleted = json!({"event": "memory_log_deleted", "data": {"id": 1}, "everyone": true});
    assert_eq!(ask(deleted).status, 202);
    assert_eq!(client.expect("memory_log_deleted").await, json!({"id": 1}));
    let wrong = json!({"event": "memory_log_deleted", "data": {"id": "x"}, "everyone": true});
    assert_eq!(ask(wrong).status, 422, "the plugin's schema holds");
    assert_eq!(ask(json!({"event": "of_nobody", "data": 1, "everyone": true})).status, 404);
    let (_, contract) = host.http_with("/api/events", None, None).await;
    let events = contract["events"].as_array().expect("events");
    let of_operator = events.iter().filter(|event| event["plugin"].is_null());
    let shown: Vec<_> =
        of_operator.map(|event| (&event["event"], &event["data"]["required"])).collect();
    let names = ["memory_log_deleted", "price_changed"].map(Value::from);
    let required = [json!(["id"]), json!(["price"])];
    assert_eq!(shown, names.iter().zip(&required).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_address_of_their_own_operators_are_served_there_and_clients_elsewhere() {
    let host = TestHost::with(&["connection", "memory_logs"].map(bundled_plugin), |config| {
        config.admin.listen = Some("127.0.0.1:0".parse().expect("an address"));
    })
    .await;
    let status = |url: &str, path: &str| {
        let key = format!("Bearer {}", host.key());
        send(url, &format!("GET {path}"), &[("Authorization", &key)], "").status
    };
    for path in ["/api/plugins", "/api/events", "/api/openapi.json", "/metrics"] {
        assert_eq!((status(&host.operators, path), status(&host.url, path)), (200, 404), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!((status(&host.operators, path), status(&host.url, path)), (200, 200), "{path}");
    }
    let handshake = "/socket.io/?EIO=4&transport=polling";
    for path in ["/memory-logs", handshake] {
        assert_eq!((status(&host.operators, path), status(&host.url, path)), (404, 200), "{path}");
    }
    let client = host.client().await;
    assert_eq!(client.ask("memory_log_list", json!({})).await["items"], json!([]));
    // Commands on this machine find the address of operators.
    let told = std::fs::read_to_string(host.data().join("address")).expect("the address");
    assert_eq!(told.trim(), host.operators);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_only_what_its_scopes_allow() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        let key = |name: &str, secret: &str, scope| sockhop::config::Key {
            name: name.to_owned(),
            secret: Some(secret.to_owned()),
            secret_file: None,
            scopes: vec![scope],
            user: None,
            roles: Vec::new(),
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
