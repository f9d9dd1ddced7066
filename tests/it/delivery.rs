//! Delivery of events: each receiver gets an event once, and no other client gets it.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Value, json};
use sockhop::config::SocketIo;
use sockhop_tests::{PollingSession, TestHost, eventually, guest, send, socketio};

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_several_rooms_receives_an_event_once() {
    let host = TestHost::start(&[guest("lab")]).await;
    let mut client = host.client().await;
    client.ask("both", json!(null)).await;
    client.expect("noise").await;
    let (status, answer) = host
        .http("/api/emit", Some(json!({"event": "noise", "data": 1, "rooms": ["lab", "left"]})))
        .await;
    assert_eq!((status, &answer["receivers"]), (202, &json!(1)));
    assert_eq!(client.expect("noise").await, json!(1));
    client.ask("echo", json!(null)).await;
    assert_eq!(client.pending(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_others_and_single_connections_are_reached_and_nobody_else() {
    let host = TestHost::start(&[guest("lab")]).await;
    let (mut sender, mut inside, mut outside) =
        (host.client().await, host.client().await, host.client().await);
    for client in [&sender, &inside] {
        client.ask("enter", json!(null)).await;
    }
    let public_id = outside.ask("me", json!(null)).await;
    let mut heard = async |to: Value| {
        sender.ask("spread", to.clone()).await;
        let mut all = Vec::new();
        for client in [&mut sender, &mut inside, &mut outside] {
            client.ask("echo", json!(null)).await;
            let pending = client.pending();
            assert!(
                pending.iter().all(|event| *event == ("gossip".to_owned(), to.clone())),
                "{pending:?}"
            );
            all.push(pending.len());
        }
        all
    };
    assert_eq!(heard(json!("everyone")).await, [1, 1, 1]);
    assert_eq!(heard(json!("others")).await, [0, 1, 0]);
    assert_eq!(heard(public_id).await, [0, 0, 1]);
    assert_eq!(
        heard(json!("01ARZ3NDEKTSV4RRFFQ69G5FAV")).await,
        [0, 0, 0],
        "a connection that is gone"
    );
    let (status, answer) = host
        .http("/api/emit", Some(json!({"event": "gossip", "data": "x", "everyone": true})))
        .await;
    assert_eq!((status, &answer["receivers"]), (202, &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_hear_each_other() {
    let host =
        TestHost::with(&[guest("lab")], |config| config.server.namespaces.push("/chat".to_owned()))
            .await;
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

const BURST: u64 = 200;

/// Starts a host that buffers only a few packets per client.
async fn host_with_small_buffers(stalled: Duration, overflow_bytes: usize) -> TestHost {
    TestHost::with(&[guest("lab")], |config| {
        config.limits.outgoing_packets = NonZeroUsize::new(16).expect("not zero");
        config.limits.overflow_bytes = NonZeroUsize::new(overflow_bytes).expect("not zero");
        config.limits.stalled_reader_ms = stalled;
        // Packets for a polling client stay queued until it polls or misses a ping.
        config.server.ping_interval_ms = stalled;
        config.server.ping_timeout_ms = stalled;
    })
    .await
}

/// Waits until the session has ended. Packets that it still receives are discarded.
async fn ends(session: &PollingSession) {
    eventually("the end of the session", async || {
        session.poll().await.is_none_or(|packets| packets.ends_with("41")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_for_which_more_waits_than_its_buffer_holds_misses_nothing() {
    let host = host_with_small_buffers(sockhop_tests::PATIENCE, 4 << 20).await;
    let mut client = host.client().await;
    // The library closes a session if its buffer has no space for a ping.
    client.pinged().await;
    let bursts: Vec<_> = (0..BURST).map(|number| ("noise".to_owned(), json!(number))).collect();
    for _ in 0..5 {
        assert_eq!(client.ask("burst", json!(BURST)).await, json!(null));
        assert_eq!(client.pending(), bursts, "in their order, and before the ack");
    }
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
    // Events without an ack don't wait, even if emits wait for their client.
    client.emit("burst", json!(BURST)).await;
    for number in 0..10 {
        client.emit("note", json!(number.to_string())).await;
    }
    let me = client.ask("me", json!(null)).await;
    assert_eq!(client.pending(), bursts);
    let notes: Vec<_> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(client.ask("notes", me).await, json!(notes));
    // A disconnect comes after the waiting emits.
    client.emit("burst", json!(BURST)).await;
    client.ask("goodbye", json!(null)).await;
    for number in 0..BURST {
        assert_eq!(client.expect("noise").await, json!(number));
    }
    assert_eq!(client.expect("noise").await, json!(null));
    client.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_events_is_cut_and_leaves_no_memory_behind() {
    let host = host_with_small_buffers(Duration::from_secs(1), 4 << 20).await;
    let honest = host.client().await;
    // With long-polling, packets stay in the buffer until the client polls.
    let session = host.polling_session().await;
    session.send(&format!("42[\"burst\",{BURST}]")).await;
    let waiting = eventually("emits that wait", async || {
        Some(host.figure("sockhop_overflow_bytes").await).filter(|waiting| *waiting > 0)
    });
    assert!(waiting.await < 4 << 20);
    assert_eq!(honest.ask("echo", json!(1)).await, json!(1));
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
    // The session delivers what is in its buffer, if it has one, and then ends.
    ends(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_for_whose_events_no_memory_is_left_is_cut_at_once() {
    const MEMORY: usize = 256 << 10;
    const SESSIONS: u64 = 20;
    let host = host_with_small_buffers(sockhop_tests::PATIENCE, MEMORY).await;
    let mut honest = host.client().await;
    assert_eq!(host.figure("sockhop_overflow_limit_bytes").await, MEMORY as u64);
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(host.polling_session().await);
    }
    let text = "x".repeat(4 << 10);
    // More than a buffer of the library has space for, and more than one client's share of the
    // memory.
    for _ in 0..40 {
        let (status, _) = host
            .http("/api/emit", Some(json!({"event": "gossip", "data": text, "everyone": true})))
            .await;
        assert_eq!(status, 202);
        assert_eq!(honest.expect("gossip").await, json!(text), "who reads misses nothing");
        assert!(host.figure("sockhop_overflow_bytes").await <= MEMORY as u64);
    }
    let last = json!({"event": "gossip", "data": "", "everyone": true});
    let (_, answer) = host.http("/api/emit", Some(last.clone())).await;
    assert_eq!(answer["receivers"], json!(1), "nobody else gets it");
    let once = emit_once(&host, "last", &last).await;
    assert_eq!(
        once["receivers"],
        json!(1),
        "also if the answer was kept before the event was sent"
    );
    assert_eq!(emit_once(&host, "last", &last).await, once);
    for session in sessions {
        ends(&session).await;
    }
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
}

/// Emits with an idempotency key, and returns the answer.
async fn emit_once(host: &TestHost, key: &str, emit: &Value) -> Value {
    let (url, body) = (host.url.clone(), emit.to_string());
    let (owner, key) = (format!("Bearer {}", host.key()), key.to_owned());
    let sent = tokio::task::spawn_blocking(move || {
        let json = ("Content-Type", "application/json");
        let headers = [("Authorization", owner.as_str()), ("Idempotency-Key", key.as_str()), json];
        send(&url, "POST /api/emit", &headers, &body)
    });
    sent.await.expect("an answer").json()
}

/// A client can't make the host hold more than its share of memory: its next events wait until it
/// reads.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_for_without_reading_is_bounded() {
    const MEMORY: usize = 256 << 10;
    let host = host_with_small_buffers(Duration::from_secs(2), MEMORY).await;
    let session = host.polling_session().await;
    let mut honest = host.client().await;
    // All together need much more than the memory limit. They are sent in one request, and its
    // response depends on the implementation.
    let bursts = vec![format!("42[\"burst\",{BURST}]"); 100].join("\u{1e}");
    let asking = async {
        let _ = session.try_send(&bursts).await;
        ends(&session).await;
    };
    let watching = async {
        loop {
            assert!(host.figure("sockhop_overflow_bytes").await <= MEMORY as u64);
            assert_eq!(honest.ask("echo", json!(1)).await, json!(1), "nobody else notices");
            assert_eq!(honest.pending(), []);
        }
    };
    tokio::select! {
        () = asking => {}
        () = watching => {}
    }
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_entered_again_gets_nothing_that_waited_before() {
    let host = host_with_small_buffers(sockhop_tests::PATIENCE, 4 << 20).await;
    let session = host.polling_session().await;
    session.send(&format!("42[\"burst\",{BURST}]")).await;
    eventually("emits that wait", async || {
        (host.figure("sockhop_overflow_bytes").await > 0).then_some(())
    })
    .await;
    session.send("41").await;
    if socketio() == SocketIo::Socketioxide {
        eventually("memory that is free again", async || {
            (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
        })
        .await;
    }
    // These are the packets that were already buffered. The library drops a CONNECT if the buffer
    // has no space for its answer.
    let mut packets = session.poll().await.expect("a session that goes on");
    session.send("40").await;
    while !packets.contains("40{") {
        packets += &session.poll().await.expect("a session that goes on");
    }
    let (_, after) = packets.split_once("40{").expect("an answer to CONNECT");
    assert!(!after.contains("noise"), "{after}");
}
