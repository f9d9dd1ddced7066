//! A session that begins with polling: the task that owns it, its polls, and the packets of its
//! posts.
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until, timeout};

use super::end::End;
use super::engine::{Batch, Protocol};
use super::memory::Reservation;
use super::packet::{self, Wakeups};
use super::panics::{catch, panicked};
use super::receiver::Receiver;
use super::session::{Polled, PostGuard, Session};
use super::sessions::{SessionPermit, Shared};
use super::slice::TimeSlice;
use super::websocket;

/// Owns a session from its handshake to its end: sends the pings and enforces the deadlines. After
/// an upgrade, it serves the WebSocket.
pub(crate) async fn keep<P: Protocol>(
    session: Arc<Session>,
    protocol: Shared<P>,
    mut permit: SessionPermit<P>,
) {
    permit.task_started();
    let watched = catch(pin!(watch(&session, &protocol)), || {}).await;
    let watched = match watched.unwrap_or_else(|| Err(panicked(&session))) {
        Err(end) if end.delivers() => deliver(&session).await.ok_or(end),
        // A WebSocket may have taken over just before.
        Err(end) => session.take_receiver().ok_or(end),
        Ok(receiver) => Ok(receiver),
    };
    match watched {
        Ok(receiver) => {
            // A POST that is still being handled comes first. The client is pinged meanwhile.
            let alarm = pin!(sleep_until(Instant::now()));
            let mut wakeups = Wakeups::new(alarm);
            let (batch, lock) = (Batch::default(), protocol.lock());
            let mut protocol = packet::drive(&session, &batch, Some(&mut wakeups), lock).await;
            Box::pin(websocket::pump(&session, &mut *protocol, *receiver, &mut permit)).await;
        }
        Err(end) => {
            // Has an effect only after a panic: otherwise the session has ended before.
            let end = session.conclude(end);
            session.finish();
            permit.unregister();
            protocol.lock().await.closed(end, &Batch::default()).await;
        }
    }
}

/// Returns when a WebSocket has taken over, or why the session has ended.
async fn watch<P: Protocol>(session: &Session, protocol: &Shared<P>) -> Result<Box<Receiver>, End> {
    loop {
        if let Some(receiver) = session.take_receiver() {
            return Ok(receiver);
        }
        let next = session.beat(false)?;
        if session.take_woken() {
            wake(session, protocol).await;
            continue;
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = session.keeper_woken() => {}
        }
    }
}

/// Calls `woken` of the protocol, after a POST that is being handled. The client is pinged
/// meanwhile.
async fn wake<P: Protocol>(session: &Session, protocol: &Shared<P>) {
    /// After the session's end, only the protocol is waited for.
    const NEVER: Duration = Duration::from_secs(86_400);
    let batch = Batch::default();
    let mut woken = pin!(async {
        let mut protocol = protocol.lock().await;
        packet::drive(session, &batch, None, protocol.woken(&batch)).await
    });
    let result = loop {
        let next = session.beat(false).unwrap_or_else(|_| Instant::now() + NEVER);
        tokio::select! {
            result = &mut woken => break result,
            () = sleep_until(next) => {}
            () = session.keeper_woken() => {}
        }
    };
    session.flush();
    if let Err(end) = result {
        session.end(end);
    }
}

/// The server has ended the session: the client fetches queued messages with one more poll, or
/// with the WebSocket that is about to take over, which is returned.
async fn deliver(session: &Session) -> Option<Box<Receiver>> {
    let delivered = async {
        while !session.is_delivered() {
            session.keeper_woken().await;
        }
    };
    let _ = timeout(session.config().delivery_timeout, delivered).await;
    session.take_receiver()
}

/// Waits for the answer to a GET.
pub(crate) async fn poll(session: &Arc<Session>) -> Polled {
    match session.start_poll() {
        Some(mut guard) => poll_fn(|cx| guard.poll_packets(cx)).await,
        None => Polled::Refused,
    }
}

/// Handles the body of a POST, in a task of its own: a client that goes away does not stop a
/// handler in the middle.
///
/// # Errors
///
/// Why the session has ended, or `None` if it does not poll any more.
pub(crate) async fn receive<P: Protocol>(
    mut guard: PostGuard,
    protocol: Shared<P>,
    body: Bytes,
    held: Reservation,
) -> Result<(), Option<End>> {
    guard.received();
    let session = Arc::clone(guard.session());
    // The task that owns the session holds the lock while a WebSocket is the transport.
    let lock = async {
        tokio::select! {
            biased;
            () = session.not_polling() => None,
            lock = protocol.lock() => Some(lock),
        }
    };
    let Some(mut protocol) = lock.await.filter(|_| session.is_polling()) else {
        guard.handled();
        return Err(session.ended());
    };
    let batch = Batch::of(&session);
    let result = handle_body(&session, &mut *protocol, &body, &batch).await;
    match result {
        Ok(()) => session.flush(),
        Err(end) => session.end(end),
    }
    drop((batch, protocol, held));
    guard.handled();
    result.map_err(Some)
}

pub(super) async fn handle_body<P: Protocol>(
    session: &Arc<Session>,
    protocol: &mut P,
    body: &[u8],
    batch: &Batch,
) -> Result<(), End> {
    let mut slice = TimeSlice::default();
    for (i, packet) in packet::split(body).ok_or(End::Parse)?.enumerate() {
        // Not before the first: a client may poll only when its POST has been answered.
        if i > 0 {
            packet::pause(session, batch, None).await;
        }
        if session.is_over() {
            return Err(session.ended().unwrap_or(End::Aborted));
        }
        packet::handle(session, protocol, packet, batch, None).await?;
        // A body can have hundreds of thousands of packets.
        packet::yield_if_spent(&mut slice, session, batch).await;
    }
    Ok(())
}
