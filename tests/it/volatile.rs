//! Volatile emits: slow clients miss them and nothing else, and the others get all in order.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop::config::{Recovery, SocketIo};
use sockhop_tests::{TestClient, TestHost, eventually, guest, socketio};

const SKIPPED: &str = "sockhop_volatile_emits_skipped_total{plugin=\"quiz\"}";

/// Draws on the board. Each `line_every`th event is no volatile one.
async fn draw(client: &TestClient, from: u64, count: u64, bytes: usize, line_every: u64) {
    let draw = json!({"from": from, "count": count, "bytes": bytes, "line_every": line_every});
    assert_eq!(client.ask("draw", draw).await, json!(null));
}

/// The names and the numbers of the events of a packet that a client has polled.
fn drawn(packets: &str) -> Vec<(String, u64)> {
    let events = packets.split('\u{1e}').filter_map(|packet| packet.strip_prefix("42"));
    let events = events.map(|event| serde_json::from_str::<Value>(event).expect("JSON"));
    let named = |event: Value| {
        let name = event[0].as_str().expect("a name").to_owned();
        (name, event[1]["number"].as_u64().expect("a number"))
    };
    events.map(named).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_gets_volatile_emits_among_the_others_in_order() {
    let host = TestHost::start(&[guest("quiz")]).await;
    let (artist, mut reader) = (host.client().await, host.client().await);
    reader.ask("enter", json!(null)).await;
    for round in 0..10 {
        draw(&artist, round * 100, 100, 10, 7).await;
        for number in round * 100..(round + 1) * 100 {
            let (name, data) = reader.next().await;
            let expected = if number % 7 == 0 { "line" } else { "cursor" };
            assert_eq!((name.as_str(), &data["number"]), (expected, &json!(number)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_misses_volatile_emits_and_nothing_else() {
    let host = TestHost::with(&[guest("quiz")], |config| {
        config.limits.volatile_bytes = NonZeroUsize::new(10_000).expect("not zero");
        config.server.ping_interval_ms = Duration::from_secs(600);
    })
    .await;
    let (artist, mut reader) = (host.client().await, host.client().await);
    reader.ask("enter", json!(null)).await;
    // A client that polls reads nothing between its polls.
    let slow = host.polling_session().await;
    slow.send(r#"42["enter"]"#).await;
    eventually("both to be in the room", async || {
        (artist.ask("size", json!(null)).await == 2).then_some(())
    })
    .await;
    // In all, so much that a client would be cut for which it waited.
    for round in 0..100 {
        draw(&artist, round * 200, 200, 4_000, 2_000).await;
        for number in round * 200..(round + 1) * 200 {
            assert_eq!(reader.next().await.1["number"], json!(number));
        }
    }
    let waits = host.figure("sockhop_overflow_largest_bytes").await;
    assert!(waits < 200_000, "{waits}");
    let mut got = Vec::new();
    while got.last() != Some(&("line".to_owned(), 18_000)) {
        got.extend(drawn(&slow.poll().await.expect("a session that was not cut")));
    }
    let lines: Vec<u64> = got.iter().filter(|(name, _)| name == "line").map(|(_, n)| *n).collect();
    assert_eq!(lines, (0..10).map(|number| number * 2_000).collect::<Vec<_>>());
    assert!(got.is_sorted_by_key(|(_, number)| *number), "{got:?}");
    let skipped = host.figure(SKIPPED).await;
    assert_eq!(skipped as usize + got.len(), 20_000, "all others were skipped");
    // It reads again, and gets volatile emits again.
    draw(&artist, 20_001, 2, 10, 2_000).await;
    let again = drawn(&slow.poll().await.expect("a session"));
    assert_eq!(again, [("cursor".to_owned(), 20_001), ("cursor".to_owned(), 20_002)]);
    assert_eq!(host.figure(SKIPPED).await, skipped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volatile_emit_is_not_kept_for_clients_that_return() {
    if socketio() != SocketIo::Builtin {
        // The library keeps nothing.
        return;
    }
    let host = TestHost::with(&[guest("quiz")], |config| {
        let (seconds, bytes) = (Duration::from_secs(60), (1 << 20).try_into().expect("not zero"));
        config.server.recovery = Some(Recovery { seconds, bytes });
    })
    .await;
    let (artist, mut reader) = (host.client().await, host.client().await);
    reader.ask("enter", json!(null)).await;
    draw(&artist, 0, 1, 10, 1).await;
    let kept = host.figure("sockhop_recovery_bytes").await;
    draw(&artist, 1, 50, 1_000, 1_000).await;
    assert!(kept > 0 && host.figure("sockhop_recovery_bytes").await == kept);
    draw(&artist, 1_000, 1, 1_000, 1_000).await;
    assert!(host.figure("sockhop_recovery_bytes").await > kept + 1_000);
    for number in (0..51).chain([1_000]) {
        let (_, arguments) = reader.next_list().await;
        assert_eq!(arguments.values[0]["number"], number);
        // An offset follows what is kept.
        assert_eq!(arguments.values.len() == 2, number % 1_000 == 0, "{arguments:?}");
    }
}
