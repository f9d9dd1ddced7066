//! What the lists and the commands of timers and of deliveries share: the query of a list, the body
//! of a command, and the store of a plugin.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use sockhop_core::request::pairs;

use crate::store::{CommitError, Store, StoreError, Which};

use super::problem::Problem;
use super::{Api, body};

/// Number of rows in one answer, unless the request names another one.
const PAGE: u32 = 100;

/// Maximum number of rows in one answer, and of ids in one command.
const MAX_PAGE: u32 = 1_000;

/// The query of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    /// Lists dead rows instead of the others.
    pub(super) dead: bool,
    /// Only rows whose id follows this one.
    pub(super) after: i64,
    pub(super) limit: u32,
}

impl Page {
    pub(super) fn of(query: &str) -> Result<Self, Problem> {
        let mut page = Self { dead: false, after: 0, limit: PAGE };
        for (name, value) in pairs(query) {
            let is_read = match &*name {
                "dead" => value.parse().map(|dead| page.dead = dead).is_ok(),
                "after" => value.parse().map(|after| page.after = after).is_ok(),
                "limit" => value.parse().map(|limit| page.limit = limit).is_ok(),
                _ => false,
            };
            if !is_read || !(1..=MAX_PAGE).contains(&page.limit) {
                let message =
                    format!("expected `dead=true|false`, `after=ID` and `limit=1…{MAX_PAGE}`");
                return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message));
            }
        }
        Ok(page)
    }

    /// The id to continue after, if there may be more rows than `found`, whose last has the id
    /// `last`.
    pub(super) fn next(self, found: usize, last: Option<i64>) -> Option<i64> {
        last.filter(|_| found >= self.limit as usize)
    }
}

/// The body of a command: ids, or all that are dead.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct Meant {
    ids: Option<Vec<i64>>,
    all_dead: bool,
}

/// What a command does.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    Retry,
    Drop,
}

/// Reads which rows a command means.
pub(super) async fn which(body: axum::body::Body) -> Result<Which, Problem> {
    let meant: Meant = body::command(body, "ids?: [ID…], all_dead?: BOOLEAN").await?;
    match meant {
        Meant { ids: Some(ids), all_dead: false } if ids.len() <= MAX_PAGE as usize => {
            Ok(Which::Ids(ids))
        }
        Meant { ids: None, all_dead: true } => Ok(Which::AllDead),
        _ => {
            let message = format!("expected either `ids` (at most {MAX_PAGE}) or `all_dead: true`");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message))
        }
    }
}

/// The store of a plugin that serves.
pub(super) fn store(api: &Api, name: &str) -> Result<Arc<Store>, Problem> {
    let generation = api.registry.snapshot();
    let active = generation.plugin(name).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("no plugin `{name}` serves now; `sockhop plugins list` shows the plugins"),
        )
    })?;
    Ok(Arc::clone(&active.state.store))
}

/// Reads rows on a thread that may block.
///
/// # Errors
/// `unavailable`: they can't be read. `kind` says what they are.
pub(super) async fn read<T: Send + 'static>(
    kind: &str,
    read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let rows = tokio::task::spawn_blocking(read).await;
    let rows = rows.unwrap_or(Err(StoreError::Damaged("the host panicked while it read")));
    rows.map_err(|error| unusable(kind, &error.to_string()))
}

/// Changes rows on a thread that may block. Returns the number of rows that were changed.
pub(super) async fn change(
    change: impl FnOnce() -> Result<usize, CommitError> + Send + 'static,
) -> Result<usize, CommitError> {
    tokio::task::spawn_blocking(change).await.unwrap_or(Err(CommitError::Unknown))
}

pub(super) fn unusable(kind: &str, error: &str) -> Problem {
    let message = format!("the {kind} can't be read or changed now: {error}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message)
}

/// Formats milliseconds since 1970 as RFC 3339 in UTC.
pub(super) fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}
