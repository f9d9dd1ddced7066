//! The task of a WebSocket: one read, all frames in it handled, one write.
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until, timeout};

use super::end::End;
use super::engine::{Batch, Protocol};
use super::frame::{Bad, op};
use super::incoming::Next;
use super::memory::Reservation;
use super::packet::{Wakeups, drive, handle, pause, yield_if_spent};
use super::panics::{catch, panicked};
use super::receiver::Receiver;
use super::session::Session;
use super::sessions::SessionPermit;
use super::stream::Writer;

/// How many bytes a client may still send after the server's close frame, as a multiple of the
/// longest message. Then its connection is closed.
const DISCARDED: usize = 4;

/// Serves a session whose WebSocket is open, and calls `closed` at its end.
pub(crate) async fn pump<P: Protocol>(
    session: &Arc<Session>,
    protocol: &mut P,
    mut receiver: Receiver,
    permit: &mut SessionPermit<P>,
) {
    let end = catch(pin!(serve(session, protocol, &mut receiver)), || {}).await;
    let end = session.conclude(end.unwrap_or_else(|| panicked(session)));
    if matches!(end, End::Client | End::Server) {
        session.queue_close(&1000_u16.to_be_bytes());
    }
    let limit =
        if end.delivers() { session.config().delivery_timeout } else { session.config().linger };
    let _ = timeout(limit, poll_fn(|cx| session.poll_drained(cx))).await;
    let writer = session.finish();
    permit.unregister();
    // The connection, with its file descriptor, need not wait for the application.
    let batch = Batch::default();
    tokio::join!(protocol.closed(end, &batch), disconnect(end, writer, receiver, session));
}

/// Closes the connection so that the client receives the close frame, or so that the kernel
/// discards the bytes that it still holds.
async fn disconnect(end: End, writer: Option<Writer>, mut receiver: Receiver, session: &Session) {
    match end {
        // If the kernel had unread bytes when the connection is closed, it would reset it, and the
        // client would see neither the close frame nor what the kernel still holds for it.
        End::Client | End::Server | End::Shutdown | End::Parse | End::TooBig | End::Overload => {
            drop(writer);
            let mut max = session.config().max_payload.saturating_mul(DISCARDED);
            let discarded = poll_fn(|cx| receiver.poll_discard(cx, &mut max));
            let _ = timeout(session.config().linger, discarded).await;
        }
        // Such a client does not read: the kernel discards the bytes that it still holds for it.
        End::Overflow | End::PingTimeout | End::Aborted => {
            if let Some(writer) = writer {
                writer.discard_on_close();
            }
        }
        _ => {}
    }
}

async fn serve<P: Protocol>(
    session: &Arc<Session>,
    protocol: &mut P,
    receiver: &mut Receiver,
) -> End {
    let batch = Batch::of(session);
    let alarm = pin!(sleep_until(Instant::now()));
    let mut wakeups = Wakeups::new(alarm);
    match session.beat(true) {
        Ok(next) => wakeups.alarm.as_mut().reset(next),
        Err(end) => return end,
    }
    loop {
        let handled = match receiver.prepare(session.memory()) {
            Ok(uncounted) => {
                let turn = pin!(turn(session, protocol, receiver, &batch, &mut wakeups));
                count_while_waiting(session, uncounted, turn).await
            }
            Err(end) => {
                close_with(session, end);
                Err(end)
            }
        };
        session.flush();
        batch.flush();
        let more = match handled {
            Ok(more) => more,
            Err(end) => return end,
        };
        if let Err(end) = receiver.count_partial(session.config(), session.memory()) {
            close_with(session, end);
            return end;
        }
        if receiver.complete_by.is_some_and(|by| by <= Instant::now()) {
            return End::ReceiveTimeout;
        }
        if session.take_rearm() {
            match session.beat(true) {
                Ok(next) => wakeups.alarm.as_mut().reset(next),
                Err(end) => return end,
            }
        }
        if let Some(by) = receiver.complete_by.filter(|by| *by < wakeups.alarm.deadline()) {
            wakeups.alarm.as_mut().reset(by);
        }
        let read = poll_fn(|cx| poll_transport(session, receiver, &mut wakeups, more, cx));
        if let Err(end) = read.await {
            close_with(session, end);
            return end;
        }
    }
}

/// Runs the handlers of the messages of one read. If the task waits meanwhile, the buffer of the
/// read is counted until all handlers have returned. If the memory bound does not allow it, the
/// session ends, and the buffer is freed when the waiting handler has returned.
async fn count_while_waiting<T>(
    session: &Session,
    bytes: usize,
    mut turn: Pin<&mut impl Future<Output = T>>,
) -> T {
    let mut counted = None;
    poll_fn(|cx| {
        let polled = turn.as_mut().poll(cx);
        if polled.is_pending() && bytes > 0 && counted.is_none() {
            let reservation = counted.insert(Reservation::of_used(session.memory(), bytes));
            if !reservation.is_allowed() {
                // The end discards what is queued, so the close frame is written before.
                close_with(session, End::Overload);
                session.flush();
                session.end(End::Overload);
            }
        }
        polled
    })
    .await
}

/// Handles all frames that have arrived, and calls the protocol if the application wants it.
/// Returns how many bytes are missing for the next frame.
async fn turn<P: Protocol>(
    session: &Arc<Session>,
    protocol: &mut P,
    receiver: &mut Receiver,
    batch: &Batch,
    wakeups: &mut Wakeups<'_>,
) -> Result<usize, End> {
    let more = handle_all(session, protocol, receiver, batch, wakeups).await?;
    if session.take_woken() {
        drive(session, batch, Some(wakeups), protocol.woken(batch)).await?;
    }
    Ok(more)
}

/// Handles all frames that have arrived. Returns how many bytes are missing for the next one.
async fn handle_all<P: Protocol>(
    session: &Arc<Session>,
    protocol: &mut P,
    receiver: &mut Receiver,
    batch: &Batch,
    wakeups: &mut Wakeups<'_>,
) -> Result<usize, End> {
    loop {
        let next = receiver.incoming.next();
        match next {
            Ok(Next::More(more)) => return Ok(more),
            Ok(Next::Message { op, data }) => {
                receiver.complete_by = None;
                if session.is_over() {
                    return Err(session.ended().unwrap_or(End::Aborted));
                }
                let data = receiver.incoming.bytes(&data);
                let handled = if op == op::BINARY {
                    let handler = protocol.binary(data, batch);
                    drive(session, batch, Some(&mut *wakeups), handler).await
                } else if let Ok(text) = str::from_utf8(data) {
                    handle(session, protocol, text, batch, Some(&mut *wakeups)).await
                } else {
                    return Err(refuse(session, Bad::Text));
                };
                handled.inspect_err(|end| close_with(session, *end))?;
                pause(session, batch, Some(&mut *wakeups)).await;
                yield_if_spent(&mut receiver.slice, session, batch).await;
            }
            Ok(Next::Control { op: op::PING, payload }) => session.control(op::PONG, &payload),
            Ok(Next::Control { op: op::CLOSE, payload }) => {
                session.control(op::CLOSE, &close_status(&payload));
                return Err(End::Transport);
            }
            Ok(Next::Control { .. }) => {}
            Err(bad) => return Err(refuse(session, bad)),
        }
    }
}

/// Returns the status with which a client's close frame is answered: its own, or none, as in its
/// frame; 1002 if it is none that a client may send.
pub(crate) fn close_status(payload: &[u8]) -> SmallVec<[u8; 2]> {
    let Some(status) = payload.first_chunk() else {
        return match payload {
            [] => SmallVec::new(),
            _ => Bad::Protocol.code().to_be_bytes().into(),
        };
    };
    match u16::from_be_bytes(*status) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => (*status).into(),
        _ => Bad::Protocol.code().to_be_bytes().into(),
    }
}

fn refuse(session: &Session, bad: Bad) -> End {
    session.control(op::CLOSE, &bad.code().to_be_bytes());
    if bad == Bad::TooBig { End::TooBig } else { End::Parse }
}

/// Queues a close frame with the reason for which a message of the client ends the session.
fn close_with(session: &Session, end: End) {
    let code: u16 = match end {
        End::Parse => 1008,
        End::TooBig => 1009,
        End::Overload => 1013,
        _ => return,
    };
    session.control(op::CLOSE, &code.to_be_bytes());
}

/// Waits for bytes, and meanwhile writes and pings. Reads before it looks at the clock: after a
/// pause of the whole process, the pong may be there.
fn poll_transport(
    session: &Session,
    receiver: &mut Receiver,
    wakeups: &mut Wakeups<'_>,
    more: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<(), End>> {
    if let Poll::Ready(end) = wakeups.poll_session(session, cx) {
        return Poll::Ready(Err(end));
    }
    // The frames that are there are handled again, to no effect, and then the protocol is called.
    if session.is_woken() {
        return Poll::Ready(Ok(()));
    }
    let read = receiver.poll_read(cx, more);
    while wakeups.alarm.as_mut().poll(cx).is_ready() {
        let complete_by = receiver.complete_by;
        if read.is_pending() && complete_by.is_some_and(|by| by <= Instant::now()) {
            return Poll::Ready(Err(End::ReceiveTimeout));
        }
        match session.beat(read.is_ready()) {
            Ok(next) => {
                wakeups.alarm.as_mut().reset(complete_by.map_or(next, |by| by.min(next)));
            }
            Err(end) => return Poll::Ready(Err(end)),
        }
        if read.is_ready() {
            break;
        }
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_frame_is_answered_with_its_status_if_that_is_one() {
        let answer = |payload: &[u8]| close_status(payload).to_vec();
        assert_eq!(answer(b""), b"");
        for status in [1000_u16, 1001, 1011, 3000, 4999] {
            let payload = [&status.to_be_bytes()[..], b"reason"].concat();
            assert_eq!(answer(&payload), status.to_be_bytes());
        }
        for status in [0_u16, 999, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(answer(&status.to_be_bytes()), 1002_u16.to_be_bytes());
        }
        assert_eq!(answer(b"x"), 1002_u16.to_be_bytes());
    }
}
