//! Native tests: what the backend gets, and what its answers do.

use serde_json::{Value, json};
use sockhop_sdk::http::Response;
use sockhop_sdk::testing::{Effect, Outcome, TestHost};
use sockhop_sdk::{Level, Target};

use super::*;

const URL: &str = "http://backend.test/events";

/// The settings of most tests.
const SETTINGS: [(&str, &str); 4] = [
    ("url", URL),
    ("events", r#"{"enter": {}, "say": {"data": {"type": "string"}}, "$connect": {}}"#),
    (
        "emits",
        r#"{"said": {"rooms": ["chat", "user_{user}"], "data": {"type": "object"}}, "all": {"rooms": ["*"]}}"#,
    ),
    ("rooms", r#"{"chat": "handler", "user_{user}": "owner"}"#),
];

/// A host whose backend answers 200 with this document.
fn host(answer: Value) -> TestHost {
    answering(Response::new(200, answer.to_string()))
}

fn answering(response: Response) -> TestHost {
    let mut host = TestHost::with_settings(plugin(), &SETTINGS);
    host.stub(URL, response);
    host
}

/// The outcome if the backend's answer is wrong, and what the log has then.
fn failure(host: &mut TestHost) -> String {
    let outcome = host.handle("enter", json!(null));
    let message = "the backend failed; the host's log has more under this id";
    assert_eq!(outcome, Outcome::refused("backend_failed", message));
    match host.log() {
        [.., (Level::Error, line)] => line.clone(),
        log => panic!("no error in {log:?}"),
    }
}

/// Why a host refuses the plugin with this value of a setting, or without the setting.
fn refused(name: &str, value: Option<&str>) -> String {
    let others = SETTINGS.into_iter().filter(|(other, _)| *other != name);
    let settings: Vec<_> = others.chain(value.map(|value| (name, value))).collect();
    TestHost::try_with_settings(plugin(), &settings).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_backend_gets_the_event_with_its_caller() {
    let settings = [SETTINGS.as_slice(), &[("token", "s3cret"), ("timeout_ms", "500")]].concat();
    let mut host = TestHost::with_settings(plugin(), &settings);
    host.stub(URL, Response::new(204, ""));
    let ada = host.user("7").claims(json!({"roles": ["admin"]}));
    assert_eq!(ada.handle("say", json!("hi")).reply, Ok(json!(null)));
    let [request] = host.requests() else { panic!("one request") };
    let body: Value = serde_json::from_slice(request.body()).unwrap();
    let id = request.header_value("idempotency-key").unwrap();
    assert_eq!(
        body,
        json!({
            "id": id, "event": "say", "data": "hi", "user": "7", "claims": {"roles": ["admin"]},
            "connection": "c1", "namespace": "/", "received_at": 1_767_225_600_000_u64,
        })
    );
    assert_eq!((request.method(), request.url()), ("POST", URL));
    assert_eq!(request.header_value("authorization"), Some("Bearer s3cret"));
    assert_eq!(request.header_value("content-type"), Some("application/json"));
}

#[test]
fn an_anonymous_caller_has_no_user_and_no_claims() {
    let mut host = host(json!({}));
    host.handle("enter", json!({"room": 1}));
    let body: Value = serde_json::from_slice(host.requests()[0].body()).unwrap();
    let body = body.as_object().unwrap();
    assert!(!body.contains_key("user") && !body.contains_key("claims"), "{body:?}");
    assert_eq!(body["data"], json!({"room": 1}));
}

#[test]
fn numbers_that_no_double_can_hold_pass_unchanged() {
    const NUMBER: &str = "123456789012345678901.25";
    // Called directly: the payload and the reply of a test host are `Value`s.
    let answer: Answer = serde_json::from_str(&format!(r#"{{"reply": {NUMBER}}}"#)).unwrap();
    let body = Body {
        id: "i",
        event: "say",
        data: serde_json::from_str(NUMBER).unwrap(),
        user: None,
        claims: Value::Null,
        connection: None,
        namespace: None,
        received_at: 0,
    };
    assert_eq!(answer.reply_text(), Some(NUMBER));
    assert!(serde_json::to_string(&body).unwrap().contains(NUMBER));
}

#[test]
fn everything_in_an_answer_is_applied_in_its_order() {
    let mut host = host(json!({
        "reply": {"ok": true},
        "join": ["chat"],
        "emits": [
            {"event": "said", "data": {"n": 1}, "to": {"room": "chat", "skip_sender": true}},
            {"event": "said", "data": {"n": 2}, "to": {"user": "7"}},
            {"event": "said", "data": {"n": 3}, "to": {"connection": "c9"}},
            {"event": "said", "data": {"n": 4}},
            {"event": "said", "data": {"n": 5}, "to": {"rooms": ["chat", "user_8"]}},
            {"event": "all", "to": {"everyone": true}},
        ],
    }));
    let said = |to, n: u64| Effect::emit(to, "said", json!({"n": n}));
    let rooms = |rooms: &[&str]| rooms.iter().map(|room| (*room).to_owned()).collect();
    assert_eq!(
        host.handle("enter", json!(null)),
        Outcome {
            reply: Ok(json!({"ok": true})),
            effects: vec![
                Effect::join("chat"),
                said(Target::RoomsButSender(rooms(&["chat"])), 1),
                said(Target::Rooms(rooms(&["user_7"])), 2),
                said(Target::Connection("c9".to_owned()), 3),
                said(Target::Sender, 4),
                said(Target::Rooms(rooms(&["chat", "user_8"])), 5),
                Effect::emit(Target::Everyone, "all", json!(null)),
            ],
        }
    );
    assert_eq!(host.members("chat"), ["c1"]);
    host.stub(URL, Response::new(200, r#"{"leave": ["chat"]}"#));
    host.handle("say", json!("bye"));
    assert!(host.members("chat").is_empty());
}

#[test]
fn the_backend_refuses_with_its_own_code() {
    let mut host = host(json!({"refuse": {"code": "not_found", "message": "no such room"}}));
    let outcome = host.handle("enter", json!(null));
    assert_eq!(outcome, Outcome::refused("not_found", "no such room"));
    assert!(host.log().is_empty());
}

#[test]
fn a_join_that_the_rule_forbids_is_forbidden_to_the_client() {
    let mut host = host(json!({"join": ["user_8"]}));
    let reply = host.user("7").handle("enter", json!(null)).reply;
    assert_eq!(reply.map_err(|refusal| refusal.code), Err("forbidden".to_owned()));
}

#[test]
fn a_wrong_answer_is_a_refusal_and_the_log_says_what_is_wrong() {
    for (answer, expected) in [
        (json!({"reply": 1, "rooms": []}), "unknown field `rooms`"),
        (json!({"emits": [{"event": "said", "payload": 1}]}), "unknown field `payload`"),
        (json!({"emits": [{"event": "said", "to": {"rom": "chat"}}]}), "unknown field `rom`"),
        (json!([]), "expected an object"),
        (json!({"emits": [["said", {}]]}), "expected an object"),
        (json!({"join": "chat"}), "expected a sequence"),
        (json!({"reply": {"error": 1}}), "`reply` has a member `error`"),
        (json!({"reply": 1, "refuse": {"code": "no", "message": ""}}), "other members"),
        (json!({"refuse": {"code": "No", "message": ""}}), "the code of `refuse`"),
        (json!({"refuse": {"code": "internal", "message": ""}}), "the code of `refuse`"),
        (json!({"refuse": {"code": "no"}}), "missing field `message`"),
        (json!({"join": ["hall"]}), "the caller can't join `hall`: unknown_room"),
        (json!({"emits": [{"event": "sayd"}]}), "`sayd` is not emitted: undeclared"),
        (json!({"emits": [{"event": "said", "data": 1}]}), "`said` is not emitted: invalid_data"),
        (
            json!({"emits": [{"event": "said", "data": {}, "to": {"room": "hall"}}]}),
            "`said` is not emitted: undeclared",
        ),
        (
            json!({"emits": [{"event": "said", "data": {}, "to": {"room": "a", "user": "7"}}]}),
            "more than one kind of receiver",
        ),
        (
            json!({"emits": [{"event": "said", "data": {}, "to": {"skip_sender": true}}]}),
            "`skip_sender` is only for",
        ),
    ] {
        let line = failure(&mut host(answer.clone()));
        assert!(line.contains(expected), "{answer}: {line}");
    }
    assert!(failure(&mut answering(Response::new(500, "secret"))).contains("its status is 500"));
    assert!(failure(&mut answering(Response::new(201, "{}"))).contains("its status is 201"));
    let line = failure(&mut answering(Response::new(200, "<html>secret")));
    assert!(line.contains("expected value") && !line.contains("secret"), "{line}");
}

#[test]
fn a_backend_that_is_away_is_unavailable_and_one_that_is_late_has_timed_out() {
    let code = |host: &mut TestHost| {
        let reply = host.handle("enter", json!(null)).reply;
        reply.map_err(|refusal| refusal.code).unwrap_err()
    };
    for (status, expected) in
        [(503, "unavailable"), (429, "rate_limited"), (502, "timed_out"), (504, "timed_out")]
    {
        assert_eq!(code(&mut answering(Response::new(status, ""))), expected, "{status}");
    }
    for (refusal, expected) in [
        ("unreachable", "unavailable"),
        ("limit", "too_large"),
        ("busy", "unavailable"),
        ("timeout", "timed_out"),
        ("interrupted", "timed_out"),
        ("not_allowed", "backend_failed"),
        ("response_too_large", "backend_failed"),
        // Not a failure of the plugin, which would open its breaker.
        ("misuse", "backend_failed"),
    ] {
        let mut host = TestHost::with_settings(plugin(), &SETTINGS);
        host.stub_with(URL, move |_| Err(Refusal::new(refusal, "why")));
        assert_eq!(code(&mut host), expected, "{refusal}");
        assert!(host.log()[0].1.contains("why"), "{:?}", host.log());
    }
}

#[test]
fn what_can_not_be_forwarded_is_refused_before_it_is_sent() {
    let mut host = host(json!({}));
    let large = host.handle("enter", json!("x".repeat(300_000))).reply;
    assert_eq!(large.map_err(|refusal| refusal.code), Err("too_large".to_owned()));
    let placeholder = json!({"_placeholder": true, "num": 0});
    let binary = host.handle_binary("enter", placeholder, vec![vec![1]]).reply;
    assert_eq!(binary.map_err(|refusal| refusal.code), Err("invalid_payload".to_owned()));
    let wrong = host.handle("say", json!(7)).reply;
    assert_eq!(wrong.map_err(|refusal| refusal.code), Err("invalid_payload".to_owned()));
    assert!(host.requests().is_empty());
}

#[test]
fn a_new_connection_is_an_event_without_a_reply() {
    let mut host = host(json!({"join": ["chat"]}));
    assert_eq!(host.connect().effects, [Effect::join("chat")]);
    let body: Value = serde_json::from_slice(host.requests()[0].body()).unwrap();
    assert_eq!((&body["event"], &body["data"]), (&json!("$connect"), &json!(null)));
    host.stub(URL, Response::new(200, r#"{"reply": 1}"#));
    assert!(host.connection("c2").connect().reply.is_err());
}

#[test]
fn settings_that_are_missing_or_wrong_are_named() {
    for (name, value, expected) in [
        ("url", None, "the setting `url` is missing: set it in `[plugins.forward.config]`"),
        ("events", None, "the setting `events` is missing"),
        ("ur", Some("x"), "there is no setting `ur`, only `url`, `events`"),
        ("url", Some("backend.test/events"), "the setting `url` must be a URL"),
        ("url", Some("http:///events"), "the setting `url` must be a URL"),
        ("url", Some("http://ada:pw@backend.test/"), "the setting `url` must be a URL"),
        ("url", Some("http://backend.test/a b"), "the setting `url` must be a URL"),
        ("events", Some("enter"), "the setting `events` is no such JSON object"),
        ("events", Some(r#"["enter"]"#), "the setting `events` is no such JSON object"),
        ("events", Some(r#"{"enter": {"dta": {}}}"#), "unknown field `dta`"),
        ("events", Some(r#"{"$start": {}}"#), "names `$start`"),
        ("events", Some(r#"{"$connect": {"data": {}}}"#), "a schema for `$connect`"),
        ("events", Some(r#"{"enter": {"data": {"type": "txt"}}}"#), "enter"),
        ("emits", Some(r#"{"said": {"room": "chat"}}"#), "unknown field `room`"),
        ("rooms", Some(r#"{"chat": "role:admin"}"#), "unknown variant `role:admin`"),
        ("timeout_ms", Some("0"), "the setting `timeout_ms` must be a number from 1 to 60000"),
        ("timeout_ms", Some("1s"), "the setting `timeout_ms` must be a number from 1 to 60000"),
        ("token", Some("a b"), "the setting `token` must be printable ASCII"),
    ] {
        let reason = refused(name, value);
        assert!(reason.contains(expected), "{name} = {value:?}: {reason}");
    }
    let empty = [("url", URL), ("events", "{}")];
    assert!(TestHost::try_with_settings(plugin(), &empty).is_ok(), "all handlers have moved");
}
