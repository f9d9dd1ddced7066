//! The edge of the host: connections that send incomplete requests, connections beyond the limit,
//! and the memory that connections may use.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sockhop::config::{AllowedOrigin, Config, Limits, SocketIo};
use sockhop_tests::{
    HostProcess, PATIENCE, TestClient, TestHost, bundled_plugin, directory_of, do_nothing_as,
    drop_in, eventually, guest, serve, socketio,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Opens a raw TCP connection.
async fn raw(host: &TestHost) -> TcpStream {
    TcpStream::connect(host.url.trim_start_matches("http://")).await.expect("a host to connect to")
}

/// Reads until the host closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A host that has not read the whole request resets the connection after its answer.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("a connection that is closed");
    String::from_utf8(bytes).expect("UTF-8")
}

/// Sends one request on its own connection, and returns the status, the head and the body.
async fn ask(host: &TestHost, request: &str) -> (u16, String, String) {
    let mut stream = raw(host).await;
    stream.write_all(request.as_bytes()).await.expect("a connection to write to");
    let answer = rest(&mut stream).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_else(|| panic!("an answer, not {answer:?}"));
    (status, head.to_owned(), body.to_owned())
}

/// Reads one complete response from a connection that stays open.
async fn response(stream: &mut TcpStream) -> (u16, String) {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut bytes))
            .await
            .expect("an answer in time")
            .expect("an answer");
        assert!(read > 0, "an answer before the end of the connection, not {text:?}");
        text += std::str::from_utf8(&bytes[..read]).expect("UTF-8");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok()
            })
            .unwrap_or(0);
        if body.len() >= length {
            let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
            return (status, body.to_owned());
        }
    }
}

/// Opens a session over long-polling, and returns its id.
async fn handshake(stream: &mut TcpStream) -> String {
    stream
        .write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("a connection");
    let (status, open) = response(stream).await;
    assert_eq!(status, 200, "{open}");
    let open: Value = serde_json::from_str(open.trim_start_matches('0')).expect("an open packet");
    open["sid"].as_str().expect("a sid").to_owned()
}

fn is_problem(head: &str, body: &str, status: u16, code: &str) {
    assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{head}");
    let problem: Value =
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}"));
    assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{problem}");
    assert!(
        ["message", "title", "type", "detail"].iter().all(|member| problem[member].is_string()),
        "{problem}"
    );
}

fn number(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a number above zero")
}

/// Sets deadlines that are short enough for a test, but long enough for a busy machine.
fn soon(config: &mut Config) {
    let soon = Duration::from_secs(1);
    config.limits.first_byte_ms = soon;
    config.limits.head_ms = soon;
    config.limits.body_ms = soon;
    config.limits.keep_alive_ms = soon;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_send_a_whole_request_is_closed() {
    // Each deadline is the only one that is short, and ends the connection long before the default.
    let default = Limits::default();
    let host = TestHost::with(&[], |config| {
        soon(config);
        config.limits.head_ms = PATIENCE;
    })
    .await;
    let began = Instant::now();
    assert_eq!(rest(&mut raw(&host).await).await, "", "no byte, and no answer");
    assert!(began.elapsed() < default.first_byte_ms, "{:?}", began.elapsed());
    let host = TestHost::with(&[], |config| {
        soon(config);
        config.limits.first_byte_ms = PATIENCE;
    })
    .await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for begun in ["P", "PRI * HT", preface, "GET /healthz HTTP/1.1\r\nhost: "] {
        let began = Instant::now();
        let mut stream = raw(&host).await;
        stream.write_all(begun.as_bytes()).await.expect("a connection to write to");
        let answer = rest(&mut stream).await;
        assert!(began.elapsed() < default.head_ms, "{begun:?}: {:?}", began.elapsed());
        match begun {
            // Refused at once, because the host supports only HTTP/1.1. An HTTP/2 frame would begin
            // with its length instead.
            _ if begun == preface => {
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer:?}")
            }
            _ => {
                let (head, body) = answer
                    .split_once("\r\n\r\n")
                    .unwrap_or_else(|| panic!("an answer to {begun:?}, not {answer:?}"));
                assert!(head.starts_with("HTTP/1.1 408"), "{begun:?}: {head}");
                is_problem(head, body, 408, "timed_out");
            }
        }
    }
    // A head that arrives in pieces has one deadline, not one for each piece.
    let mut stream = raw(&host).await;
    let mut trickle = "GET /healthz HTTP/1.1\r\nhost: x".bytes().chain(std::iter::repeat(b'x'));
    let pieces = async {
        while stream.write_all(&[trickle.next().expect("endless")]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(default.head_ms, pieces).await.expect("a connection that is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_be_idle_between_two_requests_for_so_long_as_is_set() {
    const IDLE: Duration = Duration::from_secs(5);
    let host = TestHost::with(&[], |config| {
        soon(config);
        config.limits.keep_alive_ms = IDLE;
    })
    .await;
    let mut stream = raw(&host).await;
    for _ in 0..2 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("a connection to write to");
        assert_eq!(response(&mut stream).await, (200, "alive\n".to_owned()));
        // Longer than the deadlines for the first byte and for the head.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
    }
    let began = Instant::now();
    assert_eq!(rest(&mut stream).await, "", "an idle connection is closed without a word");
    assert!(began.elapsed() < Limits::default().keep_alive_ms - IDLE / 2, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_answered_408_whoever_reads_it() {
    // By the lowest rate, the body that comes has half of the default deadline.
    let default = Limits::default().body_ms;
    let some = "4".repeat(default.as_secs() as usize / 2);
    let host = TestHost::with(&[], |config| {
        soon(config);
        config.limits.body_bytes_per_second = NonZeroU32::MIN;
    })
    .await;
    let mut stream = raw(&host).await;
    let sid = handshake(&mut stream).await;
    let key = host.key().to_owned();
    let paths = [
        (format!("/socket.io/?EIO=4&transport=polling&sid={sid}"), ""),
        ("/api/emit".to_owned(), key.as_str()),
        ("/api/plugins/x/rollback".to_owned(), key.as_str()),
    ];
    for (path, key) in paths {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\nauthorization: Bearer \
             {key}\r\n\r\n{some}"
        );
        let began = Instant::now();
        let (status, head, body) = ask(&host, &head).await;
        assert!(began.elapsed() < default / 2, "{path}: {:?}", began.elapsed());
        assert_eq!(status, 408, "{path}: {head}");
        is_problem(&head, &body, 408, "timed_out");
    }
    // Without a key, the host does not wait for the body.
    let (status, head, body) = ask(
        &host,
        "POST /api/plugins/x/rollback HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n4",
    )
    .await;
    assert_eq!(status, 401);
    is_problem(&head, &body, 401, "unauthorized");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_more_slowly_than_is_set_is_answered_408_before_its_deadline() {
    let host = TestHost::with(&[], |config| {
        config.limits.body_ms = PATIENCE;
        config.limits.body_bytes_per_second = NonZeroU32::new(1 << 20).expect("not zero");
    })
    .await;
    let began = Instant::now();
    let key = host.key();
    // By the default rate, these bytes have 20 seconds more.
    let rate = Limits::default().body_bytes_per_second.get() as usize;
    let some = "4".repeat(20 * rate);
    let head = format!(
        "POST /api/emit HTTP/1.1\r\nhost: x\r\ncontent-length: 30000\r\nauthorization: Bearer \
         {key}\r\n\r\n{some}"
    );
    let (status, head, body) = ask(&host, &head).await;
    assert_eq!(status, 408, "{head}");
    is_problem(&head, &body, 408, "timed_out");
    // At this rate, the bytes have little more than the five seconds that each body has.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_read_more_slowly_than_is_set_is_cut_off() {
    /// The system buffers some megabytes of them.
    const ACKS: usize = 60;
    const ACK_BYTES: usize = 100_000;
    // The deadline is that of the HTTP connection. The library can't make an answer that is large
    // enough: so many acks fill its buffer, which is counted in packets.
    if socketio() != SocketIo::Builtin {
        return;
    }
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.keep_alive_ms = Duration::from_secs(2);
        config.limits.body_bytes_per_second = NonZeroU32::new(200 << 10).expect("not zero");
        config.limits.overflow_bytes = number(256 << 20);
    })
    .await;
    for is_slow in [true, false] {
        let mut session = raw(&host).await;
        let sid = handshake(&mut session).await;
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: x\r\n");
        let echo = format!(r#"420["echo","{}"]"#, "x".repeat(ACK_BYTES));
        for packet in ["40"].into_iter().chain(std::iter::repeat_n(&*echo, ACKS)) {
            let request = format!("POST {path}content-length: {}\r\n\r\n{packet}", packet.len());
            session.write_all(request.as_bytes()).await.expect("a connection");
            assert_eq!(response(&mut session).await.0, 200);
        }
        // The acks wait, and become one answer.
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(8 << 10).expect("a small buffer");
        let address = host.url.trim_start_matches("http://").parse().expect("an address");
        let mut stream = socket.connect(address).await.expect("a connection");
        stream.write_all(format!("GET {path}\r\n").as_bytes()).await.expect("a connection");
        // A slow client reads 40 KB a second for some periods, and then what the system has.
        let slow_until = Instant::now() + Duration::from_secs(if is_slow { 7 } else { 0 });
        let (mut buffer, mut read) = ([0; 2 << 10], 0);
        while read < ACKS * ACK_BYTES
            && let Ok(Ok(got @ 1..)) = timeout(PATIENCE, stream.read(&mut buffer)).await
        {
            read += got;
            if Instant::now() < slow_until {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        assert_eq!(read < ACKS * ACK_BYTES, is_slow, "{read} bytes of the answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_and_a_websocket_wait_longer_than_any_deadline() {
    let host = TestHost::with(&[guest("lab")], soon).await;
    let websocket = host.client().await;
    let sid = handshake(&mut raw(&host).await).await;
    let path = format!("/socket.io/?EIO=4&transport=polling&sid={sid} HTTP/1.1\r\nhost: x\r\n");
    let post = async |packet: &str| {
        let mut stream = raw(&host).await;
        let request = format!("POST {path}content-length: {}\r\n\r\n{packet}", packet.len());
        stream.write_all(request.as_bytes()).await.expect("a connection");
        assert_eq!(response(&mut stream).await.0, 200);
    };
    let get = async || {
        let mut stream = raw(&host).await;
        stream.write_all(format!("GET {path}\r\n").as_bytes()).await.expect("a connection");
        stream
    };
    post("40").await;
    // The host may send pings in between: one at once, and another one if the machine is busy.
    let packet = async |mut polling: TcpStream| loop {
        let (status, packets) = response(&mut polling).await;
        assert_eq!(status, 200, "{packets}");
        if let Some(packet) = packets.split('\u{1e}').find(|packet| *packet != "2") {
            return packet.to_owned();
        }
        post("3").await;
        polling = get().await;
    };
    assert!(packet(get().await).await.starts_with("40{"));
    let polling = get().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    post(r#"420["echo","late"]"#).await;
    assert_eq!(packet(polling).await, r#"430["late"]"#);
    assert_eq!(websocket.ask("echo", json!("late")).await, json!("late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_connection_limit_operators_are_answered_and_clients_are_told() {
    let host = TestHost::with(&[bundled_plugin("connection")], |config| {
        config.limits.connections = Some(number(2));
        config.limits.reserved_connections = number(4);
    })
    .await;
    let (first, _second) = (host.client().await, host.client().await);
    for path in ["/healthz", "/readyz"] {
        let (status, head, _) =
            ask(&host, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert_eq!(status, 200, "{path}");
        assert!(
            head.to_ascii_lowercase().contains("connection: close"),
            "a reserved slot is soon free: {head}"
        );
    }
    assert_eq!(host.row("connection").await["state"], json!("active"));
    for path in [
        "/socket.io/?EIO=4&transport=polling",
        "/socket.io/?EIO=4&transport=websocket",
        "/elsewhere",
    ] {
        let (status, head, body) =
            ask(&host, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert_eq!(status, 503, "{path}: {body}");
        is_problem(&head, &body, 503, "busy");
    }
    assert_eq!(host.figure("sockhop_tcp_connections").await, 2);
    assert_eq!(host.figure("sockhop_connections_limit").await, 2);
    assert_eq!(host.figure("sockhop_connections_refused_total").await, 3);
    // Answers of the CORS and origin layers also free a reserved slot.
    let local =
        "host: x\r\norigin: http://localhost:1\r\naccess-control-request-method: GET\r\n\r\n";
    let preflight = format!("OPTIONS /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n{local}");
    for (request, status) in [
        (preflight.as_str(), 200),
        ("OPTIONS /nowhere HTTP/1.1\r\nhost: x\r\n\r\n", 200),
        ("GET /healthz HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\n\r\n", 403),
        (&format!("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n{local}"), 503),
    ] {
        let (found, head, body) = ask(&host, request).await;
        let head = head.to_ascii_lowercase();
        assert_eq!(found, status, "{request}: {body}");
        assert!(head.contains("connection: close"), "{request}: {head}");
        assert_eq!(
            head.contains("access-control-allow-origin: http://localhost:1"),
            request.contains("localhost"),
            "{request}: {head}"
        );
    }
    // These connections take all slots that they can get, including reserved ones.
    let mut strangers = Vec::new();
    for at in 0..40 {
        let mut stranger = raw(&host).await;
        if at % 2 == 0 {
            // The host may have closed it already.
            let _ = stranger.write_all(preflight.as_bytes()).await;
        }
        strangers.push(stranger);
    }
    assert_eq!(ask(&host, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.0, 200);
    drop(strangers);
    drop(first);
    let again = eventually("a slot that is free again", async || {
        let answer = ask(
            &host,
            "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: \
                                 x\r\nconnection: close\r\n\r\n",
        )
        .await;
        (answer.0 == 200).then_some(answer.2)
    });
    assert!(again.await.starts_with("0{"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_in_a_reserved_slot_that_has_become_a_clients_waits_as_long_as_any() {
    let host = TestHost::with(&[], |config| {
        config.limits.connections = Some(number(1));
        config.limits.keep_alive_ms = PATIENCE;
    })
    .await;
    let health = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let promoted = eventually("a connection whose slot has become a client's", async || {
        let mut first = raw(&host).await;
        first.write_all(health.as_bytes()).await.ok()?;
        response(&mut first).await;
        let mut second = raw(&host).await;
        // This connection is accepted after the second one, which therefore has its reserved slot
        // by now.
        ask(&host, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        drop(first);
        eventually("the slot of the first", async || {
            let status =
                ask(&host, "GET /elsewhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    .await
                    .0;
            (status == 404).then_some(())
        })
        .await;
        second.write_all(health.as_bytes()).await.ok()?;
        let mut bytes = [0; 4096];
        let read =
            timeout(PATIENCE, second.read(&mut bytes)).await.expect("an answer in time").ok()?;
        let answer = String::from_utf8_lossy(&bytes[..read]).to_ascii_lowercase();
        (answer.starts_with("http/1.1 200")
            && answer.ends_with("alive\n")
            && !answer.contains("connection: close"))
        .then_some(second)
    });
    let mut stream = promoted.await;
    // Longer than a connection in a reserved slot may be idle.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    stream.write_all(health.as_bytes()).await.expect("a connection to write to");
    assert_eq!(response(&mut stream).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_closing_keeps_its_slot_until_its_events_are_handled() {
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.connections = Some(number(2));
        config.limits.event_wall_ms = PATIENCE;
    })
    .await;
    let clients = [host.client().await, host.client().await];
    for client in &clients {
        client.emit("sleep", json!(3_000)).await;
        // This event waits in the mailbox behind the sleeping one.
        client.emit("note", json!("after")).await;
    }
    drop(clients);
    // The connection that requests the metrics is counted too.
    eventually("two TCP connections that are closed", async || {
        (host.figure("sockhop_tcp_connections").await <= 1).then_some(())
    })
    .await;
    assert_eq!(host.figure("sockhop_sessions").await, 2);
    let (status, head, body) =
        ask(&host, "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_eq!(status, 503, "{body}");
    is_problem(&head, &body, 503, "busy");
    eventually("two slots that are free", async || {
        (host.figure("sockhop_sessions").await == 0).then_some(())
    })
    .await;
    host.client().await.ask("echo", json!(null)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mailboxes_together_have_no_more_than_their_memory() {
    const LIMIT: usize = 2 << 20;
    let host =
        TestHost::with(&[guest("lab")], |config| config.limits.mailboxes_bytes = number(LIMIT))
            .await;
    let honest = host.client().await;
    let mut greedy = Vec::new();
    for _ in 0..8 {
        let client = host.client().await;
        client.emit("sleep", json!(2_000)).await;
        greedy.push(client);
    }
    let text = "x".repeat(7 << 10);
    let mut most = 0;
    for client in &greedy {
        for _ in 0..150 {
            client.emit("echo", json!(text)).await;
        }
        most = most.max(host.figure("sockhop_mailbox_bytes").await);
        assert_eq!(
            honest.ask("echo", json!("hello")).await,
            json!("hello"),
            "a client that waits for its answers has space"
        );
    }
    assert_eq!(host.figure("sockhop_mailbox_limit_bytes").await, LIMIT as u64);
    assert!(most > 0 && most <= LIMIT as u64, "{most}");
    let busy = eventually("events that were answered", async || {
        let errors: usize = greedy.iter_mut().map(busy).sum();
        (errors > 0).then_some(errors)
    });
    assert!(busy.await > 0);
    drop(greedy);
    eventually("mailboxes that are empty", async || {
        (host.figure("sockhop_mailbox_bytes").await == 0).then_some(())
    })
    .await;
}

/// Clients that send as much as they can and leave, before their events are handled.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_and_leave_take_no_more_memory_than_all_mailboxes_have() {
    const LIMIT: u64 = 16 << 20;
    const ROUNDS: usize = 12;
    const CLIENTS: usize = 8;
    const EVENTS: usize = 255;
    const BYTES: usize = 7 << 10;
    let (plugins, data) = (directory_of(&[guest("lab")]), directory_of(&[]));
    let host = HostProcess::start_with(
        plugins.path(),
        data.path(),
        &[
            ("SOCKHOP_LIMITS__MAILBOXES_BYTES", &LIMIT.to_string()),
            ("SOCKHOP_LIMITS__EVENT_WALL_MS", "60000"),
        ],
    );
    let before = host.allocated();
    let text = "x".repeat(BYTES);
    let mut most = 0;
    for _ in 0..ROUNDS {
        let round = (0..CLIENTS).map(|_| async {
            let client = TestClient::connect(&host.url).await;
            // The connection ends, and its events wait behind this one.
            client.emit("sleep", json!(30_000)).await;
            for _ in 0..EVENTS {
                client.emit("echo", json!(text)).await;
            }
        });
        futures_util::future::join_all(round).await;
        most = most.max(host.allocated().saturating_sub(before));
    }
    // Without a bound, the events alone would take more. The rest is for instances and connections.
    const { assert!(3 * LIMIT < (ROUNDS * CLIENTS * EVENTS * BYTES) as u64) };
    assert!(most < 3 * LIMIT, "{most} bytes more than before");
}

/// Counts the events that were answered with `busy` because the host's memory for mailboxes was
/// used up.
fn busy(client: &mut TestClient) -> usize {
    let is_busy = |(event, data): &(String, Value)| {
        event == "error"
            && data["code"] == "busy"
            && data["message"].as_str().is_some_and(|message| message.contains("all connections"))
    };
    client.pending().iter().filter(|event| is_busy(event)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_network_has_no_more_connections_and_sessions_than_is_set() {
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.connections_per_network = NonZeroUsize::new(3);
    })
    .await;
    let from = |last: u8| std::net::IpAddr::from([127, 0, 0, last]);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TestClient::connect_from(&host.url, from(1)).await);
    }
    let handshake = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\nconnection: \
                     close\r\n\r\n";
    let (status, head, body) = ask(&host, handshake).await;
    is_problem(&head, &body, 503, "busy");
    assert_eq!(status, 503);
    // Other networks and operators are served.
    let other = TestClient::connect_from(&host.url, from(2)).await;
    assert_eq!(other.ask("echo", json!(1)).await, json!(1));
    assert_eq!(host.http("/api/plugins", None).await.0, 200);
    // Sessions count too: each handshake begins one, whose connection ends at once.
    drop(held);
    let mut opened = 0;
    eventually("free slots", async || {
        let (status, ..) = ask(&host, handshake).await;
        opened += usize::from(status == 200);
        (status == 200).then_some(())
    })
    .await;
    eventually("no more sessions", async || {
        let (status, ..) = ask(&host, handshake).await;
        opened += usize::from(status == 200);
        (status == 503).then_some(())
    })
    .await;
    assert!(opened <= 3, "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_over_http_is_a_problem_document() {
    let host = TestHost::with(&[guest("lab")], |config| {
        config.server.allowed_origins =
            vec![AllowedOrigin::parse("https://*.example.com").expect("an origin")];
    })
    .await;
    let get = |path: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{more}\r\n")
    };
    let post = |path: &str, body: &str, more: &str| {
        let key = host.key();
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer \
             {key}\r\n{more}content-length: {length}\r\n\r\n{body}"
        )
    };
    let (large, huge) = ("x".repeat(8_000), "4".repeat(2_000_000));
    let cases = [
        (get("/nowhere", ""), 404, "not_found"),
        (get("/api/emit", ""), 405, "method_not_allowed"),
        (get("/healthz", "origin: https://evil.example\r\n"), 403, "forbidden"),
        (get("/api/plugins", ""), 401, "unauthorized"),
        (get("/api/plugins/%FF", ""), 400, "bad_request"),
        (post("/api/plugins/lab/rollback", &large, ""), 413, "too_large"),
        (post("/api/emit", &huge, ""), 413, "too_large"),
        (post("/api/emit", "1", ""), 422, "invalid_payload"),
        (post("/api/emit", "{", ""), 400, "invalid_payload"),
        (
            post(
                "/api/emit",
                r#"{"event": "noise", "data": 1, "everyone": true}"#,
                "idempotency-key: \"\"\r\n",
            ),
            400,
            "bad_request",
        ),
        (post("/api/emit", "{}", "content-type: text/xml\r\n"), 415, "unsupported_media_type"),
    ];
    for (request, status, code) in cases {
        let (found, head, body) = ask(&host, &request).await;
        assert_eq!(found, status, "{request:.200}: {body}");
        is_problem(&head, &body, status, code);
        assert!(!body.contains("struct "), "a type of Rust says nothing to people: {body}");
    }
    let allowed = ask(&host, &get("/healthz", "origin: https://app.example.com\r\n")).await;
    assert_eq!(allowed.0, 200);
    assert!(
        allowed
            .1
            .to_ascii_lowercase()
            .contains("access-control-allow-origin: https://app.example.com"),
        "{}",
        allowed.1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_engine_io_are_those_of_the_reference_server() {
    let host = TestHost::start(&[]).await;
    for (query, code, message) in [
        ("EIO=4&transport=carrier_pigeon", 0, "Transport unknown"),
        ("EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAA", 1, "Session ID unknown"),
        ("EIO=3&transport=polling", 5, "Unsupported protocol version"),
    ] {
        let request =
            format!("GET /socket.io/?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (status, head, body) = ask(&host, &request).await;
        assert_eq!(status, 400, "{head}\n{body}");
        let error: Value = serde_json::from_str(&body).expect("JSON");
        // The library writes the number as text.
        assert_eq!(error["code"].to_string().trim_matches('"'), code.to_string(), "{body}");
        assert_eq!(error["message"], message, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_can_not_be_read_is_answered_without_a_body_and_ends_its_connection() {
    let host = TestHost::start(&[]).await;
    let long = "x".repeat(150_000);
    let cases: [(String, &[u16]); 5] = [
        ("no HTTP\r\n\r\n".to_owned(), &[400]),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), &[400]),
        (format!("GET /{} HTTP/1.1\r\n", &long[..65_600]), &[414, 431]),
        (format!("GET / HTTP/1.1\r\nhost: x\r\nlong: {long}\r\n\r\n"), &[431]),
        (format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "many: x\r\n".repeat(200)), &[431]),
    ];
    for (request, status) in cases {
        // Read until the host closes the connection.
        let (found, head, body) = ask(&host, &request).await;
        assert!(status.contains(&found) && body.is_empty(), "{request:.40}: {head}\n{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_may_send_the_headers_that_it_asks_for_unless_others_are_named() {
    let preflight = "OPTIONS /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: \
                     x\r\nconnection: close\r\norigin: null\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: \
                     x-tenant\r\n\r\n";
    let allowed_headers = async |named: &[&str]| {
        let host = TestHost::with(&[], |config| {
            // The origin of a sandboxed frame or of a file.
            config.server.allowed_origins = vec![AllowedOrigin::parse("null").expect("an origin")];
            let headers =
                || named.iter().map(|name| name.parse().expect("the name of a header")).collect();
            config.server.allowed_headers = (!named.is_empty()).then(headers);
        })
        .await;
        let (status, head, _) = ask(&host, preflight).await;
        assert_eq!(status, 200, "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("access-control-allow-origin: null"), "{head}");
        head.lines()
            .find_map(|line| line.strip_prefix("access-control-allow-headers: "))
            .unwrap_or_default()
            .to_owned()
    };
    assert_eq!(allowed_headers(&[]).await, "x-tenant");
    assert_eq!(allowed_headers(&["x-request-id"]).await, "x-request-id,content-type,authorization");
}

/// Runs a command that should end by itself, and returns its output and exit status.
fn output(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command runs");
    let until = Instant::now() + PATIENCE;
    while child.try_wait().expect("its state").is_none() {
        if Instant::now() > until {
            child.kill().expect("its end");
            let said = child.wait_with_output().expect("its output");
            panic!("a command that ends by itself, not one that goes on: {said:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.wait_with_output().expect("its output")
}

/// Returns the output of a `sockhop serve` that refuses to start.
fn refusal(plugins: &Path, data: &Path, environment: &[(&str, &str)]) -> String {
    let mut command = serve(plugins, data);
    command.envs(environment.iter().copied());
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("listening on"), "{said}");
    said
}

#[test]
fn a_setting_with_one_underscore_is_refused_with_the_right_name() {
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let said = refusal(plugins.path(), data.path(), &[("SOCKHOP_SERVER_LISTEN", "127.0.0.1:0")]);
    assert!(
        said.contains("SOCKHOP_SERVER_LISTEN") && said.contains("SOCKHOP_SERVER__LISTEN"),
        "{said}"
    );
}

#[cfg(unix)]
#[test]
fn a_key_that_is_short_or_open_to_others_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let file = data.path().join("key");
    for (key, mode, parts) in [
        ("12345", 0o600, ["5 characters", "at least 16"]),
        ("0123456789abcdef", 0o644, ["mode 644", "chmod 600"]),
        ("0123456789abcdef", 0o660, ["mode 660", "chmod 600"]),
    ] {
        std::fs::write(&file, key).expect("a file");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("its mode");
        let said = refusal(plugins.path(), data.path(), &[]);
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_no_plugin_is_said_with_the_nearest_name() {
    let (plugins, data) = (directory_of(&[bundled_plugin("connection")]), directory_of(&[]));
    let log = data.path().join("log");
    let mut command = serve(plugins.path(), data.path());
    command
        .env("SOCKHOP_PLUGINS__CONECTION__EVENT_CPU_MS", "100")
        .stderr(std::fs::File::create(&log).expect("a file"));
    let _host = HostProcess::of(command, data.path());
    // The log may be written by another thread.
    let said = eventually("a warning", async || {
        let log = std::fs::read_to_string(&log).expect("its log");
        log.lines().find(|line| line.contains("conection")).map(str::to_owned)
    });
    let said = said.await;
    assert!(
        said.contains("WARN") && said.contains("nearest") && said.contains("connection"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_the_listen_address_is_looked_up() {
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let mut command = Command::new(sockhop_tests::binary());
    command
        .args(["serve", "--listen", "localhost:0", "--plugins"])
        .arg(plugins.path())
        .arg("--data")
        .arg(data.path());
    let host = HostProcess::of(command, data.path());
    assert!(host.url.starts_with("http://127.0.0.1:"), "{}", host.url);
}

/// Returns a command that runs `sockhop serve` in a shell with this limit of file descriptors.
#[cfg(unix)]
fn with_descriptors(plugins: &Path, data: &Path, most: u64) -> Command {
    let inner = serve(plugins, data);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// The file descriptors that a host reserves for one plugin: for its writer and its readers, of
/// which there are at least eight, two each, and one for the index of the log.
#[cfg(unix)]
fn of_plugin() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    2 * ((processors + 2).max(8) + 1) + 1
}

/// The limit of file descriptors with which a host with so many plugins has so many connections.
#[cfg(unix)]
fn most_descriptors(plugins: usize, connections: usize) -> u64 {
    const HOST_AND_RESERVED: usize = 64 + 32 + 32;
    (HOST_AND_RESERVED + (plugins + 16) * of_plugin() + connections) as u64
}

#[cfg(unix)]
#[test]
fn connections_that_the_file_descriptors_do_not_allow_are_refused_with_both_numbers() {
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let refused = |most, connections: Option<&str>| {
        let mut command = with_descriptors(plugins.path(), data.path(), most);
        command.envs(connections.map(|connections| ("SOCKHOP_LIMITS__CONNECTIONS", connections)));
        let output = output(command);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    };
    let said = refused(1_024, Some("50000"));
    for part in ["limits.connections", "50000", "1024", "ulimit -n", "LimitNOFILE"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = refused(64, None);
    assert!(said.contains("too few file descriptors") && said.contains("64"), "{said}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_come_later_take_their_file_descriptors_from_new_clients() {
    const MORE: usize = 20;
    let (plugins, data) = (directory_of(&[]), directory_of(&[]));
    let most = most_descriptors(0, 200);
    let host = HostProcess::of(with_descriptors(plugins.path(), data.path(), most), data.path());
    let limit = || {
        let (_, text) = host.http("/metrics", None);
        let line = text.as_str().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("sockhop_connections_limit "))
        });
        line.and_then(|limit| limit.parse::<usize>().ok()).expect("a number")
    };
    let before = limit();
    let files: Vec<_> = (0..MORE)
        .map(|number| {
            let (name, bytes) = do_nothing_as(number);
            drop_in(plugins.path(), &format!("{name}.wasm"), &bytes)
        })
        .collect();
    // The limit includes sixteen plugins.
    let fewer = (MORE - 16) * of_plugin();
    eventually("fewer connections", async || (limit() == before - fewer).then_some(())).await;
    for file in &files[..4] {
        std::fs::remove_file(file).expect("a plugin that is removed");
    }
    eventually("as many connections as before", async || (limit() == before).then_some(())).await;
}

#[cfg(unix)]
#[test]
fn requests_of_plugins_have_file_descriptors_only_if_a_plugin_lists_an_origin() {
    const LOOKUPS: usize = 24;
    /// Half as many as the requests of handlers.
    const DELIVERIES: usize = 50;
    let plugins = directory_of(&[]);
    let limit = |settings: &str| {
        let data = directory_of(&[]);
        let file = data.path().join("sockhop.toml");
        std::fs::write(&file, settings).expect("a file");
        let mut command = with_descriptors(plugins.path(), data.path(), most_descriptors(0, 300));
        command.arg("--config").arg(&file);
        let host = HostProcess::of(command, data.path());
        let (_, text) = host.http("/metrics", None);
        let mut lines = text.as_str().expect("text").lines();
        let limit = lines.find_map(|line| line.strip_prefix("sockhop_connections_limit "));
        limit.and_then(|limit| limit.parse::<usize>().ok()).expect("a number")
    };
    let without = limit("[outbound]\nat_once = 100\n");
    let with = "[outbound]\nat_once = 100\n[plugins.a]\noutbound = [\"https://a.test\"]\n";
    assert_eq!(limit(with), without - 100 - DELIVERIES - LOOKUPS);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn where_clients_have_all_their_descriptors_state_is_read_and_operators_are_answered() {
    let (plugins, data) = (
        directory_of(&[bundled_plugin("memory_logs"), bundled_plugin("connection")]),
        directory_of(&[]),
    );
    let most = most_descriptors(2, 100);
    let host = HostProcess::of(with_descriptors(plugins.path(), data.path(), most), data.path());
    let client = TestClient::connect(&host.url).await;
    let record = client.ask("memory_log_create", json!({"user_id": 7, "content": "before"})).await;
    assert_eq!(record["content"], json!("before"), "{record}");
    let address = host.url.trim_start_matches("http://");
    let mut idle = Vec::new();
    for _ in 0..400 {
        // The host closes the connections that it refuses.
        idle.push(TcpStream::connect(address).await.expect("a host to connect to"));
    }
    let health = eventually("the host's health", async || {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    });
    assert!(health.await.starts_with("HTTP/1.1 200"));
    let list = client.ask("memory_log_list", json!({})).await;
    assert_eq!(list["items"][0]["content"], json!("before"), "{list}");
    let record =
        client.ask("memory_log_create", json!({"user_id": 7, "content": "meanwhile"})).await;
    assert_eq!(record["content"], json!("meanwhile"), "{record}");
    let open = host.footprint().2;
    assert!((open as u64) < most, "{open} of {most} descriptors are in use");
}
