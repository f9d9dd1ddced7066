//! Clients with tokens: who they are, and what happens when a token expires, or is replaced or
//! revoked.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sockhop::auth::sign;
use sockhop::config::{AuthConfig, AuthMode, Config, JwksConfig, TokenAlgorithm};
use sockhop_tests::{TestClient, TestHost, bundled_plugin, eventually, guest, token, with_tokens};

async fn host(settings: AuthConfig) -> TestHost {
    let [connection, subscription, memory_logs] =
        ["connection", "subscription", "memory_logs"].map(bundled_plugin);
    let plugins = [connection, subscription, memory_logs, guest("lab")];
    TestHost::with(&plugins, |config: &mut Config| config.auth = settings).await
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs()
}

async fn connect(host: &TestHost, token: &str) -> TestClient {
    let connected = TestClient::connect_with(&host.url, token).await;
    connected.unwrap_or_else(|refused| panic!("{refused}"))
}

fn code(answer: &Value) -> &Value {
    &answer["error"]["code"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_who_its_token_says_and_without_a_valid_token_it_is_refused() {
    let host = host(with_tokens()).await;
    let mut seven = connect(&host, &token("7", &[], 3_600)).await;
    let admin = connect(&host, &token("8", &["admin"], 3_600)).await;
    assert_eq!(seven.expect("connected").await["user_id"], json!("7"));
    assert_eq!(seven.ask("for_users", json!(1)).await, json!(1));
    assert_eq!(code(&seven.ask("for_admins", json!(1)).await), "forbidden");
    assert_eq!(admin.ask("for_admins", json!(1)).await, json!(1));
    // Each connection is in the room of its user.
    let created = admin.ask("memory_log_create", json!({"user_id": "8", "content": "x"})).await;
    assert!(created["error"].is_null(), "{created}");
    let rooms = admin.ask("my_rooms", json!(null)).await;
    assert!(rooms.as_array().is_some_and(|rooms| rooms.contains(&json!("user_8"))), "{rooms}");

    let expired = token("7", &[], 0);
    tokio::time::sleep(Duration::from_secs(4)).await;
    for bad in ["", "x", "a.b.c", &expired, &format!("{}x", token("7", &[], 60))] {
        let refused = TestClient::connect_with(&host.url, bad).await.err();
        assert_eq!(refused, Some(json!({"message": "unauthorized"})), "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_token_expires_is_told_and_its_transport_is_closed_within_30_seconds() {
    let host = host(with_tokens()).await;
    let mut client = connect(&host, &token("7", &[], 3)).await;
    let expires = Instant::now() + Duration::from_secs(3);
    client.expect("connected").await;
    assert_eq!(client.ask("for_users", json!(1)).await, json!(1));
    let told = client.expect("error").await;
    let after = Instant::now().saturating_duration_since(expires);
    assert_eq!(told["code"], json!("unauthorized"), "{told}");
    assert!(after < Duration::from_secs(5), "{after:?}");
    assert_eq!(code(&client.ask("for_users", json!(1)).await), "unauthorized");
    client.closed().await;
    let after = Instant::now().saturating_duration_since(expires);
    assert!(after < Duration::from_secs(30), "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_of_the_same_user_keeps_the_connection_and_its_roles_count_at_once() {
    let host = host(with_tokens()).await;
    let mut client = connect(&host, &token("7", &["admin"], 5)).await;
    client.expect("connected").await;
    let rooms = async |client: &TestClient| {
        let mut rooms: Vec<String> =
            serde_json::from_value(client.ask("my_rooms", json!(null)).await).expect("rooms");
        rooms.sort();
        rooms
    };
    let joined = client.ask("subscribe_event", json!({"event_type": "admin"})).await;
    assert_eq!(joined["status"], json!("subscribed"), "{joined}");
    assert_eq!(rooms(&client).await, ["admin", "user_7"]);
    for (payload, expected) in [
        (json!({"token": token("8", &["admin"], 60)}), "unauthorized"),
        (json!({"token": "x"}), "unauthorized"),
        (json!({"token": 5}), "invalid_payload"),
        (json!(null), "invalid_payload"),
    ] {
        let answer = client.ask("authenticate", payload).await;
        assert_eq!(code(&answer), expected, "{answer}");
    }
    let expires_at = now() + 60;
    let new = token("7", &[], 60);
    let answer = client.ask("authenticate", json!({"token": new})).await;
    let until = answer["expires_at"].as_u64().unwrap_or_default();
    assert!(until.abs_diff(expires_at) <= 2, "{answer}");
    assert_eq!(rooms(&client).await, ["user_7"], "without the role, not in its room");
    assert_eq!(code(&client.ask("for_admins", json!(1)).await), "forbidden");
    // Longer than the first token was valid.
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(client.ask("for_users", json!(1)).await, json!(1));
    assert_eq!(client.pending(), [], "no word of an expired token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_a_new_token_in_time_is_served_again() {
    let grace_ms = Duration::from_secs(3);
    let host = host(AuthConfig { grace_ms, ..with_tokens() }).await;
    let mut client = connect(&host, &token("7", &[], 0)).await;
    client.expect("connected").await;
    client.expect("error").await;
    assert_eq!(code(&client.ask("for_users", json!(1)).await), "unauthorized");
    let answer = client.ask("authenticate", json!({"token": token("7", &[], 60)})).await;
    assert!(answer["expires_at"].is_number(), "{answer}");
    assert_eq!(client.ask("for_users", json!(1)).await, json!(1));
    tokio::time::sleep(grace_ms + Duration::from_secs(2)).await;
    assert_eq!(client.ask("for_users", json!(1)).await, json!(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_ends_the_connections_of_a_user_and_revokes_its_tokens() {
    let host = host(with_tokens()).await;
    let old = token("7", &[], 3_600);
    let (first, second, other) = (
        connect(&host, &old).await,
        connect(&host, &old).await,
        connect(&host, &token("8", &[], 3_600)).await,
    );
    let post = async |what: &str, body: Value| {
        host.http(&format!("/api/users/7/{what}"), Some(body)).await
    };
    let (status, answer) = post("disconnect", json!({})).await;
    assert_eq!((status, answer), (200, json!({"user": "7", "connections": 2})));
    first.closed().await;
    second.closed().await;
    let again = connect(&host, &old).await;

    let (status, answer) = post("revoke", json!({})).await;
    assert_eq!((status, &answer["connections"]), (200, &json!(1)), "{answer}");
    let long = format!("/api/users/{}/revoke", "7".repeat(1_000));
    assert_eq!(host.http(&long, Some(json!({}))).await.0, 400);
    again.closed().await;
    let refused = || async { TestClient::connect_with(&host.url, &old).await.err() };
    assert_eq!(refused().await, Some(json!({"message": "unauthorized"})));
    assert_eq!(other.ask("for_users", json!(1)).await, json!(1), "another user is served");
    // A token that is issued a second later is accepted.
    eventually("a new token", async || {
        TestClient::connect_with(&host.url, &token("7", &[], 60)).await.ok()
    })
    .await;
    for (body, expected) in [
        (json!({"issued_before": -1}), 400),
        (json!({"issued_before": u64::MAX}), 400),
        (json!({"x": 1}), 400),
    ] {
        assert_eq!(post("revoke", body).await.0, expected);
    }
    assert_eq!(host.http_with("/api/users/7/revoke", Some(json!({})), None).await.0, 401);

    // A restart does not accept it again.
    let host = host.restart_with(|config| config.auth = with_tokens()).await;
    let refused = TestClient::connect_with(&host.url, &old).await.err();
    assert_eq!(refused, Some(json!({"message": "unauthorized"})));
}

/// Two keys for Ed25519: the private key without its PEM lines, and the public key. They are those
/// of RFC 8032, section 7.1, tests 1 and 2.
const PAIRS: [(&str, &str); 2] = [
    (
        "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g",
        "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    ),
    (
        "MC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7",
        "PUAXw-hDiVqStwqnTRt-vJyYLM8uxJaMwM1V8Sr0Zgw",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_that_changes_is_in_force_and_ends_no_connection() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("jwks.json");
    // Replaced in one step, as tools for keys do it.
    let publish = |pair: usize| {
        let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": PAIRS[pair].1}]});
        let next = dir.path().join("next.json");
        std::fs::write(&next, set.to_string()).expect("a file");
        std::fs::rename(&next, &file).expect("a file");
    };
    publish(0);
    let algorithms = vec![TokenAlgorithm::EdDSA];
    let jwks = Some(JwksConfig { file: file.clone(), algorithms });
    let settings = AuthConfig { mode: AuthMode::Jwt, jwks, ..AuthConfig::default() };
    let token_of = |pair: usize| {
        let pem = dir.path().join("private.pem");
        let content =
            format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", PAIRS[pair].0);
        std::fs::write(&pem, content).expect("a file");
        let claims = json!({"sub": "7", "exp": now() + 600});
        sign(&settings, Some(&pem), claims.as_object().expect("an object")).expect("a token")
    };
    let host = host(settings.clone()).await;
    let mut clients = vec![connect(&host, &token_of(0)).await];
    for new in [1, 0, 1] {
        publish(new);
        let client = eventually("the new key", async || {
            TestClient::connect_with(&host.url, &token_of(new)).await.ok()
        });
        clients.push(client.await);
        let old = TestClient::connect_with(&host.url, &token_of(1 - new)).await.err();
        assert_eq!(old, Some(json!({"message": "unauthorized"})));
        // A set that can't be read changes nothing.
        std::fs::write(&file, "{").expect("a file");
        tokio::time::sleep(Duration::from_secs(2)).await;
        clients.push(connect(&host, &token_of(new)).await);
    }
    for client in &clients {
        assert_eq!(client.ask("for_users", json!(1)).await, json!(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_anonymous_clients_allowed_only_an_invalid_token_is_refused() {
    let host = host(AuthConfig { anonymous: true, ..with_tokens() }).await;
    let anonymous = host.client().await;
    assert_eq!(code(&anonymous.ask("for_users", json!(1)).await), "unauthorized");
    let answer = anonymous.ask("authenticate", json!({"token": token("7", &[], 60)})).await;
    assert_eq!(code(&answer), "unauthorized", "an anonymous client does not become a user");
    assert!(TestClient::connect_with(&host.url, "x").await.is_err());
    assert!(TestClient::connect_with(&host.url, &token("7", &[], 60)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_authenticate_is_unauthorized() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    let answer = client.ask("authenticate", json!({"token": "x"})).await;
    assert_eq!(code(&answer), "unauthorized", "{answer}");
    let (status, answer) = host.http("/api/users/7/revoke", Some(json!({}))).await;
    assert_eq!((status, &answer["code"]), (409, &json!("refused")), "{answer}");
}
