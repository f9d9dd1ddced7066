//! A blocking Socket.IO client over WebSocket that can connect from any loopback address. It treats
//! a closed connection as a result, not as a fault of the measurement.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// How long a visitor waits for anything. It is longer than an event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum number of bytes that a visitor buffers while it looks for its answer.
const INBOX: usize = 4 << 20;

/// One connection.
pub(crate) struct Visitor {
    stream: TcpStream,
    inbox: Vec<u8>,
    next_ack: u64,
}

/// Returns a loopback address. Honest clients have 127.0.0.1.
pub(crate) const fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// Opens a TCP connection from one address of this machine.
///
/// # Errors
/// The host refuses it, or does not accept it in time.
pub(crate) fn tcp(host: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    connected(Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?, host, from)
}

/// Does the same, with buffers that are full after some 50 KB: a client that does not read them
/// makes the host wait soon.
///
/// # Errors
/// The host refuses it, or does not accept it in time.
pub(crate) fn narrow_tcp(host: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_recv_buffer_size(SMALLEST)?;
    // The system makes a sender's buffer as large as some segments of the receiver. On the loopback
    // device a segment has 64 KiB unless the receiver wants less.
    socket.set_tcp_mss(SMALL_SEGMENT)?;
    connected(socket, host, from)
}

/// Less than the system gives to any socket, so it gives its minimum.
const SMALLEST: usize = 1;

/// Bytes of a segment, as on old networks.
const SMALL_SEGMENT: u32 = 536;

fn connected(socket: Socket, host: SocketAddr, from: IpAddr) -> io::Result<TcpStream> {
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&host.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

impl Visitor {
    /// Connects to the namespace `/`.
    ///
    /// # Errors
    /// The host refuses the connection.
    pub(crate) fn connect(host: SocketAddr, from: IpAddr) -> io::Result<Self> {
        Self::open(host, from, "")?.joined()
    }

    /// Connects to the namespace `/` and reads as little as the system allows, see [`narrow_tcp`].
    ///
    /// # Errors
    /// The host refuses the connection.
    pub(crate) fn connect_narrow(host: SocketAddr, from: IpAddr) -> io::Result<Self> {
        Self::over(narrow_tcp(host, from)?, host, "")?.joined()
    }

    /// Sends CONNECT and waits for the answer.
    fn joined(mut self) -> io::Result<Self> {
        self.send(b"40")?;
        self.greeting()?;
        Ok(self)
    }

    /// Opens a WebSocket: of a new session, or of the one that `sid` names.
    ///
    /// # Errors
    /// The host refuses the connection.
    pub(crate) fn open(host: SocketAddr, from: IpAddr, sid: &str) -> io::Result<Self> {
        Self::over(tcp(host, from)?, host, sid)
    }

    fn over(stream: TcpStream, host: SocketAddr, sid: &str) -> io::Result<Self> {
        let mut visitor = Self { stream, inbox: Vec::new(), next_ack: 0 };
        let session = if sid.is_empty() { String::new() } else { format!("&sid={sid}") };
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket{session} HTTP/1.1\r\nHost: \
             {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29ja2hvcC1iZW5jaG1rIQ==\r\n\r\n"
        );
        visitor.stream.write_all(request.as_bytes())?;
        let until = Instant::now() + PATIENCE;
        let head = loop {
            if let Some(at) = visitor.inbox.windows(4).position(|window| window == b"\r\n\r\n") {
                break visitor.inbox.drain(..at + 4).collect::<Vec<_>>();
            }
            visitor.fill(until)?;
        };
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
        }
        Ok(visitor)
    }

    /// Waits for the answer to CONNECT.
    ///
    /// # Errors
    /// The connection is closed, or the answer does not come.
    pub(crate) fn greeting(&mut self) -> io::Result<()> {
        self.until(|packet| packet.starts_with(b"40").then_some(()))
    }

    /// Waits for the answer to the probe of an upgrade.
    ///
    /// # Errors
    /// The connection is closed, or the answer does not come.
    pub(crate) fn probed(&mut self) -> io::Result<()> {
        self.until(|packet| (packet == b"3probe").then_some(()))
    }

    /// Returns the underlying TCP connection.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Sends one packet.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.write(&frame(packet))
    }

    /// Writes raw bytes.
    ///
    /// # Errors
    /// The connection is closed.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends an event and waits for its ack: the text of the ack's arguments.
    ///
    /// # Errors
    /// The connection is closed, or the ack does not come.
    pub(crate) fn ask(&mut self, event: &str, data: &str) -> io::Result<String> {
        let id = self.next_ack;
        self.next_ack += 1;
        self.send(format!("42{id}[\"{event}\",{data}]").as_bytes())?;
        let prefix = format!("43{id}[").into_bytes();
        self.until(|packet| {
            packet
                .strip_prefix(prefix.as_slice())
                .map(|rest| String::from_utf8_lossy(rest).into_owned())
        })
    }

    /// Reads packets until `wanted` returns a value, and returns that value.
    fn until<T>(&mut self, wanted: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            while let Some((opcode, packet)) = self.take_frame() {
                match (opcode, packet.as_slice()) {
                    (1, b"2") => self.send(b"3")?,
                    (1, packet) => {
                        if let Some(found) = wanted(packet) {
                            return Ok(found);
                        }
                    }
                    (8, _) => return Err(ErrorKind::ConnectionAborted.into()),
                    _ => {}
                }
            }
            self.fill(until)?;
        }
    }

    fn fill(&mut self, until: Instant) -> io::Result<()> {
        let mut some = [0; 16 << 10];
        match self.stream.read(&mut some)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ if Instant::now() > until || self.inbox.len() > INBOX => {
                Err(ErrorKind::TimedOut.into())
            }
            read => {
                self.inbox.extend_from_slice(&some[..read]);
                Ok(())
            }
        }
    }

    /// Removes the first frame from the inbox and returns its opcode and its payload, or `None` if
    /// it is incomplete.
    fn take_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let bytes = &self.inbox;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (head, length) = match second & 0x7f {
            126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
            127 => {
                (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?)
            }
            short => (2, usize::from(short)),
        };
        let payload = bytes.get(head..head + length)?.to_vec();
        self.inbox.drain(..head + length);
        Some((first & 0x0f, payload))
    }
}

/// Returns a masked text frame. The mask is zero, which leaves the bytes unchanged.
pub(crate) fn frame(packet: &[u8]) -> Vec<u8> {
    let mut outbox = crate::driver::Outbox::default();
    outbox.frame(|bytes| bytes.extend_from_slice(packet));
    outbox.into_bytes()
}
