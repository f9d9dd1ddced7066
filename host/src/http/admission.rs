//! Which requests are answered when the host has reached its limit of connections: those of
//! operators, and those of clients that have a slot.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::rejection::Rejection;
use crate::socketio::{self, RequestKind};

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

/// Answers 503 to a client's request in a reserved slot, and to a request that begins a session if
/// no session slot is free.
pub(crate) async fn admit(
    State(slots): State<Arc<ConnectionSlots>>,
    mut request: Request,
    next: Next,
) -> Response {
    let is_reserved = request.extensions_mut().remove::<IsReserved>().is_some();
    let is_admitted = if is_reserved {
        is_operators(request.uri().path())
    } else if socketio::kind_of(&request) == RequestKind::Handshake {
        let slot = slots.take_session();
        let is_free = slot.is_some();
        if let Some(slot) = slot {
            request.extensions_mut().insert(slot);
        }
        is_free
    } else {
        true
    };
    if is_admitted {
        return next.run(request).await;
    }
    slots.refused();
    let mut response = full().into_response();
    close(&mut response);
    response
}

/// Makes the connection close after `response`.
fn close(response: &mut Response) {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

fn full() -> Problem {
    Problem::rejection(&Rejection::Busy(
        "the host has reached its limit of connections; try again later".to_owned(),
    ))
}

/// Whether a path is for monitoring or operating the host.
fn is_operators(path: &str) -> bool {
    ["/healthz", "/readyz", "/metrics"].contains(&path) || path.starts_with("/api/")
}
