//! The one form of every HTTP error: an RFC 9457 problem document. It also has the members of a
//! Socket.IO rejection: `code`, `message`, `id`, `retry`, `origin`, and `event` if the error is
//! about an event.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::event::EventId;
use crate::rejection::{Origin, Rejection, Retry};
use crate::transport::Peer;

/// The media type of problem documents.
const MEDIA_TYPE: &str = "application/problem+json";

/// An error as an HTTP response.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    status: StatusCode,
    document: Value,
    /// The name of the request's key, for the log, if the key lacks a right.
    key: Option<Box<str>>,
    /// Whether the log has a record with the id already.
    is_logged: bool,
}

/// The problem of a response, for [`record`], which logs it.
#[derive(Clone)]
struct Answered(Arc<Problem>);

/// What is logged of a request besides its problem. The query is left out: it holds the id of a
/// session.
#[derive(Debug, Default)]
pub(super) struct RequestLine {
    pub(super) address: Option<IpAddr>,
    pub(super) method: Option<Method>,
    /// Only its path is logged.
    pub(super) uri: Option<Uri>,
}

impl Problem {
    /// An error that is not the rejection of an event. The document gets a new id.
    pub(super) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        let id = EventId::new(SystemTime::now()).to_string();
        let (retry, origin) = (Retry::of_status(status.as_u16()).name(), Origin::Host.name());
        let document = json!({
            "code": code, "message": message, "id": id, "retry": retry, "origin": origin,
        });
        Self { status, document, key: None, is_logged: false }
    }

    /// The event with this name was rejected. `id` is the id of the event or of the request.
    /// Without a name, the document has no member `event`.
    pub(super) fn rejected(rejection: &Rejection, event: &str, id: &str) -> Self {
        let status =
            StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let document = rejection.document(Some(event).filter(|event| !event.is_empty()), id);
        Self { status, document, key: None, is_logged: false }
    }

    /// Like [`Problem::rejected`], for a request that is not about an event. The document gets a
    /// new id and has no member `event`.
    pub(super) fn rejection(rejection: &Rejection) -> Self {
        Self::rejected(rejection, "", &EventId::new(SystemTime::now()).to_string())
    }

    /// Status 408: a request did not arrive in time.
    pub(super) fn too_slow(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
    }

    /// Returns the same problem with the name of the key that lacks a right, for the log.
    pub(super) fn with_key(mut self, name: &str) -> Self {
        self.key = Some(name.into());
        self
    }

    /// Returns the same problem. The log has a record with its id and its cause already.
    pub(super) fn logged(mut self) -> Self {
        self.is_logged = true;
        self
    }

    /// Logs the problem with its id and its request. Only code whose answer does not pass through
    /// [`record`] calls this.
    pub(super) fn log(&self, request: &RequestLine) {
        let member = |name: &str| {
            self.document.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
        };
        let (event, id, code, detail) =
            (member("event"), member("id"), member("code"), member("message"));
        let (status, reason) = (self.status.as_u16(), member("reason"));
        let address = request.address.map(tracing::field::display);
        let method = request.method.as_ref().map(Method::as_str);
        let (path, key) = (request.uri.as_ref().map(Uri::path), self.key.as_deref());
        if self.is_logged {
            tracing::debug!(id, status, address, method, path, "request rejected");
            return;
        }
        match self.status {
            StatusCode::INTERNAL_SERVER_ERROR => {
                tracing::error!(
                    event,
                    id,
                    code,
                    reason,
                    status,
                    detail,
                    address,
                    method,
                    path,
                    key,
                    "request failed"
                )
            }
            _ => tracing::info!(
                event,
                id,
                code,
                reason,
                status,
                detail,
                address,
                method,
                path,
                key,
                "request rejected"
            ),
        }
    }

    /// Returns the same problem with another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Returns the same problem with another message.
    pub(super) fn with_message(mut self, message: &str) -> Self {
        if let Some(members) = self.document.as_object_mut() {
            members.insert("message".to_owned(), json!(message));
        }
        self
    }
}

/// The whole document as JSON text.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut document = self.document.clone();
        if let Some(members) = document.as_object_mut() {
            // RFC 9457: `about:blank` adds nothing to the status. `code` tells what is wrong.
            members.insert("type".to_owned(), json!("about:blank"));
            members.insert("title".to_owned(), json!(self.status.canonical_reason()));
            members.insert("status".to_owned(), json!(self.status.as_u16()));
            if let Some(message) = members.get("message").cloned() {
                members.insert("detail".to_owned(), message);
            }
        }
        document.fmt(f)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.to_string()).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        // The header counts whole seconds.
        if let Some(ms) = self.document.get("retry_after_ms").and_then(Value::as_u64) {
            let seconds = HeaderValue::from(ms.div_ceil(1000));
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Answered(Arc::new(self)));
        response
    }
}

/// Logs each problem that is answered, with its request. This layer must be outside of all layers
/// that answer requests.
pub(crate) async fn record(request: Request, next: Next) -> Response {
    let address = request.extensions().get::<Peer>().map(|Peer(address)| *address);
    let (method, uri) = (Some(request.method().clone()), Some(request.uri().clone()));
    let mut response = next.run(request).await;
    if let Some(Answered(problem)) = response.extensions_mut().remove() {
        problem.log(&RequestLine { address, method, uri });
    }
    response
}

/// Answers a path that does not exist.
pub(super) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

/// Answers a path that exists, but not for this method.
pub(super) async fn method_not_allowed() -> Problem {
    other_method()
}

/// The problem of a path that exists, but not for this method.
pub(super) fn other_method() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "this path does not support this method; see the header `Allow`",
    )
}

/// Replaces each error response that is not a problem document by one. Such responses come from the
/// Socket.IO implementation and from axum's extractors: they are text, or have no body. An error of
/// Engine.IO stays as it is: it is the answer that the reference server gives.
pub(crate) async fn unify(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == MEDIA_TYPE);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // Any other body is dropped: it may be long, or show how the host is built.
    if let Ok(bytes) = to_bytes(body, MAX_ERROR_BODY).await
        && is_of_engine_io(&bytes)
    {
        return Response::from_parts(parts, bytes.into());
    }
    let (code, message) = of_status(status);
    let mut problem = Problem::new(status, code, message).into_response();
    for (name, value) in &parts.headers {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name)
        {
            problem.headers_mut().append(name, value.clone());
        }
    }
    problem
}

/// Largest error body, in bytes, that may be one of Engine.IO.
const MAX_ERROR_BODY: usize = 4096;

/// Whether a body is an error of Engine.IO: its code is a number, which socketioxide writes as
/// text.
fn is_of_engine_io(body: &[u8]) -> bool {
    let document = serde_json::from_slice::<Value>(body).unwrap_or_default();
    match document.get("code") {
        Some(Value::Number(_)) => true,
        Some(Value::String(code)) => code.parse::<u8>().is_ok(),
        _ => false,
    }
}

/// Returns code and message for an error of which only the status is known.
fn of_status(status: StatusCode) -> (&'static str, &'static str) {
    match status {
        StatusCode::UNAUTHORIZED => ("unauthorized", "send a key: `Authorization: Bearer KEY`"),
        StatusCode::FORBIDDEN => ("forbidden", "this is not allowed"),
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "this path does not support this method")
        }
        StatusCode::REQUEST_TIMEOUT => ("timed_out", "the request came too slowly"),
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the request is too large"),
        StatusCode::SERVICE_UNAVAILABLE => ("unavailable", "the host can't answer now"),
        _ if status.is_server_error() => ("internal_error", "the host failed; its log has more"),
        _ => ("bad_request", "the host does not understand the request"),
    }
}
