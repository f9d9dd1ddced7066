//! `/api/plugins/{name}/timers`: the timers of a plugin, for operators.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::config::Scope;
use crate::error_chain::ErrorChain;
use crate::store::TimerRow;

use super::Api;
use super::problem::Problem;
use super::rows::{self, Command, Page, rfc3339};

/// What the rows are, for messages.
const KIND: &str = "timers";

/// Returns timers of one plugin, in the order of their ids, and the id to continue after, or null.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let page = Page::of(&query.unwrap_or_default())?;
    let store = rows::store(&api, &name)?;
    let read = move || store.timers(page.dead, page.after, page.limit);
    let rows = rows::read(KIND, read).await?;
    let next = page.next(rows.len(), rows.last().map(|row| row.id));
    Ok(Json(json!({KIND: rows.iter().map(document).collect::<Vec<_>>(), "next": next})))
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
    let which = rows::which(request.into_body()).await?;
    let (store, now) = (rows::store(api, &name)?, api.dispatcher.clock().now_ms());
    let action = match command {
        Command::Retry => "timers retry",
        Command::Drop => "timers drop",
    };
    let changed = rows::change(move || match command {
        Command::Retry => store.retry_timers(&which, now),
        Command::Drop => store.drop_timers(&which),
    });
    let changed = changed.await;
    let error = changed.as_ref().err().map(|error| ErrorChain(error).to_string());
    let timers = changed.as_ref().ok();
    tracing::info!(key = &*key, command = action, plugin = name, timers, error, "operator command");
    let timers = changed.map_err(|error| rows::unusable(KIND, &error.to_string()))?;
    Ok(Json(json!({"name": name, KIND: timers})))
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
