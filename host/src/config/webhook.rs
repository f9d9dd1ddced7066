//! The secrets by which deliveries are signed: `webhook_secrets` of an origin that a plugin may
//! send to.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What a secret begins with, by Standard Webhooks.
const PREFIX: &str = "whsec_";

/// Bytes that a secret has, by Standard Webhooks.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The most secrets of one origin. There is more than one only while secrets are replaced, and each
/// adds a signature to a header.
pub(super) const MAX_SECRETS: usize = 4;

/// A secret that signs deliveries.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

impl WebhookSecret {
    /// Parses a secret: `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// It has another form. The error does not contain it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || {
            format!(
                "is no secret of Standard Webhooks: expected `{PREFIX}` and base64 of {} to {} \
                 bytes, as of `echo {PREFIX}$(openssl rand -base64 32)`; the value is secret and \
                 not shown",
                BYTES.start(),
                BYTES.end()
            )
        };
        let encoded = text.trim().strip_prefix(PREFIX).ok_or_else(expected)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| expected())?;
        if BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err(expected()) }
    }

    /// Parses the secrets of one origin.
    ///
    /// # Errors
    /// There is none, there are too many, or one has another form.
    pub(crate) fn parse_all<'text>(
        texts: impl IntoIterator<Item = &'text str>,
    ) -> Result<Vec<Self>, String> {
        let secrets: Vec<Self> = texts
            .into_iter()
            .enumerate()
            .map(|(index, text)| {
                Self::parse(text).map_err(|problem| format!("number {} {problem}", index + 1))
            })
            .collect::<Result<_, _>>()?;
        match secrets.len() {
            1..=MAX_SECRETS => Ok(secrets),
            found => Err(format!(
                "found {found} secrets, expected 1, or up to {MAX_SECRETS} while they are replaced"
            )),
        }
    }

    /// The bytes of the secret.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_its_prefix_and_enough_bytes_and_no_error_shows_it() {
        let of = |bytes: usize| format!("{PREFIX}{}", STANDARD.encode(vec![7; bytes]));
        for bytes in [24, 32, 64] {
            assert_eq!(WebhookSecret::parse(&of(bytes)).unwrap().bytes(), vec![7; bytes]);
        }
        let without = STANDARD.encode([7; 32]);
        for text in [&of(23), &of(65), &without, "whsec_", "whsec_!", "", &of(32).to_uppercase()] {
            let problem = WebhookSecret::parse(text).unwrap_err();
            assert!(problem.contains("expected `whsec_`"), "{problem}");
            assert!(!problem.contains("BwcH"), "{problem}");
        }
        assert!(!format!("{:?}", WebhookSecret::parse(&of(24))).contains('7'));
    }

    #[test]
    fn an_origin_has_one_secret_or_a_few() {
        let secret = format!("{PREFIX}{}", STANDARD.encode([7; 32]));
        for (number, is_right) in [(0, false), (1, true), (MAX_SECRETS, true), (5, false)] {
            let all = vec![secret.as_str(); number];
            assert_eq!(WebhookSecret::parse_all(all).is_ok(), is_right);
        }
        let problem = WebhookSecret::parse_all([&*secret, "x"]).unwrap_err();
        assert!(problem.starts_with("number 2 is no secret"), "{problem}");
    }
}
