//! Polling sessions that move on to a WebSocket, or try to.
use std::time::Duration;

use sockhop_socketio::engineio::{Config, End, Transport};

use crate::raw::{Raw, get, masked, open_polling, open_websocket, post};
use crate::server::{Server, eventually};

async fn start() -> (Server, String, String) {
    let config = Config { upgrade_timeout: Duration::from_secs(1), ..Config::default() };
    let server = Server::start(config).await;
    let path = open_polling(server.port).await;
    (server, format!("{path}&transport=polling"), format!("{path}&transport=websocket"))
}

#[tokio::test]
async fn a_session_moves_on_without_losing_anything() {
    let (server, polling, websocket) = start().await;
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {polling}"), "", "").await;
    let mut raw = open_websocket(server.port, &websocket).await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    assert_eq!(waiting.answer().await.unwrap().body, "6", "the poll is released");
    assert_eq!(post(server.port, &polling, "4posted").await.status, 200);
    raw.write([masked(0x81, b"5"), masked(0x81, b"4over the socket")].concat()).await;
    assert_eq!(raw.read_text().await, "4posted");
    assert_eq!(raw.read_text().await, "4over the socket");
    assert_eq!(server.session(0).transport(), Transport::WebSocket);

    assert_eq!(get(server.port, &polling).await.status, 400);
    assert_eq!(post(server.port, &polling, "4late").await.status, 400);
    assert_eq!(open_websocket(server.port, &websocket).await.end().await, b"");
    raw.text("4alive").await;
    assert_eq!(raw.read_text().await, "4alive");
    drop(raw);
    server.ended(&[End::Transport]).await;
    server.empty().await;
}

/// After a failed upgrade the session polls as before.
async fn polls_on(server: &Server, polling: &str) {
    assert_eq!(post(server.port, polling, "4one\x1e4two").await.status, 200);
    assert_eq!(get(server.port, polling).await.body, "4one\x1e4two");
    assert_eq!(server.ends(), []);
}

#[tokio::test]
async fn a_websocket_that_says_nothing_or_something_else_changes_nothing() {
    let (server, polling, websocket) = start().await;
    let mut silent = open_websocket(server.port, &websocket).await;
    polls_on(&server, &polling).await;
    assert_eq!(open_websocket(server.port, &websocket).await.end().await, b"", "one at a time");
    polls_on(&server, &polling).await;
    assert_eq!(silent.end().await, b"", "within the timeout");
    for wrong in ["5", "2", "4hello", "2probe2", ""] {
        let mut raw = open_websocket(server.port, &websocket).await;
        raw.text(wrong).await;
        assert_eq!(raw.end().await, b"", "{wrong}");
        polls_on(&server, &polling).await;
    }
}

#[tokio::test]
async fn a_websocket_that_is_cut_after_its_probe_changes_nothing() {
    let (server, polling, websocket) = start().await;
    for _ in 0..3 {
        let mut raw = open_websocket(server.port, &websocket).await;
        raw.text("2probe").await;
        assert_eq!(raw.read_text().await, "3probe");
        drop(raw);
        eventually(|| server.engine.usage().tasks == 1).await;
        polls_on(&server, &polling).await;
    }
}

#[tokio::test]
async fn a_client_that_never_hears_the_probes_answer_polls_on_without_a_loop() {
    let (server, polling, websocket) = start().await;
    let mut raw = open_websocket(server.port, &websocket).await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    let started = tokio::time::Instant::now();
    let mut released = 0;
    while started.elapsed() < Duration::from_millis(200) {
        assert_eq!(get(server.port, &polling).await.body, "6");
        released += 1;
    }
    assert!(released <= 4, "{released} polls in 300 ms");
    assert_eq!(raw.end().await, b"");
    polls_on(&server, &polling).await;
}

#[tokio::test]
async fn a_poll_of_the_upgrade_gets_messages_too() {
    let (server, polling, websocket) = start().await;
    let mut raw = open_websocket(server.port, &websocket).await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    assert_eq!(post(server.port, &polling, "4one").await.status, 200);
    assert_eq!(get(server.port, &polling).await.body, "4one");
    raw.text("5").await;
    raw.text("4two").await;
    assert_eq!(raw.read_text().await, "4two");
}

#[tokio::test]
async fn a_post_that_is_being_handled_comes_before_the_websocket() {
    let (server, polling, websocket) = start().await;
    let port = server.port;
    let mut raw = open_websocket(port, &websocket).await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    let posted = async move { post(port, &polling, "4sleep:150\x1e4posted").await };
    let posted = tokio_util::task::TaskTracker::new().spawn(posted);
    eventually(|| server.session(0).queued_bytes() > 0).await;
    raw.write([masked(0x81, b"5"), masked(0x81, b"4after")].concat()).await;
    for expected in ["4asleep", "4awake", "4posted", "4after"] {
        assert_eq!(raw.read_text().await, expected);
    }
    assert_eq!(posted.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_waits_for_its_post_during_the_upgrade_is_pinged() {
    let interval = Duration::from_millis(60);
    let config = Config { ping_interval: interval, ping_timeout: interval, ..Config::default() };
    let server = Server::start(config).await;
    let path = open_polling(server.port).await;
    let (port, polling) = (server.port, format!("{path}&transport=polling"));
    let posted = async move { post(port, &polling, "4sleep:1000").await };
    let posted = tokio_util::task::TaskTracker::new().spawn(posted);
    eventually(|| server.session(0).queued_bytes() > 0).await;
    let mut raw = open_websocket(port, &format!("{path}&transport=websocket")).await;
    raw.write([masked(0x81, b"2probe"), masked(0x81, b"5")].concat()).await;
    assert_eq!(raw.read_text().await, "3probe");
    assert_eq!(raw.read_text().await, "4asleep");
    let mut pings = 0;
    while raw.read_text().await == "2" {
        pings += 1;
    }
    assert!((1..=17).contains(&pings), "{pings}");
    assert_eq!(posted.await.unwrap().status, 200);
    assert_eq!(server.ends(), []);
}

#[tokio::test]
async fn a_websocket_may_ping_before_it_carries_the_session() {
    let (server, polling, websocket) = start().await;
    let mut raw = open_websocket(server.port, &websocket).await;
    raw.frame(0x89, "one").await;
    assert_eq!(raw.read_frame().await, Some((0x8a, b"one".to_vec())));
    raw.frame(0x8a, "unasked").await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    raw.frame(0x89, "two").await;
    assert_eq!(raw.read_frame().await, Some((0x8a, b"two".to_vec())));
    raw.text("5").await;
    raw.text("4here").await;
    assert_eq!(raw.read_text().await, "4here");

    let path = open_polling(server.port).await;
    let mut raw = open_websocket(server.port, &format!("{path}&transport=websocket")).await;
    raw.frame(0x88, 1001_u16.to_be_bytes()).await;
    raw.closes_with(1001).await;
    drop(polling);
    polls_on(&server, &format!("{path}&transport=polling")).await;
}

#[tokio::test]
async fn a_poll_that_waits_when_the_client_upgrades_is_released() {
    let (server, polling, websocket) = start().await;
    let mut raw = open_websocket(server.port, &websocket).await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    // Nothing waits when the probe is answered; the client polls, and upgrades at once.
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {polling}"), "", "").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    raw.text("5").await;
    assert_eq!(waiting.answer().await.unwrap().body, "6");
}

#[tokio::test]
async fn a_session_that_the_server_ends_during_an_upgrade_delivers_what_is_queued() {
    let (server, polling, websocket) = start().await;
    let mut raw = open_websocket(server.port, &websocket).await;
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {polling}"), "", "").await;
    raw.text("2probe").await;
    assert_eq!(raw.read_text().await, "3probe");
    assert_eq!(waiting.answer().await.unwrap().body, "6");
    server.session(0).text(&[b"last"], &[]);
    server.session(0).end(End::Server);
    tokio::time::sleep(Duration::from_millis(250)).await;
    raw.text("5").await;
    assert_eq!(raw.read_text().await, "4last");
    raw.closes_with(1000).await;
    server.ended(&[End::Server]).await;
    server.empty().await;
}
