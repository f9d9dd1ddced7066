//! The headers that let the receiver of a delivery check who has sent it, by Standard Webhooks
//! 1.0.0.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use crate::config::WebhookSecret;

/// Returns the headers of a delivery with this id that is sent at `seconds` since 1970. There is
/// one signature for each secret, so that secrets can be replaced.
pub(super) fn headers(
    secrets: &[WebhookSecret],
    id: &str,
    seconds: u64,
    body: &[u8],
) -> [(String, Vec<u8>); 3] {
    let signed = [format!("{id}.{seconds}.").as_bytes(), body].concat();
    let signatures = secrets.iter().map(|secret| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.bytes());
        format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
    });
    let header = |name: &str, value: String| (name.to_owned(), value.into_bytes());
    [
        header("webhook-id", id.to_owned()),
        header("webhook-timestamp", seconds.to_string()),
        header("webhook-signature", signatures.collect::<Vec<_>>().join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(secrets: &[&str], id: &str, seconds: u64, body: &[u8]) -> Vec<(String, String)> {
        let secrets: Vec<_> =
            secrets.iter().map(|secret| WebhookSecret::parse(secret).unwrap()).collect();
        let headers = headers(&secrets, id, seconds, body).into_iter();
        headers.map(|(name, value)| (name, String::from_utf8(value).unwrap())).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    /// The expected signatures were computed with `hmac` and `hashlib` of Python.
    #[test]
    fn a_delivery_is_signed_with_each_secret_as_standard_webhooks_specifies() {
        let [first, second] = [
            "whsec_MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1u",
            "whsec_YW5vdGhlciBzZWNyZXQgb2YgMzIgYnl0ZXMuLi4uLi4=",
        ];
        let id = "01JDZ3V5Q8X2K4M6N8P0R2T4V6-0";
        let signature = "qzW1EsvuuwndWsWPFJXbaIRWo/x87xdb0bgimp0aXjk=";
        assert_eq!(
            texts(&[first], id, 1_767_225_600, br#"{"order":7}"#),
            [
                pair("webhook-id", id),
                pair("webhook-timestamp", "1767225600"),
                pair("webhook-signature", &format!("v1,{signature}")),
            ]
        );
        let both = texts(&[first, second], id, 1_767_225_600, br#"{"order":7}"#);
        assert!(both[2].1.starts_with(&format!("v1,{signature} v1,")), "{both:?}");
        // A body need not be text.
        let other = "01JDZ3V5Q8X2K4M6N8P0R2T4V6-1";
        let bytes = texts(&[second], other, 1_767_225_601, b"\x00\xff");
        assert_eq!(bytes[2].1, "v1,6996zdht+o720SOtIe1/RCvl/oTs5iRZPeLYvSBsVrs=");
        // As an id, a time and a secret in the documents of Standard Webhooks.
        let theirs = texts(
            &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(theirs[2].1, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
