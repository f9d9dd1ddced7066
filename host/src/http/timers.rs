//! `/api/plugins/{name}/timers`: the timers of a plugin, for operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sockhop_core::request::pairs;

use crate::config::Scope;
use crate::error_chain::ErrorChain;
use crate::registry::ActivePlugin;
use crate::store::{CommitError, Store, StoreError, TimerRow, Which};

use super::problem::Problem;
use super::{Api, body};

/// Number of timers in one answer, unless the request names another one.
const PAGE: u32 = 100;

/// Maximum number of timers in one answer, and of ids in one command.
const MAX_PAGE: u32 = 1_000;

/// The query of a list.
struct Page {
    /// Lists dead timers instead of timers that are set.
    dead: bool,
    /// Only timers whose id follows this one.
    after: i64,
    limit: u32,
}

impl Page {
    fn of(query: &str) -> Result<Self, Problem> {
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
}

/// Returns timers of one plugin, in the order of their ids, and the id to continue after, or null.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let Page { dead, after, limit } = Page::of(&query.unwrap_or_default())?;
    let store = store(&api, &name)?;
    let read = move || store.timers(dead, after, limit);
    let rows = tokio::task::spawn_blocking(read).await;
    let rows = rows.unwrap_or(Err(StoreError::Damaged("the host panicked while it read")));
    let rows = rows.map_err(|error| unusable(&error.to_string()))?;
    let next = rows.last().filter(|_| rows.len() >= limit as usize).map(|row| row.id);
    Ok(Json(json!({"timers": rows.iter().map(document).collect::<Vec<_>>(), "next": next})))
}

/// The body of a command: the ids of timers, or all that are dead.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct Meant {
    ids: Option<Vec<i64>>,
    all_dead: bool,
}

/// What a command does.
#[derive(Clone, Copy)]
enum Command {
    Retry,
    Drop,
}

/// Lets dead timers fire again at once. Answers with their number.
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    command(&api, name, request, Command::Retry).await
}

/// Removes dead timers, or timers that handlers have set if their ids are given. Answers with their
/// number.
pub(super) async fn drop(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    command(&api, name, request, Command::Drop).await
}

async fn command(
    api: &Arc<Api>,
    name: String,
    request: Request,
    command: Command,
) -> Result<Json<Value>, Problem> {
    // The key is checked first: other callers must not make the host wait for a body.
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let meant: Meant =
        body::command(request.into_body(), "ids?: [ID…], all_dead?: BOOLEAN").await?;
    let which = match meant {
        Meant { ids: Some(ids), all_dead: false } if ids.len() <= MAX_PAGE as usize => {
            Which::Ids(ids)
        }
        Meant { ids: None, all_dead: true } => Which::AllDead,
        _ => {
            let message = format!("expected either `ids` (at most {MAX_PAGE}) or `all_dead: true`");
            return Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message));
        }
    };
    let (store, now) = (store(api, &name)?, api.dispatcher.clock().now_ms());
    let action = match command {
        Command::Retry => "timers retry",
        Command::Drop => "timers drop",
    };
    let change = move || match command {
        Command::Retry => store.retry_timers(&which, now),
        Command::Drop => store.drop_timers(&which),
    };
    let changed = tokio::task::spawn_blocking(change).await;
    let changed = changed.unwrap_or(Err(CommitError::Unknown));
    let error = changed.as_ref().err().map(|error| ErrorChain(error).to_string());
    let timers = changed.as_ref().ok();
    tracing::info!(key = &*key, command = action, plugin = name, timers, error, "operator command");
    let timers = changed.map_err(|error| unusable(&error.to_string()))?;
    Ok(Json(json!({"name": name, "timers": timers})))
}

/// The store of a plugin that serves.
fn store(api: &Api, name: &str) -> Result<Arc<Store>, Problem> {
    let generation = api.registry.snapshot();
    let is_meant = |active: &&Arc<ActivePlugin>| active.code.name() == name;
    let active = generation.plugins.iter().find(is_meant).ok_or_else(|| {
        Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            &format!("no plugin `{name}` serves now; `sockhop plugins list` shows the plugins"),
        )
    })?;
    Ok(Arc::clone(&active.state.store))
}

fn unusable(error: &str) -> Problem {
    let message = format!("the timers can't be read or changed now: {error}");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message)
}

fn document(row: &TimerRow) -> Value {
    json!({
        "id": row.id,
        "timer": row.timer,
        "key": row.key,
        "due": rfc3339(row.due),
        "next_attempt": row.died.is_none().then(|| rfc3339(row.next)),
        "attempts": row.attempts,
        "died": row.died.map(rfc3339),
        "error": row.error,
    })
}

/// Formats milliseconds since 1970 as RFC 3339 in UTC.
fn rfc3339(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| format!("{time:.3}")).unwrap_or_default()
}
