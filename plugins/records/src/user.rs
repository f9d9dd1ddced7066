//! Users as business systems name them: by number or by text.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A user's id, an integer or text; it is kept and shown as it came, and compared as text: `7` and `"7"` are one user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserId {
    /// An integer that every client can represent: within ±(2^53 - 1).
    Number(i64),
    /// Text, 1 to [`UserId::MAX_CHARS`] characters, none of them a control character.
    Text(String),
}

impl UserId {
    /// Characters of an id at most: the room `user_ID` must be a room's name, of at most 128.
    pub const MAX_CHARS: usize = 120;

    /// Whether this is the user that the host knows by this name.
    #[must_use]
    pub fn is(&self, user: &str) -> bool {
        self.to_string() == user
    }

    /// Where the index has the record `id` of this user.
    pub(crate) fn key(&self, id: u64) -> String {
        format!("{}{id:016}", self.prefix())
    }

    /// What the index keys of this user, and of no other, begin with: the length in front tells `a` from `a/b`.
    pub(crate) fn prefix(&self) -> String {
        let text = self.to_string();
        format!("user/{}:{text}/", text.len())
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl JsonSchema for UserId {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("UserId")
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        const SAFE: i64 = (1 << 53) - 1;
        json_schema!({
            "type": ["integer", "string"],
            "minimum": -SAFE,
            "maximum": SAFE,
            "minLength": 1,
            "maxLength": Self::MAX_CHARS,
            "pattern": r"^\P{Cc}+$",
        })
    }
}
