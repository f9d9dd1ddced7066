//! `/api/users`: ends the connections of a user, and revokes tokens.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use sockhop_core::identity::room_of_user;
use sockhop_core::rule::is_room_name;

use crate::auth::RevokeError;
use crate::config::Scope;
use crate::error_chain::ErrorChain;

use super::problem::Problem;
use super::{Api, body};

/// Ends the connections of a user, in every namespace. Stock clients do not connect again by
/// themselves. Answers with the number of connections.
pub(super) async fn disconnect(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(user): Path<String>,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(&headers, Scope::Operate)?;
    let connections = api.sockets.end_user(&user, None);
    tracing::info!(key = &*key, command = "disconnect", user, connections, "operator command");
    Ok(Json(json!({"user": user, "connections": connections})))
}

/// The body of a revocation. Without a body or without the member, the time is now.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct Revoke {
    /// Seconds since 1970, as in the claim `iat`.
    issued_before: Option<u64>,
}

/// The resolution of times in tokens.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// The latest time of a revocation: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// Refuses the tokens of a user that were issued before a time, from now on and after a restart,
/// and ends the connections that have such a token. Stock clients connect again. Answers with the
/// time that is in force, and the number of connections.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Path(user): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let Revoke { issued_before } =
        body::command(request.into_body(), "issued_before?: SECONDS").await?;
    if issued_before.is_some_and(|seconds| seconds > LAST_SECOND) {
        let message = format!("`issued_before` is at most {LAST_SECOND}, in seconds since 1970");
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_payload", &message));
    }
    let before = issued_before
        .map_or_else(SystemTime::now, |seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    if !is_room_name(&room_of_user(&user)) {
        let message = "no user can have this name";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid_payload", message));
    }
    let (host, name) = (Arc::clone(&api), user.clone());
    // In one task, which also ends if the caller disconnects. The list comes first: a client that
    // connects at this moment is refused, found, or finds the list itself.
    let revoked = tokio::task::spawn_blocking(move || {
        let in_force = host.auth.revoke(&name, before)?;
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(in_force));
        // Tokens say in whole seconds when they were issued. A stock client that returns at once
        // gets a token of this second, which is refused, and then stays away.
        let left = time.and_then(|time| time.duration_since(SystemTime::now()).ok());
        if let Some(left) = left.filter(|left| *left <= ONE_SECOND) {
            std::thread::sleep(left);
        }
        let connections = time.map_or(0, |time| host.sockets.end_user(&name, Some(time)));
        Ok((in_force, connections))
    });
    let revoked = revoked.await.unwrap_or_else(|error| Err(RevokeError::Io(error.into())));
    let error = revoked.as_ref().err().map(|error| ErrorChain(error).to_string());
    let connections = revoked.as_ref().ok().map(|(_, connections)| *connections);
    tracing::info!(key = &*key, command = "revoke", user, connections, error, "operator command");
    let (in_force, connections) = revoked.map_err(|error| match &error {
        RevokeError::NoTokens => Problem::new(StatusCode::CONFLICT, "refused", &error.to_string()),
        RevokeError::Full(_) | RevokeError::Io(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string())
        }
    })?;
    Ok(Json(json!({"user": user, "issued_before": in_force, "connections": connections})))
}
