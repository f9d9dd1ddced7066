//! Who a client is: checks its token, by the keys and claims of `[auth]`. A token becomes an
//! [`Identity`](crate::event::Identity) here, and no other module reads it.

mod claims;
mod client;
mod error;
mod jwks;
mod keys;
mod revocations;
mod sign;
mod strict_json;
#[cfg(test)]
mod tests;
mod token;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use crate::config::{AuthConfig, AuthMode};

pub(crate) use claims::LEEWAY;
pub use client::Authenticated;
pub(crate) use client::{Credentials, bearer, kept_bearer};
pub use error::{RevokeError, TokenError, TokenKeyError};
pub use sign::{SignError, sign};

use jwks::KeySet;
use keys::Keys;
use revocations::Revocations;
use token::Token;

/// Returns the claims of a token, which may be false: nothing is verified. `None` if it is no
/// signed token.
pub fn unverified_claims(token: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    Token::parse(token).ok()?.claims().ok()
}

/// Checks the tokens of clients.
pub struct Authenticator {
    accepted: ArcSwap<Accepted>,
    /// `None` without [`with_revocations`](Self::with_revocations): no token counts as revoked.
    revocations: Option<Revocations>,
}

/// What decides which tokens are accepted.
pub(crate) struct Accepted {
    config: AuthConfig,
    keys: KeySource,
}

/// Where the keys are.
enum KeySource {
    /// Every client is anonymous.
    Anonymous,
    /// In the configuration.
    Configured(Keys),
    /// In a JWKS file.
    Jwks(KeySet),
}

impl Authenticator {
    /// Loads the keys of `config`.
    ///
    /// # Errors
    /// A key can't be read or used.
    pub fn load(config: &AuthConfig) -> Result<Self, TokenKeyError> {
        let accepted = ArcSwap::from_pointee(Self::read(config)?);
        Ok(Self { accepted, revocations: None })
    }

    /// Loads the keys of a new configuration, to [`replace`](Self::replace) the accepted ones.
    ///
    /// # Errors
    /// A key can't be read or used.
    pub(crate) fn read(config: &AuthConfig) -> Result<Accepted, TokenKeyError> {
        // A configuration with both a JWKS file and keys was refused before.
        let keys = match (config.mode, &config.jwks) {
            (AuthMode::Anonymous, _) => KeySource::Anonymous,
            (AuthMode::Jwt, Some(jwks)) => KeySource::Jwks(KeySet::load(jwks)?),
            (AuthMode::Jwt, None) => KeySource::Configured(Keys::configured(config)?),
        };
        Ok(Accepted { config: config.clone(), keys })
    }

    /// Accepts tokens by these keys and claims from now on. Connections whose tokens were accepted
    /// before stay until these expire.
    pub(crate) fn replace(&self, accepted: Accepted) {
        self.accepted.store(Arc::new(accepted));
    }

    /// Refuses the revoked tokens of the host with this data directory.
    ///
    /// # Errors
    /// The list of revocations can't be read.
    pub fn with_revocations(mut self, data_dir: &Path) -> Result<Self, TokenKeyError> {
        let unreadable = |(file, source)| TokenKeyError::Unreadable {
            setting: "the revoked tokens".to_owned(),
            file,
            source,
        };
        self.revocations = Some(Revocations::load(data_dir).map_err(unreadable)?);
        Ok(self)
    }

    /// Decides who a client is. May read a file. If every client is anonymous, a token is ignored.
    ///
    /// # Errors
    /// Returns why the client may not connect.
    pub(crate) async fn identify(
        &self,
        credentials: &Credentials,
    ) -> Result<Authenticated, TokenError> {
        let accepted = self.accepted.load();
        if matches!(accepted.keys, KeySource::Anonymous) {
            return Ok(Authenticated::anonymous());
        }
        let allows_anonymous = accepted.config.anonymous;
        drop(accepted);
        match credentials.token()? {
            None if allows_anonymous => Ok(Authenticated::anonymous()),
            None => Err(TokenError::None),
            Some(token) => self.check(&token, SystemTime::now()).await,
        }
    }

    /// Checks a token. With a JWKS file, an unknown key id makes the host read the file again. If
    /// every client is anonymous, every token is refused.
    ///
    /// # Errors
    /// Returns why the token is refused.
    pub async fn check(&self, token: &str, now: SystemTime) -> Result<Authenticated, TokenError> {
        let parsed = Token::parse(token)?;
        let accepted = self.accepted.load_full();
        match &accepted.keys {
            // No algorithm is accepted.
            KeySource::Anonymous => return Err(TokenError::Algorithm(parsed.algorithm.name())),
            KeySource::Configured(keys) => keys.verify(&parsed)?,
            KeySource::Jwks(set) => set.verify(&parsed).await?,
        }
        let authenticated = claims::check(parsed.claims()?, &accepted.config, now)?;
        let user = authenticated.identity.user.as_deref();
        if self.is_revoked(user, authenticated.issued_at) {
            return Err(TokenError::Revoked);
        }
        Ok(authenticated)
    }

    /// Whether a token of this user, issued at this time if it says so, was revoked. An anonymous
    /// client has no token.
    pub(crate) fn is_revoked(&self, user: Option<&str>, issued_at: Option<SystemTime>) -> bool {
        let (Some(revocations), Some(user)) = (&self.revocations, user) else { return false };
        revocations.refuses(user, issued_at)
    }

    /// Refuses the tokens of a user that were issued before a time. Returns the time that is in
    /// force, in seconds since 1970. Blocks.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub(crate) fn revoke(&self, user: &str, issued_before: SystemTime) -> Result<u64, RevokeError> {
        match &self.revocations {
            Some(revocations) if self.needs_tokens() => revocations.add(user, issued_before),
            Some(_) | None => Err(RevokeError::NoTokens),
        }
    }

    /// How long a client has for a new token after it was told that its token has expired.
    pub(crate) fn grace(&self) -> Duration {
        self.accepted.load().config.grace_ms
    }

    /// Whether the host checks tokens at all.
    pub fn needs_tokens(&self) -> bool {
        !matches!(self.accepted.load().keys, KeySource::Anonymous)
    }

    /// Reads the JWKS file again if it has changed. Blocks; called once a second.
    pub(crate) fn tend(&self) {
        if let KeySource::Jwks(set) = &self.accepted.load_full().keys {
            set.read_if_changed();
        }
    }
}
