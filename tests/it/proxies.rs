//! The PROXY protocol: the address that a trusted proxy tells before the first byte of its client.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::process::Command;
use std::time::{Duration, Instant};

use sockhop::config::{Config, Limits, ProxyHeader};
use sockhop_tests::{Identity, PATIENCE, TestHost, TlsClient, binary, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a connection of this client.
fn header(client: [u8; 4]) -> Vec<u8> {
    [SIGNATURE, &[0x21, 0x11, 0, 12], &client, &[10, 0, 0, 1, 0, 80, 1, 187]].concat()
}

/// The header of a connection of the proxy itself.
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// Trusts 127.0.0.1, but no other address of this machine. Operators have a separate address.
fn trusting(config: &mut Config) {
    config.server.proxy_header = ProxyHeader::ProxyProtocol;
    config.server.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
}

async fn connect_from(host: &TestHost, address: &str) -> TcpStream {
    let address: IpAddr = address.parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((address, 0).into()).expect("an address of this machine");
    let url = host.url.trim_start_matches("https://").trim_start_matches("http://");
    socket.connect(url.parse().expect("an address")).await.expect("a host")
}

async fn connect(host: &TestHost) -> TcpStream {
    connect_from(host, "127.0.0.1").await
}

/// Reads until the host closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end in time");
    String::from_utf8(bytes).expect("UTF-8")
}

const OPEN: &str = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\nconnection: \
                    close\r\n\r\n";

/// Sends a header and a request, and returns the status of the answer; 0 if the connection is
/// closed.
async fn status(mut stream: TcpStream, header: &[u8], request: &str) -> u16 {
    let _ = stream.write_all(&[header, request.as_bytes()].concat()).await;
    let answer = rest(&mut stream).await;
    answer.split(' ').nth(1).map_or(0, |status| status.parse().expect("a status"))
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_network_are_those_of_the_client_that_the_proxy_names() {
    let host = TestHost::with(&[], |config| {
        trusting(config);
        config.limits.connections_per_network = NonZeroUsize::new(1);
    })
    .await;
    let (first, second) = (header([198, 51, 100, 1]), header([198, 51, 100, 2]));
    let hold = async |header: &[u8]| {
        let mut stream = connect(&host).await;
        stream.write_all(header).await.expect("a connection");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("a host");
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        stream
    };
    let held = hold(&first).await;
    assert_eq!(status(connect(&host).await, &first, OPEN).await, 503);
    // A client that names itself in a header of HTTP is not believed.
    let forged = OPEN.replacen("host: x", "host: x\r\nx-forwarded-for: 203.0.113.9", 1);
    assert_eq!(status(connect(&host).await, &first, &forged).await, 503);
    assert_eq!(status(connect(&host).await, &second, OPEN).await, 200);
    // The connections of the proxy itself have no such limit.
    let _own = [hold(&local()).await, hold(&local()).await];
    // The slot of the network is free again.
    drop(held);
    let health = OPEN.replacen("/socket.io/?EIO=4&transport=polling", "/contract", 1);
    eventually("a free slot", async || {
        (status(connect(&host).await, &first, &health).await != 503).then_some(())
    })
    .await;
    eventually("slots that are free", async || {
        (host.figure("sockhop_tcp_connections").await == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_in_single_bytes_is_read_and_the_request_after_it_is_whole() {
    let host = TestHost::with(&[], trusting).await;
    let mut stream = connect(&host).await;
    stream.set_nodelay(true).expect("a tunable socket");
    for byte in header([198, 51, 100, 1]) {
        stream.write_all(&[byte]).await.expect("a connection");
        tokio::task::yield_now().await;
    }
    assert_eq!(status(stream, b"", OPEN).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_must_send_a_header_and_anybody_else_must_not() {
    let host = TestHost::with(&[], trusting).await;
    let began = Instant::now();
    let mut too_long = header([198, 51, 100, 1]);
    too_long[14] = 0xff;
    for bytes in [b"".to_vec(), b"PROXY TCP4 198.51.100.1 10.0.0.1 80 443\r\n".to_vec(), too_long] {
        assert_eq!(status(connect(&host).await, &bytes, OPEN).await, 0, "{bytes:?}");
    }
    assert!(began.elapsed() < Limits::default().head_ms / 2, "{:?}", began.elapsed());
    assert_eq!(host.figure("sockhop_proxy_headers_refused_total").await, 3);
    let header = header([198, 51, 100, 1]);
    let stranger = connect_from(&host, "127.0.0.2").await;
    assert_eq!(status(stranger, &header, OPEN).await, 400);
    let stranger = connect_from(&host, "127.0.0.2").await;
    assert_eq!(status(stranger, b"", OPEN).await, 200);
    assert_eq!(host.figure("sockhop_proxy_headers_refused_total").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_header_is_closed_at_its_deadline() {
    for (begun, is_first_byte) in [(&b""[..], true), (&SIGNATURE[..5], false)] {
        let host = TestHost::with(&[], |config| {
            trusting(config);
            let soon = Duration::from_secs(1);
            (config.limits.first_byte_ms, config.limits.head_ms) =
                if is_first_byte { (soon, PATIENCE) } else { (PATIENCE, soon) };
        })
        .await;
        let began = Instant::now();
        let mut stream = connect(&host).await;
        stream.write_all(begun).await.expect("a connection");
        assert_eq!(rest(&mut stream).await, "");
        assert!(began.elapsed() < Limits::default().head_ms, "{:?}", began.elapsed());
        eventually("free slots", async || {
            (host.figure("sockhop_tcp_connections").await == 0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_precedes_the_handshake_of_tls() {
    let (directory, identity) = (tempfile::tempdir().expect("a directory"), Identity::default());
    let host = TestHost::with(&[], |config| {
        trusting(config);
        identity.set(directory.path(), config);
    })
    .await;
    let client = TlsClient::trusting([&identity]);
    let mut stream = connect(&host).await;
    stream.write_all(&header([198, 51, 100, 1])).await.expect("a connection");
    let mut stream = client.on(stream).await.expect("a handshake");
    stream.write_all(OPEN.as_bytes()).await.expect("a connection");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    client.on(connect(&host).await).await.expect_err("a handshake without a header");
    client.on(connect_from(&host, "127.0.0.2").await).await.expect("a stranger's handshake");
    assert_eq!(host.figure("sockhop_proxy_headers_refused_total").await, 1);
}

#[test]
fn a_proxy_without_headers_is_named_once_in_the_log() {
    use std::io::{Read, Write};
    let (plugins, data) = (sockhop_tests::directory_of(&[]), sockhop_tests::directory_of(&[]));
    let log = data.path().join("log");
    let file = std::fs::File::create(&log).expect("a file");
    let host = sockhop_tests::HostProcess::with(plugins.path(), data.path(), |command| {
        command
            .env("SOCKHOP_SERVER__PROXY_HEADER", "proxy-protocol")
            .env("SOCKHOP_SERVER__TRUSTED_PROXIES", r#"["127.0.0.1/32"]"#)
            .env("SOCKHOP_ADMIN__LISTEN", "127.0.0.1:0")
            .env("SOCKHOP_LOG__FILTER", "warn")
            .stderr(file);
    });
    for _ in 0..3 {
        let address = host.url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(address).expect("a host");
        stream.write_all(OPEN.as_bytes()).expect("a connection");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // The log is written by a thread of its own, in the order of its lines.
    let until = Instant::now() + PATIENCE;
    let mut text = String::new();
    while !text.contains("send-proxy-v2") && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
        text = std::fs::read_to_string(&log).expect("the log");
    }
    drop(host);
    let text = std::fs::read_to_string(&log).expect("the log");
    assert_eq!(text.matches("send-proxy-v2").count(), 1, "{text}");
}

#[test]
fn a_header_of_no_proxy_is_refused_as_a_setting() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sockhop.toml");
    std::fs::write(&file, "[server]\nproxy_header = \"proxy-protocol\"\n").expect("a file");
    let output = Command::new(binary())
        .args(["check", "--config", file.to_str().expect("UTF-8")])
        .output()
        .expect("the command runs");
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("name them in `trusted_proxies`"), "{said}");
}
