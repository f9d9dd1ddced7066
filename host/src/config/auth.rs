//! `[auth]`: whether clients need a token, and by which keys and claims a token is accepted.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// `[auth]`: who clients are.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Whether clients are anonymous, or prove with a token who they are.
    pub mode: AuthMode,
    /// With `mode = "jwt"`: whether a client without a token may connect as well. A client with an
    /// invalid token may never.
    pub anonymous: bool,
    /// The claim that names the user.
    pub user_claim: ClaimPath,
    /// The claim that lists the roles of the user.
    pub roles_claim: ClaimPath,
    /// If set, a token must be meant for this audience. If not, a token must have no audience.
    pub audience: Option<String>,
    /// If set, a token must come from this issuer.
    pub issuer: Option<String>,
    /// How long a client has for a new token after it was told that its token has expired. Then
    /// its transport is closed, so that a stock client connects again.
    #[serde(deserialize_with = "super::limits::milliseconds")]
    pub grace_ms: Duration,
    /// The keys of tokens.
    pub keys: Vec<TokenKey>,
    /// A file with public keys, instead of `keys`.
    pub jwks: Option<JwksConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::Anonymous,
            anonymous: false,
            user_claim: ClaimPath("sub".to_owned()),
            roles_claim: ClaimPath("roles".to_owned()),
            audience: None,
            issuer: None,
            grace_ms: Duration::from_secs(20),
            keys: Vec::new(),
            jwks: None,
        }
    }
}

/// `mode`: how the host knows who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    /// Every client is anonymous.
    Anonymous,
    /// A client sends a JSON Web Token.
    Jwt,
}

/// `[[auth.keys]]`: one key. A token is accepted only with the algorithm of its key.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// The only algorithm of the key.
    pub algorithm: TokenAlgorithm,
    /// The id of the key. A token that names another id is not checked with this key.
    pub kid: Option<String>,
    /// For HS256, HS384 and HS512: the secret. Exactly one of `secret` and `secret_file` is set.
    pub secret: Option<String>,
    /// A file whose first line is the secret.
    pub secret_file: Option<PathBuf>,
    /// For the other algorithms: a file with the public key in PEM.
    pub public_key_file: Option<PathBuf>,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// The algorithm of a signature (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum TokenAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA with SHA-256.
    RS256,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// EdDSA with Ed25519. RFC 9864 calls it `Ed25519`.
    #[serde(alias = "Ed25519")]
    EdDSA,
}

impl TokenAlgorithm {
    /// All algorithms.
    pub const ALL: [Self; 6] =
        [Self::HS256, Self::HS384, Self::HS512, Self::RS256, Self::ES256, Self::EdDSA];

    /// The name in the configuration and in tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::ES256 => "ES256",
            Self::EdDSA => "EdDSA",
        }
    }

    /// The algorithm with this name in a token or in a set of keys.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "Ed25519" => Some(Self::EdDSA),
            _ => Self::ALL.into_iter().find(|algorithm| algorithm.name() == name),
        }
    }

    /// The fewest bytes of a secret: as many as the hash has (RFC 7518, section 3.2). `None` for an
    /// algorithm with a public key.
    pub const fn secret_bytes(self) -> Option<usize> {
        match self {
            Self::HS256 => Some(32),
            Self::HS384 => Some(48),
            Self::HS512 => Some(64),
            Self::RS256 | Self::ES256 | Self::EdDSA => None,
        }
    }
}

/// `[auth.jwks]`: a file with a JSON Web Key Set. The host reads it again when it changes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwksConfig {
    /// The file.
    pub file: PathBuf,
    /// The algorithms that the keys of the file may have.
    pub algorithms: Vec<TokenAlgorithm>,
}

/// The name of a claim, or the path to a claim within others: `realm_access.roles`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(String);

impl ClaimPath {
    /// The path as it is configured.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ClaimPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.split('.').any(str::is_empty) {
            let expected = "the name of a claim, or a path such as \"realm_access.roles\"";
            return Err(de::Error::invalid_value(de::Unexpected::Str(&text), &expected));
        }
        Ok(Self(text))
    }
}

/// The longest `grace_ms`. With the leeway of the clocks and the time until the transport is
/// closed, it is below the 30 s that the contract allows.
const MAX_GRACE: Duration = Duration::from_secs(25);

/// The most keys in `[[auth.keys]]`. A token without a key id is checked with each.
const MAX_KEYS: usize = 16;

impl AuthConfig {
    /// Reads and checks the content of an `[auth]` table.
    #[cfg(test)]
    pub(crate) fn of_text(text: &str) -> Result<Self, String> {
        use figment2::providers::Format;
        let figment = figment2::Figment::from(figment2::providers::Toml::string(text));
        let config: Self = figment.extract().map_err(|error| error.to_string())?;
        config.check().map(|()| config)
    }

    /// Checks the settings that depend on each other.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.grace_ms > MAX_GRACE {
            return Err(format!(
                "auth.grace_ms: found {}, expected at most {}",
                self.grace_ms.as_millis(),
                MAX_GRACE.as_millis()
            ));
        }
        let has_keys = !self.keys.is_empty() || self.jwks.is_some();
        match self.mode {
            AuthMode::Anonymous if has_keys => Err(
                "auth.mode: keys of tokens are set, but every client is anonymous; set `mode = \
                 \"jwt\"`, or remove the keys"
                    .to_owned(),
            ),
            AuthMode::Anonymous => Ok(()),
            AuthMode::Jwt if !has_keys => {
                Err("auth.keys: found none, expected at least one [[auth.keys]] table, or \
                 [auth.jwks]"
                    .to_owned())
            }
            AuthMode::Jwt if !self.keys.is_empty() && self.jwks.is_some() => {
                Err("auth.jwks: found beside [[auth.keys]], expected one of the two".to_owned())
            }
            AuthMode::Jwt => {
                self.check_keys()?;
                self.jwks.as_ref().map_or(Ok(()), JwksConfig::check)
            }
        }
    }

    fn check_keys(&self) -> Result<(), String> {
        if self.keys.len() > MAX_KEYS {
            let found = self.keys.len();
            return Err(format!("auth.keys: found {found} keys, expected at most {MAX_KEYS}"));
        }
        for (index, key) in self.keys.iter().enumerate() {
            key.check().map_err(|problem| format!("auth.keys[{index}]: {problem}"))?;
            let is_named_twice = |kid| self.keys.iter().take(index).any(|other| other.kid == kid);
            if key.kid.is_some() && is_named_twice(key.kid.clone()) {
                return Err(format!("auth.keys[{index}].kid: another key has the same id"));
            }
        }
        Ok(())
    }
}

impl TokenKey {
    fn check(&self) -> Result<(), String> {
        let secrets = usize::from(self.secret.is_some()) + usize::from(self.secret_file.is_some());
        let (name, has_public) = (self.algorithm.name(), self.public_key_file.is_some());
        match self.algorithm.secret_bytes() {
            Some(_) if secrets != 1 || has_public => Err(format!(
                "{name} needs exactly one of `secret` and `secret_file`, and no `public_key_file`"
            )),
            None if secrets != 0 || !has_public => {
                Err(format!("{name} needs `public_key_file`, and no secret"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl JwksConfig {
    fn check(&self) -> Result<(), String> {
        if self.algorithms.is_empty() {
            return Err("auth.jwks.algorithms: found none, expected at least one".to_owned());
        }
        // A set of public keys has no secrets: anyone may know them.
        match self.algorithms.iter().find(|algorithm| algorithm.secret_bytes().is_some()) {
            Some(algorithm) => Err(format!(
                "auth.jwks.algorithms: found {}, expected RS256, ES256 or EdDSA, which have public \
                 keys",
                algorithm.name()
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let key = "[[keys]]\nalgorithm = \"HS256\"\nsecret = \"x\"\n";
        let cases = [
            (key.to_owned(), "every client is anonymous"),
            ("mode = \"jwt\"".to_owned(), "at least one [[auth.keys]]"),
            (
                format!("mode = \"jwt\"\n{key}[jwks]\nfile = \"x\"\nalgorithms = [\"RS256\"]"),
                "expected one of the two",
            ),
            (
                "mode = \"jwt\"\n[[keys]]\nalgorithm = \"HS256\"".to_owned(),
                "HS256 needs exactly one",
            ),
            (
                "mode = \"jwt\"\n[[keys]]\nalgorithm = \"RS256\"\nsecret = \"x\"".to_owned(),
                "RS256 needs `public_key_file`",
            ),
            ("mode = \"jwt\"\n[[keys]]\nalgorithm = \"none\"\nsecret = \"x\"".to_owned(), "none"),
            (
                "mode = \"jwt\"\n[jwks]\nfile = \"x\"\nalgorithms = [\"HS256\"]".to_owned(),
                "which have public keys",
            ),
            ("mode = \"jwt\"\n[jwks]\nfile = \"x\"\nalgorithms = []".to_owned(), "at least one"),
            ("user_claim = \"a..b\"".to_owned(), "a path such as"),
            ("user_claim = \"\"".to_owned(), "a path such as"),
            ("grace_ms = 25001".to_owned(), "at most 25000"),
            ("grace_ms = 0".to_owned(), "grace_ms"),
        ];
        for (text, problem) in cases {
            let error = AuthConfig::of_text(&text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
        let twice = format!("mode = \"jwt\"\n{key}kid = \"a\"\n{key}kid = \"a\"");
        assert!(AuthConfig::of_text(&twice).unwrap_err().contains("same id"));
        let many = format!("mode = \"jwt\"\n{}", key.repeat(MAX_KEYS + 1));
        assert!(AuthConfig::of_text(&many).unwrap_err().contains("at most 16"));
    }

    #[test]
    fn both_names_of_ed25519_are_understood() {
        for name in ["EdDSA", "Ed25519"] {
            let text = format!(
                "mode = \"jwt\"\n[[keys]]\nalgorithm = \"{name}\"\npublic_key_file = \"key.pem\""
            );
            assert_eq!(
                AuthConfig::of_text(&text).unwrap().keys[0].algorithm,
                TokenAlgorithm::EdDSA
            );
            assert_eq!(TokenAlgorithm::of_name(name), Some(TokenAlgorithm::EdDSA));
        }
        assert_eq!(TokenAlgorithm::of_name("none"), None);
        assert_eq!(TokenAlgorithm::of_name("hs256"), None);
    }
}
