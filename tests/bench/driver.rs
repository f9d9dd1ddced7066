//! Many Socket.IO connections over WebSocket on one thread, with as little processor time as
//! possible. Only packets that need an answer are parsed, all connections share one read buffer,
//! and the output that one read causes is written at once. This module knows packets, but no
//! events.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream as Blocking;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Size in bytes of the buffer that all connections read into. A frame must be smaller than that.
const READ: usize = 1 << 20;

/// How long any operation may take before the measurement gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Frames that are waiting to be written to one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Adds a text frame with the bytes that `write` appends.
    ///
    /// A client must mask its frames. The mask is zero, which leaves the bytes unchanged and costs
    /// a server as much as any other.
    pub(crate) fn frame(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        const LONGEST_HEAD: usize = 14;
        let start = self.bytes.len();
        self.bytes.resize(start + LONGEST_HEAD, 0);
        write(&mut self.bytes);
        let length = self.bytes.len() - start - LONGEST_HEAD;
        let mut head = [0; LONGEST_HEAD];
        head[0] = 0x81;
        let used = match length {
            0..126 => {
                head[1] = 0x80 | length as u8;
                6
            }
            126..=0xffff => {
                head[1] = 0x80 | 126;
                head[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                8
            }
            _ => {
                head[1] = 0x80 | 127;
                head[2..10].copy_from_slice(&(length as u64).to_be_bytes());
                14
            }
        };
        // The length of the head is known only now, so the text moves to the end of the head.
        self.bytes[start..start + used].copy_from_slice(&head[..used]);
        self.bytes.copy_within(start + LONGEST_HEAD.., start + used);
        self.bytes.truncate(start + used + length);
    }

    /// Returns the bytes of all added frames.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match stream.write(&self.bytes[self.written..]) {
                Ok(written) => self.written += written,
                // The poll reports when the socket is writable again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.bytes.clear();
        self.written = 0;
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    outbox: Outbox,
    /// The beginning of a frame that has not arrived completely.
    rest: Vec<u8>,
    is_closed: bool,
}

/// Parses the frame at the beginning of `bytes`. Returns its opcode, its text, and its length
/// including the head, or `None` if it is incomplete.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    assert!(
        first & 0x80 != 0 && first & 0x70 == 0,
        "the server sent a fragment or a compressed frame, which was not asked for"
    );
    Some((first & 0x0f, bytes.get(head..head + length)?, head + length))
}

/// The server to which connections are opened, and the token that they present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// `127.0.0.1:PORT`
    pub(crate) address: &'a str,
    /// Without a token, the clients are anonymous.
    pub(crate) token: Option<&'a str>,
}

impl<'a, T: AsRef<str> + ?Sized> From<&'a T> for Target<'a> {
    fn from(address: &'a T) -> Self {
        Self { address: address.as_ref(), token: None }
    }
}

/// The connections to one server.
pub(crate) struct Driver {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl Driver {
    /// Opens `count` connections to the namespace `/` of a server, one after the other. With
    /// `greeted`, each waits for the event `connected`, which the bundled plugins send.
    pub(crate) fn connect<'a>(target: impl Into<Target<'a>>, count: usize, greeted: bool) -> Self {
        let poll = Poll::new().expect("a poll");
        let mut driver = Self {
            poll,
            events: Events::with_capacity(1_024),
            connections: Vec::new(),
            buffer: vec![0; READ],
        };
        driver.add(target, count, greeted);
        driver
    }

    /// Opens `count` more connections.
    pub(crate) fn add<'a>(&mut self, target: impl Into<Target<'a>>, count: usize, greeted: bool) {
        let target = target.into();
        for _ in 0..count {
            let mut connection = open(target, greeted);
            let token = Token(self.connections.len());
            let interests = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut connection.stream, token, interests)
                .expect("a place in the poll");
            self.connections.push(connection);
        }
    }

    /// Returns the number of connections.
    pub(crate) const fn len(&self) -> usize {
        self.connections.len()
    }

    /// Returns how many connections the server has closed.
    pub(crate) fn closed(&self) -> u64 {
        self.connections.iter().filter(|connection| connection.is_closed).count() as u64
    }

    /// Returns the output buffer of one connection. [`Driver::flush`] writes it.
    pub(crate) fn outbox(&mut self, connection: usize) -> &mut Outbox {
        &mut self.connections[connection].outbox
    }

    /// Writes the buffered frames of one connection.
    pub(crate) fn flush(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        if connection.outbox.flush(&mut connection.stream).is_err() {
            connection.is_closed = true;
        }
    }

    /// Waits for at most `timeout` until packets arrive. Calls `on_packet` for each packet with its
    /// connection and with that connection's output buffer, which is written after all received
    /// packets were handled. Returns whether any connection had an event.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        mut on_packet: impl FnMut(usize, &[u8], &mut Outbox),
    ) -> bool {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return false,
            polled => polled.expect("a poll that works"),
        }
        for event in &self.events {
            let Token(place) = event.token();
            let connection = &mut self.connections[place];
            let mut read = Ok(true);
            while event.is_readable() && matches!(read, Ok(true)) {
                read = connection
                    .read(&mut self.buffer, |packet, outbox| on_packet(place, packet, outbox));
            }
            if let Err(error) = read.and_then(|_| connection.outbox.flush(&mut connection.stream)) {
                if !connection.is_closed {
                    crate::report::note(&format!("  connection {place} closed: {error}"));
                }
                connection.is_closed = true;
            }
        }
        !self.events.is_empty()
    }

    /// Sends an event on one connection, waits for its ack, and returns the text of the ack's
    /// arguments. Used for preparations: nothing else may be in flight.
    pub(crate) fn ask(&mut self, connection: usize, event: &str, data: &str) -> String {
        self.ask_all(connection..connection + 1, event, data).pop().expect("one answer")
    }

    /// Does the same as [`Driver::ask`] on several connections at once.
    pub(crate) fn ask_all(
        &mut self,
        connections: std::ops::Range<usize>,
        event: &str,
        data: &str,
    ) -> Vec<String> {
        for connection in connections.clone() {
            self.outbox(connection).frame(|bytes| {
                bytes.extend_from_slice(format!("420[\"{event}\",{data}]").as_bytes())
            });
            self.flush(connection);
        }
        let (began, mut answers) = (Instant::now(), Vec::new());
        while answers.len() < connections.len() {
            self.turn(Duration::from_millis(1), |_, packet, _| {
                if let Some(answer) = packet.strip_prefix(b"430") {
                    answers.push(String::from_utf8_lossy(answer).into_owned());
                }
            });
            assert!(began.elapsed() < PATIENCE, "no ack for {event}");
        }
        answers
    }
}

impl Connection {
    /// Reads once and passes every complete packet to `on_packet`. Returns `Ok(true)` if there may
    /// be more to read.
    fn read(
        &mut self,
        buffer: &mut [u8],
        mut on_packet: impl FnMut(&[u8], &mut Outbox),
    ) -> io::Result<bool> {
        let kept = self.rest.len();
        buffer[..kept].copy_from_slice(&self.rest);
        let read = match self.stream.read(&mut buffer[kept..]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(error),
        };
        let mut bytes = &buffer[..kept + read];
        while let Some((opcode, text, length)) = frame(bytes) {
            match (opcode, text) {
                // The heartbeat of Engine.IO.
                (1, b"2") => self.outbox.frame(|bytes| bytes.push(b'3')),
                (1, _) => on_packet(text, &mut self.outbox),
                (8, _) => return Err(ErrorKind::ConnectionAborted.into()),
                // The heartbeat of WebSocket, which no server here is configured to use.
                (opcode, _) => assert!(opcode == 10, "a frame of the kind {opcode}"),
            }
            bytes = &bytes[length..];
        }
        assert!(bytes.len() < READ, "a frame is larger than {READ} bytes");
        self.rest.clear();
        self.rest.extend_from_slice(bytes);
        // A read that did not fill the buffer has emptied the socket. The poll reports the next
        // bytes.
        Ok(kept + read == buffer.len())
    }
}

/// Opens one connection, including the WebSocket and the Socket.IO handshake.
fn open(Target { address, token }: Target<'_>, greeted: bool) -> Connection {
    let mut stream = Blocking::connect(address)
        .unwrap_or_else(|error| panic!("can't connect to {address}: {error}"));
    stream.set_nodelay(true).expect("a tunable socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a tunable socket");
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\nConnection: \
         Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29ja2hvcC1iZW5jaG1rIQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a server that reads");
    let mut inbox = Inbox { stream: &mut stream, bytes: Vec::new() };
    let head = inbox
        .until(|bytes| bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4));
    assert!(head.starts_with(b"HTTP/1.1 101"), "no WebSocket: {}", String::from_utf8_lossy(&head));
    inbox.packet(b"0");
    let mut outbox = Outbox::default();
    outbox.frame(|bytes| {
        bytes.extend_from_slice(b"40");
        if let Some(token) = token {
            bytes.extend_from_slice(format!("{{\"token\":\"{token}\"}}").as_bytes());
        }
    });
    outbox.flush(inbox.stream).expect("a server that reads");
    inbox.packet(b"40{");
    if greeted {
        inbox.packet(b"42[\"connected\"");
    }
    let rest = inbox.bytes;
    stream.set_nonblocking(true).expect("a tunable socket");
    Connection { stream: TcpStream::from_std(stream), outbox, rest, is_closed: false }
}

/// The received bytes of a connection during its handshakes.
struct Inbox<'a> {
    stream: &'a mut Blocking,
    bytes: Vec<u8>,
}

impl Inbox<'_> {
    /// Reads until `whole` returns a length, then removes and returns that many bytes.
    fn until(&mut self, whole: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
        loop {
            if let Some(length) = whole(&self.bytes) {
                return self.bytes.drain(..length).collect();
            }
            let mut some = [0; 2_048];
            let read = self.stream.read(&mut some).expect("a server that answers a handshake");
            assert!(read > 0, "the server has closed the connection in its handshake");
            self.bytes.extend_from_slice(&some[..read]);
        }
    }

    /// Reads packets until one begins with `wanted`.
    fn packet(&mut self, wanted: &[u8]) {
        loop {
            let bytes = self.until(|bytes| frame(bytes).map(|(_, _, length)| length));
            let (_, text, _) = frame(&bytes).expect("a whole frame");
            if text.starts_with(wanted) {
                return;
            }
            assert!(!text.starts_with(b"44"), "refused: {}", String::from_utf8_lossy(text));
            // Some servers send a heartbeat first.
            if text == b"2" {
                let mut outbox = Outbox::default();
                outbox.frame(|bytes| bytes.push(b'3'));
                outbox.flush(self.stream).expect("a server that reads");
            }
        }
    }
}
