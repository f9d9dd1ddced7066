//! A client that sends exactly the bytes of a test, over TCP.
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No answer takes longer in a test.
const PATIENCE: Duration = Duration::from_secs(10);

/// The headers of a correct upgrade request.
pub(crate) const UPGRADE: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(crate) const POLLING: &str = "/socket.io/?EIO=4&transport=polling";
pub(crate) const WEBSOCKET: &str = "/socket.io/?EIO=4&transport=websocket";

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    buf: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HttpAnswer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Raw {
    pub(crate) async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        Self { stream, buf: Vec::new() }
    }

    /// Writes, also to a server that has closed the connection: the test sees that when it reads.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads more; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buf)).await;
        matches!(read.expect("an answer in time"), Ok(1..))
    }

    pub(crate) async fn request(&mut self, line: &str, headers: &str, body: &str) {
        let length = if body.is_empty() && line.starts_with("GET") {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        self.write(format!("{line} HTTP/1.1\r\nHost: x\r\n{headers}{length}\r\n{body}")).await;
    }

    /// Reads one answer with a `Content-Length`; `None` if the connection is closed instead.
    pub(crate) async fn answer(&mut self) -> Option<HttpAnswer> {
        let end = loop {
            if let Some(end) = self.buf.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.buf.drain(..end).collect()).unwrap().to_lowercase();
        let length = head
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        while self.buf.len() < length {
            if !self.more().await {
                return None;
            }
        }
        let body = String::from_utf8(self.buf.drain(..length).collect()).unwrap();
        Some(HttpAnswer { status: head[9..12].parse().unwrap(), head, body })
    }

    pub(crate) async fn frame(&mut self, first: u8, payload: impl AsRef<[u8]>) {
        self.write(masked(first, payload.as_ref())).await;
    }

    pub(crate) async fn text(&mut self, text: &str) {
        self.frame(0x81, text).await;
    }

    /// Reads one frame; `None` at the end of the connection.
    pub(crate) async fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = &self.buf[..] {
                let (len, header) = match (*second, rest) {
                    (126, [a, b, ..]) => (usize::from(u16::from_be_bytes([*a, *b])), 4),
                    (127, rest) if rest.len() >= 8 => {
                        (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, 10)
                    }
                    (126 | 127, _) => (usize::MAX - 100, 10),
                    (short, _) => (usize::from(short), 2),
                };
                if self.buf.len() >= header + len {
                    let frame = (*first, self.buf[header..header + len].to_vec());
                    self.buf.drain(..header + len);
                    return Some(frame);
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Reads one text message.
    pub(crate) async fn read_text(&mut self) -> String {
        let (first, payload) = self.read_frame().await.expect("a message");
        assert_eq!(first, 0x81, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    /// Expects the end of the connection, and returns the bytes before it.
    pub(crate) async fn end(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.buf)
    }

    /// Expects a close frame with this status, and then the end of the connection.
    pub(crate) async fn closes_with(&mut self, code: u16) {
        let frame = self.read_frame().await;
        assert_eq!(frame, Some((0x88, code.to_be_bytes().to_vec())));
        self.stream.shutdown().await.ok();
        assert_eq!(self.end().await, b"");
    }
}

/// A frame as a client sends it.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((medium as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([1, 2, 3, 4]);
    frame
        .extend(payload.iter().zip([1, 2, 3, 4].into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// Sends one request over a connection of its own.
pub(crate) async fn request(
    port: u16,
    line: &str,
    headers: &str,
    body: &str,
) -> Option<HttpAnswer> {
    let mut raw = Raw::connect(port).await;
    raw.request(line, headers, body).await;
    raw.answer().await
}

pub(crate) async fn get(port: u16, path: &str) -> HttpAnswer {
    request(port, &format!("GET {path}"), "", "").await.expect("an answer")
}

pub(crate) async fn post(port: u16, path: &str, body: &str) -> HttpAnswer {
    request(port, &format!("POST {path}"), "", body).await.expect("an answer")
}

/// Opens a polling session. Returns the path of its requests, without the transport.
pub(crate) async fn open_polling(port: u16) -> String {
    let opened = get(port, POLLING).await;
    assert_eq!(opened.status, 200, "{opened:?}");
    let sid = opened.body.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap();
    format!("/socket.io/?EIO=4&sid={sid}")
}

/// Opens a WebSocket, of a new session or to upgrade one.
pub(crate) async fn open_websocket(port: u16, path: &str) -> Raw {
    let mut raw = Raw::connect(port).await;
    raw.request(&format!("GET {path}"), UPGRADE, "").await;
    let answer = raw.answer().await.expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    raw
}

/// Opens a session with a WebSocket. Returns it with its id.
pub(crate) async fn connect(port: u16) -> (Raw, String) {
    let mut raw = open_websocket(port, WEBSOCKET).await;
    let handshake = raw.read_text().await;
    let sid = handshake.split("\"sid\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    (raw, sid)
}
