//! Native tests of the handlers, with a virtual clock and recorded deliveries.

use std::time::Duration;

use serde_json::{Value, json};
use sockhop_sdk::testing::{Effect, TestHost};

use super::*;

const MINUTE: u64 = 60_000;
const HOOK: &str = "https://hooks.example.com/reminders";

/// When the test host begins: the begin of 2026.
const START: u64 = 1_767_225_600_000;

fn host() -> TestHost {
    TestHost::with_settings(plugin(), &[("webhook", HOOK)])
}

/// Sets a reminder of `ada` in a minute.
fn set(host: &mut TestHost, webhook: bool) -> Value {
    let set = json!({"user_id": "ada", "text": "tea", "at": START + MINUTE, "webhook": webhook});
    host.handle("reminder_set", set).reply.unwrap()
}

fn fired(reminder: &Value) -> Effect {
    Effect::emit(Target::Rooms(vec!["user_ada".to_owned()]), "reminder_fired", reminder.clone())
}

/// The reminders of `ada`.
fn listed(host: &mut TestHost) -> Value {
    host.handle("reminder_list", json!({"user_id": "ada"})).reply.unwrap()["items"].clone()
}

#[test]
fn a_reminder_returns_at_its_time_to_its_owner_and_stays_until_it_is_deleted() {
    let mut host = host();
    let mut reminder = set(&mut host, false);
    assert!(host.advance(Duration::from_millis(MINUTE - 1)).is_empty());
    let outcomes = host.advance(Duration::from_millis(1));
    reminder["fired_at"] = json!("2026-01-01T00:01:00.000Z");
    assert_eq!(outcomes[0].1.effects, [fired(&reminder)]);
    assert_eq!(listed(&mut host), json!([reminder]));
    assert!(host.deliveries().is_empty());
    assert_eq!(host.handle("reminder_delete", json!({"id": 1})).reply, Ok(json!({"id": 1})));
    assert_eq!(listed(&mut host), json!([]));
}

#[test]
fn a_deleted_reminder_does_not_return() {
    let mut host = host();
    set(&mut host, false);
    assert!(host.handle("reminder_delete", json!({"id": 1})).reply.is_ok());
    assert!(host.advance(Duration::from_secs(3_600)).is_empty());
}

#[test]
fn the_webhook_is_sent_at_the_time_of_the_reminder_and_its_result_is_shown() {
    for (is_delivered, shown) in [(true, "delivered"), (false, "failed")] {
        let mut host = host();
        assert_eq!(set(&mut host, true)["webhook"], "wanted");
        assert!(host.deliveries().is_empty());
        host.advance(Duration::from_millis(MINUTE));
        let sent = host.deliveries()[0].clone();
        let body: Value = serde_json::from_slice(sent.delivery.request().body()).unwrap();
        assert_eq!(sent.delivery.request().url(), HOOK);
        assert_eq!(
            (&body["type"], &body["data"]["text"]),
            (&json!("reminder.fired"), &json!("tea"))
        );
        assert_eq!(body["timestamp"], "2026-01-01T00:01:00.000Z");
        let ended = if is_delivered {
            host.delivered(&sent.id, 204)
        } else {
            host.not_delivered(&sent.id, Some(410), "gone")
        };
        let Effect::Emit { event, data, .. } = &ended[0].1.effects[0] else { panic!("an emit") };
        assert_eq!((event.as_str(), &data["webhook"]), ("reminder_updated", &json!(shown)));
        assert_eq!(listed(&mut host)[0]["webhook"], shown);
    }
}

#[test]
fn the_result_of_a_deleted_reminder_changes_nothing() {
    let mut host = host();
    set(&mut host, true);
    host.advance(Duration::from_millis(MINUTE));
    assert!(host.handle("reminder_delete", json!({"id": 1})).reply.is_ok());
    let id = host.deliveries()[0].id.clone();
    assert_eq!(host.delivered(&id, 200)[0].1.effects, []);
    assert_eq!(listed(&mut host), json!([]));
}

#[test]
fn without_the_operators_webhook_none_is_accepted_and_a_reminder_still_returns() {
    let mut host = TestHost::new(plugin());
    let set = json!({"user_id": "ada", "text": "tea", "at": START, "webhook": true});
    assert_eq!(host.handle("reminder_set", set).reply.unwrap_err().code, "no_webhook");
    assert!(host.timers().is_empty());
}

#[test]
fn reminders_are_their_owners() {
    let mut host = host();
    set(&mut host, false);
    for (event, data) in [
        ("reminder_set", json!({"user_id": "ada", "text": "x", "at": 0})),
        ("reminder_list", json!({"user_id": "ada"})),
        ("reminder_delete", json!({"id": 1})),
    ] {
        let refused = host.user("eve").handle(event, data).reply.unwrap_err();
        assert_eq!(refused.code, "forbidden", "{event}");
    }
}

#[test]
fn a_reminder_returns_although_its_webhook_can_not_be_sent() {
    let mut host = host();
    set(&mut host, true);
    // The operator has written another URL since, which is none.
    host.setting("webhook", "hooks.example.com");
    let outcomes = host.advance(Duration::from_millis(MINUTE));
    let Effect::Emit { event, data, .. } = &outcomes[0].1.effects[0] else { panic!("an emit") };
    assert_eq!((event.as_str(), &data["webhook"]), ("reminder_fired", &json!("failed")));
    assert!(host.deliveries().is_empty());
}
