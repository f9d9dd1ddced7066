//! A client that writes exactly the packets of a test: a WebSocket over a plain TCP connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a test waits for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;

/// A message that a client received, or the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    /// The end, with the code of the server's close frame if there was one.
    End(Option<u16>),
}

/// A message to send.
pub(crate) enum Message<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    /// A close frame without a code.
    Close,
}

pub(crate) struct RawClient {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl RawClient {
    /// Opens a session and returns after its handshake.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut client = Self { stream, buffer: Vec::new() };
        let head = loop {
            if let Some(at) = client.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break String::from_utf8(client.buffer.drain(..at + 4).collect()).unwrap();
            }
            assert!(client.read().await, "the server closed the connection");
        };
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let handshake = client.text().await;
        assert!(handshake.starts_with("0{"), "{handshake}");
        client
    }

    /// Opens a session and enters the main namespace.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::open(address).await;
        client.send(&["40"]).await;
        let answer = client.text().await;
        assert!(answer.starts_with("40{\"sid\":"), "{answer}");
        client
    }

    /// Sends text messages in one write.
    pub(crate) async fn send(&mut self, texts: &[&str]) {
        let messages: Vec<_> = texts.iter().map(|text| Message::Text(text)).collect();
        self.send_messages(&messages).await;
    }

    /// Sends messages in one write. A server that has closed the connection already is no error.
    pub(crate) async fn send_messages(&mut self, messages: &[Message<'_>]) {
        let mut bytes = Vec::new();
        for message in messages {
            match message {
                Message::Text(text) => write_frame(&mut bytes, TEXT, text.as_bytes()),
                Message::Binary(data) => write_frame(&mut bytes, BINARY, data),
                Message::Close => write_frame(&mut bytes, CLOSE, &[]),
            }
        }
        let _ = timeout(PATIENCE, self.stream.write_all(&bytes)).await.expect("the server reads");
    }

    /// Sends a text up to `times` times, until the server reads nothing for a while. Returns how
    /// many were written. The client is of no use after that.
    pub(crate) async fn write_until_stalled(&mut self, text: &str, times: usize) -> usize {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, TEXT, text.as_bytes());
        for written in 0..times {
            if timeout(Duration::from_secs(1), self.stream.write_all(&bytes)).await.is_err() {
                return written;
            }
        }
        times
    }

    /// The next message that is no ping, or the end.
    pub(crate) async fn receive(&mut self) -> Received {
        loop {
            match self.next_message().await {
                Received::Text(text) if text == "2" => self.send(&["3"]).await,
                received => return received,
            }
        }
    }

    async fn next_message(&mut self) -> Received {
        loop {
            if let Some((opcode, payload)) = self.take_frame() {
                return match opcode {
                    TEXT => Received::Text(String::from_utf8(payload).unwrap()),
                    BINARY => Received::Binary(payload),
                    CLOSE => {
                        let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                        Received::End(code)
                    }
                    other => panic!("unexpected frame {other}"),
                };
            }
            if !self.read().await {
                return Received::End(None);
            }
        }
    }

    /// The next text.
    pub(crate) async fn text(&mut self) -> String {
        match self.receive().await {
            Received::Text(text) => text,
            other => panic!("expected a text, received {other:?}"),
        }
    }

    /// Reads until the server ends the connection, and returns the texts until then.
    pub(crate) async fn texts_until_end(&mut self) -> Vec<String> {
        self.until_end().await.0
    }

    /// Like [`texts_until_end`](Self::texts_until_end), with the code of the close frame.
    pub(crate) async fn until_end(&mut self) -> (Vec<String>, Option<u16>) {
        let mut texts = Vec::new();
        loop {
            match self.receive().await {
                Received::Text(text) => texts.push(text),
                Received::Binary(_) => {}
                Received::End(code) => return (texts, code),
            }
        }
    }

    /// Says goodbye as Engine.IO does.
    pub(crate) async fn send_engine_close(&mut self) {
        self.send(&["1"]).await;
    }

    /// Fails unless the server still answers in the main namespace.
    pub(crate) async fn assert_alive(&mut self) {
        self.send(&["42999[\"answer\",\"alive\"]"]).await;
        assert_eq!(self.text().await, "43999[\"alive\"]");
    }

    /// Closes the TCP connection.
    pub(crate) async fn hang_up(mut self) {
        self.shut_down().await;
    }

    /// Closes the sending half, like a client that closes.
    pub(crate) async fn shut_down(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Reads more. False if the connection has ended.
    async fn read(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await;
        matches!(read.expect("the server sends something"), Ok(1..))
    }

    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        let (length, head) = match second {
            126 => (usize::from(u16::from_be_bytes(*self.buffer.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.buffer.get(2..)?.first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let payload = self.buffer.get(head..head + length)?.to_vec();
        self.buffer.drain(..head + length);
        Some((first & 0x0f, payload))
    }
}

fn write_frame(bytes: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    bytes.push(0x80 | opcode);
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = [1, 2, 3, 4];
    bytes.extend_from_slice(&key);
    bytes.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}
