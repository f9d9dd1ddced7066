//! What a client sends to prove who it is, and what the host then knows.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, header};
use serde::Deserialize;
use serde_json::Value;

use crate::event::Identity;

use super::error::{MAX_TOKEN, TokenError};

/// What a client sends to prove who it is.
#[derive(Default)]
pub(crate) struct Credentials {
    /// The `auth` of the handshake, as JSON.
    pub(crate) auth: Option<Box<str>>,
    /// The token of the header `Authorization: Bearer`.
    pub(crate) bearer: Option<Box<str>>,
}

/// The `auth` of a handshake.
#[derive(Deserialize)]
struct HandshakeAuth {
    token: Option<Value>,
}

impl Credentials {
    /// The token, if there is one. That of the handshake comes first.
    ///
    /// # Errors
    /// The token of the handshake is not text, or the handshake can't be read.
    pub(super) fn token(&self) -> Result<Option<String>, TokenError> {
        let sent = self.auth.as_deref().filter(|auth| !auth.is_empty());
        let auth: Option<HandshakeAuth> =
            sent.map(serde_json::from_str).transpose().map_err(|_| TokenError::NotText)?;
        match auth.and_then(|auth| auth.token) {
            Some(Value::String(token)) => Ok(Some(token)),
            Some(_) => Err(TokenError::NotText),
            None => Ok(self.bearer.as_deref().map(str::to_owned)),
        }
    }
}

/// Returns the token of the header `Authorization: Bearer`, for a session that keeps it. Of a token
/// that is too long, only so much is returned that it is refused as too long.
pub(crate) fn kept_bearer(headers: &HeaderMap) -> Option<Box<str>> {
    let token = bearer(headers)?;
    // The value of the header is ASCII.
    Some(token.get(..=MAX_TOKEN).unwrap_or(token).into())
}

/// Returns the token or key of the header `Authorization: Bearer`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A client whose token was accepted, or that may be anonymous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// Who the client is.
    pub identity: Arc<Identity>,
    /// When the token expires; `None` for an anonymous client.
    pub expires_at: Option<SystemTime>,
    /// When the token was issued, if it says so.
    pub issued_at: Option<SystemTime>,
}

impl Authenticated {
    /// A client without a token.
    pub(super) fn anonymous() -> Self {
        Self { identity: Arc::default(), expires_at: None, issued_at: None }
    }
}
