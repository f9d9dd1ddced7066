//! Rooms are declared by plugins, checked by access rules, and reachable from other plugins.

use std::num::NonZeroUsize;

use serde_json::json;
use sockhop::config::Limits;
use sockhop_tests::{TestHost, bundled_plugin, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_plugins_room_is_reached_through_subscribe_event() {
    let host = TestHost::start(&[bundled_plugin("subscription"), guest("newcomer")]).await;
    let (mut subscriber, mut stranger) = (host.client().await, host.client().await);
    let subscribed = subscriber.ask("subscribe_event", json!({"event_type": "newcomers"})).await;
    assert_eq!(
        subscribed,
        json!({"status": "subscribed", "event_type": "newcomers", "room": "newcomers"})
    );
    assert_eq!(stranger.ask("tell", json!("hello")).await, json!(null));
    assert_eq!(subscriber.expect("news").await, json!("hello"));
    assert_eq!(stranger.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_users_and_roles_are_closed_to_anonymous_clients() {
    let host = TestHost::start(&[bundled_plugin("subscription")]).await;
    let client = host.client().await;
    for (event_type, code) in [
        ("user", "forbidden"),
        ("admin", "forbidden"),
        ("user_7", "forbidden"),
        ("nothing", "refused"),
    ] {
        let answer = client.ask("subscribe_event", json!({"event_type": event_type})).await;
        assert_eq!(answer["error"]["code"], json!(code), "{event_type}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_client_never_reach_another_that_did_not_ask() {
    let host =
        TestHost::start(&[bundled_plugin("memory_logs"), bundled_plugin("subscription")]).await;
    let (client, mut other) = (host.client().await, host.client().await);
    client.ask("memory_log_create", json!({"user_id": 1, "content": "mine"})).await;
    other.ask("memory_log_list", json!({})).await;
    assert_eq!(other.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_in_no_more_rooms_than_is_set() {
    const MOST: usize = 3;
    let plugins = [bundled_plugin("subscription"), guest("crowd")];
    let host = TestHost::with(&plugins, |config| {
        config.limits.rooms = NonZeroUsize::new(MOST).expect("not zero");
    })
    .await;
    let client = host.client().await;
    for room in 0..=MOST {
        let room = json!({"event_type": format!("crowd_{room}")});
        let answer = client.ask("subscribe_event", room.clone()).await;
        let is_last = room["event_type"] == format!("crowd_{MOST}");
        let expected = if is_last { json!("too_large") } else { json!(null) };
        assert_eq!(answer["error"]["code"], expected, "{room}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_in_a_hundred_rooms_at_most() {
    let limits = Limits::default();
    let most = limits.rooms.get();
    assert_eq!(most, 100);
    let host = TestHost::start(&[bundled_plugin("subscription"), guest("crowd")]).await;
    let client = host.client().await;
    let ask = async |event: &str, room: usize| {
        client.ask(event, json!({"event_type": format!("crowd_{room}")})).await
    };
    for room in 0..most {
        assert_eq!(ask("subscribe_event", room).await["status"], json!("subscribed"), "{room}");
    }
    let refused = ask("subscribe_event", most).await;
    assert_eq!(refused["error"]["code"], json!("too_large"), "{refused}");
    assert_eq!(refused["error"]["message"], json!("a connection can be in at most 100 rooms"));
    // A room that it is in already, and one in the place of another.
    assert_eq!(ask("subscribe_event", 0).await["status"], json!("subscribed"));
    assert_eq!(ask("unsubscribe_event", 0).await["status"], json!("unsubscribed"));
    assert_eq!(ask("subscribe_event", most).await["status"], json!("subscribed"));
}
