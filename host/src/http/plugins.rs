//! `/api/plugins`: the loaded plugins, load failures with their reasons, and operator commands.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::Scope;
use crate::registry::{ActivePlugin, LoadPhase, LoadState};
use crate::reload::slots::{LastError, OperatorError, Slot};
use crate::reload::{Absent, OperatorCommand, PluginStatus};

use super::problem::Problem;
use super::{Api, body};

/// Returns the status of each plugin, and of each file without a plugin. `?all=true` adds each
/// plugin whose file was removed.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let mut statuses: Vec<Value> = api.operator.statuses().iter().map(status_document).collect();
    if query.is_some_and(|query| query.split('&').any(|part| part == "all=true")) {
        statuses.extend(api.operator.absent().iter().map(absent));
    }
    Ok(Json(Value::Array(statuses)))
}

/// Returns one plugin, with the versions that a rollback can restore.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    shown(&api, &name)
}

/// The body of a rollback. Without a body or without `to`, the rollback restores the previous
/// version.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a JSON object")]
struct RollBack {
    to: Option<String>,
}

/// Rolls back to an earlier version.
pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    // The key is checked first: other callers must not make the host wait for a body.
    let key = api.keys.allow(request.headers(), Scope::Operate)?;
    let RollBack { to } = body::command(request.into_body(), "to?: DIGEST").await?;
    run_command(&api, &key, &name, OperatorCommand::RollBack(to)).await
}

/// Disables a plugin: its events are answered `unavailable`.
pub(super) async fn disable(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(&headers, Scope::Operate)?;
    run_command(&api, &key, &name, OperatorCommand::Disable).await
}

/// Enables a plugin again.
pub(super) async fn enable(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(&headers, Scope::Operate)?;
    run_command(&api, &key, &name, OperatorCommand::Enable).await
}

/// Deletes what the host remembers of a plugin whose file was removed: whether it is disabled, its
/// kept versions, and the verdict on a failed version. The plugin's stored state is kept.
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Json<Value>, Problem> {
    let key = api.keys.allow(&headers, Scope::Operate)?;
    submit(&api, &key, &name, OperatorCommand::Forget).await?;
    Ok(Json(json!({"name": name, "forgotten": true})))
}

async fn run_command(
    api: &Api,
    key: &str,
    name: &str,
    command: OperatorCommand,
) -> Result<Json<Value>, Problem> {
    submit(api, key, name, command).await?;
    shown(api, name)
}

async fn submit(api: &Api, key: &str, name: &str, command: OperatorCommand) -> Result<(), Problem> {
    let (action, to) = match &command {
        OperatorCommand::RollBack(to) => ("rollback", to.clone()),
        OperatorCommand::Disable => ("disable", None),
        OperatorCommand::Enable => ("enable", None),
        OperatorCommand::Forget => ("forget", None),
    };
    let result = api.operator.submit(name, command).await;
    let error = result.as_ref().err().map(ToString::to_string);
    tracing::info!(key, command = action, plugin = name, to, error, "operator command");
    result.map_err(|error| {
        let (status, code) = match &error {
            OperatorError::Unknown(_) => (StatusCode::NOT_FOUND, "not_found"),
            OperatorError::NoEarlier(_)
            | OperatorError::Absent { .. }
            | OperatorError::HasFile { .. }
            | OperatorError::NotKept { .. }
            | OperatorError::Ambiguous { .. }
            | OperatorError::NotServed { .. } => (StatusCode::CONFLICT, "refused"),
            OperatorError::NotRemembered => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        Problem::new(status, code, &error.to_string())
    })
}

fn shown(api: &Api, name: &str) -> Result<Json<Value>, Problem> {
    let statuses = api.operator.statuses();
    let gone = api.operator.absent();
    let (mut document, slot, error) = match (
        statuses.iter().find(|status| status.name == name),
        gone.iter().find(|absent| absent.name == name),
    ) {
        (Some(found), _) => (status_document(found), found.slot.as_ref(), found.error()),
        (None, Some(found)) => (absent(found), Some(&found.slot), None),
        (None, None) => {
            return Err(Problem::new(
                StatusCode::NOT_FOUND,
                "not_found",
                &format!("no plugin `{name}` is known here"),
            ));
        }
    };
    if let Some(members) = document.as_object_mut() {
        let active = statuses.iter().find(|status| status.name == name);
        let active = active.and_then(|status| status.active.as_ref());
        let counts = active.map(|active| active.state.store.timer_counts());
        members.insert(
            "timers".to_owned(),
            json!(counts.map(|timers| json!({"set": timers.live, "dead": timers.dead}))),
        );
        let counts = active.map(|active| active.state.store.delivery_counts());
        members.insert(
            "deliveries".to_owned(),
            json!(counts.map(|all| json!({"waiting": all.live, "dead": all.dead}))),
        );
        let origins = active.map(|active| active.allowance.origins());
        members.insert("outbound".to_owned(), json!(origins));
        let waiting = active.map(|active| active.allowance.waiting());
        members.insert("waiting_requests".to_owned(), json!(waiting));
        let acks = active.map(|active| active.state.acks.pending());
        members.insert("pending_acks".to_owned(), json!(acks));
        members.insert("retried".to_owned(), json!(error.is_some_and(|error| error.is_retried)));
    }
    if let (Some(members), Some(slot)) = (document.as_object_mut(), slot) {
        members
            .insert("kept".to_owned(), slot.kept.iter().map(|digest| kept(slot, digest)).collect());
        members.insert("in_file".to_owned(), json!(slot.in_file));
        members.insert("pinned".to_owned(), json!(slot.intent.pinned()));
        members.insert("disabled".to_owned(), json!(slot.is_disabled(&slot.in_file)));
    }
    Ok(Json(document))
}

/// A version that a rollback can restore. `version` and `served_since` are null if an earlier
/// version of the host kept it.
fn kept(slot: &Slot, digest: &String) -> Value {
    let known = slot.versions.get(digest);
    json!({"digest": digest, "version": known.map(|known| &known.version), "served_since": known.map(|known| rfc3339(known.served_since))})
}

/// The document of a plugin whose file was removed: it has the members of the others, with null as
/// `state`.
fn absent(absent: &Absent) -> Value {
    let plain = PluginStatus::without_file(absent);
    let mut document = status_document(&plain);
    if let Some(members) = document.as_object_mut() {
        members.insert("state".to_owned(), Value::Null);
        members.insert("last_error".to_owned(), json!(absent.slot.last_error.as_ref().map(error)));
        members.insert("absent_since".to_owned(), json!(absent.slot.absent_since.map(rfc3339)));
        members.insert("forgotten_at".to_owned(), json!(absent.until.map(rfc3339)));
    }
    document
}

fn status_document(status: &PluginStatus) -> Value {
    let active = status.active.as_deref();
    let plugin = active.map(|active| &active.code);
    let (calls, failures) = plugin.map_or((0, 0), |plugin| plugin.counts());
    let (memory, instances) = plugin.map_or((0, 0), |plugin| plugin.memory_and_instances());
    json!({
        "name": status.name,
        "version": plugin.map(|plugin| &plugin.registration.version),
        "state": status.state(),
        "generation": active.map(|_| status.generation),
        "digest": plugin.map(|plugin| &plugin.digest),
        "file": status.file.to_string_lossy(),
        "events": active.map(|active| active.inbound.keys().collect::<Vec<_>>()).unwrap_or_default(),
        "loaded_at": plugin.map(|plugin| rfc3339(plugin.loaded_at)),
        "last_error": status.error().as_ref().map(error).or_else(|| active.and_then(state_error)),
        "calls": calls,
        "failures": failures,
        "instances": instances,
        "memory_bytes": memory,
        "draining": status.draining,
        "load": active.filter(|active| active.listens_for_load()).map(|active| load(&active.load.get())),
    })
}

/// How far a version is with `$load`.
fn load(state: &LoadState) -> Value {
    let LoadState { phase, progress } = state;
    let figures = json!({"done": progress.done, "total": progress.total});
    let mut document = match phase {
        LoadPhase::Finished(at) => return json!({"state": "finished", "finished_at": rfc3339(*at)}),
        LoadPhase::Waiting => json!({"state": "waiting"}),
        LoadPhase::Running => json!({"state": "running"}),
        LoadPhase::Failed { error, attempts, next } => {
            json!({"state": "failed", "error": error, "attempts": attempts, "next_attempt_at": rfc3339(*next)})
        }
    };
    if let (Some(members), Value::Object(figures)) = (document.as_object_mut(), figures) {
        members.extend(figures);
    }
    document
}

/// Returns the error to show if the state of a serving plugin has a failure.
fn state_error(active: &ActivePlugin) -> Option<Value> {
    let trouble = active.state.store.trouble()?;
    let reason = format!("{} failed: {}", trouble.kind.operation(), trouble.reason);
    Some(json!({"digest": active.code.digest, "reason": reason, "at": rfc3339(trouble.at)}))
}

fn error(error: &LastError) -> Value {
    json!({"digest": error.digest, "reason": error.reason, "at": rfc3339(error.at)})
}

/// Formats a time as RFC 3339 in UTC with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| format!("{time:.3}")).unwrap_or_default()
}
