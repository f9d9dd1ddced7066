//! The bounds of the configuration, reached over real connections.
use std::time::Duration;

use sockhop_socketio::engineio::{Config, End};
use tokio::io::AsyncWriteExt;

use crate::raw::{
    POLLING, Raw, UPGRADE, WEBSOCKET, connect, get, masked, open_polling, post, request,
};
use crate::server::{Server, eventually};

/// More than the kernel buffers on both sides of a loopback connection.
const LARGE: usize = 16 << 20;

#[tokio::test]
async fn a_websocket_client_that_does_not_read_costs_its_bound_and_is_ended() {
    let max_queued = 1 << 20;
    let server = Server::start(Config { max_queued, ..Config::default() }).await;
    let (raw, _) = connect(server.port).await;
    let session = server.session(0);
    let page = [b'p'; 270_000];
    while session.text(&[&page], &[]) {
        assert!(session.queued_bytes() <= max_queued);
        tokio::task::yield_now().await;
    }
    server.ended(&[End::Overflow]).await;
    assert!(!session.text(&[b"x"], &[]) && !session.binary(b"x"));
    assert!(!session.shared(&server.engine.frame(&[b"x"], &[])));
    // The connection is cut although the kernel still holds bytes that the client has not read.
    drop((raw, session));
    server.empty().await;
}

#[tokio::test]
async fn no_number_of_clients_exceeds_the_bound_of_all() {
    let max = 1 << 20;
    let config = Config { max_queued_total: max, max_unfinished_total: max, ..Config::default() };
    let server = Server::start(config).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(connect(server.port).await.0);
    }
    for raw in &mut clients {
        raw.write(&masked(0x82, &[0; 900_000])[..100_000]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(server.engine.usage().unfinished_bytes <= max);
    }
    eventually(|| server.ends().len() > 20).await;
    assert!(server.ends().len() < 30 && server.ends().iter().all(|end| *end == End::Overload));
    drop(clients);
    server.empty().await;
    for index in 0..30 {
        open_polling(server.port).await;
        let queued = server.session(index).text(&[&[b'x'; 200_000]], &[]);
        assert_eq!(queued, index < 2, "{index}");
        assert!(server.engine.usage().queued_bytes <= max);
    }
}

#[tokio::test]
async fn a_polling_client_that_does_not_poll_costs_its_bound_and_is_ended() {
    let server = Server::start(Config { max_queued: 1 << 20, ..Config::default() }).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    for _ in 0..3 {
        assert_eq!(post(server.port, &path, "4page:270000").await.status, 200);
    }
    assert_eq!(server.engine.usage().queued_bytes, 3 * (270_001 + 10));
    assert_eq!(post(server.port, &path, "4page:270000").await.status, 200);
    server.ended(&[End::Overflow]).await;
    assert_eq!(server.engine.usage().queued_bytes, 0);
    assert_eq!(post(server.port, &path, "4x").await.status, 400);
    server.empty().await;
}

#[tokio::test]
async fn an_answer_that_the_client_does_not_read_counts_as_queued() {
    let server = Server::start(Config { max_queued: 20 << 20, ..Config::default() }).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    assert_eq!(post(server.port, &path, &format!("4page:{LARGE}")).await.status, 200);
    let mut slow = Raw::connect(server.port).await;
    slow.request(&format!("GET {path}"), "", "").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.session(0).queued_bytes(), LARGE + 11, "the kernel does not take it");
    assert_eq!(post(server.port, &path, &format!("4page:{}", 5 << 20)).await.status, 200);
    server.ended(&[End::Overflow]).await;
    // The connection breaks as soon as the client reads on.
    let end = slow.end().await;
    assert!((1 << 20..LARGE).contains(&end.len()), "{}", end.len());
    server.empty().await;
}

#[tokio::test]
async fn all_clients_together_have_a_bound_that_spares_those_who_read() {
    let config = Config { max_queued: 8 << 20, max_queued_total: 8 << 20, ..Config::default() };
    let server = Server::start(config).await;
    let mut honest = connect(server.port).await.0;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(format!("{}&transport=polling", open_polling(server.port).await));
    }
    for _ in 0..10 {
        for path in &slow {
            let posted = post(server.port, path, "4page:500000").await;
            assert!([200, 400].contains(&posted.status));
            assert!(server.engine.usage().queued_bytes <= 8 << 20);
        }
        honest.text("4page:500000").await;
        assert_eq!(honest.read_text().await.len(), 500_001);
    }
    eventually(|| server.ends().len() >= 2).await;
    assert!(server.ends().iter().all(|end| *end == End::Overflow));
    assert_eq!(server.session(0).ended(), None, "the client that reads stays");
}

#[tokio::test]
async fn a_shared_frame_counts_once() {
    let server = Server::start(Config::default()).await;
    for _ in 0..5 {
        open_polling(server.port).await;
    }
    let frame = server.engine.frame(&[&[b'x'; 100_000]], &[]);
    for index in 0..5 {
        server.session(index).shared(&frame);
        assert!(server.session(index).queued_bytes() > 100_000);
    }
    drop(frame);
    assert_eq!(server.engine.usage().queued_bytes, 100_001 + 10);
    for index in 0..5 {
        server.session(index).end(End::Aborted);
    }
    server.empty().await;
}

#[tokio::test]
async fn a_message_that_is_begun_must_be_finished_in_time() {
    let receive_timeout = Duration::from_millis(400);
    let server = Server::start(Config { receive_timeout, ..Config::default() }).await;
    let half = &masked(0x81, b"4half a frame")[..9];
    let fragment = &masked(0x01, b"4half a message")[..];
    let packet = &masked(0x81, b"4packet:begin")[..];
    let started = tokio::time::Instant::now();
    let mut clients = Vec::new();
    for begun in [half, fragment, packet] {
        let (mut raw, _) = connect(server.port).await;
        raw.write(begun).await;
        clients.push(raw);
    }
    for mut raw in clients {
        assert_eq!(raw.end().await, b"");
        assert!(started.elapsed() >= receive_timeout);
    }
    let mut ends = vec![End::ReceiveTimeout; 3];
    server.ended(&ends).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut raw = Raw::connect(server.port).await;
    raw.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n4half")).await;
    assert_eq!(raw.answer().await.unwrap().status, 408);
    ends.push(End::ReceiveTimeout);
    server.ended(&ends).await;
    server.empty().await;
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused() {
    let server = Server::start(Config { max_payload: 1000, ..Config::default() }).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    assert_eq!(post(server.port, &path, &"4".repeat(1001)).await.status, 413);
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut chunked = Raw::connect(server.port).await;
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    chunked.write(format!("{head}3e8\r\n{}\r\n1\r\n4\r\n", "4".repeat(1000))).await;
    assert_eq!(chunked.answer().await.unwrap().status, 413);
    server.ended(&[End::TooBig; 2]).await;
    server.empty().await;
}

#[tokio::test]
async fn unfinished_messages_of_all_clients_have_a_bound() {
    let config = Config { max_unfinished_total: 1 << 20, ..Config::default() };
    let server = Server::start(config).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (mut raw, _) = connect(server.port).await;
        let _ = raw.stream.write_all(&masked(0x82, &[0; 900_000])[..600_000]).await;
        clients.push(raw);
    }
    eventually(|| !server.ends().is_empty()).await;
    assert!(server.engine.usage().unfinished_bytes <= 1 << 20);
    let ended = server.ends().len();
    assert!((1..4).contains(&ended), "{ended}");
    assert!(server.ends().iter().all(|end| *end == End::Overload));
    // A small message, in two parts, has its share.
    let (mut small, _) = connect(server.port).await;
    small.write(&masked(0x81, b"4small")[..7]).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    small.write(&masked(0x81, b"4small")[7..]).await;
    assert_eq!(small.read_text().await, "4small");
    drop((clients, small));
    server.empty().await;
}

/// The buffer of one read of a WebSocket, in bytes.
const BUFFER: usize = 16 << 10;

#[tokio::test]
async fn the_buffer_of_a_handler_that_waits_counts_as_unfinished() {
    let server = Server::start(Config::default()).await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4sleep:300").await;
    assert_eq!(raw.read_text().await, "4asleep");
    let unfinished = || server.engine.usage().unfinished_bytes;
    eventually(|| unfinished() >= BUFFER).await;
    assert_eq!(raw.read_text().await, "4awake");
    eventually(|| unfinished() == 0).await;
    drop(raw);
    server.empty().await;
}

#[tokio::test]
async fn handlers_that_wait_exceed_no_bound_and_small_messages_have_room() {
    let max = 4 * BUFFER;
    let server = Server::start(Config { max_unfinished_total: max, ..Config::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (mut raw, _) = connect(server.port).await;
        raw.text("4sleep:2000").await;
        assert_eq!(raw.read_text().await, "4asleep");
        clients.push(raw);
        assert!(server.engine.usage().unfinished_bytes <= max);
    }
    assert!(server.engine.usage().unfinished_bytes > BUFFER);
    for raw in &mut clients {
        assert_eq!(raw.read_text().await, "4awake");
    }
    assert_eq!(server.ends(), []);

    // The second message of each client waits in the buffer.
    let much = [masked(0x81, b"4sleep:1000"), masked(0x81, &[b'4'; 12_000])].concat();
    for raw in &mut clients {
        raw.write(&much).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
        // One handler has found that the bound is reached, and its buffer is not free yet.
        assert!(server.engine.usage().unfinished_bytes <= max + BUFFER);
    }
    eventually(|| server.ends().len() >= 10).await;
    assert!(server.ends().len() < 20 && server.ends().iter().all(|end| *end == End::Overload));
    let mut refused = 0;
    for raw in &mut clients {
        let mut frame = raw.read_frame().await;
        if frame == Some((0x81, b"4asleep".to_vec())) {
            frame = raw.read_frame().await;
        }
        match frame {
            Some((0x88, code)) => {
                assert_eq!(code, 1013_u16.to_be_bytes());
                refused += 1;
            }
            other => assert_eq!(other, Some((0x81, b"4awake".to_vec()))),
        }
    }
    eventually(|| server.ends().len() == refused).await;
    drop(clients);
    server.empty().await;
}

#[tokio::test]
async fn a_posted_body_counts_while_it_arrives() {
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut raw = Raw::connect(server.port).await;
    raw.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n4half")).await;
    eventually(|| server.engine.usage().unfinished_bytes == 5).await;
    // A client that hangs up in the middle of a POST has lost its transport.
    drop(raw);
    server.ended(&[End::Transport]).await;
    server.empty().await;
}

#[tokio::test]
async fn a_posted_binary_message_counts_twice_while_its_handler_waits() {
    const LENGTH: usize = 300_000;
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let body = format!("4sleep-in-binary\u{1e}b{}", "AAAA".repeat(LENGTH / 3));
    let text = body.len();
    let counted = eventually(|| server.engine.usage().unfinished_bytes >= text + LENGTH);
    let (posted, ()) = tokio::join!(post(server.port, &path, &body), counted);
    assert_eq!(posted.status, 200);
    assert_eq!(server.engine.usage().unfinished_bytes, 0);

    // The text fits into half of the bound, but not with the 3,000 bytes of the message. Then each
    // of three sessions may hold a third of the other half.
    let max_unfinished_total = 12_000;
    let server = Server::start(Config { max_unfinished_total, ..Config::default() }).await;
    for _ in 0..2 {
        open_polling(server.port).await;
    }
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let body = format!("b{}", "AAAA".repeat(1_000));
    assert_eq!(post(server.port, &path, &body).await.status, 400);
    server.ended(&[End::Overload]).await;
    assert_eq!(server.engine.usage().unfinished_bytes, 0);
}

#[tokio::test]
async fn a_session_counts_until_its_protocol_has_been_closed() {
    let server = Server::start(Config { max_sessions: 2, ..Config::default() }).await;
    let gate = server.engine.service().gate.acquire().await.unwrap();
    let (first, _) = connect(server.port).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    drop(first);
    assert_eq!(post(server.port, &path, "1").await.status, 200);
    server.ended(&[End::Transport, End::Client]).await;
    assert_eq!(server.engine.usage().sessions, 2, "they are closing");
    assert_eq!(get(server.port, POLLING).await.status, 503);
    let websocket = request(server.port, &format!("GET {WEBSOCKET}"), UPGRADE, "").await.unwrap();
    assert_eq!(websocket.status, 503);
    drop(gate);
    eventually(|| server.engine.usage().sessions == 0).await;
    assert_eq!(get(server.port, POLLING).await.status, 200);
}
