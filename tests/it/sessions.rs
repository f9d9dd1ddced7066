//! The time that a client has: to enter a namespace, to answer a ping, and to return after the loss
//! of its transport.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde_json::json;
use sockhop::config::{Limits, Recovery, SocketIo};
use sockhop_tests::{PATIENCE, TestHost, eventually, guest, socketio};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Far less than the default interval of pings, and so than any other reason for an end.
const SOON: Duration = Duration::from_secs(20);

const POLLING: &str = "/socket.io/?EIO=4&transport=polling";

/// Opens a session over polling that enters no namespace. Returns its path.
async fn open(host: &TestHost) -> String {
    let (status, open) = host.http_with(POLLING, None, None).await;
    assert_eq!(status, 200, "{open}");
    let sid = open.as_str().and_then(|open| open.split('"').nth(3)).expect("a session's id");
    format!("{POLLING}&sid={sid}")
}

/// Polls until the session has ended.
async fn poll_to_the_end(host: &TestHost, path: &str) {
    loop {
        let address = host.url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.expect("a host to connect to");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a connection to write to");
        let mut answer = String::new();
        // A connection of a session that ends may be closed without an answer.
        let _ = timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an end");
        if !answer.starts_with("HTTP/1.1 200") {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_enters_no_namespace_in_time_is_ended() {
    const TIME: Duration = Duration::from_secs(2);
    let host = TestHost::with(&[guest("lab")], |config| config.limits.connect_ms = TIME).await;
    let client = host.client().await;
    let began = Instant::now();
    let path = open(&host).await;
    poll_to_the_end(&host, &path).await;
    let default = Limits::default().connect_ms;
    assert!((TIME..default).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(client.ask("echo", json!(1)).await, json!(1), "a client that entered one stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_gone_in_time_and_one_that_does_stays() {
    const TIME: Duration = Duration::from_secs(3);
    let host = TestHost::with(&[guest("lab")], |config| {
        config.server.ping_interval_ms = Duration::from_millis(200);
        config.server.ping_timeout_ms = TIME;
    })
    .await;
    let client = host.client().await;
    let began = Instant::now();
    let silent = host.polling_session().await;
    poll_to_the_end(&host, &format!("{POLLING}&sid={}", silent.sid())).await;
    assert!((TIME..SOON).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert_eq!(client.ask("echo", json!(1)).await, json!(1));
    eventually("one connection", async || {
        (host.figure("sockhop_connections").await == 1).then_some(())
    })
    .await;
}

/// With `builtin` only: the library can't recover connections.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_for_clients_that_return_has_a_bound_in_time_and_in_memory() {
    if socketio() != SocketIo::Builtin {
        return;
    }
    const TIME: Duration = Duration::from_secs(5);
    const MEMORY: usize = 64 << 10;
    const CLIENTS: usize = 20;
    let host = TestHost::with(&[guest("lab")], |config| {
        config.server.recovery =
            Some(Recovery { seconds: TIME, bytes: NonZeroUsize::new(MEMORY).expect("not zero") });
    })
    .await;
    assert_eq!(host.figure("sockhop_recovery_limit_bytes").await, MEMORY as u64);
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(host.client().await);
    }
    // All clients together miss several times the memory.
    let text = "x".repeat(1 << 10);
    let mut most = 0;
    for _ in 0..10 {
        let emit = json!({"event": "gossip", "data": text, "everyone": true});
        assert_eq!(host.http("/api/emit", Some(emit)).await.0, 202);
        for client in &mut clients {
            assert_eq!(client.expect("gossip").await, json!(text));
        }
        let kept = host.figure("sockhop_recovery_bytes").await;
        assert!(kept <= MEMORY as u64, "{kept}");
        most = most.max(kept);
    }
    assert!(most > 0, "events are kept");
    let left = Instant::now();
    drop(clients);
    let until = async |count: u64| {
        eventually("the connections that are kept", async || {
            (host.figure("sockhop_detached_connections").await == count).then_some(())
        })
        .await;
    };
    until(CLIENTS as u64).await;
    until(0).await;
    assert!((TIME..SOON).contains(&left.elapsed()), "{:?}", left.elapsed());
    eventually("memory that is free again", async || {
        (host.figure("sockhop_recovery_bytes").await == 0).then_some(())
    })
    .await;
}
