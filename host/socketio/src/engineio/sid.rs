//! Session ids: random, unguessable, 16 characters that a URL needs not escape.
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The id of a session: 96 random bits.
///
/// A request with the id of a polling session acts as its client, so the id must not be shown to
/// other clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sid([u8; 16]);

impl Sid {
    /// The id as a number, to compare ids without their text.
    pub(crate) fn key(self) -> u128 {
        u128::from_ne_bytes(self.0)
    }

    /// Returns a new id from the system's random numbers.
    ///
    /// # Errors
    ///
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 12];
        getrandom::fill(&mut bytes)?;
        let mut text = [b'A'; 16];
        // 12 bytes are 16 characters: this can't fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(bytes, &mut text);
        Ok(Self(text))
    }

    /// Returns the id that a client names, or `None` if no id looks like this.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes: [u8; 16] = text.as_bytes().try_into().ok()?;
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        bytes.iter().all(valid).then_some(Self(bytes))
    }

    /// The id as clients see it.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shows only the beginning, because anyone who knows the whole id can act as its client.
impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid({}…)", self.as_str().get(..4).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back_from_its_text() {
        let sid = Sid::random().unwrap();
        assert_eq!(sid.as_str().len(), 16);
        assert_eq!(Sid::parse(sid.as_str()), Some(sid));
        assert_ne!(Sid::random().unwrap(), sid);
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in [
            "",
            "short",
            "0123456789abcde",
            "0123456789abcdefg",
            "0123456789abcde=",
            "0123456789abcdé",
        ] {
            assert_eq!(Sid::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_log_does_not_show_the_whole_id() {
        let sid = Sid::random().unwrap();
        assert!(!format!("{sid:?}").contains(sid.as_str()));
    }
}
