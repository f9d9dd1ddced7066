//! Handlers are transactional: the effects of a handler are applied if it succeeds, and none of
//! them if it fails.

use serde_json::json;
use sockhop_tests::{TestHost, bundled_plugin, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_leaves_no_emit_no_membership_and_no_write() {
    let host = TestHost::start(&[guest("lab"), bundled_plugin("connection")]).await;
    let (mut client, mut watcher) = (host.client().await, host.client().await);
    client.expect("connected").await;
    watcher.expect("connected").await;
    watcher.ask("enter", json!(null)).await;
    for bad in ["refuse", "trap", "spin", "grow", "bad_reply", "exit"] {
        let answer = client.ask(bad, json!(null)).await;
        assert!(answer["error"]["code"].is_string(), "{bad}: {answer}");
        let traces = client.ask("traces", json!(null)).await;
        assert_eq!(traces, json!({"stored": false, "rooms": [], "in_lab": 1}), "{bad}");
        assert_eq!(client.pending(), [], "{bad}");
        // The next event of another plugin works as well.
        assert_eq!(
            client.ask("ping", json!({"timestamp": 1})).await["timestamp"],
            json!(1),
            "{bad}"
        );
        client.expect("pong").await;
    }
    watcher.ask("echo", json!(null)).await;
    assert_eq!(watcher.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_call_dooms_the_event_only_when_the_handler_returns_it() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    assert_eq!(client.ask("shrug", json!(null)).await, json!("unknown_room"));
    client.expect("noise").await;
    let flooded = client.ask("flood", json!(null)).await;
    assert_eq!(flooded["error"]["code"], json!("too_large"), "{flooded}");
    assert_eq!(client.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_one_counter_lose_no_update_and_none_is_busy() {
    const WRITERS: usize = 200;
    let host = TestHost::start(&[guest("lab")]).await;
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(host.client().await);
    }
    let mut answers = Vec::new();
    for client in &clients {
        answers.push(client.ask_later(r#"["increment"]"#).await);
    }
    let mut numbers = Vec::new();
    for answer in answers {
        let answer = sockhop_tests::answered("increment", answer).await;
        numbers.push(answer.as_u64().unwrap_or_else(|| panic!("{answer}")));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=WRITERS as u64).collect::<Vec<_>>());
    assert_eq!(clients[0].ask("counter", json!(null)).await, json!(WRITERS));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_receiver_sees_the_updates_of_a_record_in_the_order_of_their_commits() {
    const WRITERS: usize = 50;
    let host =
        TestHost::start(&[bundled_plugin("memory_logs"), bundled_plugin("subscription")]).await;
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        let client = host.client().await;
        client.ask("subscribe_event", json!({"event_type": "memory_logs"})).await;
        clients.push(client);
    }
    let id =
        clients[0].ask("memory_log_create", json!({"user_id": 7, "content": "first"})).await["id"]
            .clone();
    let mut answers = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let update = json!(["memory_log_update", {"id": id, "content": format!("by {number}")}]);
        answers.push(client.ask_later(&update.to_string()).await);
    }
    for answer in answers {
        let answer = sockhop_tests::answered("memory_log_update", answer).await;
        assert_eq!(answer["id"], id, "{answer}");
    }
    let stored = clients[0].ask("memory_log_list", json!({})).await["items"][0].clone();
    let mut orders = Vec::new();
    for client in &mut clients {
        client.expect("memory_log_created").await;
        let mut order = Vec::new();
        for _ in 0..WRITERS {
            order.push(client.expect("memory_log_updated").await);
        }
        assert_eq!(
            order.last(),
            Some(&stored),
            "the last update that a receiver sees is the stored record"
        );
        orders.push(order);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]), "all receivers see the same order");
}
