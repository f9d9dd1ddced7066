//! Creates tokens for experiments, with a key of the configuration.

use std::path::{Path, PathBuf};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Map, Value};

use crate::config::{AuthConfig, TokenAlgorithm, TokenKey};

use super::error::TokenKeyError;
use super::keys::{of_library, secret};

/// Why no token can be created.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No key is configured.
    #[error(
        "no key of tokens is configured; add one to the configuration: [auth] mode = \"jwt\" and \
         [[auth.keys]] algorithm = \"HS256\", secret = \"…\""
    )]
    NoKey,
    /// The host has only the public half of its keys.
    #[error(
        "the configuration has only public keys, which can't sign; name the file of the private \
         key with --private-key"
    )]
    OnlyPublic,
    /// The secret can't be used.
    #[error(transparent)]
    Key(#[from] TokenKeyError),
    /// The private key can't be read.
    #[error("can't read the private key {}", file.display())]
    Unreadable {
        /// Its file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file has no private key of the algorithm.
    #[error(
        "{} has no private key for {} in PEM (PKCS #8, `-----BEGIN PRIVATE KEY-----`)",
        file.display(), algorithm.name()
    )]
    NotPrivate {
        /// The file.
        file: PathBuf,
        /// The algorithm of the configured key.
        algorithm: TokenAlgorithm,
    },
}

/// Signs `claims` with the first configured key that can sign: one with a secret, or the one whose
/// private half is in the PEM file `private_key`. With a JWKS file, the private key is of the first
/// of its algorithms, and the token names no key.
///
/// # Errors
/// There is no such key, or it can't be used.
pub fn sign(
    config: &AuthConfig,
    private_key: Option<&Path>,
    claims: &Map<String, Value>,
) -> Result<String, SignError> {
    let has_secret = |key: &TokenKey| key.algorithm.secret_bytes().is_some();
    let (algorithm, kid, key) = if let Some(file) = private_key {
        let public = config.keys.iter().find(|key| !has_secret(key));
        let of_set = config.jwks.as_ref().and_then(|jwks| jwks.algorithms.first());
        let algorithm = public.map(|key| key.algorithm).or(of_set.copied());
        let algorithm = algorithm.ok_or(SignError::NoKey)?;
        let kid = public.and_then(|key| key.kid.clone());
        (algorithm, kid, read_private_key(file, algorithm)?)
    } else {
        let mut keys = config.keys.iter().enumerate();
        let Some((index, configured)) = keys.find(|(_, key)| has_secret(key)) else {
            let has_keys = !config.keys.is_empty() || config.jwks.is_some();
            return Err(if has_keys { SignError::OnlyPublic } else { SignError::NoKey });
        };
        let secret = secret(configured, &format!("auth.keys[{index}]"))?;
        (configured.algorithm, configured.kid.clone(), EncodingKey::from_secret(secret.as_bytes()))
    };
    let mut header = Header::new(of_library(algorithm));
    header.kid = kid;
    encode(&header, claims, &key).map_err(|_| SignError::NotPrivate {
        file: private_key.unwrap_or(Path::new("")).to_owned(),
        algorithm,
    })
}

fn read_private_key(file: &Path, algorithm: TokenAlgorithm) -> Result<EncodingKey, SignError> {
    let pem = std::fs::read(file)
        .map_err(|source| SignError::Unreadable { file: file.to_owned(), source })?;
    let key = match algorithm {
        TokenAlgorithm::ES256 => EncodingKey::from_ec_pem(&pem),
        TokenAlgorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
        _ => EncodingKey::from_rsa_pem(&pem),
    };
    key.map_err(|_| SignError::NotPrivate { file: file.to_owned(), algorithm })
}
