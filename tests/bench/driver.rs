//! Many Socket.IO connections over WebSocket on one thread, as cheaply as can be: nothing is parsed that needs no answer, no buffer belongs
//! to one connection for longer than a read, and what one read gives rise to is written in one go. Knows packets, but no events.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream as Blocking;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

/// Bytes of the one buffer that all connections read into; no frame may be larger.
const READ: usize = 1 << 20;

/// How long anything may take before the measurement gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Frames that wait to be written on one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Adds a text frame with what `write` writes.
    ///
    /// A client must mask, and by what is up to it: zeros leave the bytes as they are, and cost a server the same as others.
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
        // The head's length is known only now: the text moves to where the head ends.
        self.bytes[start..start + used].copy_from_slice(&head[..used]);
        self.bytes.copy_within(start + LONGEST_HEAD.., start + used);
        self.bytes.truncate(start + used + length);
    }

    /// The frames that were added.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.written < self.bytes.len() {
            match stream.write(&self.bytes[self.written..]) {
                Ok(written) => self.written += written,
                // The poll tells when there is room again.
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
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    is_closed: bool,
}

/// A frame at the beginning of `bytes`: its opcode, its text, and its length with its head.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (head, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    assert!(first & 0x80 != 0 && first & 0x70 == 0, "the server sent a fragment or a compressed frame, which was not asked for");
    Some((first & 0x0f, bytes.get(head..head + length)?, head + length))
}

/// Connections to one server.
pub(crate) struct Driver {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl Driver {
    /// Opens `count` connections to the namespace `/` of the server at `address`, one after the other. With `greeted`, each waits for the
    /// event `connected`, as clients of the bundled plugins may.
    pub(crate) fn connect(address: &str, count: usize, greeted: bool) -> Self {
        let poll = Poll::new().expect("a poll");
        let mut driver = Self { poll, events: Events::with_capacity(1_024), connections: Vec::new(), buffer: vec![0; READ] };
        driver.add(address, count, greeted);
        driver
    }

    /// Opens more.
    pub(crate) fn add(&mut self, address: &str, count: usize, greeted: bool) {
        for _ in 0..count {
            let mut connection = open(address, greeted);
            let token = Token(self.connections.len());
            let interests = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut connection.stream, token, interests).expect("a place in the poll");
            self.connections.push(connection);
        }
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.connections.len()
    }

    /// How many of them the server has closed.
    pub(crate) fn closed(&self) -> u64 {
        self.connections.iter().filter(|connection| connection.is_closed).count() as u64
    }

    /// What is to be written on one connection; goes out with [`Driver::flush`].
    pub(crate) fn outbox(&mut self, connection: usize) -> &mut Outbox {
        &mut self.connections[connection].outbox
    }

    /// Writes what waits on one connection.
    pub(crate) fn flush(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        if connection.outbox.flush(&mut connection.stream).is_err() {
            connection.is_closed = true;
        }
    }

    /// Waits until something comes, for at most `timeout`, and gives each packet to `on_packet` with its connection, and with what goes out
    /// there when all that has come was looked at. Returns whether anything came.
    pub(crate) fn turn(&mut self, timeout: Duration, mut on_packet: impl FnMut(usize, &[u8], &mut Outbox)) -> bool {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return false,
            polled => polled.expect("a poll that works"),
        }
        for event in &self.events {
            let Token(place) = event.token();
            let connection = &mut self.connections[place];
            let mut read = Ok(true);
            while event.is_readable() && matches!(read, Ok(true)) {
                read = connection.read(&mut self.buffer, |packet, outbox| on_packet(place, packet, outbox));
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

    /// Sends an event on one connection, and waits for its ack: the text of its arguments. For preparations; nothing else may be in flight.
    pub(crate) fn ask(&mut self, connection: usize, event: &str, data: &str) -> String {
        self.ask_all(connection..connection + 1, event, data).pop().expect("one answer")
    }

    /// The same on several connections at once.
    pub(crate) fn ask_all(&mut self, connections: std::ops::Range<usize>, event: &str, data: &str) -> Vec<String> {
        for connection in connections.clone() {
            self.outbox(connection).frame(|bytes| bytes.extend_from_slice(format!("420[\"{event}\",{data}]").as_bytes()));
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
    /// Reads once, and hands over every whole packet. `Ok(true)` where there may be more to read.
    fn read(&mut self, buffer: &mut [u8], mut on_packet: impl FnMut(&[u8], &mut Outbox)) -> io::Result<bool> {
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
                // Engine.IO's heartbeat.
                (1, b"2") => self.outbox.frame(|bytes| bytes.push(b'3')),
                (1, _) => on_packet(text, &mut self.outbox),
                (8, _) => return Err(ErrorKind::ConnectionAborted.into()),
                // WebSocket's own heartbeat: no server here is set to use it.
                (opcode, _) => assert!(opcode == 10, "a frame of the kind {opcode}"),
            }
            bytes = &bytes[length..];
        }
        assert!(bytes.len() < READ, "a frame is larger than {READ} bytes");
        self.rest.clear();
        self.rest.extend_from_slice(bytes);
        // A read that did not fill the buffer has emptied the socket: the poll tells of the next bytes.
        Ok(kept + read == buffer.len())
    }
}

/// One connection, through both handshakes.
fn open(address: &str, greeted: bool) -> Connection {
    let mut stream = Blocking::connect(address).unwrap_or_else(|error| panic!("can't connect to {address}: {error}"));
    stream.set_nodelay(true).expect("a tunable socket");
    stream.set_read_timeout(Some(PATIENCE)).expect("a tunable socket");
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29ja2hvcC1iZW5jaG1rIQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a server that reads");
    let mut inbox = Inbox { stream: &mut stream, bytes: Vec::new() };
    let head = inbox.until(|bytes| bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4));
    assert!(head.starts_with(b"HTTP/1.1 101"), "no WebSocket: {}", String::from_utf8_lossy(&head));
    inbox.packet(b"0");
    let mut outbox = Outbox::default();
    outbox.frame(|bytes| bytes.extend_from_slice(b"40"));
    outbox.flush(inbox.stream).expect("a server that reads");
    inbox.packet(b"40{");
    if greeted {
        inbox.packet(b"42[\"connected\"");
    }
    let rest = inbox.bytes;
    stream.set_nonblocking(true).expect("a tunable socket");
    Connection { stream: TcpStream::from_std(stream), outbox, rest, is_closed: false }
}

/// What has come on a connection that is still shaking hands.
struct Inbox<'a> {
    stream: &'a mut Blocking,
    bytes: Vec<u8>,
}

impl Inbox<'_> {
    /// Reads until `whole` finds a length, and takes so much.
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

    /// Takes packets until one begins with `wanted`.
    fn packet(&mut self, wanted: &[u8]) {
        loop {
            let bytes = self.until(|bytes| frame(bytes).map(|(_, _, length)| length));
            let (_, text, _) = frame(&bytes).expect("a whole frame");
            if text.starts_with(wanted) {
                return;
            }
            assert!(!text.starts_with(b"44"), "refused: {}", String::from_utf8_lossy(text));
            // Some servers begin with a heartbeat.
            if text == b"2" {
                let mut outbox = Outbox::default();
                outbox.frame(|bytes| bytes.push(b'3'));
                outbox.flush(self.stream).expect("a server that reads");
            }
        }
    }
}
