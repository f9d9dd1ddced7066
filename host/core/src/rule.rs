//! Who may send an event or join a room: access rules, the patterns of rooms, and the rules of all
//! declared rooms.

mod operator;
mod rooms;

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::identity::Identity;
use crate::rejection::Rejection;

pub use operator::{OperatorRule, OperatorRules, Subject};
pub use rooms::{DeclaredRoom, NotJoined, OwnedRooms, RoomRule, RoomRules, RoomTaken};

/// Maximum number of characters in a room's name.
pub const MAX_ROOM_NAME: usize = 128;

/// Who may join a room or send an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Every client, also an anonymous one.
    Anyone,
    /// Authenticated users.
    Authenticated,
    /// The user whose name is in the room's name; for rooms only.
    Owner,
    /// Users with this role.
    Role(String),
    /// The clients that a handler of the declaring plugin lets in; for rooms only.
    Handler,
}

/// The valid forms of an access rule, for the errors that developers of plugins read, and operators
/// who set rules.
const FORMS: &str = "`anyone`, `authenticated`, `role:NAME`, and for rooms `owner` and `handler`";

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "anyone" => Ok(Self::Anyone),
            "authenticated" => Ok(Self::Authenticated),
            "owner" => Ok(Self::Owner),
            "handler" => Ok(Self::Handler),
            _ => match text.strip_prefix("role:") {
                Some(role) if !role.is_empty() => Ok(Self::Role(role.to_owned())),
                _ => Err(format!("`{text}` is not an access rule; the rules are {FORMS}")),
            },
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Authenticated => f.write_str("authenticated"),
            Self::Owner => f.write_str("owner"),
            Self::Role(role) => write!(f, "role:{role}"),
            Self::Handler => f.write_str("handler"),
        }
    }
}

impl Access {
    /// Whether the rule alone allows `identity`. [`Access::Handler`] leaves this to handlers, so it
    /// allows nobody. `variable` is the text that the variable of the room's pattern matched.
    pub fn allows(&self, identity: &Identity, variable: Option<&str>) -> bool {
        match self {
            Self::Anyone => true,
            Self::Authenticated => identity.user.is_some(),
            // Nobody owns a room without a variable: `None` is no user.
            Self::Owner => identity.user.is_some() && identity.user.as_deref() == variable,
            Self::Role(role) => identity.has_role(role),
            Self::Handler => false,
        }
    }

    /// Whether the rule is one of rooms, and not of events.
    pub fn is_for_rooms_only(&self) -> bool {
        matches!(self, Self::Owner | Self::Handler)
    }

    /// Checks whether the rule allows `identity` to send an event. No event has a rule that is for
    /// rooms only: its declaration is refused.
    ///
    /// # Errors
    /// [`Rejection::Forbidden`] if a user lacks the role, otherwise [`Rejection::Unauthorized`].
    pub fn check_sender(&self, identity: &Identity) -> Result<(), Rejection> {
        if self.allows(identity, None) {
            return Ok(());
        }
        Err(match self {
            Self::Role(role) if identity.user.is_some() => {
                Rejection::Forbidden(format!("this event requires the role `{role}`"))
            }
            _ => Rejection::Unauthorized(
                "this event requires a user; connect with a token".to_owned(),
            ),
        })
    }
}

/// One room, or all rooms that match a template: `user_{user}` matches `user_` and one or more
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomPattern {
    text: String,
    /// If the pattern has a `{variable}`: the text before it, its name, and the text after it.
    template: Option<(String, String, String)>,
}

impl FromStr for RoomPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !is_room_name(text) {
            return Err(format!(
                "`{text}` is not a valid room: it must have 1 to {MAX_ROOM_NAME} characters, and \
                 no control characters"
            ));
        }
        let template = match text.split_once('{') {
            None if text.contains('}') => {
                return Err(format!("`{text}` has a `}}` without a `{{`"));
            }
            None => None,
            Some((prefix, rest)) => match rest.split_once('}') {
                Some((name, suffix))
                    if !prefix.contains('}')
                        && !name.is_empty()
                        && !name.contains('{')
                        && !suffix.contains(['{', '}']) =>
                {
                    Some((prefix.to_owned(), name.to_owned(), suffix.to_owned()))
                }
                _ => {
                    return Err(format!(
                        "`{text}` is not a valid template: it must have one variable in braces, \
                         such as `user_{{user}}`"
                    ));
                }
            },
        };
        Ok(Self { text: text.to_owned(), template })
    }
}

impl fmt::Display for RoomPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RoomPattern {
    /// The pattern as it was declared.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern has a variable.
    pub fn is_template(&self) -> bool {
        self.template.is_some()
    }

    /// The name of the pattern's variable, if it has one: the property of an event's data that
    /// fills it.
    pub fn variable(&self) -> Option<&str> {
        self.template.as_ref().map(|(_, name, _)| name.as_str())
    }

    /// Returns `None` if `room` does not match the pattern. Otherwise returns the text that the
    /// variable matched, or `Some(None)` if the pattern has no variable.
    pub fn matches<'room>(&self, room: &'room str) -> Option<Option<&'room str>> {
        match &self.template {
            None => (self.text == room).then_some(None),
            Some((prefix, _, suffix)) => {
                let inner = room.strip_prefix(prefix.as_str())?.strip_suffix(suffix.as_str())?;
                (!inner.is_empty()).then_some(Some(inner))
            }
        }
    }

    /// The room of this pattern for `data`. The variable is filled with the string or number in the
    /// property of its name: `7` and `"7"` give the same room. Returns `None` if there is no such
    /// property or the result is not a valid room name.
    pub fn fill(&self, data: &Value) -> Option<String> {
        let Some((prefix, name, suffix)) = &self.template else { return Some(self.text.clone()) };
        let value = match data.get(name)? {
            Value::String(text) if !text.is_empty() => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        let room = format!("{prefix}{value}{suffix}");
        is_room_name(&room).then_some(room)
    }

    /// Whether some room matches both patterns: then the rule of one could give access to rooms
    /// that the other protects. For two templates, the longer prefix, any character and the longer
    /// suffix are such a room; it is not checked whether its name would be too long.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (&self.template, &other.template) {
            (_, None) => self.matches(&other.text).is_some(),
            (None, _) => other.matches(&self.text).is_some(),
            (Some((a, _, x)), Some((b, _, y))) => {
                (a.starts_with(b.as_str()) || b.starts_with(a.as_str()))
                    && (x.ends_with(y.as_str()) || y.ends_with(x.as_str()))
            }
        }
    }
}

/// Whether `name` is a valid room name: 1 to 128 characters without control characters.
pub fn is_room_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= MAX_ROOM_NAME && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pattern(text: &str) -> RoomPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_template_matches_one_or_more_characters() {
        assert_eq!(pattern("user_{user}").matches("user_7"), Some(Some("7")));
        assert_eq!(pattern("user_{user}").matches("user_"), None);
        assert_eq!(pattern("admin").matches("admin"), Some(None));
        assert_eq!(pattern("admin").matches("administrators"), None);
        assert_eq!(pattern("a{x}a").matches("a"), None);
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for bad in ["", "a{", "a}", "{}", "{a}{b}", "a{b{c}}", "a}b{c}", "a\nb", &"x".repeat(129)] {
            assert!(bad.parse::<RoomPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_is_filled_from_the_data() {
        assert_eq!(pattern("user_{user_id}").fill(&json!({"user_id": 7})), Some("user_7".into()));
        assert_eq!(
            pattern("user_{user_id}").fill(&json!({"user_id": "ada"})),
            Some("user_ada".into())
        );
        assert_eq!(pattern("user_{user_id}").fill(&json!({"user_id": null})), None);
        assert_eq!(pattern("user_{user_id}").fill(&json!({})), None);
        assert_eq!(pattern("memory_logs").fill(&json!(null)), Some("memory_logs".into()));
    }

    #[test]
    fn patterns_overlap_when_one_room_could_be_of_both() {
        for (a, b, overlap) in [
            ("user_{user}", "user_{x}", true),
            ("user_{user}", "user_admin", true),
            ("user_{user}", "u{x}", true),
            ("user_{user}", "team_{team}", false),
            ("{x}_a", "{x}_b", false),
            ("admin", "admin", true),
            ("admin", "adm", false),
        ] {
            assert_eq!(pattern(a).overlaps(&pattern(b)), overlap, "{a} {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), overlap, "{b} {a}");
        }
    }

    #[test]
    fn an_access_rule_allows_exactly_its_users() {
        let nobody = Identity::default();
        let ada =
            Identity { user: Some("ada".into()), roles: vec!["admin".into()], claims: Value::Null };
        assert!(Access::Anyone.allows(&nobody, None));
        assert!(
            !Access::Authenticated.allows(&nobody, None)
                && Access::Authenticated.allows(&ada, None)
        );
        assert!(
            !Access::Owner.allows(&nobody, None)
                && !Access::Owner.allows(&ada, Some("eve"))
                && Access::Owner.allows(&ada, Some("ada"))
        );
        let admin: Access = "role:admin".parse().unwrap();
        assert!(!admin.allows(&nobody, None) && admin.allows(&ada, None));
        assert!("role:".parse::<Access>().is_err() && "Anyone".parse::<Access>().is_err());
        let code = |who: &Identity| admin.check_sender(who).map_err(|rejection| rejection.code());
        let eve = Identity { user: Some("eve".into()), ..Identity::default() };
        assert_eq!(code(&nobody), Err("unauthorized"));
        assert_eq!((code(&eve), code(&ada)), (Err("forbidden"), Ok(())));
    }
}
