//! Request bodies: their minimum rate, and reading a whole body.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Sleep};

use crate::config::LiveConfig;
use crate::rejection::Rejection;

use super::problem::Problem;

/// Time that a body gets in addition to the time at the minimum rate: mobile networks pause, and
/// connections start slowly.
const GRACE: Duration = Duration::from_secs(5);

/// The time limit and the minimum rate of a body.
#[derive(Debug, Clone, Copy)]
struct Pace {
    whole: Duration,
    bytes_per_second: u32,
}

impl Pace {
    /// Time from the body's start after which it is too slow, if `received` bytes have arrived.
    fn deadline(self, received: u64) -> Duration {
        let earned =
            Duration::try_from_secs_f64(received as f64 / f64::from(self.bytes_per_second))
                .unwrap_or(Duration::MAX);
        GRACE.saturating_add(earned).min(self.whole)
    }
}

/// A body that fails if it arrives too slowly.
struct Paced {
    body: Body,
    pace: Pace,
    began: Instant,
    received: u64,
    /// The timer, and the number of received bytes for which it is set. `None` until the first poll
    /// that returns `Pending`.
    sleep: Option<(Pin<Box<Sleep>>, u64)>,
    is_too_slow: Arc<AtomicBool>,
}

/// A body arrived too slowly.
#[derive(Debug, thiserror::Error)]
#[error("{TOO_SLOW}")]
struct TooSlow;

const TOO_SLOW: &str = "the body of the request came too slowly";

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                this.received = this.received.saturating_add(data.len() as u64);
            }
            return Poll::Ready(frame);
        }
        let until = this.began + this.pace.deadline(this.received);
        let (sleep, of) = this
            .sleep
            .get_or_insert_with(|| (Box::pin(tokio::time::sleep_until(until)), this.received));
        if *of != this.received {
            *of = this.received;
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(context).map(|()| {
            this.is_too_slow.store(true, Ordering::Relaxed);
            Some(Err(axum::Error::new(TooSlow)))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Gives each request body a deadline and a minimum rate. A request with a body that is too slow is
/// answered 408, whatever its handler answers.
pub(crate) async fn pace(
    State(config): State<Arc<LiveConfig>>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let is_too_slow = Arc::new(AtomicBool::new(false));
    let pace = {
        let limits = &config.get().limits;
        Pace { whole: limits.body_ms, bytes_per_second: limits.body_bytes_per_second.get() }
    };
    let told = Arc::clone(&is_too_slow);
    let paced = |body| {
        Body::new(Paced {
            body,
            pace,
            began: Instant::now(),
            received: 0,
            sleep: None,
            is_too_slow: told,
        })
    };
    let response = next.run(request.map(paced)).await;
    if !is_too_slow.load(Ordering::Relaxed) {
        return response;
    }
    let mut response = Problem::too_slow(TOO_SLOW).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Reads a whole body of at most `max_bytes`. Fails if the body is longer or is incomplete.
pub(super) async fn read(body: Body, max_bytes: usize) -> Result<Bytes, Rejection> {
    let hint = body.size_hint();
    let too_large = || Rejection::TooLarge(format!("the body has at most {max_bytes} bytes"));
    if hint.lower() > max_bytes as u64 {
        return Err(too_large());
    }
    to_bytes(body, max_bytes).await.map_err(|error| {
        let is_too_long =
            std::error::Error::source(&error).is_some_and(|source| source.is::<LengthLimitError>());
        if is_too_long { too_large() } else { Rejection::invalid("the body ended too soon") }
    })
}

/// Largest body of an operator's command, in bytes.
const MAX_COMMAND: usize = 4096;

/// Reads the JSON object of an operator's command. Without a body, it is the default one. `members`
/// are named in the message about an invalid object.
pub(super) async fn command<T: Default + DeserializeOwned>(
    body: Body,
    members: &str,
) -> Result<T, Problem> {
    let body = read(body, MAX_COMMAND).await.map_err(|rejection| Problem::rejection(&rejection))?;
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&body).map_err(|error| {
        let message = format!("the body must be a JSON object {{{members}}}: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_payload", &message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_earns_time_by_what_comes_up_to_the_whole() {
        let pace = Pace { whole: Duration::from_secs(60), bytes_per_second: 1_000 };
        assert_eq!(pace.deadline(0), Duration::from_secs(5));
        assert_eq!(pace.deadline(500), Duration::from_millis(5_500));
        assert_eq!(pace.deadline(10_000), Duration::from_secs(15));
        assert_eq!(pace.deadline(u64::MAX), Duration::from_secs(60));
        let short = Pace { whole: Duration::from_secs(1), bytes_per_second: 1 };
        assert_eq!(short.deadline(0), Duration::from_secs(1));
    }
}
