//! What one client can make the host hold: what it sends, what it does not read, and what it does
//! not finish.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::{Limits, SocketIo};
#[cfg(target_os = "linux")]
use sockhop_tests::{HostProcess, PollingSession, directory_of};
use sockhop_tests::{
    PATIENCE, TestClient, TestHost, bundled_plugin, chameleon, drop_in, eventually, guest, socketio,
};
#[cfg(target_os = "linux")]
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// A TCP connection of a client for which the system holds little.
async fn narrow(url: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4 << 10).expect("a smaller buffer");
    let address: SocketAddr =
        url.trim_start_matches("http://").parse().expect("the host's address");
    socket.connect(address).await.expect("a host to connect to")
}

/// Reads until the host has said `end`.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains(end) {
        let byte = timeout(PATIENCE, stream.read_u8())
            .await
            .expect("an answer in time")
            .expect("an answer");
        said.push(byte);
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// A WebSocket in the namespace `/`.
async fn websocket(url: &str) -> TcpStream {
    let mut stream = narrow(url).await;
    let request = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nConnection: \
                   Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("a connection");
    until(&mut stream, "\r\n\r\n").await;
    stream.write_all(&frame("40")).await.expect("a connection");
    until(&mut stream, "40{").await;
    stream
}

/// A masked frame of a short text. The mask is zero, which leaves the text as it is.
fn frame(text: &str) -> Vec<u8> {
    let length =
        u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// Records that are one answer of some 270 KB.
const RECORDS: usize = 70;
const LIST: &str = r#"["memory_log_list",{"user_id":7,"limit":70}]"#;

const MEMORY: usize = 16 << 20;
const STALLED: Duration = Duration::from_secs(2);

async fn host_with_a_long_list() -> TestHost {
    let host = TestHost::with(&[bundled_plugin("memory_logs")], |config| {
        config.limits.outgoing_packets = NonZeroUsize::new(16).expect("not zero");
        config.limits.overflow_bytes = NonZeroUsize::new(MEMORY).expect("not zero");
        config.limits.stalled_reader_ms = STALLED;
        config.limits.body_ms = STALLED;
    })
    .await;
    write_a_long_list(&host.url).await;
    host
}

async fn write_a_long_list(url: &str) {
    let client = TestClient::connect(url).await;
    let content = "x".repeat(3_900);
    for _ in 0..RECORDS {
        client.ask("memory_log_create", json!({"user_id": 7, "content": content})).await;
    }
    let list = client.ask_raw(LIST).await;
    assert!(list.to_string().len() > 250_000, "{:.200}", list.to_string());
}

/// Reads 1 KB a second of what the host at `url` sends, while the client asks until it is
/// disconnected. Returns the most that the host `held` meanwhile.
async fn read_slowly(
    url: &str,
    mut held: impl AsyncFnMut() -> u64,
    mut reader: impl AsyncRead + Unpin,
    asks: impl Future<Output = ()>,
) -> u64 {
    let reads = async {
        let mut some = [0; 100];
        while reader.read(&mut some).await.is_ok_and(|read| read > 0) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The end of the asking is what counts.
        std::future::pending::<()>().await;
    };
    let honest = TestClient::connect(url).await;
    let mut most = 0;
    let watches = async {
        loop {
            most = most.max(held().await);
            assert!(honest.ask_raw(LIST).await.to_string().len() > 250_000, "nobody else notices");
        }
    };
    tokio::select! {
        () = reads => {}
        () = watches => {}
        ended = timeout(PATIENCE, asks) => ended.expect("a client that does not read what it asks \
                                        for is disconnected"),
    }
    most
}

/// Bytes that wait for clients, as the host counts them.
async fn overflow(host: &TestHost) -> u64 {
    host.figure("sockhop_overflow_bytes").await
}

/// A client's share, the answer that found it full, and that of the honest client beside it.
const MOST: u64 = (MEMORY / 16 + (600 << 10)) as u64;

fn is_a_share(most: u64) {
    // In the library's buffer answers do not count.
    let least = if socketio() == SocketIo::Builtin { MOST / 4 } else { 0 };
    assert!((least..=MOST).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_reads_slower_than_it_asks_costs_its_share_and_is_disconnected() {
    let host = host_with_a_long_list().await;
    let (reader, mut writer) = websocket(&host.url).await.into_split();
    let question = frame(&format!("420{LIST}"));
    let began = Instant::now();
    let asks = async { while writer.write_all(&question).await.is_ok() {} };
    let most = read_slowly(&host.url, async || overflow(&host).await, reader, asks).await;
    let default = Limits::default().stalled_reader_ms;
    assert!(began.elapsed() < default, "{:?}", began.elapsed());
    is_a_share(most);
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_polling_client_that_reads_slower_than_it_asks_costs_its_share_and_is_disconnected() {
    let host = host_with_a_long_list().await;
    let session = host.polling_session().await;
    let mut stream = narrow(&host.url).await;
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", session.sid());
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .await
        .expect("a connection");
    // Other connections ask; what is answered goes to the one that polls, and waits there.
    let question = format!("420{LIST}");
    let asks = async { while session.try_send(&question).await {} };
    // All of it waits for one client.
    let largest = async || host.figure("sockhop_overflow_largest_bytes").await;
    let most = read_slowly(&host.url, largest, stream, asks).await;
    is_a_share(most);
    eventually("memory that is free again", async || {
        (host.figure("sockhop_overflow_bytes").await == 0).then_some(())
    })
    .await;
}

/// What the process may allocate beyond its memory at rest while one client reads slowly: that
/// client's share with copies of some answers, and the instances of plugins. Without the bound, it
/// was more than a hundred times as much.
#[cfg(target_os = "linux")]
const GROWTH: u64 = 32 << 20;

/// Starts a host process with the long list and the limits of [`host_with_a_long_list`]. Returns
/// its memory at rest too.
#[cfg(target_os = "linux")]
async fn process_with_a_long_list() -> (HostProcess, u64, [TempDir; 2]) {
    let (plugins, data) =
        (directory_of(&[bundled_plugin("memory_logs")]), tempfile::tempdir().expect("a directory"));
    let (stalled, memory) = (STALLED.as_millis().to_string(), MEMORY.to_string());
    let settings = [
        ("SOCKHOP_LIMITS__OUTGOING_PACKETS", "16"),
        ("SOCKHOP_LIMITS__OVERFLOW_BYTES", &memory),
        // One emit must fit into a client's share.
        ("SOCKHOP_LIMITS__EFFECTS_BYTES", "524288"),
        ("SOCKHOP_LIMITS__STALLED_READER_MS", &stalled),
        ("SOCKHOP_LIMITS__BODY_MS", &stalled),
    ];
    let host = HostProcess::start_with(plugins.path(), data.path(), &settings);
    write_a_long_list(&host.url).await;
    let honest = TestClient::connect(&host.url).await;
    for _ in 0..20 {
        honest.ask_raw(LIST).await;
    }
    let at_rest = host.allocated();
    (host, at_rest, [plugins, data])
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_reads_slowly_costs_the_process_a_bounded_amount_of_memory() {
    let (host, at_rest, _directories) = process_with_a_long_list().await;
    let (reader, mut writer) = websocket(&host.url).await.into_split();
    let question = frame(&format!("420{LIST}"));
    let asks = async { while writer.write_all(&question).await.is_ok() {} };
    let most = read_slowly(&host.url, async || host.allocated(), reader, asks).await;
    assert!(most < at_rest + GROWTH, "{at_rest} bytes grew to {most}");
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_polling_client_that_reads_slowly_costs_the_process_a_bounded_amount_of_memory() {
    let (host, at_rest, _directories) = process_with_a_long_list().await;
    let session = PollingSession::connect(&host.url).await;
    let mut stream = narrow(&host.url).await;
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={}", session.sid());
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a connection");
    let question = format!("420{LIST}");
    let asks = async { while session.try_send(&question).await {} };
    let most = read_slowly(&host.url, async || host.allocated(), stream, asks).await;
    assert!(most < at_rest + GROWTH, "{at_rest} bytes grew to {most}");
}

/// With `builtin` only: the library does not count them.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_never_finished_have_a_bound_together_and_short_ones_are_answered() {
    if socketio() != SocketIo::Builtin {
        return;
    }
    const UNFINISHED: usize = 512 << 10;
    const BEGUN: usize = 60_000;
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.unfinished_bytes = NonZeroUsize::new(UNFINISHED).expect("not zero");
        // No deadline is to end them first.
        config.limits.body_ms = PATIENCE;
    })
    .await;
    assert_eq!(host.figure("sockhop_unfinished_limit_bytes").await, UNFINISHED as u64);
    let honest = host.client().await;
    let short = json!("x".repeat(1_000));
    // A frame of 64,000 bytes, of which so many come.
    let begun = [&[0x81, 0x80 | 126, 0xfa, 0, 0, 0, 0, 0], vec![b'x'; BEGUN].as_slice()].concat();
    let mut strangers = Vec::new();
    for _ in 0..40 {
        let mut stream = websocket(&host.url).await;
        stream.write_all(&begun).await.expect("a connection");
        strangers.push(stream);
        assert!(host.figure("sockhop_unfinished_bytes").await <= UNFINISHED as u64);
        assert_eq!(
            honest.ask("echo", short.clone()).await,
            short,
            "who finishes what it sends is answered"
        );
    }
    assert!(
        host.figure("sockhop_unfinished_bytes").await >= BEGUN as u64,
        "some are within the bound"
    );
    let mut open = 0;
    for stream in &mut strangers {
        let closed = timeout(Duration::from_millis(20), stream.read(&mut [0; 64])).await.is_ok();
        open += usize::from(!closed);
    }
    assert!(open * BEGUN <= UNFINISHED, "{open} of 40 are still there");
    drop(strangers);
    eventually("memory that is free again", async || {
        (host.figure("sockhop_unfinished_bytes").await == 0).then_some(())
    })
    .await;
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a number above zero")
}

fn code(answer: &Value) -> &str {
    answer["error"]["code"].as_str().unwrap_or("no error")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_so_many_bytes_levels_and_attachments_as_is_set() {
    const BYTES: usize = 1_000;
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.message_bytes = number(BYTES);
        config.limits.json_depth = number(4);
        config.limits.attachments = 2;
        config.limits.attachment_bytes = number(BYTES);
    })
    .await;
    let client = host.client().await;
    for (payload, expected) in [
        (json!("x".repeat(BYTES - 100)), "no error"),
        (json!("x".repeat(BYTES + 100)), "too_large"),
        (json!([[[[1]]]]), "no error"),
        (json!([[[[[1]]]]]), "too_large"),
    ] {
        assert_eq!(code(&client.ask("echo", payload.clone()).await), expected, "{payload}");
    }
    let sent = async |sizes: &[usize]| {
        let placeholder = |number: usize| json!({"_placeholder": true, "num": number});
        let array = json!(["echo", (0..sizes.len()).map(placeholder).collect::<Vec<_>>()]);
        let attachments: Vec<_> = sizes.iter().map(|size| vec![7; *size]).collect();
        client.ask_with(&array.to_string(), &attachments).await
    };
    for (sizes, expected) in [
        (&[BYTES][..], "no error"),
        (&[BYTES + 1], "too_large"),
        // The limit is for all attachments together.
        (&[BYTES / 2, BYTES / 2], "no error"),
        (&[BYTES / 2, BYTES / 2 + 1], "too_large"),
        (&[1, 1, 1], "too_large"),
    ] {
        let answer = sent(sizes).await;
        assert_eq!(code(&answer), expected, "{sizes:?}: {answer}");
    }
    assert_eq!(client.ask("echo", json!(1)).await, json!(1), "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_has_space_for_so_many_events_and_bytes_as_is_set() {
    // Both limits count the event that is being handled, whose payload is `null`.
    const FIT: usize = 3;
    const PAYLOAD: usize = 90_000;
    for (events, bytes) in [(FIT + 1, 1 << 30), (1_000, FIT * PAYLOAD + 1_000)] {
        let host = TestHost::with(&[bundled_plugin("connection")], |config| {
            config.limits.event_wall_ms = PATIENCE;
            config.limits.mailbox_events = number(events);
            config.limits.mailbox_bytes = number(bytes);
        })
        .await;
        drop_in(host.plugins(), "chameleon.wasm", &chameleon("version=1"));
        host.until("chameleon", |row| row["state"] == "active").await;
        let (client, other) = (host.client().await, host.client().await);
        let holding = client.ask_later(r#"["hold"]"#).await;
        host.until("chameleon", |row| row["instances"] == 1).await;
        let event = json!(["nobody", "x".repeat(PAYLOAD)]).to_string();
        let mut waiting = Vec::new();
        for _ in 0..FIT {
            waiting.push(client.ask_later(&event).await);
        }
        let answer = client.ask_raw(&event).await;
        assert_eq!(code(&answer), "busy", "{events} events, {bytes} bytes: {answer}");
        assert_eq!(
            answer["error"]["message"],
            json!("too many events of this connection are waiting")
        );
        assert_eq!(code(&other.ask_raw(&event).await), "unknown_event", "nobody else is affected");
        // The held handler ends when a client is in its room.
        other.ask("enter", json!(null)).await;
        assert_eq!(holding.await, Ok(json!("1")));
        for answer in waiting {
            assert_eq!(code(&answer.await.expect("an answer")), "unknown_event");
        }
    }
}
