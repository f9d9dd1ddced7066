//! The bodies of requests and answers.
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::memory::Reservation;
use super::session::{Delivering, Session};

/// How much of an answer the HTTP server gets at once, in bytes.
const CHUNK: usize = 64 << 10;

/// The connection must be closed without an answer: return it as the error of the HTTP service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct Abort;

/// The body of an answer. If it has messages of a session, they count as queued until the HTTP
/// server has written the body.
///
/// If the session ends before that, the body fails, and the connection is closed. Otherwise a
/// client that reads too slowly could keep these messages in memory. The reason of the end decides
/// when the body fails: at once, or after [`Config::linger`] or [`Config::delivery_timeout`].
///
/// [`Config::linger`]: super::Config::linger
/// [`Config::delivery_timeout`]: super::Config::delivery_timeout
#[derive(Debug, Default)]
pub struct Body {
    bytes: Bytes,
    session: Option<Arc<Session>>,
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self { bytes: text.into(), session: None }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self { bytes: Bytes::from_static(text.as_bytes()), session: None }
    }
}

impl From<Delivering> for Body {
    fn from(packets: Delivering) -> Self {
        let session = Arc::clone(packets.session());
        Self { bytes: Bytes::from_owner(packets), session: Some(session) }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Abort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Abort>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if self.session.as_ref().is_some_and(|session| session.must_break_off()) {
            return Poll::Ready(Some(Err(Abort)));
        }
        let len = self.bytes.len().min(CHUNK);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

/// Why a request's body could not be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreceived {
    /// Longer than allowed.
    TooBig,
    /// All sessions together hold too much.
    Overload,
    /// The client has disconnected.
    Broken,
}

/// Receives the body of a request, of at most `max` bytes, counted as it arrives.
pub(crate) async fn receive<B>(
    mut body: B,
    max: usize,
    held: &mut Reservation,
) -> Result<Bytes, Unreceived>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(Unreceived::Broken) };
        let Ok(data) = frame.into_data() else { continue };
        let len = data.len() + if rest.is_empty() { first.len() } else { rest.len() };
        if len > max {
            return Err(Unreceived::TooBig);
        }
        if !held.resize(len) {
            return Err(Unreceived::Overload);
        }
        if first.is_empty() {
            // Mostly there is one piece, which is not copied.
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&data);
            if !held.resize(rest.capacity()) {
                return Err(Unreceived::Overload);
            }
        }
    }
    Ok(if rest.is_empty() { first } else { rest.into() })
}
