//! `[[keys]]`: the keys for `/api`, `/metrics` and the routes of plugins, with their scopes.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use sockhop_core::identity::{Identity, room_of_user};
use sockhop_core::rule::is_room_name;

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
    /// The user for whom the holder sends requests to the routes of plugins. Without it, the holder
    /// is no user.
    pub user: Option<String>,
    /// The roles of that user in these requests.
    #[serde(default)]
    pub roles: Vec<String>,
}

impl Key {
    /// Who the holder is, for the routes of plugins.
    pub fn identity(&self) -> Identity {
        Identity { user: self.user.clone(), roles: self.roles.clone(), ..Identity::default() }
    }

    /// Checks that the key has an identity only if it may use it.
    pub(super) fn check_identity(&self) -> Result<(), String> {
        let is_wrong = |user: &&str| user.is_empty() || !is_room_name(&room_of_user(user));
        if let Some(user) = self.user.as_deref().filter(is_wrong) {
            let name = &self.name;
            return Err(format!(
                "keys: `{name}` has the user `{user}`: no user can have this name"
            ));
        }
        if self.user.is_none() && !self.roles.is_empty() {
            return Err(format!("keys: `{}` has `roles`, which need a `user`", self.name));
        }
        if self.scopes.contains(&Scope::Route) || self.user.is_none() && self.roles.is_empty() {
            return Ok(());
        }
        Err(format!("keys: `{}` has `user` or `roles`, which need the scope `route`", self.name))
    }
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
    /// The HTTP routes of plugins.
    Route,
}

impl Scope {
    /// All scopes. The host's own key has them.
    pub const ALL: [Self; 4] = [Self::Emit, Self::Operate, Self::Metrics, Self::Route];

    /// The scope as the configuration names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emit => "emit",
            Self::Operate => "operate",
            Self::Metrics => "metrics",
            Self::Route => "route",
        }
    }
}
