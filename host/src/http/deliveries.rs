//! `/api/plugins/{name}/deliveries`: the deliveries of a plugin, for operators. Their paths,
//! headers and bodies, which may hold secrets, are not shown.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::config::Scope;
use crate::error_chain::ErrorChain;
use crate::store::DeliveryRow;

use super::Api;
use super::problem::Problem;
use super::rows::{self, Command, Page, rfc3339};

/// What the rows are, for messages.
const KIND: &str = "deliveries";

/// Returns deliveries of one plugin, in the order of their ids, and the id to continue after, or
/// null.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let page = Page::of(&query.unwrap_or_default())?;
    let store = rows::store(&api, &name)?;
    let read = move || store.deliveries(page.dead, page.after, page.limit);
    let rows = rows::read(KIND, read).await?;
    let next = page.next(rows.len(), rows.last().map(|row| row.id));
    Ok(Json(json!({KIND: rows.iter().map(document).collect::<Vec<_>>(), "next": next})))
}

/// Sends dead deliveries again at once. If ids are given, also deliveries that wait. Answers with
/// their number.
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    command(&api, name, request, Command::Retry).await
}

/// Removes dead deliveries. If ids are given, also deliveries that wait. Answers with their number.
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
        Command::Retry => "deliveries retry",
        Command::Drop => "deliveries drop",
    };
    let changed = rows::change(move || match command {
        Command::Retry => store.retry_deliveries(&which, now),
        Command::Drop => store.drop_deliveries(&which),
    });
    let changed = changed.await;
    let error = changed.as_ref().err().map(|error| ErrorChain(error).to_string());
    let deliveries = changed.as_ref().ok();
    tracing::info!(
        key = &*key,
        command = action,
        plugin = name,
        deliveries,
        error,
        "operator command"
    );
    let deliveries = changed.map_err(|error| rows::unusable(KIND, &error.to_string()))?;
    Ok(Json(json!({"name": name, KIND: deliveries})))
}

fn document(row: &DeliveryRow) -> Value {
    json!({
        "id": row.id,
        "delivery": row.delivery,
        "key": row.key,
        "origin": row.origin,
        "created": rfc3339(row.created),
        "next_attempt": row.died.is_none().then(|| rfc3339(row.next)),
        "attempts": row.attempts,
        "died": row.died.map(rfc3339),
        "status": row.status,
        "error": row.error,
    })
}
