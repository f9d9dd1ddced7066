//! `GET /metrics`: the host's metrics.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::config::Scope;
use crate::metrics::{Gauges, LoadGauges, ResourceUsage, StateGauges};
use crate::registry::{ActivePlugin, LoadPhase};
use crate::socketio;
use crate::store::FailureKind;

use super::Api;
use super::problem::Problem;

/// The content type of OpenMetrics text, which Prometheus and compatible systems read.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Returns all metrics as OpenMetrics text.
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    api.keys.allow(&headers, Scope::Metrics)?;
    let generation = api.registry.snapshot();
    let gauges = |active: &Arc<ActivePlugin>| {
        let (memory, instances) = active.code.memory_and_instances();
        let name = active.code.name();
        let host_events = api.dispatcher.waiting_host_events(name);
        let timers = active.state.store.timer_counts();
        let deliveries = active.state.store.delivery_counts();
        let (store, disk) = (&active.state.store, active.state.store.disk());
        let state = StateGauges {
            bytes: disk.bytes,
            wal: disk.wal,
            quota: disk.quota,
            failures: FailureKind::ALL
                .map(|kind| (kind.name(), store.is_failing(kind), store.failures(kind)))
                .into(),
        };
        Gauges {
            plugin: name.to_owned(),
            instances,
            memory,
            is_open: active.health.is_open(),
            host_events,
            pending_acks: active.state.acks.pending(),
            timers: timers.live,
            dead_timers: timers.dead,
            deliveries: [deliveries.live, deliveries.dead],
            load: active.listens_for_load().then(|| load(active)),
            state,
        }
    };
    let gauges: Vec<_> = generation.plugins.iter().map(gauges).collect();
    api.metrics.log_lines_dropped(crate::log::lines_dropped());
    if let Some(tls) = &api.tls {
        api.metrics.tls_expiry(tls.expires_at());
    }
    let (connections, sessions, limit) = api.slots.used();
    let (mailbox, mailbox_limit) = api.sockets.memory().usage();
    let socketio::Usage { queued, unfinished, detached, recovery } = api.socketio.usage();
    let outbound = api.dispatcher.outbound().usage();
    api.metrics.show_usage(&ResourceUsage {
        connections,
        sessions,
        limit,
        mailbox,
        mailbox_limit,
        overflow: queued.used,
        overflow_limit: queued.limit,
        overflow_largest: api.rooms.largest_queue(),
        unfinished: unfinished.used,
        unfinished_limit: unfinished.limit,
        idempotency: api.answers.used(),
        detached,
        recovery: recovery.used,
        recovery_limit: recovery.limit,
        outbound: outbound.open,
        outbound_limit: outbound.open_limit,
        deliveries: outbound.deliveries,
        deliveries_limit: outbound.deliveries_limit,
        outbound_memory: outbound.memory,
        outbound_memory_limit: outbound.memory_limit,
    });
    let text = api.metrics.render(api.rooms.connections(), generation.number, &gauges).map_err(
        |error| {
            tracing::error!(%error, "metrics not rendered");
            Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "unavailable",
                "the metrics can't be rendered",
            )
        },
    )?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// How far a plugin is with `$load`.
fn load(active: &ActivePlugin) -> LoadGauges {
    let state = active.load.get();
    let is_finished = matches!(state.phase, LoadPhase::Finished(_));
    let is_failing = matches!(state.phase, LoadPhase::Failed { .. });
    let (done, total) = (state.progress.done, state.progress.total);
    let items = if is_finished { [0, 0] } else { [done, total.saturating_sub(done)] };
    LoadGauges { is_finished, is_failing, items }
}
