//! Passes Socket.IO requests to the configured implementation.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::socketio::{builtin, library};

use super::connection::{Io, NoAnswer};

/// Answers Socket.IO requests with our own implementation.
pub(crate) async fn serve(
    State(server): State<builtin::Server>,
    request: Request,
    next: Next,
) -> Response {
    if !server.serves(request.uri().path()) {
        return next.run(request).await;
    }
    match server.handle::<Io, Body>(request).await {
        Ok(answer) => answer.map(Body::new),
        Err(_) => {
            // The status is no error: another layer would convert an error to a problem document.
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(NoAnswer);
            response
        }
    }
}

/// Tells the library's adapter about a client that asks for an upgrade.
pub(crate) async fn note(
    State(server): State<library::Server>,
    request: Request,
    next: Next,
) -> Response {
    server.note_upgrade(&request);
    next.run(request).await
}
