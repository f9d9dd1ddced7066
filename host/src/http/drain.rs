//! `/api/drain`: stops the host, and closes the connections of clients over a longer time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::config::Scope;

use super::problem::Problem;
use super::{Api, body};

/// An operator's request to stop the host.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    over: OnceLock<Duration>,
    is_requested: CancellationToken,
}

impl Drain {
    /// Waits for the request. Returns the time over which connections are to be closed.
    pub(crate) async fn requested(&self) -> Duration {
        self.is_requested.cancelled().await;
        self.over.get().copied().unwrap_or_default()
    }

    /// Requests a stop. Returns `false` if one was requested before.
    fn request(&self, over: Duration) -> bool {
        let is_first = self.over.set(over).is_ok();
        self.is_requested.cancel();
        is_first
    }
}

/// The body of a request. Without a body or without the member, the time is that of `[limits]
/// shutdown_close_ms`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct DrainRequest {
    over_ms: Option<u64>,
}

/// The longest time: an hour.
const MAX_MS: u64 = 3_600_000;

/// Stops the host as SIGTERM does, with another time over which the connections of clients are
/// closed. Answers at once, with that time and the number of connections. With `socketioxide`, the
/// time is 0.
pub(super) async fn drain(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let DrainRequest { over_ms } =
        body::command(request.into_body(), "over_ms?: MILLISECONDS").await?;
    let over = match over_ms {
        Some(ms) if ms > MAX_MS => {
            let message = format!("`over_ms` is at most {MAX_MS}, an hour");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_payload", &message));
        }
        Some(ms) => Duration::from_millis(ms),
        None => api.config.get().limits.shutdown_close_ms,
    };
    // The library can't close one connection so that its client connects again: all end together.
    let over = if api.socketio.closes_one_by_one() { over } else { Duration::ZERO };
    let (connections, over_ms) = (api.rooms.connections(), over.as_millis());
    let is_first = api.ready.load(Ordering::Acquire) && api.drain.request(over);
    tracing::info!(key = &*key, command = "drain", over_ms, is_first, "operator command");
    if !is_first {
        return Err(Problem::new(StatusCode::CONFLICT, "refused", "the host stops already"));
    }
    let document =
        json!({"over_ms": u64::try_from(over_ms).unwrap_or(u64::MAX), "connections": connections});
    Ok((StatusCode::ACCEPTED, Json(document)))
}
