//! The identity of a client.

use serde_json::Value;

/// Every user has a room: this prefix and the user's name.
const USER_ROOMS: &str = "user_";

/// The room of a user.
pub fn room_of_user(user: &str) -> String {
    format!("{USER_ROOMS}{user}")
}

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
    /// Whether `room` is the user's own room. All connections of the user are in it.
    pub fn owns_room(&self, room: &str) -> bool {
        self.user.is_some() && room.strip_prefix(USER_ROOMS) == self.user.as_deref()
    }

    /// The user's own room. `None` for an anonymous client.
    pub fn own_room(&self) -> Option<String> {
        self.user.as_deref().map(room_of_user)
    }

    /// Whether the identity has `role`.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| held == role)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_owns_one_room_and_an_anonymous_client_none() {
        let ada = Identity { user: Some("ada".to_owned()), ..Identity::default() };
        assert_eq!(ada.own_room().as_deref(), Some("user_ada"));
        assert!(ada.owns_room("user_ada") && !ada.owns_room("user_eve") && !ada.owns_room("ada"));
        let nobody = Identity::default();
        assert!(
            nobody.own_room().is_none() && !nobody.owns_room("user_") && !nobody.owns_room("x")
        );
    }
}
