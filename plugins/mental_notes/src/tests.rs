//! Native tests of the handlers. `sockhop-records` has the detailed tests of listing.

use serde_json::{Value, json};
use sockhop_sdk::Target;
use sockhop_sdk::testing::{Effect, Outcome, TestHost};

use super::*;

const NOON: &str = "2026-01-01T12:00:00.000Z";
const ONE: &str = "2026-01-01T13:00:00.000Z";

/// A host whose clock shows 13:00, and the outcome of creating a note of user `ada` at noon.
fn host() -> (TestHost, Outcome) {
    let mut host = TestHost::new(plugin());
    let note = json!({"user_id": "ada", "title": "Tea", "content": "Buy some", "tags": ["shop"]});
    let created = host.at(1_767_268_800_000).handle("mental_note_create", note);
    host.at(1_767_272_400_000);
    (host, created)
}

fn tea() -> Value {
    json!({"id": 1, "user_id": "ada", "title": "Tea", "content": "Buy some", "tags": ["shop"], "created_at": NOON})
}

/// The outcome if `data` is the reply, and is emitted once to all who listen to ada's notes.
fn answered_and_broadcast(event: &str, data: Value) -> Outcome {
    let to = Target::Rooms(vec!["mental_notes".to_owned(), "user_ada".to_owned()]);
    Outcome { reply: Ok(data.clone()), effects: vec![Effect::emit(to, event, data)] }
}

fn not_yours() -> Outcome {
    Outcome::refused("forbidden", "these records belong to another user")
}

#[test]
fn creating_stores_answers_and_broadcasts_the_record() {
    let (host, created) = host();
    assert_eq!(created, answered_and_broadcast("mental_note_created", tea()));
    assert_eq!(host.state().get("record/0000000000000001"), Some(&tea()));
}

#[test]
fn creating_without_title_and_tags_leaves_them_absent() {
    let (mut host, _) = host();
    let outcome = host.handle("mental_note_create", json!({"user_id": "ada", "content": "x"}));
    let note = json!({"id": 2, "user_id": "ada", "content": "x", "created_at": ONE});
    assert_eq!(outcome, answered_and_broadcast("mental_note_created", note));
}

#[test]
fn creating_for_another_user_is_forbidden_but_for_an_admin() {
    let (mut host, _) = host();
    let note = json!({"user_id": "ada", "content": "x"});
    assert_eq!(host.user("eve").handle("mental_note_create", note.clone()), not_yours());
    assert!(host.role("admin").handle("mental_note_create", note).reply.is_ok());
}

#[test]
fn updating_with_absent_fields_keeps_them() {
    let (mut host, _) = host();
    let outcome = host.handle("mental_note_update", json!({"id": 1, "content": "Buy more"}));
    let note = json!({
        "id": 1, "user_id": "ada", "title": "Tea", "content": "Buy more", "tags": ["shop"], "created_at": NOON, "updated_at": ONE,
    });
    assert_eq!(outcome, answered_and_broadcast("mental_note_updated", note));
}

#[test]
fn updating_with_null_clears_title_and_tags() {
    let (mut host, _) = host();
    let outcome = host.handle("mental_note_update", json!({"id": 1, "title": null, "tags": null}));
    let note = json!({"id": 1, "user_id": "ada", "content": "Buy some", "created_at": NOON, "updated_at": ONE});
    assert_eq!(outcome, answered_and_broadcast("mental_note_updated", note.clone()));
    assert_eq!(host.state().get("record/0000000000000001"), Some(&note));
}

#[test]
fn updating_with_values_sets_them() {
    let (mut host, _) = host();
    let outcome =
        host.handle("mental_note_update", json!({"id": 1, "title": "Coffee", "tags": []}));
    let note = json!({
        "id": 1, "user_id": "ada", "title": "Coffee", "content": "Buy some", "tags": [], "created_at": NOON, "updated_at": ONE,
    });
    assert_eq!(outcome, answered_and_broadcast("mental_note_updated", note));
}

#[test]
fn deleting_removes_and_broadcasts_the_id() {
    let (mut host, _) = host();
    let outcome = host.handle("mental_note_delete", json!({"id": 1}));
    assert_eq!(outcome, answered_and_broadcast("mental_note_deleted", json!({"id": 1})));
    assert!(host.state().is_empty());
}

#[test]
fn changing_what_does_not_exist_is_not_found() {
    let (mut host, _) = host();
    let missing = Outcome::refused("not_found", "there is no mental note 2");
    assert_eq!(host.handle("mental_note_update", json!({"id": 2})), missing);
    assert_eq!(host.handle("mental_note_delete", json!({"id": 2})), missing);
}

#[test]
fn changing_anothers_record_is_forbidden_but_for_an_admin() {
    let (mut host, _) = host();
    host.user("eve");
    assert_eq!(host.handle("mental_note_update", json!({"id": 1})), not_yours());
    assert_eq!(host.handle("mental_note_delete", json!({"id": 1})), not_yours());
    assert!(host.role("admin").handle("mental_note_update", json!({"id": 1})).reply.is_ok());
}

#[test]
fn listing_answers_the_records() {
    let (mut host, _) = host();
    let outcome = host.user("ada").handle("mental_note_list", json!({"user_id": "ada"}));
    assert_eq!(
        outcome,
        Outcome { reply: Ok(json!({"items": [tea()], "next": null})), effects: vec![] }
    );
}

#[test]
fn bounds_stand_in_the_schema_where_the_host_checks_them() {
    let (host, _) = host();
    let schema = host.payload_schema("mental_note_update");
    let property =
        |name: &str| schema.pointer(&format!("/properties/{name}")).cloned().unwrap_or_default();
    assert_eq!(property("title"), json!({"type": ["string", "null"], "maxLength": 200}));
    assert_eq!(property("content"), json!({"type": "string", "minLength": 1, "maxLength": 10_000}));
    let tag = json!({"type": "string"});
    assert_eq!(property("tags"), json!({"type": ["array", "null"], "items": tag, "maxItems": 20}));
    assert_eq!(schema.pointer("/required"), Some(&json!(["id"])));
}
