//! What a client sends when it connects, as handlers may see it: without its token.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::value::RawValue;

use crate::rejection::Refusal;
use crate::request::pairs;

/// The member of `auth` that the host takes as the token of the client.
const TOKEN: &str = "token";

/// The parameters of Engine.IO in the URL of a handshake.
const OF_ENGINE: [&str; 6] = ["EIO", "transport", "sid", "t", "b64", "j"];

/// The handshake of one connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Handshake {
    /// The `auth` of the client, a JSON object.
    pub auth: Box<str>,
    /// The query of the URL, encoded: its many parameters would need far more memory.
    query: Box<str>,
}

impl Handshake {
    /// Reads a handshake of at most `max` bytes: `auth` as the client has sent it, empty if it has
    /// sent none, and the `query` of the URL. If the host `takes_token`, `auth` is kept without the
    /// member `token`.
    ///
    /// # Errors
    /// Describes, without quoting it, why the handshake is not kept.
    pub fn read(auth: &str, query: &str, takes_token: bool, max: usize) -> Result<Self, NotKept> {
        let auth = if auth.is_empty() { "{}" } else { auth };
        let mut members: BTreeMap<String, &RawValue> =
            serde_json::from_str(auth).map_err(|_| NotKept::NoObject)?;
        let auth = match members.remove(TOKEN) {
            Some(_) if takes_token => {
                serde_json::to_string(&members).map_err(|_| NotKept::NoObject)?.into()
            }
            _ => auth.trim_ascii().into(),
        };
        let handshake = Self { auth, query: query.into() };
        match handshake.bytes() {
            bytes if bytes > max => Err(NotKept::TooLarge { bytes, max }),
            _ => Ok(handshake),
        }
    }

    /// The parameters of the URL in their order, decoded, without those of Engine.IO.
    #[must_use]
    pub fn query(&self) -> Vec<(String, String)> {
        let mut parameters = pairs(&self.query);
        parameters.retain(|(name, _)| !OF_ENGINE.contains(&name.as_str()));
        parameters
    }

    /// Bytes of its texts.
    fn bytes(&self) -> usize {
        self.auth.len() + self.query.len()
    }
}

/// Its texts are not for logs: they may be secrets.
impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Why a handshake is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// Its texts have more bytes than may be kept.
    #[error("it has {bytes} bytes, and at most {max} are kept")]
    TooLarge {
        /// Bytes of its texts.
        bytes: usize,
        /// Maximum bytes.
        max: usize,
    },
    /// `auth` is no JSON object.
    #[error("its `auth` is no JSON object")]
    NoObject,
}

/// Checks whether a plugin may read handshakes. `asked` says whether it has asked for them.
///
/// # Errors
/// `misuse`.
pub fn check_asked(asked: bool) -> Result<(), Refusal> {
    if asked {
        return Ok(());
    }
    Err(Refusal::misuse(
        "this plugin has not asked for handshakes: call `registry.handshake` in `register`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_the_host_takes_is_no_part_of_a_handshake() {
        let auth = |auth: &str, takes_token| {
            Handshake::read(auth, "", takes_token, 100).map(|read| read.auth.into_string())
        };
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(auth(r#"{"token":"x","a":1.0}"#, true), ok(r#"{"a":1.0}"#));
        assert_eq!(auth(r#"{"\u0074oken":"x"}"#, true), ok("{}"));
        assert_eq!(auth(r#"{"token":1,"a":2,"token":3}"#, true), ok(r#"{"a":2}"#));
        assert_eq!(auth(r#" {"token":"x"} "#, false), ok(r#"{"token":"x"}"#));
        assert_eq!(auth(r#"{"a":{"token":"x"}}"#, true), ok(r#"{"a":{"token":"x"}}"#));
        assert_eq!(auth("", true), ok("{}"));
        for no_object in ["[]", "1", "null", "{"] {
            assert_eq!(auth(no_object, false), Err(NotKept::NoObject), "{no_object}");
        }
    }

    #[test]
    fn a_handshake_has_the_clients_own_parameters_and_a_bound() {
        let read =
            |max| Handshake::read(r#"{"a":1}"#, "EIO=4&room=a%20b&t=x&room=c&lang", true, max);
        let expected = [("room", "a b"), ("room", "c"), ("lang", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(read(39).unwrap().query(), expected);
        assert_eq!(read(38), Err(NotKept::TooLarge { bytes: 39, max: 38 }));
        assert!(!format!("{:?}", read(39)).contains("room"), "it is not for logs");
    }
}
