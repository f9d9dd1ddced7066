//! Clients that read slowly, or not at all, and the memory that they need.
use std::time::Duration;

use sockhop_socketio::engineio::{Config, End, WriteDeadline};

use crate::raw::{POLLING, Raw, connect, get, masked, open_polling, post};
use crate::server::{Server, eventually};

/// More than the kernel buffers on both sides of a loopback connection.
const LARGE: usize = 16 << 20;

#[tokio::test]
async fn a_websocket_client_that_asks_and_does_not_read_is_not_heard_until_it_does() {
    let (max_queued, interval) = (1 << 20, Duration::from_millis(300));
    let config =
        Config { max_queued, ping_interval: interval, ping_timeout: interval, ..Config::default() };
    let server = Server::start(config).await;
    let (mut raw, _) = connect(server.port).await;
    raw.write(masked(0x81, b"4page:270000").repeat(100)).await;
    let mut highest = 0;
    while server.ends().is_empty() {
        highest = highest.max(server.engine.usage().queued_bytes);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!((1..=max_queued / 2 + 270_100).contains(&highest), "{highest}");
    server.ended(&[End::Overflow]).await;
    drop(raw);
    server.empty().await;
}

#[tokio::test]
async fn what_a_client_asks_for_in_one_go_it_gets_if_it_reads() {
    let server = Server::start(Config { max_queued: 1 << 20, ..Config::default() }).await;
    let (mut raw, _) = connect(server.port).await;
    raw.write(masked(0x81, b"4page:270000").repeat(32)).await;
    for _ in 0..32 {
        assert_eq!(raw.read_text().await.len(), 270_001);
    }
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let (port, posted) = (server.port, path.clone());
    let body = ["4page:270000"; 32].join("\x1e");
    let posting =
        tokio_util::task::TaskTracker::new().spawn(async move { post(port, &posted, &body).await });
    let mut received = 0;
    while received < 32 * 270_001 {
        let body = get(server.port, &path).await.body;
        received += body.split('\x1e').map(str::len).sum::<usize>();
    }
    assert_eq!(posting.await.unwrap().status, 200);
    assert_eq!(server.ends(), []);
}

/// Everything runs on one thread, so the order of the tasks shows which task waits for which.
#[tokio::test]
async fn a_client_that_sends_much_at_once_delays_the_others_by_a_time_slice_only() {
    let server = Server::start(Config::default()).await;
    let (mut honest, _) = connect(server.port).await;
    let (mut hasty, _) = connect(server.port).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    hasty.write(masked(0x81, b"4spin:500").repeat(200)).await;
    honest.write(masked(0x81, b"4hello")).await;
    assert_eq!(honest.read_text().await, "4hello");
    assert!(server.spun() <= 20, "{} of 200 came first", server.spun());
    eventually(|| server.spun() == 200).await;
    let (port, body) = (server.port, ["4spin:500"; 200].join("\x1e"));
    let posting =
        tokio_util::task::TaskTracker::new().spawn(async move { post(port, &path, &body).await });
    eventually(|| server.spun() > 200).await;
    honest.write(masked(0x81, b"4hello")).await;
    assert_eq!(honest.read_text().await, "4hello");
    assert!(server.spun() <= 300, "{} of 200 came first", server.spun() - 200);
    assert_eq!(posting.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_reads_survives_a_burst_of_another() {
    let server = Server::start(Config { max_queued: 256 << 10, ..Config::default() }).await;
    let (mut raw, _) = connect(server.port).await;
    // As many messages as one batch of another client may cause, without a pause.
    for _ in 0..40 {
        assert!(server.session(0).text(&[&[b'x'; 16 << 10]], &[]));
    }
    server.session(0).flush();
    for _ in 0..40 {
        assert_eq!(raw.read_text().await.len(), (16 << 10) + 1);
    }
    assert_eq!(server.ends(), []);
}

#[tokio::test]
async fn a_message_that_finds_nothing_waiting_may_be_longer_than_the_bound() {
    let server = Server::start(Config { max_queued: 1 << 20, ..Config::default() }).await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4page:5000000").await;
    raw.text("4small").await;
    assert_eq!(raw.read_text().await.len(), 5_000_001);
    assert_eq!(raw.read_text().await, "4small");

    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let session = server.session(1);
    assert!(session.text(&[&vec![b'x'; 5_000_000]], &[]));
    assert!(session.text(&[&[b'x'; 1_000_000]], &[]), "as much more as the bound");
    assert_eq!(get(server.port, &path).await.body.len(), 6_000_003);
    session.writable(0).await;
    assert!(session.text(&[&[b'x'; 1_000_000]], &[]));
    assert!(!session.text(&[&[b'x'; 100_000]], &[]), "the bound is as before");
    server.ended(&[End::Overflow]).await;
}

#[tokio::test]
async fn an_application_can_wait_for_room() {
    let interval = Duration::from_millis(300);
    let config = Config {
        ping_interval: interval,
        ping_timeout: Duration::from_secs(20),
        ..Config::default()
    };
    let server = Server::start(config).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let session = server.session(0);
    session.writable(0).await;
    session.text(&[&[b'x'; 1000]], &[]);
    session.writable(session.queued_bytes()).await;
    let short = Duration::from_millis(50);
    assert!(tokio::time::timeout(short, session.writable(1000)).await.is_err());
    let ((), polled) = tokio::join!(session.writable(1000), get(server.port, &path));
    assert!(polled.body.len() > 1000);
    session.writable(0).await;
    session.text(&[&[b'x'; 1000]], &[]);
    let end = async { session.end(End::Aborted) };
    tokio::join!(session.writable(0), end);

    // A client that takes nothing is not waited for longer than for its pong.
    let config = Config { ping_interval: interval, ping_timeout: interval, ..Config::default() };
    let server = Server::start(config).await;
    open_polling(server.port).await;
    let session = server.session(0);
    session.text(&[&[b'x'; 1000]], &[]);
    session.writable(0).await;
    assert!(session.ended().is_some());
}

#[tokio::test]
async fn an_answer_that_is_not_read_keeps_its_place_until_the_connection_ends() {
    let limit = Duration::from_secs(1);
    let config = Config {
        max_queued: 20 << 20,
        max_sessions: 1,
        delivery_timeout: limit,
        linger: limit,
        ..Config::default()
    };
    let server = Server::start(config).await;
    for end in [End::Aborted, End::Server] {
        let path = format!("{}&transport=polling", open_polling(server.port).await);
        let session = server.engine.service().sessions.lock().unwrap().pop().unwrap();
        session.text(&[&vec![b'x'; LARGE]], &[]);
        let mut slow = Raw::connect(server.port).await;
        slow.request(&format!("GET {path}"), "", "").await;
        eventually(|| session.queued_bytes() == LARGE + 11).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = server.ends().len();
        session.end(end);
        eventually(|| server.ends().len() > before).await;
        tokio::time::sleep(limit + Duration::from_millis(100)).await;
        assert_eq!(server.engine.usage().sessions, 1);
        assert_eq!(get(server.port, POLLING).await.status, 503);
        // It breaks off as soon as the client reads on.
        let received = slow.end().await.len();
        assert!((1 << 20..LARGE).contains(&received), "{received}");
        eventually(|| server.engine.usage().sessions == 0).await;
    }
    server.empty().await;
}

#[tokio::test]
async fn a_write_deadline_ends_the_connection_of_a_client_that_does_not_read() {
    let limit = Duration::from_millis(300);
    let wrap = move |stream| hyper_util::rt::TokioIo::new(WriteDeadline::new(stream, limit));
    let server = Server::with(Config { max_queued: 20 << 20, ..Config::default() }, wrap).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    server.session(0).text(&[&vec![b'x'; LARGE]], &[]);
    let mut slow = Raw::connect(server.port).await;
    slow.request(&format!("GET {path}"), "", "").await;
    eventually(|| server.session(0).queued_bytes() == LARGE + 11).await;
    eventually(|| server.session(0).queued_bytes() == 0).await;
    // Others are served, also over a WebSocket.
    let (mut raw, _) = connect(server.port).await;
    raw.text("4here").await;
    assert_eq!(raw.read_text().await, "4here");
    drop((slow, raw));
}
