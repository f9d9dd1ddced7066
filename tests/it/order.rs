//! Events of one connection are handled one at a time, in the order in which they were sent.

use std::collections::VecDeque;

use serde_json::json;
use sockhop_tests::{TestClient, TestHost, guest};

/// Sends `events` with at most `window` unanswered, and checks that each answer belongs to its
/// event.
async fn ask_in_order(client: &TestClient, events: usize, window: usize) {
    let mut open = VecDeque::new();
    for number in 0..events {
        if open.len() == window {
            check(open.pop_front()).await;
        }
        open.push_back((number, client.ask_later(r#"["increment"]"#).await));
    }
    while let Some(next) = open.pop_front() {
        check(Some(next)).await;
    }
}

async fn check(open: Option<(usize, tokio::sync::oneshot::Receiver<serde_json::Value>)>) {
    let (number, answer) = open.expect("an open event");
    let answer = sockhop_tests::answered("increment", answer).await;
    assert_eq!(answer, json!(number + 1));
}

/// A counter shows the order in which events were handled, not only the order of their answers.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_of_one_connection_are_handled_in_the_order_sent() {
    let host = TestHost::start(&[guest("lab")]).await;
    let client = host.client().await;
    ask_in_order(&client, 10_000, 200).await;
    assert!(client.was_acked_in_order());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_in_parallel_are_each_in_order() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let client = host.client().await;
        tasks.spawn(async move {
            let me = client.ask("me", json!(null)).await;
            let mut answers = Vec::new();
            for number in 0..20 {
                answers.push(client.ask_later(&format!(r#"["note","{number}"]"#)).await);
            }
            for answer in answers {
                let answer = sockhop_tests::answered("note", answer).await;
                assert_eq!(answer, json!(null));
            }
            let notes: Vec<_> = (0..20).map(|number| number.to_string()).collect();
            assert_eq!(client.ask("notes", me).await, json!(notes));
            assert!(client.was_acked_in_order());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a connection in order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_do_not_wait_for_each_other() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (slow, quick) = (host.client().await, host.client().await);
    let sleeping = slow.ask_later(r#"["sleep",3000]"#).await;
    assert_eq!(quick.ask("echo", json!(1)).await, json!(1));
    let answer = sockhop_tests::answered("sleep", sleeping).await;
    assert_eq!(answer, json!(null));
}
