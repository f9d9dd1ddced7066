//! Native tests of the handlers. `sockhop-records` has the detailed tests of listing.

use serde_json::{Value, json};
use sockhop_sdk::Target;
use sockhop_sdk::testing::{Effect, Outcome, TestHost};

use super::*;

const NOON: &str = "2026-01-01T12:00:00.000Z";
const ONE: &str = "2026-01-01T13:00:00.000Z";

/// A host whose clock shows 13:00, and the outcome of creating a log of user 7 at noon.
fn host() -> (TestHost, Outcome) {
    let mut host = TestHost::new(plugin());
    let created = host
        .at(1_767_268_800_000)
        .handle("memory_log_create", json!({"user_id": 7, "content": "tea", "colour": "red"}));
    host.at(1_767_272_400_000);
    (host, created)
}

fn tea() -> Value {
    json!({"id": 1, "user_id": 7, "content": "tea", "created_at": NOON})
}

fn coffee() -> Value {
    json!({"id": 1, "user_id": 7, "content": "coffee", "created_at": NOON, "updated_at": ONE})
}

/// The outcome if `data` is the reply, and is emitted once to all who listen to user 7's logs.
fn answered_and_broadcast(event: &str, data: Value) -> Outcome {
    let to = Target::Rooms(vec!["memory_logs".to_owned(), "user_7".to_owned()]);
    Outcome { reply: Ok(data.clone()), effects: vec![Effect::emit(to, event, data)] }
}

fn not_yours() -> Outcome {
    Outcome::refused("forbidden", "these records belong to another user")
}

#[test]
fn creating_stores_answers_and_broadcasts_the_record() {
    let (host, created) = host();
    assert_eq!(created, answered_and_broadcast("memory_log_created", tea()));
    assert_eq!(host.state().get("record/0000000000000001"), Some(&tea()));
}

#[test]
fn creating_for_another_user_is_forbidden_but_for_an_admin() {
    let (mut host, _) = host();
    let eights = json!({"user_id": "8", "content": "x"});
    assert_eq!(host.user("7").handle("memory_log_create", eights.clone()), not_yours());
    assert!(host.role("admin").handle("memory_log_create", eights).reply.is_ok());
}

#[test]
fn creating_without_content_is_an_invalid_payload() {
    let (mut host, _) = host();
    let outcome = host.handle("memory_log_create", json!({"user_id": 7}));
    assert_eq!(outcome, Outcome::refused("invalid_payload", "content: is required"));
}

#[test]
fn updating_keeps_what_was_and_says_when() {
    let (mut host, _) = host();
    let outcome = host.handle("memory_log_update", json!({"id": 1, "content": "coffee"}));
    assert_eq!(outcome, answered_and_broadcast("memory_log_updated", coffee()));
    assert_eq!(host.state().get("record/0000000000000001"), Some(&coffee()));
}

#[test]
fn deleting_removes_and_broadcasts_the_id() {
    let (mut host, _) = host();
    let outcome = host.handle("memory_log_delete", json!({"id": 1}));
    assert_eq!(outcome, answered_and_broadcast("memory_log_deleted", json!({"id": 1})));
    assert!(host.state().is_empty());
}

#[test]
fn changing_what_does_not_exist_is_not_found() {
    let (mut host, _) = host();
    let missing = Outcome::refused("not_found", "there is no memory log 2");
    assert_eq!(host.handle("memory_log_update", json!({"id": 2, "content": "x"})), missing);
    assert_eq!(host.handle("memory_log_delete", json!({"id": 2})), missing);
}

#[test]
fn changing_anothers_record_is_forbidden_but_for_an_admin() {
    let (mut host, _) = host();
    host.user("8");
    assert_eq!(
        host.handle("memory_log_update", json!({"id": 1, "content": "coffee"})),
        not_yours()
    );
    assert_eq!(host.handle("memory_log_delete", json!({"id": 1})), not_yours());
    let outcome =
        host.role("admin").handle("memory_log_update", json!({"id": 1, "content": "coffee"}));
    assert_eq!(outcome, answered_and_broadcast("memory_log_updated", coffee()));
}

#[test]
fn changing_ones_own_record_compares_users_as_text() {
    let (mut host, _) = host();
    let outcome = host.user("7").handle("memory_log_update", json!({"id": 1, "content": "coffee"}));
    assert_eq!(outcome, answered_and_broadcast("memory_log_updated", coffee()));
}

#[test]
fn listing_answers_the_records() {
    let (mut host, _) = host();
    let outcome = host.handle("memory_log_list", json!({}));
    assert_eq!(
        outcome,
        Outcome { reply: Ok(json!({"items": [tea()], "next": null})), effects: vec![] }
    );
}

#[test]
fn bounds_stand_in_the_schema_where_the_host_checks_them() {
    let (host, _) = host();
    let schema = host.payload_schema("memory_log_create");
    assert_eq!(
        schema.pointer("/properties/content"),
        Some(&json!({"type": "string", "minLength": 1, "maxLength": 10_000}))
    );
    assert_eq!(schema.pointer("/required"), Some(&json!(["user_id", "content"])));
    let schema = host.payload_schema("memory_log_list");
    assert_eq!(schema.pointer("/properties/limit/maximum"), Some(&json!(100)));
    assert_eq!(schema.pointer("/properties/limit/minimum"), Some(&json!(1)));
    assert_eq!(schema.pointer("/required"), None);
}
