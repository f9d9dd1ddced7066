//! `/api/reload`: applies the changed configuration, or tells what would change.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::config::{Change, Scope};
use crate::error_chain::ErrorChain;
use crate::settings::ReloadError;

use super::problem::Problem;
use super::{Api, body};

/// Maximum bytes of a configuration in the body of a request.
const MAX_BYTES: usize = 1 << 20;

/// Reads the configuration again, and the files that it names, and applies it: all of it or
/// nothing. Answers with the keys that have changed, and which of them need a restart.
pub(super) async fn reload(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(&headers, Scope::Operate)?;
    tracing::info!(key = &*key, command = "reload", "operator command");
    answer(api.settings.reload().await)
}

/// Answers as [`reload`] would if the configuration file had the content of the body. Changes
/// nothing, and reads no file that the content names.
pub(super) async fn preview(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(request.headers(), Scope::Operate)?;
    let body = body::read(request.into_body(), MAX_BYTES).await;
    let body = body.map_err(|rejection| Problem::rejection(&rejection))?;
    let text = String::from_utf8(body.into()).map_err(|_| {
        let message = "the body is no UTF-8 text; send the content of a configuration file";
        Problem::new(StatusCode::BAD_REQUEST, "invalid_payload", message)
    })?;
    answer(api.settings.preview(&text).await)
}

fn answer(result: Result<Vec<Change>, ReloadError>) -> Result<Json<Value>, Problem> {
    let changes = result.map_err(|error| {
        let (status, code) = match &error {
            ReloadError::Config(_) | ReloadError::Refused(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid_payload")
            }
            ReloadError::NoSource => (StatusCode::CONFLICT, "refused"),
            ReloadError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Problem::new(status, code, &ErrorChain(&error).to_string())
    })?;
    Ok(Json(json!({"changes": changes})))
}
