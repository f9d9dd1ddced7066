//! Handlers that join, remove and list others in the rooms of their plugin; and the rules and rates
//! that an operator sets.

use serde_json::{Value, json};
use sockhop::config::{BucketConfig, Config, Rule};
use sockhop_tests::{TestClient, TestHost, bundled_plugin, guest, token, with_tokens};

async fn connect(host: &TestHost, user: &str, roles: &[&str]) -> TestClient {
    let connected = TestClient::connect_with(&host.url, &token(user, roles, 3_600)).await;
    connected.unwrap_or_else(|refused| panic!("{refused}"))
}

async fn host(change: impl FnOnce(&mut Config)) -> TestHost {
    let plugins = [bundled_plugin("subscription"), guest("club"), guest("lab")];
    TestHost::with(&plugins, |config| {
        config.auth = with_tokens();
        change(config);
    })
    .await
}

fn code(answer: &Value) -> &Value {
    &answer["error"]["code"]
}

fn rule(event: Option<&str>, room: Option<&str>, access: &str, observe: bool) -> Rule {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let access = access.parse().expect("a rule");
    Rule { event: text(event), room: text(room), access, observe }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_joins_removes_and_lists_others_in_its_own_rooms() {
    let host = host(|_| {}).await;
    let owner = connect(&host, "1", &[]).await;
    let (mut seven, mut too) = (connect(&host, "7", &[]).await, connect(&host, "7", &[]).await);
    let mut eight = connect(&host, "8", &[]).await;
    let id = eight.ask("own_id", json!(null)).await;

    // All connections of a user, before the emit of the same event.
    let invited = owner.ask("invite", json!({"room": "club_a", "user": "7"})).await;
    assert_eq!(invited, json!(null));
    for client in [&mut seven, &mut too] {
        assert_eq!(client.expect("news").await, json!("joined"));
    }
    // One connection, by its public id.
    owner.ask("invite", json!({"room": "club_a", "connection": id})).await;
    assert_eq!(eight.expect("news").await, json!("joined"));
    let members = owner.ask("who", json!("club_a")).await;
    let members = members.as_array().expect("a list");
    let mut users: Vec<_> = members.iter().filter_map(|member| member[1].as_str()).collect();
    users.sort_unstable();
    assert_eq!(users, ["7", "7", "8"]);
    assert!(members.iter().any(|member| member[0] == id), "{members:?}");

    owner.ask("expel", json!({"room": "club_a", "user": "7"})).await;
    let left = owner.ask("who", json!("club_a")).await;
    assert_eq!(left, json!([[id, "8"]]));
    assert!(
        seven
            .ask("my_rooms", json!(null))
            .await
            .as_array()
            .is_some_and(|rooms| { !rooms.contains(&json!("club_a")) })
    );
    // Who does not exist is no error.
    let nobody = owner.ask("invite", json!({"room": "club_a", "connection": "nobody"})).await;
    assert_eq!(nobody, json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_counts_and_lists_who_is_in_any_room_and_learns_users_only_in_its_own() {
    let host = host(|_| {}).await;
    let owner = connect(&host, "1", &[]).await;
    let others = [
        connect(&host, "7", &[]).await,
        connect(&host, "7", &[]).await,
        connect(&host, "8", &[]).await,
    ];
    let mut ids = Vec::new();
    for client in &others {
        client.ask("enter", json!(null)).await;
        ids.push(client.ask("own_id", json!(null)).await);
    }
    ids.sort_by_key(Value::to_string);
    // `lab` belongs to another plugin.
    assert_eq!(owner.ask("count", json!("lab")).await, json!([3, 2]));
    assert_eq!(owner.ask("ids", json!(["lab", null, 2])).await, json!(ids[..2]));
    assert_eq!(owner.ask("ids", json!(["lab", ids[1], 2])).await, json!(ids[2..]));
    let refused = owner.ask("who", json!("lab")).await;
    assert_eq!(refused["error"]["reason"], json!("unknown_room"));
    // Nobody is in a room that does not exist.
    assert_eq!(owner.ask("count", json!("nowhere")).await, json!([0, 0]));
    assert_eq!(owner.ask("ids", json!(["nowhere", null, 1])).await, json!([]));
    for limit in [0, 1_001] {
        let refused = owner.ask("ids", json!(["lab", null, limit])).await;
        assert_eq!(code(&refused), "plugin_failed", "{limit}");
    }
    drop(others);
    sockhop_tests::eventually("the others to leave", async || {
        (owner.ask("count", json!("lab")).await == json!([0, 0])).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_lets_nobody_into_a_room_whose_rule_forbids_it_or_that_is_not_its_own() {
    let host = host(|_| {}).await;
    let owner = connect(&host, "1", &["staff"]).await;
    let (plain, mut staff) =
        (connect(&host, "7", &[]).await, connect(&host, "7", &["staff"]).await);
    let plain_id = plain.ask("own_id", json!(null)).await;
    let refused = owner.ask("invite", json!({"room": "staff", "connection": plain_id})).await;
    assert_eq!(code(&refused), "forbidden");
    // Of the user's connections, only the one with the role joins.
    owner.ask("invite", json!({"room": "staff", "user": "7"})).await;
    assert_eq!(staff.expect("news").await, json!("joined"));
    assert_eq!(owner.ask("who", json!("staff")).await.as_array().map(Vec::len), Some(1));
    // Rooms of other plugins, also those that are open to everybody, and rooms of nobody.
    for room in ["lab", "admin", "user_7", "nowhere"] {
        for event in ["invite", "expel"] {
            let refused = owner.ask(event, json!({"room": room, "user": "7"})).await;
            assert_eq!(refused["error"]["reason"], json!("unknown_room"), "{event} {room}");
        }
        let refused = owner.ask("who", json!(room)).await;
        assert_eq!(refused["error"]["reason"], json!("unknown_room"), "{room}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_can_not_fill_the_rooms_of_another_connection_beyond_its_limit() {
    let host =
        host(|config| config.limits.rooms = std::num::NonZeroUsize::new(2).expect("two")).await;
    let (owner, seven) = (connect(&host, "1", &[]).await, connect(&host, "7", &[]).await);
    let id = seven.ask("own_id", json!(null)).await;
    for room in ["club_a", "club_b", "club_c"] {
        owner.ask("invite", json!({"room": room, "user": "7"})).await;
    }
    let rooms = seven.ask("my_rooms", json!(null)).await;
    assert_eq!(rooms, json!(["club_a", "user_7"]), "the own room counts");
    let refused = owner.ask("invite", json!({"room": "club_d", "connection": id})).await;
    assert_eq!(code(&refused), "too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_of_the_operator_tightens_or_opens_what_a_plugin_declares() {
    let host = host(|config| {
        config.rules = vec![
            rule(Some("echo"), None, "role:admin", false),
            rule(Some("for_admins"), None, "anyone", false),
            rule(None, Some("lab"), "role:admin", false),
            rule(None, Some("admin"), "authenticated", false),
        ];
    })
    .await;
    let (seven, admin) = (connect(&host, "7", &[]).await, connect(&host, "8", &["admin"]).await);
    assert_eq!(code(&seven.ask("echo", json!(1)).await), "forbidden");
    assert_eq!(admin.ask("echo", json!(1)).await, json!(1));
    assert_eq!(seven.ask("for_admins", json!(1)).await, json!(1));
    assert_eq!(code(&seven.ask("enter", json!(null)).await), "forbidden");
    assert!(admin.ask("enter", json!(null)).await["error"].is_null());
    let joined = seven.ask("subscribe_event", json!({"event_type": "admin"})).await;
    assert_eq!(joined["status"], json!("subscribed"));
    // Clients see the rule that is in force.
    let (_, contract) = host.http_with("/api/events", None, None).await;
    let events = contract["events"].as_array().expect("events");
    let echo = events.iter().find(|event| event["event"] == "echo").expect("the event");
    assert_eq!(echo["access"], json!("role:admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_tried_refuses_nothing_and_counts_what_it_would_refuse() {
    let host = host(|config| {
        config.rules = vec![
            rule(Some("echo"), None, "role:admin", true),
            rule(None, Some("lab"), "role:admin", true),
        ];
    })
    .await;
    let (seven, admin) = (connect(&host, "7", &[]).await, connect(&host, "8", &["admin"]).await);
    for client in [&seven, &admin] {
        assert_eq!(client.ask("echo", json!(1)).await, json!(1));
        assert!(client.ask("enter", json!(null)).await["error"].is_null());
    }
    let figure = async |labels: &str| {
        host.figure(&format!("sockhop_observed_refusals_total{{{labels}}}")).await
    };
    assert_eq!(figure("event=\"echo\"").await, 1);
    assert_eq!(figure("room=\"lab\"").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_sends_no_more_events_over_all_connections_than_its_bucket_has_tokens() {
    let number = |number| std::num::NonZeroU32::new(number).expect("not zero");
    let bucket = |burst, observe| BucketConfig {
        per_second: number(1),
        burst: Some(number(burst)),
        observe,
    };
    let host = host(|config| {
        config.rate.connection = Some(bucket(5, true));
        config.rate.user = Some(bucket(20, false));
    })
    .await;
    let clients = [connect(&host, "7", &[]).await, connect(&host, "7", &[]).await];
    let mut refused = Vec::new();
    for _ in 0..15 {
        for client in &clients {
            let answer = client.ask("echo", json!(1)).await;
            if answer != json!(1) {
                refused.push(answer["error"].clone());
            }
        }
    }
    assert!((8..=10).contains(&refused.len()), "{}", refused.len());
    let last = refused.last().expect("a refusal");
    assert_eq!((&last["code"], &last["retry"]), (&json!("rate_limited"), &json!("safe")));
    assert!(last["retry_after_ms"].as_u64().is_some_and(|ms| (1..=30_000).contains(&ms)), "{last}");
    let other = connect(&host, "8", &[]).await;
    assert_eq!(other.ask("echo", json!(1)).await, json!(1));
    assert_eq!(
        host.figure("sockhop_rate_limited_total{bucket=\"user\"}").await,
        refused.len() as u64
    );
    assert!(host.figure("sockhop_observed_refusals_total{rate=\"connection\"}").await > 0);
}
