//! The HTTP routes of plugins: the same records, checks, rules and broadcasts as the events.

use serde_json::{Value, json};
use sockhop::config::{Key, Scope};
use sockhop_tests::{
    Answer, TestClient, TestHost, bundled_plugin, drop_in, guest, send, token, with_tokens,
};

const JSON: (&str, &str) = ("Content-Type", "application/json");

/// A host with the plugins that have routes.
async fn host() -> TestHost {
    TestHost::start(&plugins()).await
}

fn plugins() -> [std::path::PathBuf; 4] {
    let [subscription, memory_logs, mental_notes] =
        ["subscription", "memory_logs", "mental_notes"].map(bundled_plugin);
    [subscription, memory_logs, mental_notes, guest("lab")]
}

fn post(host: &TestHost, path: &str, body: &Value) -> Answer {
    send(&host.url, &format!("POST {path}"), &[JSON], &body.to_string())
}

fn get(host: &TestHost, path: &str) -> Answer {
    send(&host.url, &format!("GET {path}"), &[], "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_created_over_http_is_stored_and_reaches_each_subscriber_once() {
    let host = host().await;
    let (mut one, mut two) = (host.client().await, host.client().await);
    for client in [&one, &two] {
        client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
    }
    let body = json!({"user_id": 7, "content": "tea", "unknown": true});
    let created = post(&host, "/memory-logs", &body);
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.header("content-type"), Some("application/json"));
    let record = created.json();
    let location = format!("/memory-logs/{}", record["id"]);
    assert_eq!(created.header("location"), Some(location.as_str()));
    for client in [&mut one, &mut two] {
        assert_eq!(client.expect("memory_log_created").await, record);
    }
    assert_eq!(get(&host, &location).json(), record);
    assert_eq!(one.ask("memory_log_get", json!({"id": record["id"]})).await, record);

    let patched = send(
        &host.url,
        &format!("PATCH {location}"),
        &[("Content-Type", "application/merge-patch+json; charset=utf-8")],
        r#"{"content": "coffee"}"#,
    );
    assert_eq!((patched.status, &patched.json()["content"]), (200, &json!("coffee")));
    assert_eq!(one.expect("memory_log_updated").await, patched.json());
    for query in ["", "?user_id=7", "?limit=1&user_id=7", "?before=1000&limit=100"] {
        let listed = get(&host, &format!("/memory-logs{query}"));
        assert_eq!(listed.json(), json!({"items": [patched.json()], "next": null}), "{query}");
    }
    assert_eq!(get(&host, "/memory-logs?user_id=8").json()["items"], json!([]));

    let deleted = send(&host.url, &format!("DELETE {location}"), &[], "");
    assert_eq!((deleted.status, deleted.json()), (200, json!({"id": record["id"]})));
    assert_eq!(one.expect("memory_log_deleted").await, deleted.json());
    let gone = get(&host, &location);
    assert_eq!((gone.status, &gone.json()["reason"]), (404, &json!("not_found")));
    assert_eq!(gone.header("content-type"), Some("application/problem+json"));
    assert_eq!(gone.json()["event"], json!("memory_log_get"));

    let note =
        post(&host, "/mental-notes", &json!({"user_id": "x", "content": "y", "tags": ["z"]}));
    assert_eq!((note.status, note.header("location")), (201, Some("/mental-notes/1")));
    assert_eq!(get(&host, "/mental-notes/1").json(), note.json());
    assert_eq!(two.pending().len(), 2, "the update and the deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_wrong_is_told_what_is_wrong_and_changes_nothing() {
    let host = host().await;
    let create = "POST /memory-logs";
    let good = r#"{"user_id": 7, "content": "tea"}"#;
    let large = format!(r#"{{"user_id": 7, "content": "{}"}}"#, "x".repeat(200 << 10));
    let deep = format!(r#"{{"user_id": 7, "content": {}1{}}}"#, "[".repeat(90), "]".repeat(90));
    for (line, headers, body, status, code) in [
        (create, &[JSON][..], r#"{"user_id": 7}"#, 422, "invalid_payload"),
        (create, &[JSON], r#"{"user_id": 7, "content": ""}"#, 422, "invalid_payload"),
        (create, &[JSON], "[]", 422, "invalid_payload"),
        (create, &[JSON], "", 422, "invalid_payload"),
        (create, &[JSON], "{", 400, "invalid_payload"),
        (create, &[JSON], "{} {}", 400, "invalid_payload"),
        (create, &[], good, 415, "unsupported_media_type"),
        (create, &[("Content-Type", "text/plain")], good, 415, "unsupported_media_type"),
        (create, &[JSON], &large, 413, "too_large"),
        (create, &[JSON], &deep, 413, "too_large"),
        ("POST /memory-logs?content=x", &[JSON], good, 422, "invalid_payload"),
        ("GET /memory-logs", &[JSON], "{}", 400, "invalid_payload"),
        ("GET /memory-logs?limit=0", &[], "", 422, "invalid_payload"),
        ("GET /memory-logs?limit=many", &[], "", 422, "invalid_payload"),
        ("GET /memory-logs/1?id=1", &[], "", 422, "invalid_payload"),
        ("GET /memory-logs/x", &[], "", 422, "invalid_payload"),
        ("GET /memory-logs/7", &[], "", 404, "refused"),
        ("GET /memory-logs/%FF", &[], "", 400, "bad_request"),
        ("GET /memory-logs/7/8", &[], "", 404, "not_found"),
        ("GET /memory-logs/", &[], "", 404, "not_found"),
        ("GET /MEMORY-LOGS", &[], "", 404, "not_found"),
        ("PUT /memory-logs", &[JSON], good, 405, "method_not_allowed"),
        ("TRACE /memory-logs", &[], "", 405, "method_not_allowed"),
    ] {
        let answer = send(&host.url, line, headers, body);
        let document = answer.json();
        let shown: String = format!("{line} {body}").chars().take(80).collect();
        assert_eq!(
            (answer.status, &document["code"]),
            (status, &json!(code)),
            "{shown}: {answer:?}"
        );
        assert_eq!(document["status"], json!(status), "{shown}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{shown}");
    }
    let refused = post(&host, "/memory-logs", &json!({"user_id": 7, "content": 1})).json();
    assert_eq!(refused["details"][0]["path"], json!("/content"), "{refused}");
    assert_eq!(get(&host, "/memory-logs").json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_answers_head_and_options_and_names_the_methods_of_a_path() {
    let host = host().await;
    post(&host, "/memory-logs", &json!({"user_id": 7, "content": "tea"}));
    let full = get(&host, "/memory-logs/1");
    let head = send(&host.url, "HEAD /memory-logs/1", &[], "");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-length"), Some(full.body.len().to_string().as_str()));
    let allowed = "GET, PATCH, DELETE, HEAD, OPTIONS";
    let options = send(&host.url, "OPTIONS /memory-logs/1", &[], "");
    assert_eq!((options.status, options.header("allow")), (204, Some(allowed)));
    let wrong = send(&host.url, "POST /memory-logs/1", &[JSON], "{}");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some(allowed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_of_the_event_decides_what_a_path_and_a_body_mean() {
    let host = host().await;
    assert_eq!(get(&host, "/lab/small/7").json(), json!(7));
    assert_eq!(get(&host, "/lab/small/300").status, 422);
    let put = send(&host.url, "PUT /lab/echo/a%2Fb%20c?n=1&n=x", &[JSON], r#"{"big": 1.0e2}"#);
    assert_eq!(put.json(), json!({"name": "a/b c", "n": [1, "x"], "big": 100.0}));
    let trap = post(&host, "/lab/trap", &json!(null));
    assert_eq!((trap.status, &trap.json()["code"]), (500, &json!("plugin_failed")));
    assert!(!trap.body.contains("shadow"), "{}", trap.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_a_route_is_a_user_by_its_token_or_a_program_by_its_key() {
    let key = |name: &str, scope, user: Option<&str>, roles: &[&str]| Key {
        name: name.to_owned(),
        secret: Some(format!("{name}-secret-0123456789")),
        secret_file: None,
        scopes: vec![scope],
        user: user.map(str::to_owned),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    };
    let host = TestHost::with(&plugins(), |config| {
        config.auth = with_tokens();
        config.keys = vec![
            key("metrics", Scope::Metrics, None, &[]),
            key("shop", Scope::Route, None, &[]),
            key("seven", Scope::Route, Some("7"), &[]),
            key("chief", Scope::Route, Some("1"), &["admin"]),
        ];
    })
    .await;
    let token = |user: &str, roles: &[&str]| token(user, roles, 3_600);
    let (seven, eight, admin) = (token("7", &[]), token("8", &[]), token("9", &["admin"]));
    let forged = format!("{}x", token("7", &[]));
    let secret = |name: &str| format!("{name}-secret-0123456789");
    let ask = |line: &str, bearer: &str, body: &str| {
        let bearer = format!("Bearer {bearer}");
        send(&host.url, line, &[JSON, ("Authorization", &bearer)], body)
    };
    let create = r#"{"user_id": 7, "content": "tea"}"#;
    for (bearer, status, code) in [
        (seven.as_str(), 201, ""),
        (&eight, 403, "forbidden"),
        (&admin, 201, ""),
        (&forged, 401, "unauthorized"),
        ("nonsense", 401, "unauthorized"),
        (&secret("metrics"), 403, "forbidden"),
        (&secret("shop"), 201, ""),
        (&secret("seven"), 201, ""),
        (&secret("chief"), 201, ""),
    ] {
        let answer = ask("POST /memory-logs", bearer, create);
        let code = if code.is_empty() { Value::Null } else { json!(code) };
        assert_eq!((answer.status, &answer.json()["code"]), (status, &code), "{bearer}");
    }
    let nobody = send(&host.url, "POST /memory-logs", &[JSON], create);
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some("Bearer")));

    // The owner of a record decides, for every route.
    for line in ["GET /memory-logs/1", "DELETE /memory-logs/1", "GET /memory-logs?user_id=7"] {
        assert_eq!(ask(line, &eight, "").status, 403, "{line}");
    }
    assert_eq!(ask("PATCH /memory-logs/1", &eight, r#"{"content": "x"}"#).status, 403);
    assert_eq!(ask("GET /memory-logs", &eight, "").json()["items"], json!([]));
    assert_eq!(ask("GET /memory-logs/1", &seven, "").status, 200);

    // A caller without the right learns nothing about the payload.
    for (line, bearer, status) in [
        ("POST /lab/for-users", seven.clone(), 200),
        ("POST /lab/for-users", secret("shop"), 401),
        ("POST /lab/for-users", secret("seven"), 200),
        ("POST /lab/for-admins", seven.clone(), 403),
        ("POST /lab/for-admins", admin.clone(), 200),
        ("POST /lab/for-admins", secret("chief"), 200),
    ] {
        assert_eq!(ask(line, &bearer, "{}").status, status, "{line} {bearer}");
    }
    assert_eq!(ask("POST /lab/for-admins", &seven, "{").status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_everybody_may_call_a_route_but_with_a_wrong_key() {
    let host = host().await;
    let ask = |bearer: &str| {
        let bearer = format!("Bearer {bearer}");
        send(&host.url, "GET /memory-logs", &[("Authorization", &bearer)], "").status
    };
    assert_eq!(get(&host, "/memory-logs").status, 200);
    assert_eq!((ask(host.key()), ask("wrong")), (200, 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_come_and_go_with_their_plugin_and_have_one_owner() {
    let host = TestHost::start(&[bundled_plugin("memory_logs")]).await;
    assert_eq!(get(&host, "/mental-notes").status, 404);
    let notes = bundled_plugin("mental_notes");
    let placed =
        drop_in(host.plugins(), "mental_notes.wasm", &std::fs::read(notes).expect("a plugin"));
    host.until("mental_notes", |row| row["state"] == "active").await;
    assert_eq!(get(&host, "/mental-notes").status, 200);
    assert_eq!(host.http("/api/plugins/mental_notes/disable", Some(json!({}))).await.0, 200);
    assert_eq!(get(&host, "/mental-notes").status, 503);
    assert_eq!(host.http("/api/plugins/mental_notes/enable", Some(json!({}))).await.0, 200);
    std::fs::remove_file(placed).expect("a file to remove");
    host.until("mental_notes", |row| row["state"] != "active").await;
    assert_eq!(get(&host, "/mental-notes").status, 404);

    let squatter = std::fs::read(guest("squatter")).expect("a guest");
    drop_in(host.plugins(), "squatter.wasm", &squatter);
    let row = host.until("squatter", |row| !row["last_error"].is_null()).await;
    let reason = row["last_error"]["reason"].to_string();
    assert!(reason.contains("GET /memory-logs/{id}") && reason.contains("memory_logs"), "{reason}");
    assert_eq!(get(&host, "/memory-logs/latest").status, 422, "still of its owner");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_that_are_served_are_described() {
    let host = host().await;
    let (status, document) = host.http_with("/api/openapi.json", None, None).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    let create = &document["paths"]["/memory-logs"]["post"];
    assert_eq!(create["operationId"], json!("post/memory-logs"));
    assert!(create["responses"]["201"]["headers"]["Location"].is_object(), "{create}");
    let methods = document["paths"]["/memory-logs/{id}"].as_object().expect("methods");
    assert_eq!(methods.keys().collect::<Vec<_>>(), ["delete", "get", "patch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_and_a_route_share_one_state() {
    let host = host().await;
    let client: TestClient = host.client().await;
    let by_event = client.ask("memory_log_create", json!({"user_id": 7, "content": "a"})).await;
    let by_route = post(&host, "/memory-logs", &json!({"user_id": 7, "content": "b"})).json();
    assert_eq!(by_route["id"].as_u64(), by_event["id"].as_u64().map(|id| id + 1));
    let listed = client.ask("memory_log_list", json!({})).await;
    assert_eq!(listed["items"], json!([by_route, by_event]));
}
