//! HTTP: health, metrics, the contract, plugin operations, the routes of plugins, and events from
//! business systems.
//! Every request that sends something to clients goes through the dispatcher.

pub(crate) mod accept;
pub(crate) mod admission;
pub(crate) mod body;
pub(crate) mod connection;
mod contract;
mod deadline;
mod deliveries;
pub(crate) mod drain;
mod emit;
mod health;
pub(crate) mod keys;
mod metrics;
mod openapi;
pub(crate) mod opening;
pub(crate) mod origin;
mod plugins;
pub(crate) mod problem;
pub(crate) mod proxy;
mod reload;
pub(crate) mod routes;
mod rows;
pub(crate) mod slots;
pub(crate) mod socketio;
mod state;
mod timers;
mod users;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::config::{LiveConfig, Scope};
use crate::dispatcher::Dispatcher;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::reload::Operator;
use crate::rooms::Rooms;
use crate::settings::Settings;
use crate::socket::Sockets;
use crate::socketio::Server;
use crate::store::Answers;
use crate::tls::Tls;

use deliveries::Deliveries;
use drain::Drain;
use keys::Keys;
use slots::ConnectionSlots;
use timers::Timers;

/// The shared state of all endpoints.
pub(crate) struct Api {
    pub(crate) config: Arc<LiveConfig>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) operator: Arc<Operator>,
    pub(crate) rooms: Arc<Rooms>,
    /// The tasks that a stop of the host waits for.
    pub(crate) tasks: TaskTracker,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) keys: Arc<Keys>,
    /// The answers to requests with an idempotency key.
    pub(crate) answers: Arc<Answers>,
    pub(crate) slots: Arc<ConnectionSlots>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) auth: Arc<Authenticator>,
    pub(crate) socketio: Server,
    pub(crate) settings: Arc<Settings>,
    pub(crate) drain: Arc<Drain>,
    /// `None` if clients are served without TLS.
    pub(crate) tls: Option<Arc<Tls>>,
    /// Set when the first scan is loaded, cleared when the host begins to stop.
    pub(crate) ready: Arc<AtomicBool>,
}

/// Returns the endpoints that clients reach, except Socket.IO: health, the routes of plugins and,
/// unless operators have an address of their own, those of operators.
pub(crate) fn clients(api: &Arc<Api>, with_operators: bool) -> Router {
    let endpoints = if with_operators { of_operators() } else { Router::new() };
    with_health(endpoints.fallback(routes::serve), api)
}

/// Returns the endpoints of an address for operators alone.
pub(crate) fn operators(api: &Arc<Api>) -> Router {
    with_health(of_operators().fallback(problem::not_found), api)
}

fn with_health(endpoints: Router<Arc<Api>>, api: &Arc<Api>) -> Router {
    endpoints
        .route("/healthz", get(health::alive))
        .route("/readyz", get(health::ready))
        .method_not_allowed_fallback(problem::method_not_allowed)
        .with_state(Arc::clone(api))
}

fn of_operators() -> Router<Arc<Api>> {
    Router::new()
        .route("/api/emit", post(emit::emit))
        .route("/api/events", get(contract::show))
        .route("/api/openapi.json", get(openapi::show))
        .route("/api/plugins", get(plugins::list))
        .route("/api/plugins/{name}", get(plugins::show))
        .route("/api/plugins/{name}/rollback", post(plugins::roll_back))
        .route("/api/plugins/{name}/disable", post(plugins::disable))
        .route("/api/plugins/{name}/enable", post(plugins::enable))
        .route("/api/plugins/{name}/forget", post(plugins::forget))
        .route("/api/plugins/{name}/timers", get(rows::list::<Timers>))
        .route("/api/plugins/{name}/timers/retry", post(rows::retry::<Timers>))
        .route("/api/plugins/{name}/timers/drop", post(rows::drop::<Timers>))
        .route("/api/plugins/{name}/deliveries", get(rows::list::<Deliveries>))
        .route("/api/plugins/{name}/deliveries/retry", post(rows::retry::<Deliveries>))
        .route("/api/plugins/{name}/deliveries/drop", post(rows::drop::<Deliveries>))
        .route("/api/plugins/{name}/state", get(state::summary))
        .route("/api/plugins/{name}/state/entry", get(state::get))
        .route("/api/plugins/{name}/state/entries", get(state::scan).post(state::import))
        .route("/api/drain", post(drain::drain))
        .route("/api/reload", post(reload::reload))
        .route("/api/reload/preview", post(reload::preview))
        .route("/api/users/{user}/disconnect", post(users::disconnect))
        .route("/api/users/{user}/revoke", post(users::revoke))
        .route("/metrics", get(metrics::metrics))
}

/// Answers 503 with `Retry-After` until the first scan is loaded: clients would otherwise learn
/// that their events have no handler. Health requests are always passed on.
pub(crate) async fn wait_until_loaded(
    State(loaded): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Response {
    let is_health = ["/healthz", "/readyz"].contains(&request.uri().path());
    if is_health || loaded.load(Ordering::Acquire) {
        return next.run(request).await;
    }
    let mut response = problem::Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "unavailable",
        "the host is starting",
    )
    .into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

impl Api {
    /// Returns the scope that the contract requires, or `None` if the contract is public.
    fn contract_scope(&self) -> Option<Scope> {
        (!self.config.get().contract.public).then_some(Scope::Operate)
    }
}
