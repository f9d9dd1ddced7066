//! Who receives what: each receiver once, and nobody else.

use serde_json::json;
use sockhop_tests::{TestHost, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_several_rooms_receives_an_event_once() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    client.ask("both", json!(null)).await;
    client.expect("noise").await;
    let (status, answer) = host.http("/api/emit", Some(json!({"event": "noise", "data": 1, "rooms": ["lab", "left"]}))).await;
    assert_eq!((status, &answer["receivers"]), (202, &json!(1)));
    assert_eq!(client.expect("noise").await, json!(1));
    client.ask("echo", json!(null)).await;
    assert_eq!(client.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_others_and_single_connections_are_reached_and_nobody_else() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (mut sender, mut inside, mut outside) = (host.client().await, host.client().await, host.client().await);
    for client in [&sender, &inside] {
        client.ask("enter", json!(null)).await;
    }
    let public_id = outside.ask("me", json!(null)).await;
    let mut heard = async |to: serde_json::Value| {
        sender.ask("spread", to.clone()).await;
        let mut all = Vec::new();
        for client in [&mut sender, &mut inside, &mut outside] {
            client.ask("echo", json!(null)).await;
            let pending = client.pending();
            assert!(pending.iter().all(|event| *event == ("gossip".to_owned(), to.clone())), "{pending:?}");
            all.push(pending.len());
        }
        all
    };
    assert_eq!(heard(json!("everyone")).await, [1, 1, 1]);
    assert_eq!(heard(json!("others")).await, [0, 1, 0]);
    assert_eq!(heard(public_id).await, [0, 0, 1]);
    assert_eq!(heard(json!("01ARZ3NDEKTSV4RRFFQ69G5FAV")).await, [0, 0, 0], "a connection that is gone");
    let (status, answer) = host.http("/api/emit", Some(json!({"event": "gossip", "data": "x", "everyone": true}))).await;
    assert_eq!((status, &answer["receivers"]), (202, &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_hear_each_other() {
    let host = TestHost::with(&[guest("lab")], |config| config.server.namespaces.push("/chat".to_owned())).await;
    let (mut main, mut chat) = (host.client().await, host.client_of("/chat").await);
    main.ask("enter", json!(null)).await;
    chat.ask("both", json!(null)).await;
    chat.expect("noise").await;
    chat.ask("spread", json!("everyone")).await;
    assert_eq!(chat.expect("gossip").await, json!("everyone"));
    main.ask("echo", json!(null)).await;
    assert_eq!(main.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn start_is_told_once_before_the_first_client_and_without_a_caller() {
    let host = TestHost::start(&[guest("lab")]).await;
    assert_eq!(host.client().await.ask("has_started", json!(null)).await, json!(true));
}
