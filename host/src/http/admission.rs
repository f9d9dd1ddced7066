//! Which requests are answered when the host has reached its limit of connections or stops: those
//! of operators, and those of clients that have a slot.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::rejection::Rejection;
use crate::socketio::{self, RequestKind};
use crate::transport::Peer;

use super::problem::Problem;
use super::slots::{ConnectionSlot, ConnectionSlots};

/// Marks a request that came in a reserved slot.
#[derive(Clone, Copy)]
struct IsReserved;

/// Closes a connection in a reserved slot after its answer, whichever layer answers, and marks its
/// requests for [`admit`].
pub(crate) async fn close_reserved(mut request: Request, next: Next) -> Response {
    // The slot is removed: socketioxide keeps a handshake's extensions as long as its session, and
    // the session may move to another connection.
    let slot = request.extensions_mut().remove::<Arc<ConnectionSlot>>();
    if slot.is_none_or(|slot| slot.serves_clients()) {
        return next.run(request).await;
    }
    request.extensions_mut().insert(IsReserved);
    let mut response = next.run(request).await;
    close(&mut response);
    response
}

/// Answers 503 to a client's request in a reserved slot, to a request that begins a session if no
/// session slot is free, and to every new client of a host that stops.
pub(crate) async fn admit(
    State(slots): State<Arc<ConnectionSlots>>,
    mut request: Request,
    next: Next,
) -> Response {
    match refusal(&slots, &mut request) {
        None => next.run(request).await,
        Some(problem) => {
            let mut response = problem.into_response();
            close(&mut response);
            response
        }
    }
}

/// Returns why a request is refused. A handshake that is not refused gets its session slot.
fn refusal(slots: &ConnectionSlots, request: &mut Request) -> Option<Problem> {
    let is_reserved = request.extensions_mut().remove::<IsReserved>().is_some();
    if is_reserved && !is_operators(request.uri().path()) {
        return Some(full(slots));
    }
    let kind = socketio::kind_of(request);
    if slots.is_closed() && !is_served_to_the_end(kind, request) {
        return Some(stopping());
    }
    if kind == RequestKind::Handshake {
        let address = request.extensions().get::<Peer>().map(|Peer(address)| *address);
        let Some(slot) = slots.take_session(address) else { return Some(full(slots)) };
        request.extensions_mut().insert(slot);
    }
    None
}

/// Whether a host that stops serves a request: it belongs to a session that fetches its last
/// answers, it only reads, or it is about the stop or the clients that are still connected.
fn is_served_to_the_end(kind: RequestKind<'_>, request: &Request) -> bool {
    match kind {
        RequestKind::Session | RequestKind::Upgrade(_) => true,
        RequestKind::Handshake => false,
        RequestKind::Other => request.method().is_safe() || is_of_a_stop(request.uri().path()),
    }
}

/// Whether a request of operators is about the stop, or about clients that are still connected. A
/// stop may take an hour.
fn is_of_a_stop(path: &str) -> bool {
    ["/api/drain", "/api/emit"].contains(&path) || path.starts_with("/api/users/")
}

/// Makes the connection close after `response`.
fn close(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// The refusal of a host at its limit. It is counted.
fn full(slots: &ConnectionSlots) -> Problem {
    slots.refused();
    Problem::rejection(&Rejection::Busy(
        "the host, or your network, has reached its limit of connections; try again later"
            .to_owned(),
    ))
}

fn stopping() -> Problem {
    Problem::rejection(&Rejection::Unavailable("the host is stopping; try again later".to_owned()))
}

/// Whether a path is for monitoring or operating the host.
fn is_operators(path: &str) -> bool {
    ["/healthz", "/readyz", "/metrics"].contains(&path) || path.starts_with("/api/")
}
