//! The identity of a client.

use serde_json::Value;

/// The identity of a client, for the access rules of rooms and events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The authenticated user; `None` for an anonymous client.
    pub user: Option<String>,
    /// The user's roles.
    pub roles: Vec<String>,
    /// The token's claims; `null` for an anonymous client.
    pub claims: Value,
}

impl Identity {
    /// Whether the identity has `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}
