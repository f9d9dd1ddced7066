//! User ids, which business systems write as numbers or as text.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A user's id, an integer or text. It is stored and returned unchanged, and compared as text: `7`
/// and `"7"` are the same user.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum UserId {
    /// An integer that every client can represent: within ±(2^53 - 1).
    Number(i64),
    /// Text of 1 to [`UserId::MAX_CHARS`] characters, without control characters.
    Text(String),
}

impl UserId {
    /// The maximum number of characters of an id: `user_ID` must be a valid room name, which has at
    /// most 128 characters.
    pub const MAX_CHARS: usize = 120;

    /// Returns whether this is the user whom the host knows as `user`.
    #[must_use]
    pub fn is(&self, user: &str) -> bool {
        self.to_string() == user
    }

    /// Returns the index key of this user's record `id`.
    pub(crate) fn key(&self, id: u64) -> String {
        format!("{}{id:016}", self.prefix())
    }

    /// Returns the prefix of this user's index keys. It contains the length of the id, so that it
    /// is no prefix of another user's keys: `a` differs from `a/b`.
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
            "pattern": r"^[^\x00-\x1f\x7f-\x9f]+$",
        })
    }
}
