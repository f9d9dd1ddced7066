//! How sessions end, and how clients notice it.
use std::time::Duration;

use sockhop_socketio::engineio::{Config, End};

use crate::raw::{POLLING, Raw, connect, get, open_polling, open_websocket, post, request};
use crate::server::{Server, eventually};

#[tokio::test]
async fn a_server_that_stops_cuts_its_clients_without_a_word() {
    let server = Server::start(Config::default()).await;
    let (mut websocket, _) = connect(server.port).await;
    let polling = format!("{}&transport=polling", open_polling(server.port).await);
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {polling}"), "", "").await;
    let upgrading = open_polling(server.port).await;
    let mut probed = open_websocket(server.port, &format!("{upgrading}&transport=websocket")).await;
    probed.text("2probe").await;
    assert_eq!(probed.read_text().await, "3probe");
    websocket.text("4answered").await;
    assert_eq!(websocket.read_text().await, "4answered");
    // Queued messages are still sent, if the kernel takes them.
    server.session(0).text(&[b"last"], &[]);

    server.engine.close();
    server.engine.wait().await;
    assert_eq!(websocket.read_text().await, "4last");
    assert_eq!(websocket.end().await, b"");
    assert_eq!(waiting.answer().await, None);
    assert_eq!(waiting.end().await, b"");
    assert_eq!(probed.end().await, b"");
    assert_eq!(server.ends(), [End::Shutdown; 3]);
    assert_eq!(get(server.port, POLLING).await.status, 503);
    server.empty().await;
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_an_upgrade() {
    let server = Server::start(Config::default()).await;
    let path = open_polling(server.port).await;
    let mut silent = open_websocket(server.port, &format!("{path}&transport=websocket")).await;
    server.engine.close();
    let stopped = tokio::time::timeout(Duration::from_secs(2), server.engine.wait()).await;
    assert!(stopped.is_ok());
    assert_eq!(silent.end().await, b"");
}

#[tokio::test]
async fn a_client_that_reads_slowly_or_polls_late_gets_what_was_queued_before_the_end() {
    const LARGE: usize = 16 << 20;
    let linger = Duration::from_millis(20);
    for end in [End::Server, End::Shutdown] {
        let server =
            Server::start(Config { linger, max_queued: 20 << 20, ..Config::default() }).await;
        let (mut websocket, _) = connect(server.port).await;
        let path = format!("{}&transport=polling", open_polling(server.port).await);
        for index in 0..2 {
            let session = server.session(index);
            session.text(&[&vec![b'x'; LARGE]], &[]);
            session.text(&[b"last"], &[]);
            if end == End::Server {
                session.end(end);
            }
        }
        if end == End::Shutdown {
            server.engine.close();
        }
        // Unread bytes of the client must not make the kernel reset the connection.
        websocket.text("4more").await;
        tokio::time::sleep(10 * linger).await;
        assert_eq!(websocket.read_text().await.len(), "4".len() + LARGE);
        assert_eq!(websocket.read_text().await, "4last");
        if end == End::Server {
            websocket.closes_with(1000).await;
        } else {
            assert_eq!(websocket.end().await, b"");
        }
        let polled = get(server.port, &path).await.body;
        assert!(polled.len() > LARGE && polled.ends_with("4last"), "{}", polled.len());
        server.ended(&[end; 2]).await;
        server.empty().await;
    }
}

#[tokio::test]
async fn a_session_that_the_application_ends_delivers_what_is_queued() {
    let delivery_timeout = Duration::from_secs(1);
    let server = Server::start(Config { delivery_timeout, ..Config::default() }).await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4end").await;
    assert_eq!(raw.read_text().await, "4bye");
    raw.closes_with(1000).await;

    let path = format!("{}&transport=polling", open_polling(server.port).await);
    assert_eq!(post(server.port, &path, "4end").await.status, 200);
    assert_eq!(get(server.port, &path).await.body, "4bye");
    server.ended(&[End::Server; 2]).await;
    assert_eq!(get(server.port, &path).await.status, 400);

    // A client that does not fetch it is not waited for forever.
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    assert_eq!(post(server.port, &path, "4end").await.status, 200);
    server.ended(&[End::Server; 3]).await;
    server.empty().await;
}

#[tokio::test]
async fn a_session_that_the_application_aborts_is_cut() {
    let server = Server::start(Config::default()).await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4abort").await;
    assert_eq!(raw.end().await, b"");
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {path}"), "", "").await;
    assert_eq!(post(server.port, &path, "4abort").await.status, 200);
    assert_eq!(waiting.answer().await, None);
    server.ended(&[End::Aborted; 2]).await;
    server.empty().await;
}

#[tokio::test]
async fn a_poll_that_is_cancelled_ends_the_session_at_once() {
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {path}"), "", "").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(waiting);
    server.ended(&[End::Transport]).await;
    assert_eq!(get(server.port, &path).await.status, 400);
    server.empty().await;
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_its_handler() {
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut posting = Raw::connect(server.port).await;
    posting.request(&format!("POST {path}"), "", "4sleep:150").await;
    eventually(|| server.session(0).queued_bytes() > 0).await;
    drop(posting);
    // The frames of both answers.
    eventually(|| server.session(0).queued_bytes() == 9 + 8).await;
    assert_eq!(get(server.port, &path).await.body, "4asleep\x1e4awake");
    assert_eq!(server.ends(), []);
}

#[tokio::test]
async fn a_handler_that_panics_leaves_no_session() {
    let server = Server::start(Config::default()).await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4panic").await;
    assert_eq!(raw.end().await, b"");
    server.ended(&[End::Aborted]).await;
    eventually(|| server.engine.usage().sessions == 0).await;
    assert_eq!(server.session(0).ended(), Some(End::Aborted));

    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let line = format!("POST {path}");
    assert_eq!(request(server.port, &line, "", "4panic").await, None);
    server.ended(&[End::Aborted; 2]).await;
    server.empty().await;
}

#[tokio::test]
async fn a_client_without_pongs_is_ended_over_either_transport() {
    let interval = Duration::from_millis(300);
    let config = Config { ping_interval: interval, ping_timeout: interval, ..Config::default() };
    let server = Server::start(config).await;
    let (mut raw, _) = connect(server.port).await;
    assert_eq!(raw.read_text().await, "2");
    raw.text("3").await;
    assert_eq!(raw.read_text().await, "2");
    assert_eq!(raw.end().await, b"");
    server.ended(&[End::PingTimeout]).await;

    let path = format!("{}&transport=polling", open_polling(server.port).await);
    assert_eq!(get(server.port, &path).await.body, "2");
    assert_eq!(post(server.port, &path, "3").await.status, 200);
    assert_eq!(get(server.port, &path).await.body, "2");
    server.ended(&[End::PingTimeout; 2]).await;
    server.empty().await;
}
