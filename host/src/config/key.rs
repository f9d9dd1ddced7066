//! `[[keys]]`: the keys for `/api` and `/metrics`, with their scopes.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// `[[keys]]`: one key and its scopes.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The name of the key in the log.
    pub name: String,
    /// The key itself. Exactly one of `secret` and `secret_file` is set.
    pub secret: Option<String>,
    /// A file whose first line is the key.
    pub secret_file: Option<PathBuf>,
    /// The requests that the key allows.
    pub scopes: Vec<Scope>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("name", &self.name)
            .field("scopes", &self.scopes)
            .finish_non_exhaustive()
    }
}

/// A kind of requests that a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// `POST /api/emit`.
    Emit,
    /// `/api/plugins`.
    Operate,
    /// `GET /metrics`.
    Metrics,
}

impl Scope {
    /// All scopes. The host's own key has them.
    pub const ALL: [Self; 3] = [Self::Emit, Self::Operate, Self::Metrics];

    /// The scope as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
        }
    }
}
