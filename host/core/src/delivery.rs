//! Deliveries: HTTP requests that the host sends after the commit of a handler. Which of them are
//! valid, when the host tries again, and what a plugin is told of the end of one.

use serde::Serialize;

use crate::outbound::Request;
#[cfg(feature = "schema")]
use crate::{outbound::url, rejection::Refusal, state::check_key};

/// A request that the host sends after the commit of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Deliveries with the same key are sent one after the other, in the order of their commits.
    pub key: String,
    /// The request. Its own timeout is not used: the host limits the time of each attempt.
    pub request: Request,
    /// The declared timer by which the plugin gets the result.
    pub result: Option<String>,
}

/// The beginning of the names of the headers that the host sets by Standard Webhooks.
#[cfg(feature = "schema")]
const OF_HOST: &str = "webhook-";

impl Delivery {
    /// Bytes that the delivery counts against the limit of one event's effects.
    pub fn bytes(&self) -> usize {
        self.key.len() + self.request.size() + self.result.as_ref().map_or(0, String::len)
    }

    /// Checks the key, the method, the URL, the headers and the size. Whether the URL is that of a
    /// listed origin is decided by the host.
    ///
    /// # Errors
    /// `invalid_url`: the URL is invalid. `misuse`: another part is, or a header belongs to the
    /// host. `limit`: the key has more than `max_key` bytes, the request has more than `max_bytes`,
    /// or too many headers.
    #[cfg(feature = "schema")]
    pub fn check(&self, max_key: usize, max_bytes: usize) -> Result<(), Refusal> {
        check_key(&self.key, max_key)?;
        self.request.check(max_bytes)?;
        url::parse(&self.request.url)
            .map_err(|problem| Refusal::new("invalid_url", format!("the URL {problem}")))?;
        for (name, _) in &self.request.headers {
            let lower = name.to_ascii_lowercase();
            if lower.starts_with(OF_HOST) {
                return Err(Refusal::misuse(format!("the header `{lower}` is set by the host")));
            }
        }
        Ok(())
    }
}

/// Returns the id of a delivery: that of the event whose handler has asked for it, and its place
/// among the deliveries of this handler. It has no `.`, which separates the parts of the text that
/// is signed.
pub fn delivery_id(event: &str, place: usize) -> String {
    format!("{event}-{place}")
}

/// How a delivery has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The receiver has answered with this status, 200 to 299.
    Delivered {
        /// The status.
        status: u16,
    },
    /// The host sends it no more, unless an operator decides otherwise.
    Dead {
        /// The status of the last answer; `None` if there was none.
        status: Option<u16>,
        /// Why the last attempt has failed.
        reason: String,
    },
}

/// Returns the data of the event by which a plugin gets the result of a delivery, as JSON.
pub fn result_data(id: &str, key: &str, attempts: u32, end: &End) -> String {
    #[derive(Serialize)]
    struct Data<'end> {
        id: &'end str,
        key: &'end str,
        outcome: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<u16>,
        attempts: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'end str>,
    }
    let (outcome, status, reason) = match end {
        End::Delivered { status } => ("delivered", Some(*status), None),
        End::Dead { status, reason } => ("dead", *status, Some(reason.as_str())),
    };
    let data = Data { id, key, outcome, status, attempts, reason };
    // Texts and numbers can always be written.
    serde_json::to_string(&data).unwrap_or_default()
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

/// The delays before the second and each later attempt, in milliseconds. Standard Webhooks
/// recommends them. They are 75 hours together, and at least 68 with the jitter: an outage of two
/// and a half days loses nothing.
const DELAYS: [u64; 9] = [
    5 * SECOND,
    5 * MINUTE,
    30 * MINUTE,
    2 * HOUR,
    5 * HOUR,
    10 * HOUR,
    14 * HOUR,
    20 * HOUR,
    24 * HOUR,
];

/// How often a delivery is sent before it is dead. For test hosts: the host asks [`retry_delay`].
pub const ATTEMPTS: u32 = DELAYS.len() as u32 + 1;

/// The longest time for which a receiver can ask, in milliseconds.
pub const MAX_RETRY_AFTER: u64 = 24 * HOUR;

/// No attempt is later than so many milliseconds after the one before: the longest delay with its
/// jitter.
pub const MAX_DELAY: u64 = MAX_RETRY_AFTER + MAX_RETRY_AFTER / 10;

/// Returns the time in milliseconds until the next attempt, after so many attempts that have
/// failed. `None` if there is none. `random` is any number: the delay differs by it by up to a
/// tenth, so that deliveries that have failed together do not all come back together.
/// `retry_after` is the time for which the receiver has asked: no attempt is earlier.
pub fn retry_delay(attempts: u32, retry_after: Option<u64>, random: u32) -> Option<u64> {
    let delay = *DELAYS.get(usize::try_from(attempts.saturating_sub(1)).ok()?)?;
    let part = u64::from(random) % 201;
    let usual = delay / 1_000 * (900 + part);
    let asked = retry_after.unwrap_or(0).min(MAX_RETRY_AFTER);
    Some(usual.max(asked + asked / 1_000 * (part / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(url: &str, headers: &[(&str, &str)]) -> Delivery {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
        Delivery {
            key: "order 7".to_owned(),
            request: Request {
                method: "POST".to_owned(),
                url: url.to_owned(),
                headers: headers.collect(),
                body: b"{}".to_vec(),
                timeout: None,
            },
            result: None,
        }
    }

    #[test]
    fn a_delivery_has_a_key_a_valid_request_and_no_header_of_the_host() {
        let url = "https://api.example.com/orders";
        for (delivery, expected) in [
            (delivery(url, &[]), "ok"),
            (delivery(url, &[("content-type", "application/json")]), "ok"),
            (delivery(url, &[("webhooks", "x")]), "ok"),
            (delivery(url, &[("Webhook-Id", "x")]), "misuse"),
            (delivery(url, &[("webhook-anything", "x")]), "misuse"),
            (delivery(url, &[("host", "evil.test")]), "misuse"),
            (delivery("ftp://api.example.com", &[]), "invalid_url"),
            (delivery("https://user@api.example.com", &[]), "invalid_url"),
            (Delivery { key: String::new(), ..delivery(url, &[]) }, "misuse"),
            (Delivery { key: "k".repeat(513), ..delivery(url, &[]) }, "limit"),
            (delivery(&format!("{url}{}", "x".repeat(1_000)), &[]), "limit"),
        ] {
            let checked = delivery.check(512, 1_000);
            let code = checked.map_or_else(|refusal| refusal.code, |()| "ok".to_owned());
            assert_eq!(code, expected, "{delivery:?}");
        }
    }

    #[test]
    fn a_failed_attempt_is_repeated_nine_times_over_three_days_with_a_tenth_of_jitter() {
        let days = |random| (1..).map_while(move |attempts| retry_delay(attempts, None, random));
        assert_eq!(days(0).count() + 1, ATTEMPTS as usize);
        for random in [0, 100, 200, 201, u32::MAX] {
            for (delay, usual) in days(random).zip(DELAYS) {
                assert!((usual * 9 / 10..=usual * 11 / 10).contains(&delay), "{delay} {usual}");
                assert!(delay <= MAX_DELAY);
            }
        }
        assert!(days(0).zip(days(200)).all(|(early, late)| early * 11 == late * 9));
        let all: u64 = days(100).sum();
        assert!((72 * HOUR..80 * HOUR).contains(&all), "{all}");
    }

    #[test]
    fn no_attempt_is_earlier_than_the_receiver_asks_and_none_is_later_than_the_maximum() {
        assert_eq!(retry_delay(1, Some(HOUR), 0), Some(HOUR));
        assert_eq!(retry_delay(1, Some(HOUR), 200), Some(HOUR * 11 / 10));
        assert_eq!(retry_delay(1, Some(1), 100), Some(5 * SECOND));
        assert_eq!(retry_delay(2, Some(1_000 * HOUR), 0), Some(MAX_RETRY_AFTER));
        assert_eq!(retry_delay(2, Some(u64::MAX), 200), Some(MAX_DELAY));
        assert_eq!(retry_delay(ATTEMPTS, Some(HOUR), 0), None);
    }

    #[test]
    fn a_result_says_how_the_delivery_has_ended() {
        let delivered = End::Delivered { status: 202 };
        assert_eq!(
            result_data(&delivery_id("01JD", 3), "k", 2, &delivered),
            r#"{"id":"01JD-3","key":"k","outcome":"delivered","status":202,"attempts":2}"#
        );
        let dead = End::Dead { status: None, reason: "no \"answer\"".to_owned() };
        assert_eq!(
            result_data("i", "k", 10, &dead),
            r#"{"id":"i","key":"k","outcome":"dead","attempts":10,"reason":"no \"answer\""}"#
        );
    }
}
