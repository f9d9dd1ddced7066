//! The upgrade of a polling session: the WebSocket's probe.
use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{timeout, timeout_at};

use super::frame;
use super::session::Session;
use super::stream::Writer;
use super::websocket::Receiver;

/// How long a poll waits at most that arrives between the answer to the probe and the client's
/// decision: as with the reference server. A client that polls on although its WebSocket was
/// answered is thus answered ten times a second.
const TICK: Duration = Duration::from_millis(100);

/// Lets a WebSocket take over a polling session. Until the client's `5`, the session continues as
/// it is, even if the upgrade fails; queued messages are not touched.
pub(crate) async fn upgrade(session: Arc<Session>, mut receiver: Receiver, mut writer: Writer, deadline: tokio::time::Instant) {
    let probed = probe(&session, &mut receiver, &mut writer);
    if timeout_at(deadline, probed).await == Ok(Some(())) {
        session.upgrade(writer, receiver);
    } else {
        session.abandon_upgrade();
    }
}

/// Returns `None` if the client does not follow the protocol or the session has ended.
async fn probe(session: &Session, receiver: &mut Receiver, writer: &mut Writer) -> Option<()> {
    if text(session, receiver, || {}).await? != "2probe" {
        return None;
    }
    let mut answer = Vec::new();
    frame::write_text(&mut answer, b'3', &[b"probe"]);
    write_all(writer, &answer).await?;
    let release = || session.release_poll();
    release();
    (text(session, receiver, release).await? == "5").then_some(())
}

/// Waits for a text message of the WebSocket, and calls `tick` from time to time; `None` if
/// something else comes or the session has ended.
async fn text(session: &Session, receiver: &mut Receiver, tick: impl Fn()) -> Option<String> {
    loop {
        match timeout(TICK, receiver.text(session)).await {
            Ok(text) => return text,
            Err(_) if session.is_over() => return None,
            Err(_) => tick(),
        }
    }
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
    Some(())
}
