//! Serves HTTP/1.1 on one TCP connection, with a deadline for each wait for the client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{Builder, UpgradeableConnection};
use hyper::service::HttpService;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::config::{Limits, LiveConfig};
use crate::socketio::builtin;
use crate::tls::ClientStream;
use crate::transport::{AbortHandle, Abortable, Peer, Stage};

use super::deadline::deadline;
use super::opening::{Opened, Opening};
use super::problem::{Problem, RequestLine};
use super::slots::ConnectionSlot;

/// Size of hyper's buffer for one connection, and so the longest head of a request. hyper's own
/// limit of 400 KiB would let any client take that much memory.
const BUFFER_BYTES: usize = 64 << 10;

/// Time limit for sending the 408 response to a request head that did not arrive in time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The stream of a connection. With our own Socket.IO implementation, writes fail after a time
/// limit.
pub(super) type Io = TokioIo<builtin::WriteDeadline<Abortable<ClientStream, Arc<ConnectionSlot>>>>;

/// Marks a response that is not sent: its connection is closed instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoAnswer;

/// The state that all connections of a listener share.
pub(crate) struct HttpServer {
    pub(crate) router: Router,
    pub(crate) opening: Opening,
    pub(crate) config: Arc<LiveConfig>,
    /// How long one write may wait for the client.
    pub(crate) write_limit: Duration,
    /// Ends the acceptance of connections. Accepted connections answer their current request.
    pub(crate) stop: CancellationToken,
}

/// Returns how many bytes of an answer a client has to read within `limit`. Its deadline then
/// begins anew. The lowest rate of answers is that of the bodies of requests.
fn least_read(limits: &Limits, limit: Duration) -> u64 {
    let least = u128::from(limits.body_bytes_per_second.get()) * limit.as_millis() / 1000;
    u64::try_from(least).unwrap_or(u64::MAX).max(1)
}

impl HttpServer {
    /// Serves requests until the client, a deadline or the host's shutdown ends the connection, or
    /// until a WebSocket takes it over.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: Peer,
        slot: Arc<ConnectionSlot>,
        abort_handle: AbortHandle,
    ) {
        let (stream, peer) = if self.opening.is_plain(peer) {
            (ClientStream::Plain(stream), peer)
        } else {
            let (slot, config, stop) = (&*slot, &*self.config, &self.stop);
            let opened = Opened { slot, abort_handle: &abort_handle, config, stop };
            // On the heap: the state of a handshake is large, and the task of a connection would
            // keep its space.
            let Some(opened) = Box::pin(self.opening.open(stream, peer, opened)).await else {
                return;
            };
            opened
        };
        let stream = Abortable::new(stream, &abort_handle, Arc::clone(&slot));
        let io = TokioIo::new(builtin::WriteDeadline::new(stream, self.write_limit));
        let has_answered = Arc::new(AtomicBool::new(false));
        let (own, answered) = (abort_handle.clone(), Arc::clone(&has_answered));
        let timed = Arc::clone(&slot);
        let service = self.router.clone().map_request(move |mut request: Request<Incoming>| {
            own.enter(Stage::Request);
            request.extensions_mut().insert(own.clone());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&slot));
            request
        });
        let own = abort_handle.clone();
        let service = service.map_response(move |response: Response<Body>| {
            answered.store(true, Ordering::Relaxed);
            if response.extensions().get::<NoAnswer>().is_some() {
                own.abort();
            }
            response.map(|body| ResponseBody { body, abort_handle: own.clone() })
        });
        let mut builder = Builder::new();
        // HTTP/1.1 only. hyper's own deadline is off, because it covers head and idle time
        // together.
        builder.max_buf_size(BUFFER_BYTES).header_read_timeout(None);
        let connection =
            builder.serve_connection(io, TowerToHyperService::new(service)).with_upgrades();
        let mut connection =
            Timed::new(connection, abort_handle.clone(), Arc::clone(&self.config), timed);
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = self.stop.cancelled() => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // A client that has sent nothing does not wait for an answer.
            None if abort_handle.stage().0 == Stage::Opened => return,
            None => {
                // Completes the current request and accepts no further one.
                Pin::new(&mut connection.connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        match ended {
            Ended::Completed(Ok(())) => {}
            Ended::Completed(Err(error)) => tracing::debug!(%error, "connection ended"),
            Ended::TimedOut(stage) => {
                tracing::debug!(?stage, "connection ended: its client was too slow");
                // After an earlier answer, hyper's buffer may still hold unsent bytes of it. The
                // 408 response would then appear in the middle of that answer.
                if stage == Stage::Head
                    && !has_answered.load(Ordering::Relaxed)
                    && let Some(parts) = connection.connection.into_parts()
                {
                    let answer = answer_too_slow(parts.io, peer);
                    let _ = tokio::time::timeout(LAST_WORDS, answer).await;
                }
            }
        }
    }
}

/// Answers 408: the head of the request took too long.
async fn answer_too_slow(io: Io, Peer(address): Peer) -> io::Result<()> {
    let problem = Problem::too_slow("the head of the request took too long");
    problem.log(&RequestLine { address: Some(address), ..RequestLine::default() });
    let problem = problem.to_string();
    let head = format!(
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\ncontent-length: \
         {}\r\nconnection: close\r\n\r\n",
        problem.len()
    );
    let mut stream = io.into_inner();
    stream.write_all((head + &problem).as_bytes()).await?;
    stream.shutdown().await
}

/// How a connection ended.
enum Ended {
    /// By the client, the host or an upgrade.
    Completed(hyper::Result<()>),
    /// By the deadline of this stage.
    TimedOut(Stage),
}

/// A connection with the deadline of its current stage. [`Abortable`] enters the stages `Head` and
/// `Idle`. The clock and the slot are read only when the stage changes, or when enough of an answer
/// was read: a request may have made a reserved slot a client slot, which has longer deadlines.
struct Timed<S: HttpService<Incoming>> {
    connection: UpgradeableConnection<Io, S>,
    abort_handle: AbortHandle,
    config: Arc<LiveConfig>,
    slot: Arc<ConnectionSlot>,
    /// The number of the stage change for which `sleep` is set.
    turn: Option<u32>,
    /// While the client reads an answer: the total of written bytes at which `sleep` is set anew.
    next_at: u64,
    sleep: Pin<Box<Sleep>>,
}

impl<S: HttpService<Incoming>> Timed<S> {
    fn new(
        connection: UpgradeableConnection<Io, S>,
        abort_handle: AbortHandle,
        config: Arc<LiveConfig>,
        slot: Arc<ConnectionSlot>,
    ) -> Self {
        let sleep = Box::pin(tokio::time::sleep(config.get().limits.first_byte_ms));
        Self { connection, abort_handle, config, slot, turn: None, next_at: 0, sleep }
    }
}

impl<S> Future for Timed<S>
where
    S: HttpService<Incoming, ResBody = ResponseBody> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = &mut *self;
        if let Poll::Ready(result) = Pin::new(&mut this.connection).poll(context) {
            return Poll::Ready(Ended::Completed(result));
        }
        let (stage, turn) = this.abort_handle.stage();
        if stage == Stage::Request {
            return Poll::Pending;
        }
        let sent = this.abort_handle.sent();
        let is_read = matches!(stage, Stage::Answer | Stage::AnswerEnd);
        let has_read = is_read && sent >= this.next_at;
        if this.turn.replace(turn) != Some(turn) || has_read {
            let config = this.config.get();
            // `None` only for `Stage::Request`, which does not come here.
            let Some(limit) = deadline(&config.limits, stage, this.slot.is_reserved()) else {
                return Poll::Pending;
            };
            this.next_at = sent.saturating_add(least_read(&config.limits, limit));
            drop(config);
            let now = Instant::now();
            this.sleep.as_mut().reset(now.checked_add(limit).unwrap_or(now + FAR));
        }
        this.sleep.as_mut().poll(context).map(|()| Ended::TimedOut(stage))
    }
}

/// Replaces a deadline that `Instant` can't represent.
const FAR: Duration = Duration::from_hours(24 * 365);

/// The body of a response. hyper takes the next part when the client has read nearly all of the
/// last one, and drops the body after it has taken all of it.
struct ResponseBody {
    body: Body,
    abort_handle: AbortHandle,
}

impl HttpBody for ResponseBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let poll = Pin::new(&mut self.body).poll_frame(context);
        let stage = if poll.is_ready() { Stage::Answer } else { Stage::Request };
        // The stage is not entered again for each part: that would begin the deadline anew. While
        // the host has no part, only the write limit of `Io` applies to what is not yet sent.
        if self.abort_handle.stage().0 != stage {
            self.abort_handle.enter(stage);
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.abort_handle.enter(Stage::AnswerEnd);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    #[test]
    fn an_answer_is_read_at_the_rate_at_which_a_body_has_to_come() {
        let body_bytes_per_second = NonZeroU32::new(1_000).unwrap();
        let limits = Limits { body_bytes_per_second, ..Limits::default() };
        assert_eq!(least_read(&limits, Duration::from_millis(2_500)), 2_500);
        assert_eq!(least_read(&limits, Duration::from_millis(0)), 1, "nothing is no progress");
    }
}
