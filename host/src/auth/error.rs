//! Why a token is refused, and why the keys of tokens can't be used. No text of a token is in a
//! message, because messages are logged.

use std::path::PathBuf;

use crate::config::TokenAlgorithm;

/// Why a token is refused. The client only receives `unauthorized`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There is no token, and anonymous clients may not connect.
    #[error("no token; send it as `auth.token` of the handshake, or as `Authorization: Bearer`")]
    None,
    /// `auth.token` is not text.
    #[error("`auth.token` is not text")]
    NotText,
    /// The token is too long.
    #[error("the token has {0} bytes; at most {MAX_TOKEN} are accepted")]
    Long(usize),
    /// The token does not have three parts. An encrypted token has five.
    #[error("a signed token has 3 parts, separated by dots; this one has {0}")]
    Parts(usize),
    /// A part is not base64url.
    #[error("the {0} is not base64url without padding")]
    Encoding(Part),
    /// A part is not a JSON object, or an object in it has two members of one name.
    #[error("the {0} is not a JSON object whose members have different names")]
    Json(Part),
    /// The header asks for an extension (RFC 7515, section 4.1.11). The host has none.
    #[error("the header has `{0}`, an extension that is not supported")]
    Extension(&'static str),
    /// The header has no `alg` that the host knows.
    #[error("the algorithm (`alg`) is not one that the host knows")]
    UnknownAlgorithm,
    /// No key has the algorithm of the token.
    #[error("the algorithm is {0}, and no key has it")]
    Algorithm(&'static str),
    /// No key with the algorithm of the token has its `kid`.
    #[error("no key with the algorithm {0} has the token's key id (`kid`)")]
    UnknownKey(&'static str),
    /// The token has no `kid`, and the set of keys has several keys with the algorithm.
    #[error("the token has no key id (`kid`), and several keys have the algorithm {0}")]
    NoKeyId(&'static str),
    /// The signature is not that of the key.
    #[error("the signature was not made by the key for the algorithm {0}")]
    Signature(&'static str),
    /// A required claim is missing.
    #[error("the claim `{0}` is missing")]
    Missing(String),
    /// A claim has the wrong JSON type, or a value out of range.
    #[error("the claim `{claim}` is not {expected}")]
    Type {
        /// The name of the claim.
        claim: String,
        /// What it must be.
        expected: &'static str,
    },
    /// The token has expired.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// The token is not valid yet.
    #[error("the token is valid only in {0} s (`nbf`); compare the clocks")]
    NotYet(u64),
    /// The token was issued in the future.
    #[error("the token was issued {0} s in the future (`iat`); compare the clocks")]
    Future(u64),
    /// The token is for another audience.
    #[error("the audience (`aud`) is not the one in `auth.audience`")]
    Audience,
    /// The token has an audience, and none is configured.
    #[error("the token is for an audience (`aud`), and `auth.audience` is not set")]
    AudienceNotSet,
    /// An operator has revoked the user's tokens that were issued before a time.
    #[error("the token was revoked; the user needs one that is issued now (`iat`)")]
    Revoked,
    /// The token is from another issuer.
    #[error("the issuer (`iss`) is not the one in `auth.issuer`")]
    Issuer,
}

/// Why the tokens of a user were not revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// Every client is anonymous.
    #[error("this host has no tokens: `auth.mode` is \"anonymous\"")]
    NoTokens,
    /// Too many users.
    #[error(
        "the tokens of {0} users are revoked already; replace the keys of tokens, and delete the \
         list"
    )]
    Full(usize),
    /// The list can't be saved.
    #[error("the list of revoked tokens can't be saved")]
    Io(#[source] std::io::Error),
}

/// The most bytes of a token. A token may have a page of claims, and a connection keeps them.
pub(crate) const MAX_TOKEN: usize = 8 << 10;

/// A part of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The first part.
    Header,
    /// The second part.
    Claims,
    /// The third part.
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Claims => "part with the claims",
            Self::Signature => "signature",
        })
    }
}

/// Why the keys of tokens can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// A file can't be read.
    #[error("{setting}: can't read {}", file.display())]
    Unreadable {
        /// The setting that names the file.
        setting: String,
        /// The file.
        file: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A secret could be guessed.
    #[error(
        "{setting}: the secret has {found} bytes; {} needs at least {expected} (RFC 7518)",
        algorithm.name()
    )]
    Short {
        /// The key.
        setting: String,
        /// Its algorithm.
        algorithm: TokenAlgorithm,
        /// Bytes of the secret.
        found: usize,
        /// The least number of bytes.
        expected: usize,
    },
    /// A file has no public key of the algorithm.
    #[error("{setting}: {} has no public key for {} in PEM (`-----BEGIN PUBLIC \
             KEY-----`)", file.display(), algorithm.name())]
    NotPublic {
        /// The setting that names the file.
        setting: String,
        /// The file.
        file: PathBuf,
        /// The algorithm of the key.
        algorithm: TokenAlgorithm,
    },
    /// The set of keys has no key that can be used.
    #[error("auth.jwks.file: {} {problem}", file.display())]
    Jwks {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}
