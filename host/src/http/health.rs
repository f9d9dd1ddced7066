//! Health endpoints: whether the process runs, and whether clients may be sent to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;

use crate::registry::ActivePlugin;

use super::Api;
use super::problem::Problem;

/// Answers 200 while the process runs.
pub(super) async fn alive() -> &'static str {
    "alive\n"
}

/// Answers 200 if the first scan is loaded and every required plugin serves. Answers 503 before
/// that and while the host stops.
///
/// A required plugin whose state can't be read or written does not serve. A full quota does not
/// cause 503: clients can fill it, and must not take the host away from others. Another process
/// that reads the state, such as a backup, does not cause it either.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    let unready =
        |message: &str| Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message));
    if !api.ready.load(Ordering::Acquire) {
        return unready("the host is starting or stopping");
    }
    let generation = api.registry.snapshot();
    let serves = |name: &String| {
        !generation.is_disabled(name)
            && generation.plugin(name).is_some_and(|active| !active.health.is_open())
    };
    let fails = |active: &Arc<ActivePlugin>| {
        active.state.store.trouble().is_some_and(|trouble| trouble.kind.is_outage())
    };
    let config = api.config.get();
    let required = &config.plugins.required;
    let is_required =
        |active: &&Arc<ActivePlugin>| required.iter().any(|name| name == active.code.name());
    if let Some(failing) =
        generation.plugins.iter().filter(is_required).find(|active| fails(active))
    {
        return unready(&format!(
            "the state of the required plugin `{}` can't be read or written",
            failing.code.name()
        ));
    }
    match required.iter().find(|name| !serves(name)) {
        Some(missing) => unready(&format!("the required plugin `{missing}` does not serve")),
        None => Ok("ready\n"),
    }
}
