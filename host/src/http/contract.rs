//! `GET /api/events`: every event type that is served now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::Api;
use super::problem::Problem;

/// Returns the catalogue: events that clients may send, events that they may receive, and rooms.
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<Value>, Problem> {
    if let Some(scope) = api.catalogue_scope() {
        api.keys.allow(&headers, scope)?;
    }
    let generation = api.registry.snapshot();
    let mut events = Vec::new();
    for active in &generation.plugins {
        let (plugin, version) = (active.code.name(), &active.code.registration.version);
        for (event, inbound) in &active.inbound {
            let mut entry = json!({"event": event, "direction": "in", "plugin": plugin, "version": version,
                "data": inbound.data.source(), "access": inbound.access.to_string()});
            if let (Some(members), Some(reply)) = (entry.as_object_mut(), &inbound.reply) {
                members.insert("reply".to_owned(), reply.source().clone());
            }
            events.push(entry);
        }
        for (event, outbound) in &active.outbound {
            let mut rooms: Vec<_> = outbound.rooms.iter().map(ToString::to_string).collect();
            rooms.extend(outbound.everyone.then(|| "*".to_owned()));
            events.push(
                json!({"event": event, "direction": "out", "plugin": plugin, "version": version,
                "data": outbound.data.source(), "rooms": rooms}),
            );
        }
    }
    let rooms: Vec<_> = generation
        .rooms()
        .iter()
        .map(|rule| json!({"room": rule.pattern.as_str(), "access": rule.access.to_string(), "plugin": rule.owner}))
        .collect();
    Ok(Json(json!({"generation": generation.number, "events": events, "rooms": rooms})))
}
