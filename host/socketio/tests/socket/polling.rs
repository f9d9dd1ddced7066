//! Socket.IO in the bodies of polls and posts.

use std::net::SocketAddr;
use std::time::Duration;

use sockhop_socketio::{Config, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::PATIENCE;
use crate::server::Fixture;

/// The whole answer to a request on a connection of its own.
async fn request(address: SocketAddr, method: &str, query: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "{method} /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: x\r\n\
         Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    ask(address, &request).await
}

/// Sends a request as it is, and returns the whole answer.
pub(crate) async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("the server answers").unwrap();
    answer
}

/// The answer to a handshake.
pub(crate) async fn handshake(address: SocketAddr, query: &str) -> String {
    request(address, "GET", query, "").await
}

/// A client that polls, with a TCP connection for each request.
pub(crate) struct PollingClient {
    address: SocketAddr,
    query: String,
}

impl PollingClient {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let answer = handshake(address, "").await;
        let sid = answer.split("\"sid\":\"").nth(1).and_then(|rest| rest.split('"').next());
        Self { address, query: format!("&sid={}", sid.expect(&answer)) }
    }

    pub(crate) async fn post(&self, packets: &[&str]) -> String {
        request(self.address, "POST", &self.query, &packets.join("\u{1e}")).await
    }

    /// The answer to a poll.
    pub(crate) async fn get(&self) -> String {
        request(self.address, "GET", &self.query, "").await
    }

    async fn poll(&self) -> Vec<String> {
        let answer = self.get().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        body.split('\u{1e}').map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn events_answers_and_attachments() {
    let fixture = Fixture::start(Config::default()).await;
    let client = PollingClient::open(fixture.address).await;
    let event = r#"451-["echo",{"_placeholder":true,"num":0}]"#;
    let answer = client.post(&["40{\"greet\":1}", event, "bAQID", "427[\"answer\",\"é\"]"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    assert_eq!(fixture.app().connection().transport(), Transport::Polling);
    let received = client.poll().await;
    assert!(received[0].starts_with("40{\"sid\":\""));
    assert_eq!(received[1..], ["42[\"welcome\"]", event, "bAQID", "437[\"é\"]"]);
}

#[tokio::test]
async fn leave_enter_leave_in_one_post_before_the_client_is_gone() {
    let (ping_interval, ping_timeout) = (Duration::from_millis(200), Duration::from_millis(300));
    let fixture = Fixture::start(Config { ping_interval, ping_timeout, ..Config::default() }).await;
    let client = PollingClient::open(fixture.address).await;
    client.post(&["40", "41", "40", "41"]).await;
    let once = ["connect / {}", "connected /", "disconnected / Left"];
    fixture.app().expect(&[once, once].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_that_is_disconnected_fetches_what_is_queued() {
    let fixture = Fixture::start(Config::default()).await;
    let client = PollingClient::open(fixture.address).await;
    client.post(&["40", "42[\"bye\"]"]).await;
    let received = client.poll().await;
    assert_eq!(received[1..], ["42[\"last\",1]", "41"]);
    let log = ["connect / {}", "connected /", "disconnected / Server"];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_is_disconnected_from_one_namespace_and_stays_in_the_other() {
    let fixture = Fixture::start(Config::default()).await;
    let client = PollingClient::open(fixture.address).await;
    client.post(&["40", "40/a,"]).await;
    assert_eq!(client.poll().await.len(), 2);
    // The client neither polls nor posts meanwhile.
    fixture.app().connection().disconnect();
    let log =
        ["connect / {}", "connected /", "connect /a {}", "connected /a", "disconnected /a Server"];
    fixture.app().expect(&log).await;
    assert_eq!(client.poll().await, ["41/a,"]);
    client.post(&["42/a,[\"x\"]", "421[\"answer\"]"]).await;
    assert_eq!(client.poll().await, ["431[]"]);
    fixture.app().connections()[0].disconnect();
    assert_eq!(client.poll().await, ["41"]);
    fixture.app().expect(&[&log[..], &["disconnected / Server"]].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_client_whose_session_is_closed_leaves_all_namespaces() {
    let fixture = Fixture::start(Config::default()).await;
    let client = PollingClient::open(fixture.address).await;
    let answer = client.post(&["40", "40/a,", "42[\"close\"]", "42/a,[\"x\"]"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(client.poll().await[2..], ["41", "41/a,"]);
    let log = ["connect / {}", "connected /", "connect /a {}", "connected /a"];
    let ends = ["disconnected / Server", "disconnected /a Server"];
    fixture.app().expect(&[&log[..], &ends].concat()).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn nothing_behind_a_close_packet_is_handled() {
    let fixture = Fixture::start(Config::default()).await;
    let client = PollingClient::open(fixture.address).await;
    let answer = client.post(&["40", "42[\"x\"]", "1", "42[\"y\"]"]).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let answer = client.post(&["42[\"z\"]"]).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let log = ["connect / {}", "connected /", "x() []", "disconnected / SessionEnded(Client)"];
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_handler_that_panics_ends_the_session_only() {
    let fixture = Fixture::start(Config::default()).await;
    let once = ["connect / {}", "connected /", "disconnected / SessionEnded(Aborted)"];
    let mut log = Vec::new();
    for event in ["42[\"panic\"]", "42[\"eager panic\"]", "42[\"late panic\"]"] {
        let client = PollingClient::open(fixture.address).await;
        let answer = client.post(&["40", event]).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
        log.extend(if event.contains("late") {
            [once[0], once[1], "late panic() []"]
        } else {
            [once[0], once[1], once[2]]
        });
    }
    log.push(once[2]);
    fixture.app().expect(&log).await;
    fixture.expect_empty().await;
}

#[tokio::test]
async fn a_malformed_packet_ends_the_session() {
    let fixture = Fixture::start(Config::default()).await;
    for body in
        [&["40", "42{}"][..], &["40", "451-[\"x\"]", "40"], &["40", "bAQID"], &["40", "42[\"x\""]]
    {
        let client = PollingClient::open(fixture.address).await;
        let answer = client.post(body).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{body:?}: {answer}");
    }
    fixture.expect_empty().await;
}
