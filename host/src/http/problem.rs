//! Errors over HTTP: RFC 9457 problem documents with the members of every other rejection.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::rejection::Rejection;

/// The media type of problem documents.
const MEDIA_TYPE: &str = "application/problem+json";

/// An error as an HTTP answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    document: Value,
}

impl Problem {
    /// An error that no event has a word for.
    pub(super) fn new(status: StatusCode, code: &str, message: &str) -> Self {
        Self { status, document: json!({"code": code, "message": message}) }
    }

    /// Why an event was not emitted.
    pub(super) fn rejected(rejection: &Rejection, event: &str, id: &str) -> Self {
        let status = StatusCode::from_u16(rejection.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, document: rejection.document(event, id) }
    }

    /// A rejection of something that is no event.
    pub(super) fn rejection(rejection: &Rejection) -> Self {
        let mut problem = Self::rejected(rejection, "", "");
        if let Some(members) = problem.document.as_object_mut() {
            members.retain(|name, _| !["event", "id"].contains(&name.as_str()));
        }
        problem
    }

    /// A request that did not come in time.
    pub(super) fn too_slow(message: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timed_out", message)
    }

    /// The same with another status.
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

/// The whole document as text.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut document = self.document.clone();
        if let Some(members) = document.as_object_mut() {
            // `about:blank`: the status says what kind of problem it is, `code` which one.
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
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// For a path that the host does not have.
pub(super) async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

/// For a path that the host has, with another method.
pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path takes another method; see the header `Allow`")
}
