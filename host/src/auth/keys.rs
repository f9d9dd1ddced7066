//! The keys that verify tokens: those of the configuration, or those of a JWKS file.
//!
//! Only signatures are left to the library. Its own checks of tokens accept what they must refuse
//! (`crit`, a missing `aud`, a missing `sub`), and refuse the algorithm name `Ed25519`.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::Deserialize;
use serde_json::Value;

use crate::config::{AuthConfig, JwksConfig, TokenAlgorithm, TokenKey};

use super::error::{TokenError, TokenKeyError};
use super::token::Token;

/// Keys, each for one algorithm.
#[derive(Debug)]
pub(super) struct Keys {
    keys: Vec<Key>,
    /// Whether a token must name its key if several have its algorithm.
    needs_kid: bool,
}

#[derive(Debug)]
struct Key {
    algorithm: TokenAlgorithm,
    kid: Option<String>,
    key: DecodingKey,
}

impl Keys {
    /// Loads the keys that are in the configuration itself.
    ///
    /// # Errors
    /// A file can't be read, or a key is not one of its algorithm.
    pub(super) fn configured(config: &AuthConfig) -> Result<Self, TokenKeyError> {
        let keys = config.keys.iter().enumerate().map(|(index, configured)| {
            let key = load(configured, &format!("auth.keys[{index}]"))?;
            Ok(Key { algorithm: configured.algorithm, kid: configured.kid.clone(), key })
        });
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, needs_kid: false })
    }

    /// Takes the usable keys of a JSON Web Key Set (RFC 7517). Keys of other types, for other uses
    /// or for other algorithms are skipped.
    ///
    /// # Errors
    /// The text is no set of keys, no key can be used, or two keys have the same id.
    pub(super) fn of_set(text: &str, config: &JwksConfig) -> Result<Self, TokenKeyError> {
        let wrong = |problem: String| TokenKeyError::Jwks { file: config.file.clone(), problem };
        let set: Set = serde_json::from_str(text)
            .map_err(|error| wrong(format!("is no JSON Web Key Set: {error}")))?;
        if set.keys.len() > MAX_SET {
            let found = set.keys.len();
            return Err(wrong(format!("has {found} keys; at most {MAX_SET} are accepted")));
        }
        let members = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
        let keys: Vec<Key> =
            members.filter_map(|member: Member| member.key(&config.algorithms)).collect();
        if keys.is_empty() {
            let names: Vec<_> =
                config.algorithms.iter().map(|algorithm| algorithm.name()).collect();
            return Err(wrong(format!("has no key for {}", names.join(" or "))));
        }
        let repeated = keys.iter().enumerate().find(|(index, key)| {
            key.kid.is_some() && keys.iter().take(*index).any(|other| other.kid == key.kid)
        });
        match repeated {
            Some(_) => Err(wrong("has two keys with the same `kid`".to_owned())),
            None => Ok(Self { keys, needs_kid: true }),
        }
    }

    /// Verifies the signature of a token.
    ///
    /// # Errors
    /// No key has the algorithm and the id of the token, or none has made the signature.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), TokenError> {
        let name = token.algorithm.name();
        let same: Vec<_> =
            self.keys.iter().filter(|key| key.algorithm == token.algorithm).collect();
        if same.is_empty() {
            return Err(TokenError::Algorithm(name));
        }
        let candidates: Vec<_> = match &token.kid {
            // A key without an id may have made any token.
            Some(kid) => same
                .into_iter()
                .filter(|key| key.kid.as_ref().is_none_or(|own| own == kid))
                .collect(),
            None if self.needs_kid && same.len() > 1 => return Err(TokenError::NoKeyId(name)),
            None => same,
        };
        if candidates.is_empty() {
            return Err(TokenError::UnknownKey(name));
        }
        if candidates.into_iter().any(|key| key.verifies(token)) {
            Ok(())
        } else {
            Err(TokenError::Signature(name))
        }
    }
}

impl Key {
    fn verifies(&self, token: &Token<'_>) -> bool {
        let (signature, message) = (token.signature, token.message.as_bytes());
        crypto::verify(signature, message, &self.key, of_library(self.algorithm)).unwrap_or(false)
    }
}

pub(super) fn of_library(algorithm: TokenAlgorithm) -> Algorithm {
    match algorithm {
        TokenAlgorithm::HS256 => Algorithm::HS256,
        TokenAlgorithm::HS384 => Algorithm::HS384,
        TokenAlgorithm::HS512 => Algorithm::HS512,
        TokenAlgorithm::RS256 => Algorithm::RS256,
        TokenAlgorithm::ES256 => Algorithm::ES256,
        TokenAlgorithm::EdDSA => Algorithm::EdDSA,
    }
}

/// Loads the key of one `[[auth.keys]]` table, whose name is `setting`.
fn load(configured: &TokenKey, setting: &str) -> Result<DecodingKey, TokenKeyError> {
    let algorithm = configured.algorithm;
    if algorithm.secret_bytes().is_some() {
        return secret(configured, setting)
            .map(|secret| DecodingKey::from_secret(secret.as_bytes()));
    }
    let file = configured.public_key_file.clone().unwrap_or_default();
    let pem = read(&file, &format!("{setting}.public_key_file"))?;
    let key = public_key(&pem, algorithm).filter(|key| is_usable(key, algorithm));
    key.ok_or(TokenKeyError::NotPublic {
        setting: format!("{setting}.public_key_file"),
        file,
        algorithm,
    })
}

/// Returns the secret of a key for an HMAC.
///
/// # Errors
/// Its file can't be read, or the secret is shorter than the hash.
pub(super) fn secret(configured: &TokenKey, setting: &str) -> Result<String, TokenKeyError> {
    let secret = match (&configured.secret, &configured.secret_file) {
        (Some(secret), _) => secret.clone(),
        (None, file) => {
            let file = file.clone().unwrap_or_default();
            let text = read(&file, &format!("{setting}.secret_file"))?;
            text.lines().next().unwrap_or_default().trim().to_owned()
        }
    };
    let (algorithm, found) = (configured.algorithm, secret.len());
    match algorithm.secret_bytes() {
        Some(expected) if found < expected => {
            Err(TokenKeyError::Short { setting: setting.to_owned(), algorithm, found, expected })
        }
        Some(_) | None => Ok(secret),
    }
}

fn read(file: &Path, setting: &str) -> Result<String, TokenKeyError> {
    std::fs::read_to_string(file).map_err(|source| TokenKeyError::Unreadable {
        setting: setting.to_owned(),
        file: file.to_owned(),
        source,
    })
}

/// The library would take a private key for RS256 without an error, and then accept no token.
fn public_key(pem: &str, algorithm: TokenAlgorithm) -> Option<DecodingKey> {
    if pem.contains("PRIVATE KEY") {
        return None;
    }
    let key = match algorithm {
        TokenAlgorithm::RS256 => DecodingKey::from_rsa_pem(pem.as_bytes()),
        TokenAlgorithm::ES256 => DecodingKey::from_ec_pem(pem.as_bytes()),
        TokenAlgorithm::EdDSA => DecodingKey::from_ed_pem(pem.as_bytes()),
        TokenAlgorithm::HS256 | TokenAlgorithm::HS384 | TokenAlgorithm::HS512 => return None,
    };
    key.ok()
}

/// The least bytes of an RSA modulus: 2,048 bits (RFC 7518, section 3.3).
const MIN_RSA: usize = 256;

/// The bytes of a public key of Ed25519. The library panics at a shorter one.
const ED25519: usize = 32;

/// Whether the library can verify signatures with the key. It reads some keys only when it first
/// verifies a signature.
fn is_usable(key: &DecodingKey, algorithm: TokenAlgorithm) -> bool {
    match algorithm {
        TokenAlgorithm::RS256 => Jwk::from_decoding_key(key, None)
            .ok()
            .and_then(|jwk| serde_json::to_value(jwk).ok())
            .and_then(|jwk| URL_SAFE_NO_PAD.decode(jwk.get("n")?.as_str()?).ok())
            .is_some_and(|modulus| modulus.len() >= MIN_RSA),
        TokenAlgorithm::EdDSA if key.try_get_as_bytes().map_or(0, <[u8]>::len) != ED25519 => false,
        TokenAlgorithm::ES256 | TokenAlgorithm::EdDSA => {
            crypto::verify("", b"", key, of_library(algorithm)).is_ok()
        }
        TokenAlgorithm::HS256 | TokenAlgorithm::HS384 | TokenAlgorithm::HS512 => true,
    }
}

/// The most keys in a set.
const MAX_SET: usize = 100;

/// A JSON Web Key Set. Its keys are read one by one: a key of an unknown type is no error.
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

/// One key of a set, with the members that the host looks at.
#[derive(Deserialize)]
struct Member {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Member {
    /// Returns the key if it verifies signatures of an accepted algorithm.
    fn key(self, accepted: &[TokenAlgorithm]) -> Option<Key> {
        let algorithm = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => TokenAlgorithm::RS256,
            ("EC", Some("P-256")) => TokenAlgorithm::ES256,
            ("OKP", Some("Ed25519")) => TokenAlgorithm::EdDSA,
            // Also `oct`: a file of public keys has no secrets.
            _ => return None,
        };
        let is_for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let is_for_algorithm = accepted.contains(&algorithm)
            && self.alg.is_none_or(|name| TokenAlgorithm::of_name(&name) == Some(algorithm));
        if !is_for_signatures || !is_for_algorithm {
            return None;
        }
        let key = match algorithm {
            TokenAlgorithm::RS256 => DecodingKey::from_rsa_components(&self.n?, &self.e?),
            TokenAlgorithm::ES256 => DecodingKey::from_ec_components(&self.x?, &self.y?),
            _ => DecodingKey::from_ed_components(&self.x?),
        };
        let key = key.ok().filter(|key| is_usable(key, algorithm))?;
        Some(Key { algorithm, kid: self.kid, key })
    }
}
