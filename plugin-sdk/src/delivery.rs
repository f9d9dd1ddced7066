//! HTTP requests that the host sends after the commit of a handler, and their results.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_core::delivery;

use crate::http::Request;
use crate::refusal::Result;
use crate::timer::Timer;

/// A request that the host sends after the commit, for
/// [`Context::deliver`](crate::Context::deliver).
///
/// # What the host promises
///
/// - A delivery is stored together with the other effects of the handler, or not at all. So that of
///   a handler that has failed is never sent. Deliveries belong to the plugin's name, as its state
///   does, and survive a restart of the host.
/// - The receiver gets it at least once, with the same id in the header `webhook-id`, or it is
///   dead. The receiver must drop an id that it knows.
/// - Deliveries with the same key arrive in the order of their commits. Other ones are sent at the
///   same time. While one is tried again, later ones with its key wait. A dead one lets them pass.
/// - It is signed as Standard Webhooks specifies: the headers `webhook-id`, `webhook-timestamp` and
///   `webhook-signature`.
/// - An answer with a status of 200 to 299 means: delivered. 410 means that the receiver takes no
///   more: the delivery is dead at once. After anything else, also a redirect and no answer within
///   15 s, it is sent again: after 5 s, 5 min, 30 min, 2, 5, 10, 14, 20 and 24 h. `Retry-After` of
///   429 and 5xx is heeded. After 10 attempts it is dead: an operator can retry or drop it
///   (`sockhop deliveries`).
///
/// While an operator has disabled the plugin, its file is away, or none of its versions can be
/// loaded, nothing is sent. An open breaker stops nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Delivery(pub(crate) delivery::Delivery);

impl Delivery {
    /// Delivers `request`. Its timeout is not used: each attempt may take 15 s by default. The key
    /// is that of what must stay in order: the id of an order, a user.
    #[must_use]
    pub fn new(key: impl Into<String>, request: Request) -> Self {
        let mut request = request.0;
        request.timeout = None;
        Self(delivery::Delivery { key: key.into(), request, result: None })
    }

    /// Delivers a JSON document with the method `POST`.
    ///
    /// # Errors
    /// `internal`: the value can't be written as JSON.
    pub fn post(
        key: impl Into<String>,
        url: impl Into<String>,
        value: &impl Serialize,
    ) -> Result<Self> {
        Ok(Self::new(key, Request::post(url).json(value)?))
    }

    /// Lets the host call the handler of `timer` when the delivery has ended: it was delivered, or
    /// is dead. The key of the timer is the id of the delivery.
    #[must_use]
    pub fn result(mut self, timer: &Timer<DeliveryResult>) -> Self {
        self.0.result = Some(timer.name().to_owned());
        self
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// Returns the request, without the headers of the host.
    #[must_use]
    pub fn request(&self) -> Request {
        Request(self.0.request.clone())
    }
}

/// The request may hold secrets.
impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("key", &self.0.key)
            .field("method", &self.0.request.method)
            .field("url", &self.0.request.url)
            .field("result", &self.0.result)
            .finish_non_exhaustive()
    }
}

/// How a delivery has ended: the data of the timer of [`Delivery::result`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeliveryResult {
    /// The id that [`Context::deliver`](crate::Context::deliver) has returned.
    pub id: String,
    /// The key of the delivery.
    pub key: String,
    /// Whether it was delivered.
    pub outcome: DeliveryOutcome,
    /// The status of the last answer. `None` if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// How often it was sent.
    pub attempts: u32,
    /// Why it is dead, for a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a delivery was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The receiver has answered with a status of 200 to 299.
    Delivered,
    /// The host sends it no more, unless an operator decides otherwise. The receiver may have got
    /// it all the same: its answer may be what was lost.
    Dead,
}
