//! The token of one connection: the event `authenticate` replaces it, and the connection ends some
//! time after it has expired.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;

use crate::auth::{Authenticated, Credentials};
use crate::event::{Event, Json};
use crate::rejection::Rejection;
use crate::socket::Sockets;
use crate::socket::token::{Due, TokenState};

use super::Client;

/// After which time a connection that was aborted, and is still there, is aborted again.
const ABORT_AGAIN: Duration = Duration::from_secs(1);

/// The payload of `authenticate`.
#[derive(Deserialize)]
struct NewToken {
    token: String,
}

impl Client {
    /// Handles `authenticate`: checks a new token of the connection's user, and replaces the token
    /// of before. Returns when the new one expires, in seconds since 1970.
    ///
    /// # Errors
    /// Returns the rejection for the client. The token of before remains then.
    pub(super) async fn authenticate(
        self: &Arc<Self>,
        sockets: &Sockets,
        event: &Event,
    ) -> Result<Json, Rejection> {
        // A check of a token takes time too.
        sockets.dispatcher.limit_rate(event, Instant::now())?;
        // The parser's own error could quote the token.
        let NewToken { token } = serde_json::from_str(&event.payload.text)
            .map_err(|_| Rejection::invalid("expected an object with the text `token`"))?;
        let known = sockets.auth.check(&token, SystemTime::now()).await.map_err(|error| {
            let (client, id) = (self.connection.public_id.as_str(), event.id);
            tracing::info!(client, %id, error = %error, "token refused");
            Rejection::Unauthorized("the token is not accepted".to_owned())
        })?;
        let expires_at = known.expires_at;
        if !self.adopt(sockets, known) {
            return Err(Rejection::Unauthorized("the token is of another user".to_owned()));
        }
        let seconds = expires_at.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(Json::from(&json!({"expires_at": seconds.map(|since| since.as_secs())})))
    }

    /// Whether a client with these credentials may return to this connection. Its token replaces
    /// the one of before.
    pub(super) async fn may_be_resumed(self: Arc<Self>, credentials: Credentials) -> bool {
        let Some(sockets) = self.sockets.upgrade() else { return false };
        // If the client may not connect at all, it is refused when it gets a new connection.
        let known = sockets.auth.identify(&credentials).await;
        known.is_ok_and(|known| self.adopt(&sockets, known))
    }

    /// Replaces the token, unless the new one is of another user. Returns whether it was replaced.
    fn adopt(self: &Arc<Self>, sockets: &Sockets, known: Authenticated) -> bool {
        let before = self.connection.identity();
        if known.identity.user != before.user {
            return false;
        }
        let Authenticated { identity, expires_at, issued_at } = known;
        let has_changed = *identity != *before;
        self.connection.set_identity(identity);
        {
            let mut token = self.token();
            *token = TokenState::new(expires_at, issued_at);
            self.has_expired.store(false, Ordering::Release);
        }
        self.watch_token(sockets, Instant::now());
        if has_changed {
            sockets.dispatcher.recheck_rooms(&self.connection);
        }
        true
    }

    /// Does what is due for the token, and sets when to look at it again. Also called when the
    /// client can first be reached: a revocation of that moment may not have found it.
    pub(in crate::socket) fn watch_token(self: &Arc<Self>, sockets: &Sockets, now: Instant) {
        // Held until everything is done: a new token that comes at this moment must neither count
        // as expired nor get the time of the one of before. Nothing here waits.
        let mut token = self.token();
        let grace = sockets.auth.grace();
        let mut due = token.due(SystemTime::now(), now, grace);
        if due == Due::Never {
            return;
        }
        let (client, identity) = (self.connection.public_id.as_str(), self.connection.identity());
        if sockets.auth.is_revoked(identity.user.as_deref(), token.issued_at()) {
            tracing::info!(client, "connection ended: its token is revoked");
            due = Due::Close;
        } else if due == Due::Close {
            tracing::info!(client, "connection ended: its token has expired");
        }
        if due == Due::Tell {
            tracing::debug!(client, "token expired");
            self.has_expired.store(true, Ordering::Release);
            sockets.rooms.reject(&self.connection, &expired());
            due = Due::Later(grace);
        }
        match due {
            Due::Later(after) => sockets.expiries.set(self, after),
            // Again until it has ended: a transport that is lost at this moment would leave a
            // connection to which its client can return.
            _ => {
                sockets.rooms.abort(&self.connection);
                sockets.expiries.set(self, ABORT_AGAIN);
            }
        }
    }

    /// Ends the connection if it is of this user, and if its token was issued before the time, if
    /// one is given. Returns whether it ends.
    pub(in crate::socket) fn end_if_of(
        self: &Arc<Self>,
        sockets: &Sockets,
        user: &str,
        issued_before: Option<SystemTime>,
    ) -> bool {
        if self.connection.identity().user.as_deref() != Some(user) {
            return false;
        }
        match issued_before {
            None => sockets.rooms.end(&self.connection),
            Some(time) => {
                let is_from_before = self.token().is_from_before(time);
                if is_from_before {
                    self.watch_token(sockets, Instant::now());
                }
                is_from_before
            }
        }
    }

    /// The lock is held for one transition.
    fn token(&self) -> MutexGuard<'_, TokenState> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rejection of an event of a client whose token has expired.
pub(super) fn expired() -> Rejection {
    Rejection::Unauthorized("the token has expired; send `authenticate` with a new one".to_owned())
}
