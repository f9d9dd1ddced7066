//! One Engine.IO packet: its type and what it asks for.
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::config::Config;
use super::engine::{Batch, Protocol};
use super::frame;
use super::session::{End, Session};

/// The alarm of a WebSocket's task, for the time in which a handler runs.
pub(crate) type Alarm<'a, 'b> = Option<&'a mut Pin<&'b mut Sleep>>;

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
    alarm: Alarm<'_, '_>,
) -> Result<(), End> {
    let data = packet.get(1..).unwrap_or_default();
    match packet.as_bytes().first() {
        Some(b'4') => drive(session, batch, alarm, protocol.text(data, batch)).await,
        Some(b'b') => {
            let data = frame::decode_base64(data).ok_or(End::Parse)?;
            drive(session, batch, alarm, protocol.binary(&data, batch)).await
        }
        Some(b'3') => {
            session.pong();
            Ok(())
        }
        Some(b'1') => Err(End::Client),
        // An upgrade or a noop: nothing is to be done.
        Some(b'5' | b'6') => Ok(()),
        _ => Err(End::Parse),
    }
}

/// Runs a handler to its end. Most are ready at once. Where one waits, what it has queued is sent
/// meanwhile, and the client is still pinged.
pub(crate) async fn drive<T>(session: &Session, batch: &Batch, mut alarm: Alarm<'_, '_>, handler: impl Future<Output = T>) -> T {
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
        if let Some(alarm) = &mut alarm {
            poll_transport(session, alarm, cx);
        }
        Poll::Pending
    })
    .await;
    if suspended {
        session.resume();
    }
    done
}

/// Writes, and pings, while nothing is read.
fn poll_transport(session: &Session, alarm: &mut Pin<&mut Sleep>, cx: &mut Context<'_>) {
    /// After the session's end there is nothing to wake for.
    const NEVER: std::time::Duration = std::time::Duration::from_secs(86_400);
    if session.poll_sender(cx).is_ready() {
        return;
    }
    while alarm.as_mut().poll(cx).is_ready() {
        let next = session.beat(false).unwrap_or_else(|_| Instant::now() + NEVER);
        alarm.as_mut().reset(next);
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
