//! The upgrade of a polling session: the WebSocket's probe.
use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout, timeout_at};

use super::frame::{self, op};
use super::receiver::{Early, Receiver};
use super::session::Session;
use super::stream::Writer;
use super::websocket::close_status;

/// The longest wait of a poll that arrives between the answer to the probe and the client's
/// decision, as with the reference server. A client that continues to poll after its WebSocket was
/// answered gets at most ten answers a second.
const TICK: Duration = Duration::from_millis(100);

/// Lets a WebSocket take over a polling session. The session polls until the client sends a `5`,
/// and continues to poll if the upgrade fails. Queued messages are not touched.
pub(crate) async fn upgrade(
    session: Arc<Session>,
    mut receiver: Receiver,
    mut writer: Writer,
    deadline: tokio::time::Instant,
) {
    let probed = probe(&session, &mut receiver, &mut writer);
    if timeout_at(deadline, probed).await == Ok(Some(())) {
        session.upgrade(writer, receiver);
    } else {
        session.abandon_upgrade();
    }
}

/// Returns `None` if the client does not follow the protocol or the session has ended.
async fn probe(session: &Session, receiver: &mut Receiver, writer: &mut Writer) -> Option<()> {
    if text(session, receiver, writer, || {}).await? != "2probe" {
        return None;
    }
    let mut answer = Vec::new();
    frame::write_text(&mut answer, b'3', &[b"probe"]);
    write_all(writer, &answer).await?;
    let release = || session.release_poll();
    release();
    (text(session, receiver, writer, release).await? == "5").then_some(())
}

/// Waits for a text message of the WebSocket, answers its control frames, and calls `tick` from
/// time to time; `None` if something else comes or the session has ended.
async fn text(
    session: &Session,
    receiver: &mut Receiver,
    writer: &mut Writer,
    tick: impl Fn(),
) -> Option<String> {
    loop {
        match timeout(TICK, receiver.early(session.config(), session.memory())).await {
            Ok(Some(Early::Text(text))) => return Some(text),
            Ok(Some(Early::Control(op::PING, payload))) => {
                control(writer, op::PONG, &payload).await?
            }
            Ok(Some(Early::Control(op::CLOSE, payload))) => {
                control(writer, op::CLOSE, &close_status(&payload)).await?;
                return None;
            }
            Ok(Some(Early::Control(..))) => {}
            Ok(None) => return None,
            Err(_) if !session.is_upgradable() => return None,
            Err(_) => tick(),
        }
    }
}

async fn control(writer: &mut Writer, op: u8, payload: &[u8]) -> Option<()> {
    let mut frame = Vec::new();
    frame::write(&mut frame, op, &[payload]);
    write_all(writer, &frame).await
}

async fn write_all(writer: &mut Writer, mut data: &[u8]) -> Option<()> {
    while !data.is_empty() {
        poll_fn(|cx| writer.poll_ready(cx)).await.ok()?;
        match writer.try_write(&[IoSlice::new(data)]) {
            Ok(0) => return None,
            Ok(n) => data = data.get(n..)?,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    while !writer.try_flush().ok()? {
        poll_fn(|cx| writer.poll_ready(cx)).await.ok()?;
    }
    Some(())
}
