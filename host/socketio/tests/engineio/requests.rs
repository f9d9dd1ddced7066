//! Which requests are accepted, and how the others are answered.
use std::time::Duration;

use sockhop_socketio::engineio::{Config, End, Transports};
use tokio::io::AsyncWriteExt;

use crate::raw::{POLLING, Raw, UPGRADE, WEBSOCKET, connect, get, open_polling, post, request};
use crate::server::Server;
use crate::storm::Random;

/// The number in the body of an error.
fn code(body: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(body).unwrap()["code"].as_u64().unwrap()
}

#[tokio::test]
async fn only_a_correct_upgrade_request_is_answered_with_101() {
    let server = Server::start(Config::default()).await;
    let line = format!("GET {WEBSOCKET}");
    let wrong = [
        ("Connection: keep-alive, Upgrade\r\n", ""),
        ("Connection: keep-alive, Upgrade\r\n", "Connection: keep-alive\r\n"),
        ("Upgrade: websocket\r\n", ""),
        ("Upgrade: websocket\r\n", "Upgrade: h2c\r\n"),
        ("Version: 13", "Version: 8"),
        ("Sec-WebSocket-Version: 13\r\n", ""),
        ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ=="),
        ("dGhlIHNhbXBsZSBub25jZQ==", "not base64"),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    ];
    for (from, to) in wrong {
        assert!(UPGRADE.contains(from));
        let answer = request(server.port, &line, &UPGRADE.replace(from, to), "").await.unwrap();
        assert_eq!((answer.status, code(&answer.body)), (400, 3), "{from:?} → {to:?}");
    }
    let mut old = Raw::connect(server.port).await;
    old.write(format!("{line} HTTP/1.0\r\nHost: x\r\n{UPGRADE}\r\n")).await;
    assert_eq!(old.answer().await.unwrap().status, 400);

    let posted = request(server.port, &format!("POST {WEBSOCKET}"), UPGRADE, "x").await.unwrap();
    assert_eq!((posted.status, code(&posted.body)), (400, 2));
    let polling = request(server.port, &format!("GET {POLLING}"), UPGRADE, "").await.unwrap();
    assert_eq!((polling.status, code(&polling.body)), (400, 3));
    assert_eq!(server.engine.usage().sessions, 0);

    let right = request(server.port, &line, UPGRADE, "").await.unwrap();
    assert_eq!(right.status, 101);
    assert!(right.head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"));
    let offered = format!("{UPGRADE}Sec-WebSocket-Protocol: one, two\r\n");
    let right = request(server.port, &line, &offered, "").await.unwrap();
    assert!(right.head.contains("sec-websocket-protocol: one\r\n"));
}

#[tokio::test]
async fn errors_have_the_numbers_of_the_reference_server() {
    let server = Server::start(Config::default()).await;
    let cases = [
        ("GET /socket.io/?EIO=4", 0),
        ("GET /socket.io/?EIO=4&transport=flashsocket", 0),
        ("GET /socket.io/?EIO=4&transport=polling&sid=0123456789abcdef", 1),
        ("POST /socket.io/?EIO=4&transport=polling&sid=nonsense", 1),
        ("POST /socket.io/?EIO=4&transport=polling", 2),
        ("PUT /socket.io/?EIO=4&transport=polling", 2),
        ("GET /socket.io/?EIO=3&transport=polling", 5),
        ("GET /socket.io/?transport=polling", 5),
        ("GET /socket.io/?EIO=3&transport=websocket", 5),
    ];
    for (line, number) in cases {
        let answer = request(server.port, line, "", "").await.unwrap();
        assert_eq!((answer.status, code(&answer.body)), (400, number), "{line}");
        assert!(answer.head.contains("content-type: application/json\r\n"), "{}", answer.head);
    }
    let path = open_polling(server.port).await;
    let put = request(server.port, &format!("PUT {path}&transport=polling"), "", "x").await;
    assert_eq!(code(&put.unwrap().body), 3);
}

#[tokio::test]
async fn a_handshake_tells_the_settings() {
    let server = Server::start(Config::default()).await;
    let answer = get(server.port, POLLING).await;
    let data = answer.body.strip_prefix('0').unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["upgrades"], serde_json::json!(["websocket"]));
    assert_eq!((&data["pingInterval"], &data["pingTimeout"]), (&25_000.into(), &20_000.into()));
    assert_eq!((&data["maxPayload"], data["sid"].as_str().unwrap().len()), (&1_000_000.into(), 16));
    assert!(answer.head.contains("cache-control: no-store"));

    let (_raw, sid) = connect(server.port).await;
    assert_eq!(sid.len(), 16);
}

#[tokio::test]
async fn a_service_can_refuse_with_a_status() {
    let server = Server::start(Config::default()).await;
    for (path, headers) in [(POLLING, ""), (WEBSOCKET, UPGRADE)] {
        let line = format!("GET {path}&refuse=1");
        let answer = request(server.port, &line, headers, "").await.unwrap();
        assert_eq!((answer.status, code(&answer.body)), (403, 4));
        assert!(answer.body.contains(r#""not \"you\"""#), "{}", answer.body);
    }
    assert_eq!((server.engine.usage().sessions, server.ends()), (0, vec![]));
}

#[tokio::test]
async fn transports_can_be_switched_off() {
    let transports = Transports { websocket: false, ..Transports::default() };
    let server = Server::start(Config { transports, ..Config::default() }).await;
    assert!(get(server.port, POLLING).await.body.contains(r#""upgrades":[]"#));
    let answer = request(server.port, &format!("GET {WEBSOCKET}"), UPGRADE, "").await.unwrap();
    assert_eq!((answer.status, code(&answer.body)), (400, 0));

    let transports = Transports { polling: false, ..Transports::default() };
    let server = Server::start(Config { transports, ..Config::default() }).await;
    assert_eq!(code(&get(server.port, POLLING).await.body), 0);
    connect(server.port).await;

    let transports = Transports { upgrade: false, ..Transports::default() };
    let server = Server::start(Config { transports, ..Config::default() }).await;
    let path = open_polling(server.port).await;
    let line = format!("GET {path}&transport=websocket");
    let answer = request(server.port, &line, UPGRADE, "").await.unwrap();
    assert_eq!((answer.status, code(&answer.body)), (400, 3));
}

#[tokio::test]
async fn a_polling_client_sends_and_receives() {
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let posted = post(server.port, &path, "4one\x1e4zwei é\x1ebAQIDBA==").await;
    assert_eq!((posted.status, &*posted.body), (200, "ok"));
    assert_eq!(get(server.port, &path).await.body, "4one\x1e4zwei é\x1ebAQIDBA==");

    // A poll that waits is answered when there is something.
    let mut waiting = Raw::connect(server.port).await;
    waiting.request(&format!("GET {path}"), "", "").await;
    assert_eq!(post(server.port, &path, "4three").await.status, 200);
    assert_eq!(waiting.answer().await.unwrap().body, "4three");

    // A large answer comes completely, however it is cut.
    assert_eq!(post(server.port, &path, "4page:900000\x1e4last").await.status, 200);
    let body = get(server.port, &path).await.body;
    assert_eq!((body.len(), &body[900_000..]), (900_007, "p\x1e4last"));
    assert_eq!(server.engine.usage().queued_bytes, 0);
}

#[tokio::test]
async fn two_polls_or_two_posts_at_once_end_the_session() {
    let server = Server::start(Config::default()).await;
    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut first = Raw::connect(server.port).await;
    first.request(&format!("GET {path}"), "", "").await;
    crate::server::eventually(|| server.engine.usage().tasks == 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(get(server.port, &path).await.status, 400);
    assert_eq!(first.answer().await.unwrap().body, "1");
    server.ended(&[End::Overlap]).await;

    let path = format!("{}&transport=polling", open_polling(server.port).await);
    let mut first = Raw::connect(server.port).await;
    first.write(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n4half")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(post(server.port, &path, "4two").await.status, 400);
    server.ended(&[End::Overlap; 2]).await;
    server.empty().await;
}

/// Mutations of requests, with the bytes that mean something to a parser.
#[tokio::test]
async fn no_request_disturbs_the_server() {
    const BYTES: &[u8] = b"\r\n :;,=?&%/0149GETPOS\0\xff\x1e";
    let config = Config { receive_timeout: Duration::from_millis(20), ..Config::default() };
    let server = Server::start(config).await;
    let (mut honest, sid) = connect(server.port).await;
    let seeds = [
        format!("GET {POLLING}&t=x HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET {WEBSOCKET} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n"),
        format!("GET {WEBSOCKET}&sid={sid} HTTP/1.1\r\nHost: x\r\n{UPGRADE}\r\n"),
        format!("POST {POLLING}&sid={sid} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n4a"),
    ];
    let mut random = Random::new(1);
    for round in 0..200 {
        let mut request = seeds[round % seeds.len()].clone().into_bytes();
        for _ in 0..=random.below(3) {
            let at = random.index(request.len());
            let byte = BYTES[random.index(BYTES.len())];
            match random.below(3) {
                0 => request[at] = byte,
                1 => request.insert(at, byte),
                _ => request.truncate(at.max(1)),
            }
        }
        let mut raw = Raw::connect(server.port).await;
        raw.write(&request).await;
        let _ = raw.stream.shutdown().await;
        let _ = tokio::time::timeout(Duration::from_millis(200), raw.end()).await;
    }
    honest.text("4still here").await;
    assert_eq!(honest.read_text().await, "4still here");
    drop(honest);
    server.engine.close();
    server.engine.wait().await;
    server.empty().await;
}
