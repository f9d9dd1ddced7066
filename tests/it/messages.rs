//! Whole Socket.IO messages: lists of arguments, bytes in replies, and what a client has sent when
//! it connected.

use std::fs::File;
use std::num::NonZeroUsize;

use serde_json::{Value, json};
use sockhop_tests::{
    Arguments, HostProcess, TestClient, TestHost, eventually, guest, put, token, with_tokens,
};

fn placeholder(number: u32) -> Value {
    json!({"_placeholder": true, "num": number})
}

fn code(answer: &Arguments) -> &Value {
    &answer.values[0]["error"]["code"]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_list_of_arguments_goes_in_and_out_as_arguments() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let mut client = host.client().await;
    let piece = json!({"user_id": 7, "name": "rook"});
    let answer = client.ask_any(&json!(["move", piece, 3]).to_string(), &[]).await;
    assert_eq!(answer, Arguments::of([json!(true), json!(4)]));
    let moved = Arguments::of([piece, json!(3)]);
    assert_eq!(client.next_list().await, ("moved".to_owned(), moved));
    // One argument of a list is not the list.
    let answer = client.ask_any(r#"["move",[{"user_id":7,"name":"a"},3]]"#, &[]).await;
    assert_eq!(code(&answer), "invalid_payload");
    assert_eq!(answer.values.len(), 1, "a rejection has one argument");
    let answer = client.ask_any(r#"["move",{"user_id":7,"name":"much too long"},3]"#, &[]).await;
    assert_eq!(answer.values[0]["error"]["details"][0]["path"], "/0/name", "{answer:?}");
    assert_eq!(client.pending(), []);
    // Each mix of lists and single arguments, also without any argument.
    for (event, expected) in [
        (r#"["count"]"#, vec![json!(0)]),
        (r#"["count",null]"#, vec![json!(1)]),
        (r#"["count",[1,2],"3"]"#, vec![json!(2)]),
        (r#"["split","a b c"]"#, vec![json!("a"), json!("b"), json!("c")]),
        (r#"["echo_all"]"#, vec![]),
        (r#"["echo_all", 1.50 , [ ] ]"#, vec![json!(1.5), json!([])]),
    ] {
        assert_eq!(client.ask_any(event, &[]).await.values, expected, "{event}");
    }
    let (name, none) = client.next_list().await;
    assert_eq!((name.as_str(), none), ("echoed", Arguments::default()));
    // An event with one argument still has only one.
    let answer = client.ask_any(r#"["split","a","b"]"#, &[]).await;
    assert_eq!(code(&answer), "invalid_payload");
    // An array is not spread for it.
    assert_eq!(code(&client.ask_any(r#"["split",["a"]]"#, &[]).await), "invalid_payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn attachments_stand_anywhere_in_a_list_of_arguments() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let (mut client, other) = (host.client().await, host.client().await);
    let bytes = [vec![1, 2], vec![3]];
    let arguments = [placeholder(0), json!({"in": [placeholder(1)]})];
    let array = json!(["echo_all", arguments[0], arguments[1]]).to_string();
    let expected = Arguments { values: arguments.to_vec(), attachments: bytes.to_vec() };
    assert_eq!(other.ask_any(&array, &bytes).await, expected);
    assert_eq!(client.ask_any(&array, &bytes).await, expected);
    assert_eq!(client.next_list().await, ("echoed".to_owned(), expected));
    let forged = json!(["echo_all", placeholder(0), placeholder(0)]).to_string();
    assert_eq!(code(&client.ask_any(&forged, &bytes).await), "invalid_payload");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reply_and_the_data_of_a_list_must_be_arrays() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let mut client = host.client().await;
    for wrong in ["{}", "null", "7", r#"[{"error":1}]"#] {
        let array = format!(r#"["wrong_list",{wrong}]"#);
        assert_eq!(code(&client.ask_any(&array, &[]).await), "plugin_failed", "{wrong}");
    }
    let array = r#"["wrong_list",["a",{"error":1}]]"#;
    let answer = client.ask_any(array, &[]).await;
    assert_eq!(answer, Arguments::of([json!("a"), json!({"error": 1})]));
    assert_eq!(client.ask("emit_text", json!("[1, \"a\"]")).await, json!(null));
    let text = Arguments::of([json!(1), json!("a")]);
    assert_eq!(client.next_list().await, ("text".to_owned(), text));
    // The host refuses the call, and the handler passes that on.
    assert_eq!(client.ask("emit_text", json!("{}")).await["error"]["code"], "plugin_failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_shows_lists_and_programs_emit_them() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let mut client = host.client().await;
    client.ask_any(r#"["echo_all"]"#, &[]).await;
    client.next_list().await;
    let (_, contract) = host.http("/api/events", None).await;
    let events = contract["events"].as_array().expect("a list");
    let of = |name: &str| events.iter().find(|event| event["event"] == name).expect("an event");
    let list = json!("list");
    let members =
        |name: &str| [&of(name)["arguments"], &of(name)["reply_arguments"]].map(Value::clone);
    assert_eq!(members("move"), [list.clone(), list.clone()]);
    assert_eq!(members("count"), [list.clone(), json!(null)]);
    assert_eq!(members("split"), [json!(null), list.clone()]);
    assert_eq!(members("moved"), [list, json!(null)]);
    assert_eq!(of("move")["data"]["type"], "array");

    let emit = async |data: Value, room: Option<&str>| {
        host.http("/api/emit", Some(json!({"event": "moved", "data": data, "room": room}))).await
    };
    let data = json!([{"user_id": 7, "name": "rook"}, 3]);
    let (status, answer) = emit(data.clone(), Some("board")).await;
    assert_eq!((status, &answer["receivers"]), (202, &json!(1)), "{answer}");
    let moved = Arguments::of([data[0].clone(), data[1].clone()]);
    assert_eq!(client.next_list().await, ("moved".to_owned(), moved));
    // The first argument fills the templates of rooms.
    let (status, answer) = emit(data, None).await;
    assert_eq!((status, &answer["rooms"]), (202, &json!(["board", "user_7"])), "{answer}");
    for wrong in [json!({"user_id": 7, "name": "rook"}), json!([1, 2]), json!(null)] {
        assert_eq!(emit(wrong.clone(), Some("board")).await.0, 422, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_with_a_route_for_a_list_is_refused() {
    let host = TestHost::start(&[]).await;
    put(host.plugins(), &guest("listed_route"));
    let row = host.until("listed_route", |row| !row["last_error"].is_null()).await;
    let reason = row["last_error"]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("POST /sums") && reason.contains("list of arguments"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_carries_the_bytes_that_its_placeholders_name() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let client = host.client().await;
    let pack = async |sizes: &[usize], named: &[u32]| {
        let pack = json!(["pack", {"sizes": sizes, "named": named}]).to_string();
        client.ask_any(&pack, &[]).await
    };
    let packed = |named: &[u32]| {
        let content: Vec<_> = named.iter().map(|number| placeholder(*number)).collect();
        vec![json!({"label": "parcel", "content": content})]
    };
    let answer = pack(&[3, 0, 1], &[0, 1, 2]).await;
    let attachments = vec![vec![7; 3], vec![], vec![7]];
    assert_eq!(answer, Arguments { values: packed(&[0, 1, 2]), attachments });
    assert_eq!(pack(&[], &[]).await, Arguments::of([packed(&[])[0].clone()]));
    for (sizes, named) in [(&[1][..], &[][..]), (&[1], &[1]), (&[1, 1], &[0]), (&[1], &[0, 0])] {
        assert_eq!(code(&pack(sizes, named).await), "plugin_failed", "{sizes:?} {named:?}");
    }
    // Without attachments, it is plain JSON.
    assert_eq!(pack(&[], &[0]).await, Arguments::of([packed(&[0])[0].clone()]));
    for (event, expected) in [("pack_nothing", "plugin_failed"), ("pack_and_refuse", "refused")] {
        let answer = client.ask_any(&json!([event]).to_string(), &[]).await;
        assert_eq!((code(&answer), answer.attachments.len()), (&json!(expected), 0));
    }
    // Nobody waits for the reply.
    client.emit("pack", json!({"sizes": [1], "named": [0]})).await;
    assert_eq!(pack(&[2], &[0]).await.attachments, [[7, 7]]);
    // The answer to an HTTP request has no attachments.
    let body = json!({"sizes": [1], "named": [0]});
    let (status, problem) = host.http("/packs", Some(body)).await;
    assert_eq!((status, &problem["code"]), (500, &json!("plugin_failed")), "{problem}");
    let body = json!({"sizes": [], "named": []});
    assert_eq!(host.http("/packs", Some(body)).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_has_so_many_attachments_and_bytes_as_is_set() {
    let host = TestHost::with(&[guest("parcel")], |config| {
        config.limits.attachments = 2;
        config.limits.attachment_bytes = NonZeroUsize::new(10).expect("a number");
        config.limits.effects_bytes = NonZeroUsize::new(8).expect("a number");
    })
    .await;
    let client = host.client().await;
    for (sizes, named, expected) in [
        (&[4, 4][..], &[0, 1][..], json!(null)),
        (&[1, 1, 1], &[0, 1, 2], json!("too_large")),
        (&[11], &[0], json!("too_large")),
        // Attachments count as effects.
        (&[9], &[0], json!("too_large")),
    ] {
        let pack = json!(["pack", {"sizes": sizes, "named": named}]).to_string();
        assert_eq!(*code(&client.ask_any(&pack, &[]).await), expected, "{sizes:?}");
    }
}

/// Returns what the plugin `parcel` sees of the handshake.
async fn handshake(client: &TestClient) -> Value {
    client.ask("handshake", json!(null)).await
}

fn not_kept() -> Value {
    json!({"auth": null, "query": null})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_asks_sees_the_handshake_without_the_token_that_the_host_takes() {
    let host = TestHost::with(&[guest("parcel"), guest("unasked")], |config| {
        config.auth = with_tokens();
    })
    .await;
    let auth = json!({"token": token("ada", &[], 60), "device": "d7", "number": 1.50}).to_string();
    let query = "&lang=de&room=a%20b&room=c&t=x";
    let client = TestClient::connect_saying(&host.url, &auth, query).await;
    let expected = json!({
        "auth": {"device": "d7", "number": 1.5},
        "query": [["lang", "de"], ["room", "a b"], ["room", "c"]],
    });
    assert_eq!(handshake(&client).await, expected);
    let plain = TestClient::connect_with(&host.url, &token("ada", &[], 60)).await.expect("a token");
    assert_eq!(handshake(&plain).await, json!({"auth": {}, "query": []}));
    // A new token is no new handshake.
    let renewed = client.ask("authenticate", json!({"token": token("ada", &[], 90)})).await;
    assert!(renewed["error"].is_null(), "{renewed}");
    assert_eq!(handshake(&client).await, expected);
    assert_eq!(client.ask("unasked", json!(null)).await, json!(["misuse", "misuse"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_takes_no_tokens_leaves_the_handshake_as_it_was_sent() {
    let host = TestHost::start(&[guest("parcel")]).await;
    let client = TestClient::connect_saying(&host.url, r#"{"token":"123"}"#, "").await;
    assert_eq!(handshake(&client).await, json!({"auth": {"token": "123"}, "query": []}));
    let silent = host.client().await;
    assert_eq!(handshake(&silent).await, json!({"auth": {}, "query": []}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_of_more_bytes_than_is_set_is_not_kept() {
    let host = TestHost::with(&[guest("parcel")], |config| {
        config.limits.handshake_bytes = NonZeroUsize::new(100).expect("a number");
    })
    .await;
    let auth = |length: usize| json!({"a": "x".repeat(length)}).to_string();
    let small = TestClient::connect_saying(&host.url, &auth(20), "&b=c").await;
    assert_eq!(handshake(&small).await["query"], json!([["b", "c"]]));
    let auth_is_large = TestClient::connect_saying(&host.url, &auth(120), "").await;
    assert_eq!(handshake(&auth_is_large).await, not_kept());
    let long = format!("&b={}", "c".repeat(5_000));
    let query_is_large = TestClient::connect_saying(&host.url, "", &long).await;
    assert_eq!(handshake(&query_is_large).await, not_kept());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_handshake_of_a_connection_from_before_the_plugin_is_not_kept() {
    let host = TestHost::start(&[guest("unasked")]).await;
    let before = TestClient::connect_saying(&host.url, r#"{"a":1}"#, "&b=c").await;
    put(host.plugins(), &guest("parcel"));
    eventually("the plugin", async || {
        (before.ask("count", json!(null)).await == json!(1)).then_some(())
    })
    .await;
    assert_eq!(handshake(&before).await, not_kept());
    let after = TestClient::connect_saying(&host.url, r#"{"a":1}"#, "&b=c").await;
    assert_eq!(handshake(&after).await, json!({"auth": {"a": 1}, "query": [["b", "c"]]}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_never_appears_in_the_log() {
    let dir = tempfile::tempdir().expect("a directory");
    let (plugins, data) = (dir.path().join("plugins"), dir.path().join("data"));
    std::fs::create_dir(&plugins).expect("a directory");
    put(&plugins, &guest("parcel"));
    let log = dir.path().join("log");
    let host = HostProcess::with(&plugins, &data, |command| {
        command.env("SOCKHOP_LOG__FILTER", "trace").stderr(File::create(&log).expect("a file"));
    });
    let auth = json!({"secret": "of-the-auth", "large": "x".repeat(5_000)}).to_string();
    let large = TestClient::connect_saying(&host.url, &auth, "&more=of-the-query").await;
    assert_eq!(handshake(&large).await, not_kept());
    let auth = r#"{"secret":"of-the-auth"}"#;
    let client = TestClient::connect_saying(&host.url, auth, "&more=of-the-query").await;
    assert_eq!(handshake(&client).await["auth"]["secret"], "of-the-auth");
    // Rejected events are logged with their connection.
    client.ask("pack", json!(1)).await;
    drop(client);
    let lines = eventually("the log", async || {
        let lines = std::fs::read_to_string(&log).ok()?;
        lines.contains("client disconnected").then_some(lines)
    })
    .await;
    assert!(lines.contains("handshake not kept"), "{lines}");
    assert!(!lines.contains("of-the-auth") && !lines.contains("of-the-query"), "{lines}");
}
