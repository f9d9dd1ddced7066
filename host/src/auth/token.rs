//! A signed token (JWS, RFC 7515): its parts, and the checks of its header.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::config::TokenAlgorithm;

use super::error::{MAX_TOKEN, Part, TokenError};
use super::strict_json;

/// A token whose signature is not verified yet.
#[derive(Debug)]
pub(super) struct Token<'text> {
    /// The algorithm that the header names. A key decides whether it is accepted.
    pub(super) algorithm: TokenAlgorithm,
    /// The id of the key.
    pub(super) kid: Option<String>,
    /// The text that is signed.
    pub(super) message: &'text str,
    /// The signature in base64url.
    pub(super) signature: &'text str,
    claims: Vec<u8>,
}

impl<'text> Token<'text> {
    /// Takes a token apart.
    ///
    /// # Errors
    /// It is no signed token, or its header asks for what the host does not support.
    pub(super) fn parse(text: &'text str) -> Result<Self, TokenError> {
        if text.len() > MAX_TOKEN {
            return Err(TokenError::Long(text.len()));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let &[header, claims, signature] = &*parts else {
            return Err(TokenError::Parts(parts.len()));
        };
        let decoded = |part, text| decode(text).ok_or(TokenError::Encoding(part));
        let header_text = decoded(Part::Header, header)?;
        let members = strict_json::object(&header_text).ok_or(TokenError::Json(Part::Header))?;
        // The library ignores both. RFC 7515 requires that a recipient without the extension
        // rejects the token.
        if let Some(extension) =
            ["crit", "b64"].into_iter().find(|name| members.contains_key(*name))
        {
            return Err(TokenError::Extension(extension));
        }
        let algorithm = match members.get("alg") {
            Some(Value::String(name)) => TokenAlgorithm::of_name(name),
            _ => None,
        };
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => {
                return Err(TokenError::Type { claim: "kid".to_owned(), expected: "text" });
            }
        };
        decoded(Part::Signature, signature)?;
        Ok(Self {
            algorithm: algorithm.ok_or(TokenError::UnknownAlgorithm)?,
            kid,
            message: text.get(..header.len() + 1 + claims.len()).unwrap_or_default(),
            signature,
            claims: decoded(Part::Claims, claims)?,
        })
    }

    /// The claims. They are true only if the signature is.
    ///
    /// # Errors
    /// They are not a JSON object whose members have different names.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, TokenError> {
        strict_json::object(&self.claims).ok_or(TokenError::Json(Part::Claims))
    }
}

fn decode(part: &str) -> Option<Vec<u8>> {
    (!part.is_empty()).then(|| URL_SAFE_NO_PAD.decode(part).ok()).flatten()
}
