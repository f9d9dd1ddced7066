//! `GET /api/plugins`: what is loaded, and what failed and why.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::config::Scope;

use super::Api;
use super::problem::Problem;

/// One row for each plugin, those that serve first.
pub(super) async fn list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Result<Json<Value>, Problem> {
    api.keys.allow(&headers, Scope::Operate)?;
    let routes = api.registry.snapshot();
    let active = routes.plugins.iter().map(|served| {
        let plugin = &served.plugin;
        let (calls, failures) = plugin.counts();
        json!({"name": plugin.name(), "version": plugin.registration.version, "state": "active", "generation": routes.generation,
            "digest": plugin.digest, "file": plugin.file, "events": served.inbound.keys().collect::<Vec<_>>(),
            "loaded_at": rfc3339(plugin.loaded_at), "last_error": null, "calls": calls, "failures": failures})
    });
    let failed = routes.failed.iter().map(|failed| {
        // A file that never came to say its name is shown by that of the file.
        let stem = || failed.file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        json!({"name": failed.name.clone().or_else(stem), "version": null, "state": "failed", "generation": null, "digest": failed.digest,
            "file": failed.file, "events": [], "loaded_at": null, "calls": 0, "failures": 0,
            "last_error": {"digest": failed.digest, "reason": failed.reason, "at": rfc3339(failed.at)}})
    });
    Ok(Json(Value::Array(active.chain(failed).collect())))
}

/// RFC 3339 in UTC with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| format!("{time:.3}")).unwrap_or_default()
}
