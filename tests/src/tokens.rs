//! Tokens for hosts whose clients need one.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use sockhop::auth::sign;
use sockhop::config::{AuthConfig, AuthMode, TokenAlgorithm, TokenKey};

/// The settings of a host whose clients need a token.
pub fn with_tokens() -> AuthConfig {
    let key = TokenKey {
        algorithm: TokenAlgorithm::HS256,
        kid: None,
        secret: Some("a secret that has more than thirty-two bytes".to_owned()),
        secret_file: None,
        public_key_file: None,
    };
    AuthConfig { mode: AuthMode::Jwt, keys: vec![key], ..AuthConfig::default() }
}

/// A token of `user` for such a host, which expires after `seconds`.
pub fn token(user: &str, roles: &[&str], seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_secs();
    let claims = json!({"sub": user, "roles": roles, "iat": now, "exp": now + seconds});
    sign(&with_tokens(), None, claims.as_object().expect("an object")).expect("a token")
}
