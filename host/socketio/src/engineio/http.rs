//! Engine.IO's requests: handshakes, polls, posts, upgrades.
use bytes::Bytes;
use http::Response;
use http_body_util::Full;

/// The answer to a request.
pub type Answer = Response<Full<Bytes>>;

/// The connection must be closed without an answer: return it as the error of the HTTP service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct Abort;
