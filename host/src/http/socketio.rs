//! Socket.IO's requests: passed on to the implementation that serves.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;

use crate::socketio::{builtin, library};

use super::connection::Io;

/// Has our own implementation answer the requests that are for it.
pub(crate) async fn serve(State(server): State<builtin::Server>, request: Request, next: Next) -> Response {
    if !server.serves(request.uri().path()) {
        return next.run(request).await;
    }
    match server.handle::<Io, Body>(request).await {
        Ok(answer) => answer.map(Body::new),
        Err(_) => {
            // No error, which another layer would make a problem document of.
            let mut response = Response::new(Body::empty());
            response.extensions_mut().insert(NoAnswer);
            response
        }
    }
}

/// The mark of a response that is not to be sent: its connection is closed instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct NoAnswer;

/// Tells the library's part of a client that asks for an upgrade.
pub(crate) async fn note(State(server): State<library::Server>, request: Request, next: Next) -> Response {
    server.note_upgrade(&request);
    next.run(request).await
}
