//! Every event gets exactly one answer. The test client checks for every ack that there is only
//! one.

use serde_json::{Value, json};
use sockhop::config::SocketIo;
use sockhop_tests::{TestHost, bundled_plugin, guest, socketio};

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("no error")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_answered_by_its_handlers_reply() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    assert_eq!(
        client.ask("echo", json!({"any": ["thing", 1.5, null]})).await,
        json!({"any": ["thing", 1.5, null]})
    );
    assert_eq!(client.ask("enter", json!(null)).await, json!(null));
    assert_eq!(client.ask_raw(r#"["echo"]"#).await, json!(null), "no argument counts as null");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_names_its_code_its_event_and_an_id() {
    let host = TestHost::start(&[guest("lab"), bundled_plugin("connection")]).await;
    let mut client = host.client().await;
    client.expect("connected").await;
    let cases = [
        (r#"["nobody",1]"#.to_owned(), "unknown_event"),
        (r#"["$connect",1]"#.to_owned(), "unknown_event"),
        (r#"["$disconnect"]"#.to_owned(), "unknown_event"),
        (r#"["disconnect"]"#.to_owned(), "unknown_event"),
        (r#"["newListener"]"#.to_owned(), "unknown_event"),
        (r#"[""]"#.to_owned(), "unknown_event"),
        (r#"["é"]"#.to_owned(), "unknown_event"),
        (format!(r#"["{}"]"#, "x".repeat(65)), "unknown_event"),
        (r#"["ping",{}]"#.to_owned(), "invalid_payload"),
        (r#"["ping",{"timestamp":"1"}]"#.to_owned(), "invalid_payload"),
        (r#"["ping",{"timestamp":1},2]"#.to_owned(), "invalid_payload"),
        (r#"["small",{"number":256}]"#.to_owned(), "invalid_payload"),
        (format!(r#"["echo","{}"]"#, "x".repeat(128 << 10)), "too_large"),
        (format!(r#"["echo",{}{}]"#, "[".repeat(65), "]".repeat(65)), "too_large"),
        (format!(r#"["echo",{}{}]"#, "[".repeat(5_000), "]".repeat(5_000)), "too_large"),
        (r#"["for_users",1]"#.to_owned(), "unauthorized"),
        (r#"["for_admins",1]"#.to_owned(), "unauthorized"),
        (r#"["refuse"]"#.to_owned(), "refused"),
        (r#"["trap"]"#.to_owned(), "plugin_failed"),
        (r#"["bad_reply"]"#.to_owned(), "plugin_failed"),
        (r#"["error_reply"]"#.to_owned(), "plugin_failed"),
        (r#"["undeclared"]"#.to_owned(), "plugin_failed"),
        (r#"["flood"]"#.to_owned(), "too_large"),
        (r#"["grow"]"#.to_owned(), "plugin_failed"),
        (r#"["exit"]"#.to_owned(), "plugin_failed"),
        (r#"["spin"]"#.to_owned(), "timed_out"),
        (r#"["sleep",60000]"#.to_owned(), "timed_out"),
    ];
    for (packet, expected) in cases {
        if ends_with_builtin(&packet) {
            continue;
        }
        let answer = client.ask_raw(&packet).await;
        assert_eq!(code(&answer), expected, "{packet:.60}: {answer}");
        assert_eq!(answer["error"]["id"].as_str().map(str::len), Some(26), "{answer}");
        assert!(
            !answer.to_string().contains("/etc/shadow"),
            "a client never sees a trap's text: {answer}"
        );
    }
    let nested = format!(r#"["echo",{}{}]"#, "[".repeat(64), "]".repeat(64));
    assert_eq!(code(&client.ask_raw(&nested).await), "no error");
    let invalid = client.ask("ping", json!({})).await;
    let details = json!([{"path": "/timestamp", "rule": "required", "message": "is required"}]);
    assert_eq!(
        (&invalid["error"]["event"], &invalid["error"]["details"]),
        (&json!("ping"), &details)
    );
    assert_eq!(client.ask("refuse", json!(null)).await["error"]["reason"], json!("because"));
    assert_eq!(client.pending(), [], "a rejection in an ack is no event as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_ack_a_rejection_is_an_error_event_and_success_is_silent() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    client.emit("nobody", json!(1)).await;
    let error = client.expect("error").await;
    assert_eq!((&error["code"], &error["event"]), (&json!("unknown_event"), &json!("nobody")));
    client.emit("echo", json!(1)).await;
    client.ask("echo", json!(2)).await;
    assert_eq!(client.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_emits_and_replies_fit_the_stack_that_a_guest_leaves() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    let nested: Value =
        serde_json::from_str(&format!("{}{}", "[".repeat(120), "]".repeat(120))).expect("JSON");
    assert_eq!(client.ask("deep", json!(120)).await, nested);
    assert_eq!(client.expect("noise").await, nested);
    assert_eq!(
        code(&client.ask("deep", json!(200)).await),
        "plugin_failed",
        "deeper than JSON may nest"
    );
}

/// Events whose names no official client can send. The builtin implementation closes the
/// connection, as the reference server does.
fn ends_with_builtin(packet: &str) -> bool {
    socketio() == SocketIo::Builtin && [r#"["disconnect"]"#, r#"["newListener"]"#].contains(&packet)
}

/// An unreadable packet is not answered: the connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_is_no_event_at_all_ends_the_connection() {
    let host = TestHost::start(&[guest("lab")]).await;
    let not_json =
        ["42[", r#"42["echo",nope]"#, r#"421["echo",{"a":1]"#, r#"421["echo",1,]"#, "42nope"];
    let no_event = ["42[]", "42", "42{}", "9"];
    let others: &[&str] = match socketio() {
        SocketIo::Builtin => {
            &[r#"42["disconnect"]"#, r#"421["echo",1],["trap"]"#, r#"421["echo",1]]"#]
        }
        SocketIo::Socketioxide => &["42[7,1]", r#"42["a\u0062",1]"#],
    };
    for packet in not_json.into_iter().chain(no_event).chain(others.iter().copied()) {
        let client = host.client().await;
        client.send_raw(packet).await;
        client.closed().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_with_garbage_behind_it_is_not_taken_for_its_beginning() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    match socketio() {
        SocketIo::Builtin => {
            client.send_raw(r#"421["echo",1],["trap"]"#).await;
            client.closed().await;
        }
        SocketIo::Socketioxide => {
            assert_eq!(code(&client.ask_raw(r#"["echo",1],["trap"]"#).await), "invalid_payload")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_that_is_not_json_is_told_apart_from_one_argument_too_many() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    for (packet, message) in [
        (
            r#"["echo",1,{"a":2}]"#,
            "this event has at most one argument, and 2 were sent; put them into one object",
        ),
        (
            r#"["echo",1,2,3]"#,
            "this event has at most one argument, and 3 were sent; put them into one object",
        ),
        (
            r#"["echo",1]]"#,
            "the payload can't be read as JSON: trailing characters at line 1 column 2",
        ),
        (
            r#"["echo",1e999]"#,
            "the payload can't be read as JSON: number out of range at line 1 column 5",
        ),
        (
            r#"["echo","\ud800"]"#,
            "the payload can't be read as JSON: unexpected end of hex escape at line 1 column 8",
        ),
    ] {
        if socketio() == SocketIo::Builtin && packet == r#"["echo",1]]"# {
            // For the builtin implementation, this packet is not JSON at all.
            continue;
        }
        let answer = client.ask_raw(packet).await;
        assert_eq!(code(&answer), "invalid_payload", "{packet}: {answer}");
        assert_eq!(answer["error"]["message"], json!(message), "{packet}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_answers_busy_and_loses_nothing() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    let mut answers = Vec::new();
    let sleeping = client.ask_later(r#"["sleep",300]"#).await;
    // More packets than may wait for a client.
    for number in 0..5_000 {
        answers.push(client.ask_later(&format!(r#"["echo",{number}]"#)).await);
    }
    let (mut replies, mut busy) = (0, 0);
    for (number, answer) in answers.into_iter().enumerate() {
        let answer = sockhop_tests::answered("echo", answer).await;
        match code(&answer) {
            "busy" => {
                assert!(answer["error"]["retry_after_ms"].as_u64().is_some());
                busy += 1;
            }
            _ => {
                assert_eq!(answer, json!(number));
                replies += 1;
            }
        }
    }
    assert_eq!(sleeping.await, Ok(json!(null)));
    // Together with the sleeping event, as many events as a mailbox holds.
    assert!(replies >= 255 && busy > 0, "{replies} replies, {busy} busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_register_may_call_is_misuse_afterwards() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    assert_eq!(client.ask("register_again", json!(null)).await, json!("misuse"));
    assert_eq!(code(&client.ask("late", json!(null)).await), "unknown_event");
}

#[tokio::test(flavor = "multi_thread")]
async fn printing_without_end_does_no_harm() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    assert_eq!(client.ask("print", json!(null)).await, json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_instance_for_each_event_answers_as_a_warm_one() {
    let host = TestHost::with(&[guest("lab")], |config| {
        let settings = sockhop::config::PluginSettings {
            instance_policy: sockhop::config::InstancePolicy::Fresh,
            limits: config.limits.clone(),
            ..Default::default()
        };
        config.plugins.by_name.insert("lab".to_owned(), settings);
    })
    .await;
    let client = host.client().await;
    for number in 0..20 {
        assert_eq!(client.ask("echo", json!(number)).await, json!(number));
    }
}
