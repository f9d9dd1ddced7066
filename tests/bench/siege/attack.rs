//! The attackers of a siege: how each kind takes a slot and holds it without an end, and what
//! became of its connection.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::polling::Polling;
use crate::visitor::{self, Visitor, address};

/// How an attacker holds its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Subscribes to a room to which something is sent, and never reads.
    Stalled,
    /// Opens an Engine.IO session over WebSocket, and never sends CONNECT.
    HalfOpen,
    /// Opens a TCP connection, and sends nothing.
    Silent,
    /// Sends half of a request's head.
    Head,
    /// Announces a body, and sends a byte of it now and then.
    Body,
}

impl Kind {
    /// The name in documents.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Stalled => "stalled readers",
            Self::HalfOpen => "half-open handshakes",
            Self::Silent => "silent sockets",
            Self::Head => "half-sent heads",
            Self::Body => "slow bodies",
        }
    }

    /// Connects, and does all that an attacker of this kind does but for what it repeats.
    fn begin(self, host: SocketAddr) -> io::Result<TcpStream> {
        const FROM: std::net::IpAddr = address(2);
        match self {
            Self::Stalled => {
                let mut reader = Visitor::connect_narrow(host, FROM)?;
                reader.ask("subscribe_event", r#"{"event_type":"memory_logs"}"#)?;
                Ok(reader.into_stream())
            }
            Self::HalfOpen => Ok(Visitor::open(host, FROM, "")?.into_stream()),
            Self::Silent => visitor::tcp(host, FROM),
            Self::Head => {
                let mut stream = visitor::tcp(host, FROM)?;
                stream.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x")?;
                Ok(stream)
            }
            Self::Body => {
                let mut session = Polling::open(host, FROM)?;
                session.begin_post(100_000, b"4")?;
                Ok(session.into_stream())
            }
        }
    }
}

/// The kinds in the order of their arrival, with the number of each. Those that the host keeps for
/// the longest time come first, so that all are there at once.
pub(super) type Numbers = [(Kind, usize); 5];

/// The client that sends to the room of the stalled readers. It is one that the host must serve.
pub(super) struct Emitter {
    visitor: Visitor,
    /// Bytes that each subscriber was sent, at least.
    sent: usize,
}

impl Emitter {
    /// Connects.
    pub(super) fn connect(host: SocketAddr) -> Self {
        Self { visitor: Visitor::connect(host, address(3)).expect("a connection"), sent: 0 }
    }

    fn emit(&mut self) -> Result<(), String> {
        let text = "x".repeat(EMIT);
        let data = format!(r#"{{"user_id":7,"content":"{text}"}}"#);
        match self.visitor.ask("memory_log_create", &data) {
            Ok(answer) if answer.starts_with(r#"{"id""#) => {
                self.sent += EMIT;
                Ok(())
            }
            Ok(answer) => Err(format!("the client that sends was answered {answer}")),
            Err(error) => Err(format!("the client that sends was not answered: {error}")),
        }
    }
}

/// Bytes of one emit: nearly as many as the plugin takes.
const EMIT: usize = 9_000;

/// Emits until the buffers of a stalled reader are full, with a large margin.
const FILLING: usize = 16;

/// Interval of these emits.
const FILL_PACE: Duration = Duration::from_millis(100);

/// Further clients that may be let in before one is refused. One has the slot that the attackers
/// leave, and the slots of the first attackers may be free already.
const MAX_SURPLUS: usize = 100;

/// Interval of the bytes of slow bodies, and of emits to the stalled readers that are full.
const DRIP: Duration = Duration::from_secs(2);

/// The attackers that have arrived, with the connection of each.
pub(super) struct Attackers {
    connections: Vec<(Kind, TcpStream)>,
    /// How many clients beside `numbers` were let in.
    pub(super) surplus: usize,
    /// Bytes that were sent to each stalled reader.
    sent: usize,
}

impl Attackers {
    /// Lets all attackers arrive, one in each `interval`, until the host refuses a further client
    /// with 503. Calls `is_filled` when the buffers of the stalled readers are full.
    ///
    /// # Errors
    /// The host refuses an attacker while it has a slot, or a further client otherwise than with
    /// 503.
    pub(super) fn arrive(
        host: SocketAddr,
        numbers: Numbers,
        interval: Duration,
        emitter: &mut Emitter,
        is_filled: impl Fn(),
    ) -> Result<Self, String> {
        let mut attackers = Self { connections: Vec::new(), surplus: 0, sent: 0 };
        let mut due = Instant::now();
        for (kind, number) in numbers {
            for _ in 0..number {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                due = due.max(Instant::now() - interval) + interval;
                let stream =
                    kind.begin(host).map_err(|error| format!("{}: {error}", kind.name()))?;
                attackers.connections.push((kind, stream));
            }
            if kind == Kind::Stalled {
                let before = emitter.sent;
                for _ in 0..FILLING {
                    emitter.emit()?;
                    thread::sleep(FILL_PACE);
                }
                attackers.sent = emitter.sent - before;
                is_filled();
            }
        }
        while attackers.surplus <= MAX_SURPLUS {
            match Polling::ask(host, address(2)) {
                Ok((503, _)) => return Ok(attackers),
                Ok((200, session)) => {
                    attackers.connections.push((Kind::HalfOpen, session.into_stream()));
                    attackers.surplus += 1;
                }
                Ok((status, _)) => return Err(format!("a further client was answered {status}")),
                Err(error) => return Err(format!("a further client was not answered: {error}")),
            }
        }
        Err(format!("{MAX_SURPLUS} further clients were let in, and none was refused"))
    }

    /// Holds the connections until `is_over`, and goes on as slowly as each kind does.
    ///
    /// # Errors
    /// The client that sends to the stalled readers is not served.
    pub(super) fn hold(
        &mut self,
        emitter: &mut Emitter,
        is_over: &AtomicBool,
    ) -> Result<(), String> {
        let mut due = Instant::now() + DRIP;
        while !is_over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
            if Instant::now() < due {
                continue;
            }
            due += DRIP;
            emitter.emit()?;
            for (kind, stream) in &mut self.connections {
                if *kind == Kind::Body {
                    // The host may have closed it.
                    let _ = stream.write(b"x");
                }
            }
        }
        Ok(())
    }

    /// Reads what the host has sent, and closes the connections. Returns how many of them the host
    /// had not closed, and how many of the stalled readers had got all that was sent to them.
    pub(super) fn leave(self) -> (usize, usize) {
        let (mut open, mut served) = (0, 0);
        let until = Instant::now() + END;
        for (kind, mut stream) in self.connections {
            let (is_closed, read) = read_to_end(&mut stream, until);
            open += usize::from(!is_closed);
            served += usize::from(kind == Kind::Stalled && read >= self.sent);
        }
        (open, served)
    }
}

/// How long the ends of all connections may take that the host has closed.
const END: Duration = Duration::from_secs(5);

/// The shortest time for the end of one of them.
const LEAST_END: Duration = Duration::from_millis(1);

/// Returns whether the connection has an end, and the number of bytes before it.
fn read_to_end(stream: &mut TcpStream, until: Instant) -> (bool, usize) {
    let (mut total, mut some) = (0, [0; 16 << 10]);
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(LEAST_END);
        if stream.set_read_timeout(Some(left)).is_err() {
            return (true, total);
        }
        match stream.read(&mut some) {
            Ok(0) => return (true, total),
            Ok(read) => total += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                let is_open = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                return (!is_open, total);
            }
        }
    }
}
