//! The end of a connection: all received events are handled, then `$disconnect`, and nothing of the
//! client remains.

use serde_json::{Value, json};
use sockhop_tests::{TestHost, eventually, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_has_its_queue_handled_before_disconnect_comes() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (leaver, watcher) = (host.client().await, host.client().await);
    leaver.ask("enter", json!(null)).await;
    let me = leaver.ask("me", json!(null)).await;
    leaver.emit("sleep", json!(300)).await;
    for number in 0..50 {
        leaver.emit("note", json!(number.to_string())).await;
    }
    // The TCP connection ends without a disconnect packet, after all events were written to it.
    drop(leaver);
    let mut notes = Value::Null;
    for _ in 0..600 {
        notes = watcher.ask("notes", me.clone()).await;
        if notes
            .as_array()
            .and_then(|notes| notes.last())
            .and_then(Value::as_str)
            .is_some_and(|note| note.starts_with('$'))
        {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let mut expected: Vec<_> = (0..50).map(|number| number.to_string()).collect();
    expected.push("$disconnect in lab".to_owned());
    assert_eq!(notes, json!(expected));
    let traces = watcher.ask("traces", json!(null)).await;
    assert_eq!(traces["in_lab"], json!(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_clients_that_join_and_vanish_leave_no_membership() {
    const ROUNDS: usize = 10_000;
    const AT_ONCE: usize = 50;
    let host = TestHost::start(&[guest("lab")]).await;
    let watcher = host.client().await;
    let mut left = ROUNDS;
    while left > 0 {
        let mut round = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE.min(left) {
            let url = host.url.clone();
            round.spawn(async move {
                let client = sockhop_tests::TestClient::connect(&url).await;
                // The test does not wait for an ack, so the join may be handled before, with or
                // after the end of the connection.
                client.emit("enter", Value::Null).await;
            });
        }
        left -= round.len();
        while let Some(done) = round.join_next().await {
            done.expect("a client");
        }
    }
    // The plugin is told of every disconnect after the events of that client. Only then must the
    // room be empty.
    let mut gone = 0;
    for asked_before in 0..1_200 {
        // Each question is counted as well.
        gone = watcher.ask("gone", json!(null)).await.as_u64().expect("a count") - asked_before;
        if gone == ROUNDS as u64 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(gone, ROUNDS as u64);
    let mut members = Value::Null;
    for _ in 0..600 {
        members = watcher.ask("traces", json!(null)).await["in_lab"].clone();
        if members == json!(0) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(members, json!(0));
    let entered = watcher.ask("entered", json!(null)).await;
    assert!(
        entered.as_u64().is_some_and(|entered| entered > 1_000),
        "many joins were handled, {entered}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_can_end_its_callers_connection_after_its_effects() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    // The answer arrives before the disconnect.
    assert_eq!(client.ask("goodbye", Value::Null).await, json!(null));
    client.expect("noise").await;
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_ends_what_was_begun_and_tells_every_end() {
    let data = tempfile::tempdir().expect("a directory");
    let host = TestHost::with_data(&[guest("lab")], data.path()).await;
    let client = host.client().await;
    client.ask("enter", json!(null)).await;
    let me = client.ask("me", json!(null)).await;
    let slow = client.ask_later(r#"["slow_note",300]"#).await;
    let watcher = host.client().await;
    let mut asked_before = 0;
    eventually("the slow handler to run", async || {
        // Each question is counted as well.
        let began =
            watcher.ask("began", json!(null)).await.as_u64().expect("a count") - asked_before;
        asked_before += 1;
        Some(()).filter(|()| began == 1)
    })
    .await;
    host.stop().await;
    assert_eq!(slow.await, Ok(json!(null)), "what was begun is answered");
    let host = TestHost::with_data(&[guest("lab")], data.path()).await;
    let notes = host.client().await.ask("notes", me).await;
    assert_eq!(notes, json!(["slow", "$disconnect in lab"]));
}

/// The host must give the memory of a burst back.
#[tokio::test(flavor = "multi_thread")]
async fn ten_seconds_after_a_burst_the_hosts_memory_is_where_it_was() {
    let (plugins, data) =
        (sockhop_tests::directory_of(&[guest("lab")]), tempfile::tempdir().expect("a directory"));
    let host = sockhop_tests::HostProcess::start(plugins.path(), data.path());
    let client = sockhop_tests::TestClient::connect(&host.url).await;
    // The first event creates an instance, which is kept for later events.
    client.ask("echo", json!(0)).await;
    let (resident, before) = (host.resident(), host.allocated());
    let mut answers = Vec::new();
    for number in 0..5_000 {
        answers.push(client.ask_later(&format!(r#"["echo",{number}]"#)).await);
    }
    for answer in answers {
        sockhop_tests::answered("echo", answer).await;
    }
    let burst = host.allocated();
    // The promise is about this time, so the test can't wait for a condition.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let after = host.allocated();
    assert!(
        after <= before + resident / 10,
        "{before} bytes of {resident} before, {burst} at its end, {after} ten seconds later"
    );
}
