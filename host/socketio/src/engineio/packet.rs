//! Engine.IO packets as text: parsed, and handled by the protocol of their session.
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use tokio::task::yield_now;
use tokio::time::{Instant, Sleep};

use super::config::Config;
use super::end::End;
use super::engine::{Batch, Protocol};
use super::frame;
use super::memory::Reservation;
use super::session::Session;
use super::slice::TimeSlice;

/// What wakes the task of a WebSocket besides the client: its deadlines and its session.
#[derive(Debug)]
pub(crate) struct Wakeups<'a> {
    pub(crate) alarm: Pin<&'a mut Sleep>,
    /// The waker that the session has: see [`Session::poll_sender`].
    registered: Option<Waker>,
}

impl<'a> Wakeups<'a> {
    pub(crate) fn new(alarm: Pin<&'a mut Sleep>) -> Self {
        Self { alarm, registered: None }
    }

    /// Waits for the session: see [`Session::poll_sender`].
    pub(crate) fn poll_session(&mut self, session: &Session, cx: &mut Context<'_>) -> Poll<End> {
        session.poll_sender(&mut self.registered, cx)
    }
}

/// The wake-ups of a WebSocket's task, for the time in which a handler runs.
pub(crate) type Meanwhile<'a, 'b> = Option<&'a mut Wakeups<'b>>;

/// A packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet<'a> {
    Text(&'a str),
    Binary(Vec<u8>),
    Pong,
    Close,
    /// An upgrade or a noop: nothing is to be done.
    Ignored,
}

/// Parses one packet that came as text; `None` if no client may send it.
pub(crate) fn parse(packet: &str) -> Option<Packet<'_>> {
    let data = packet.get(1..)?;
    match packet.as_bytes().first()? {
        b'4' => Some(Packet::Text(data)),
        b'b' => frame::decode_base64(data).map(Packet::Binary),
        b'3' => Some(Packet::Pong),
        b'1' => Some(Packet::Close),
        b'5' | b'6' => Some(Packet::Ignored),
        _ => None,
    }
}

/// Splits the body of a POST into its packets; `None` if it is not UTF-8.
pub(crate) fn split(body: &[u8]) -> Option<impl Iterator<Item = &str>> {
    Some(str::from_utf8(body).ok()?.split(char::from(frame::SEPARATOR)))
}

/// Handles one packet that came as text.
///
/// # Errors
///
/// Why the session ends.
pub(crate) async fn handle<P: Protocol>(
    session: &Session,
    protocol: &mut P,
    packet: &str,
    batch: &Batch,
    meanwhile: Meanwhile<'_, '_>,
) -> Result<(), End> {
    match parse(packet).ok_or(End::Parse)? {
        Packet::Text(text) => drive(session, batch, meanwhile, protocol.text(text, batch)).await,
        Packet::Binary(data) => {
            // Counted besides its text, which is held until the whole body is handled.
            let held = Reservation::of_used(session.memory(), data.len());
            if !held.is_allowed() {
                return Err(End::Overload);
            }
            drive(session, batch, meanwhile, protocol.binary(&data, batch)).await
        }
        Packet::Pong => {
            session.pong();
            Ok(())
        }
        Packet::Close => Err(End::Client),
        Packet::Ignored => Ok(()),
    }
}

/// Waits before the next packet is handled if many bytes are queued for the client: the answers to
/// one burst of requests may be more than it can take at once.
pub(crate) async fn pause(session: &Session, batch: &Batch, meanwhile: Meanwhile<'_, '_>) {
    let half = session.config().max_queued / 2;
    if session.queued_bytes() > half {
        session.flush();
        if session.queued_bytes() > half {
            drive(session, batch, meanwhile, session.writable(half)).await;
        }
    }
}

/// A message was handled. If the time slice is over, flushes what is queued and lets other tasks
/// run.
pub(crate) async fn yield_if_spent(slice: &mut TimeSlice, session: &Session, batch: &Batch) {
    if slice.spend() {
        session.flush();
        batch.flush();
        yield_now().await;
    }
}

/// Runs a handler to its end. Most are ready at once. While one waits, its queued messages are sent
/// and the client is still pinged.
pub(crate) async fn drive<T>(
    session: &Session,
    batch: &Batch,
    mut meanwhile: Meanwhile<'_, '_>,
    handler: impl Future<Output = T>,
) -> T {
    let mut handler = pin!(handler);
    let mut suspended = false;
    let done = poll_fn(|cx| {
        if let Poll::Ready(done) = handler.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        if !suspended {
            suspended = true;
            session.suspend();
        }
        batch.flush();
        session.flush();
        if let Some(wakeups) = &mut meanwhile {
            poll_transport(session, wakeups, cx);
        }
        Poll::Pending
    })
    .await;
    if suspended {
        session.resume();
    }
    done
}

/// Writes and pings. Nothing is read.
fn poll_transport(session: &Session, wakeups: &mut Wakeups<'_>, cx: &mut Context<'_>) {
    /// After the session's end, no deadline is left.
    const NEVER: std::time::Duration = std::time::Duration::from_secs(86_400);
    if wakeups.poll_session(session, cx).is_ready() {
        return;
    }
    while wakeups.alarm.as_mut().poll(cx).is_ready() {
        let next = session.beat(false).unwrap_or_else(|_| Instant::now() + NEVER);
        wakeups.alarm.as_mut().reset(next);
    }
}

/// The data of the packet that opens a session.
pub(crate) fn handshake(session: &Session, config: &Config, upgrades: bool) -> String {
    format!(
        r#"{{"sid":"{}","upgrades":[{}],"pingInterval":{},"pingTimeout":{},"maxPayload":{}}}"#,
        session.sid(),
        if upgrades { r#""websocket""# } else { "" },
        config.ping_interval.as_millis(),
        config.ping_timeout.as_millis(),
        config.max_payload,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_what_the_protocol_says() {
        assert_eq!(parse("4"), Some(Packet::Text("")));
        assert_eq!(parse("42[\"é\"]"), Some(Packet::Text("2[\"é\"]")));
        assert_eq!(parse("bAQID"), Some(Packet::Binary(vec![1, 2, 3])));
        assert_eq!(parse("3probe"), Some(Packet::Pong));
        assert_eq!(parse("1"), Some(Packet::Close));
        assert_eq!((parse("5"), parse("6")), (Some(Packet::Ignored), Some(Packet::Ignored)));
        // The server's own packets, and others.
        for bad in ["", "0{}", "2", "2probe", "7", "x", "é", "b!", "bAQ"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_body_is_split_at_each_separator() {
        let packets: Vec<_> = split(b"4a\x1e4b\x1e").unwrap().collect();
        assert_eq!(packets, ["4a", "4b", ""]);
        assert!(split(b"4\xFF").is_none());
    }
}
