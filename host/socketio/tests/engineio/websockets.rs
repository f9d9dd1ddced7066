//! Sessions over WebSockets.
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sockhop_socketio::engineio::{Config, End, Socket, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::raw::{Raw, UPGRADE, WEBSOCKET, connect, masked, request};
use crate::server::{Server, eventually};

#[tokio::test]
async fn messages_come_back_however_they_are_cut() {
    let server = Server::start(Config::default()).await;
    let (mut raw, _) = connect(server.port).await;
    raw.write([masked(0x81, b"4one"), masked(0x82, &[1, 2, 3]), masked(0x81, b"4two")].concat())
        .await;
    assert_eq!(raw.read_text().await, "4one");
    assert_eq!(raw.read_frame().await, Some((0x82, vec![1, 2, 3])));
    assert_eq!(raw.read_text().await, "4two");

    for byte in masked(0x81, b"4slowly") {
        raw.write([byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.read_text().await, "4slowly");

    raw.frame(0x01, "4in ").await;
    raw.frame(0x89, "ping").await;
    assert_eq!(raw.read_frame().await, Some((0x8A, b"ping".to_vec())));
    raw.frame(0x00, "three ").await;
    raw.frame(0x80, "parts").await;
    assert_eq!(raw.read_text().await, "4in three parts");

    let long = format!("4{}", "x".repeat(500_000));
    raw.text(&long).await;
    assert_eq!(raw.read_text().await, long);
    assert_eq!(server.engine.usage().unfinished_bytes, 0);
}

#[tokio::test]
async fn what_arrives_with_the_request_is_not_lost() {
    let server = Server::start(Config::default()).await;
    let mut raw = Raw::connect(server.port).await;
    let head = format!("GET {WEBSOCKET} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n");
    raw.write([head.into_bytes(), masked(0x81, b"4early")].concat()).await;
    assert_eq!(raw.answer().await.unwrap().status, 101);
    assert!(raw.read_text().await.starts_with("0{"));
    assert_eq!(raw.read_text().await, "4early");
}

#[tokio::test]
async fn wrong_frames_are_answered_with_the_status_that_the_protocol_asks_for() {
    let server = Server::start(Config { max_payload: 1000, ..Config::default() }).await;
    let long = masked(0x81, &[b'4'; 1001]);
    let fragments = [masked(0x01, &[b'4'; 600]), masked(0x80, &[b'4'; 600])].concat();
    let cases = [
        (long.clone(), 1009, End::TooBig),
        // Before the rest of it comes, and although more comes than the kernel buffers.
        (long[..8].to_vec(), 1009, End::TooBig),
        ([long, vec![0; 3000]].concat(), 1009, End::TooBig),
        (fragments, 1009, End::TooBig),
        (b"\x81\x05hello".to_vec(), 1002, End::Parse),
        (masked(0xC1, b"4compressed"), 1002, End::Parse),
        (masked(0x80, b"no start"), 1002, End::Parse),
        (masked(0x81, b"4\xFF"), 1007, End::Parse),
        (masked(0x81, b"x"), 1008, End::Parse),
        (masked(0x81, b""), 1008, End::Parse),
        (masked(0x81, b"2"), 1008, End::Parse),
        (masked(0x81, b"b!"), 1008, End::Parse),
    ];
    let mut ends = Vec::new();
    for (bytes, code, end) in cases {
        let (mut raw, _) = connect(server.port).await;
        // Earlier messages are still answered.
        raw.write([masked(0x81, b"4before"), bytes].concat()).await;
        assert_eq!(raw.read_text().await, "4before");
        raw.closes_with(code).await;
        ends.push(end);
        server.ended(&ends).await;
    }
    server.empty().await;
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let server = Server::start(Config::default()).await;
    let (mut closing, _) = connect(server.port).await;
    closing.frame(0x88, [0x0F, 0xA0]).await;
    closing.closes_with(4000).await;
    let (cut, _) = connect(server.port).await;
    drop(cut);
    server.ended(&[End::Transport; 2]).await;
    let (mut leaving, _) = connect(server.port).await;
    leaving
        .write([masked(0x81, b"4last"), masked(0x81, b"1"), masked(0x81, b"4late")].concat())
        .await;
    assert_eq!(leaving.read_text().await, "4last");
    leaving.closes_with(1000).await;
    server.ended(&[End::Transport, End::Transport, End::Client]).await;
    server.empty().await;
}

#[tokio::test]
async fn a_second_connection_that_names_the_session_changes_nothing() {
    let server = Server::start(Config::default()).await;
    let (mut raw, sid) = connect(server.port).await;
    let path = format!("/socket.io/?EIO=4&sid={sid}");
    for line in ["GET", "POST"].map(|method| format!("{method} {path}&transport=polling")) {
        assert_eq!(request(server.port, &line, "", "41").await.unwrap().status, 400);
    }
    let mut second =
        crate::raw::open_websocket(server.port, &format!("{path}&transport=websocket")).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut second.stream, &masked(0x81, b"2probe")).await;
    assert_eq!(second.end().await, b"");
    raw.text("4still here").await;
    assert_eq!(raw.read_text().await, "4still here");
    assert_eq!(server.ends(), []);
}

#[tokio::test]
async fn while_a_handler_waits_the_client_is_pinged_and_not_read() {
    let interval = Duration::from_millis(60);
    let config = Config { ping_interval: interval, ping_timeout: interval, ..Config::default() };
    let server = Server::start(config).await;
    let (mut raw, _) = connect(server.port).await;
    raw.write([masked(0x81, b"4sleep:1000"), masked(0x81, b"4next")].concat()).await;
    let mut pings = 0;
    assert_eq!(
        raw.read_text().await,
        "4asleep",
        "what is queued leaves before the handler is done"
    );
    loop {
        match &*raw.read_text().await {
            "2" => pings += 1,
            "4awake" => break,
            other => panic!("{other}"),
        }
    }
    assert!((1..=17).contains(&pings), "{pings}");
    assert_eq!(raw.read_text().await, "4next");
    assert_eq!(server.ends(), [], "no pong was missed");
    raw.end().await;
    server.ended(&[End::PingTimeout]).await;
}

/// A stream of an application, which counts its connections.
struct Counted {
    stream: TcpStream,
    guard: CountGuard,
}

struct CountGuard(Arc<AtomicUsize>);

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream for Counted {
    type Guard = CountGuard;

    fn into_parts(self) -> (Socket, CountGuard) {
        (Socket::Tcp(self.stream), self.guard)
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn the_applications_guard_lives_as_long_as_the_connection() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let server = Server::with(Config::default(), move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        TokioIo::new(Counted { stream, guard: CountGuard(Arc::clone(&counter)) })
    })
    .await;
    let (mut raw, _) = connect(server.port).await;
    raw.text("4here").await;
    assert_eq!(raw.read_text().await, "4here");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    drop(raw);
    eventually(|| count.load(Ordering::Relaxed) == 0).await;
}
