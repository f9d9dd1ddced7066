//! The test host's part for deliveries.

use std::rc::Rc;
use std::time::Duration;

use sockhop_core::delivery::{ATTEMPTS, End, result_data};

use super::TestHost;
use super::outcome::Outcome;
use super::timers::Change;
use crate::delivery::Delivery;
use crate::timer::FiredTimer;

/// A delivery that a host sends: the effects of its handler were applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedDelivery {
    /// The id that the handler and the receiver get.
    pub id: String,
    /// What is sent.
    pub delivery: Delivery,
}

impl TestHost {
    /// Returns the deliveries that have not ended, in the order of their commits. Those of handlers
    /// that have failed are not among them. The test host accepts each origin, and sends nothing.
    #[must_use]
    pub fn deliveries(&self) -> &[CommittedDelivery] {
        &self.world.deliveries
    }

    /// Ends a delivery: its receiver has answered with this status, 200 to 299. If the delivery has
    /// a [`result`](Delivery::result), the host calls its handler. Returns what
    /// [`advance`](Self::advance) by no time returns: each timer that has fired with the outcome of
    /// its handler.
    ///
    /// # Panics
    /// If there is no such delivery, or the timer of the result takes other data.
    pub fn delivered(&mut self, id: &str, status: u16) -> Vec<(FiredTimer, Outcome)> {
        assert!((200..300).contains(&status), "a host sends a delivery again after {status}");
        self.end(id, 1, &End::Delivered { status })
    }

    /// Ends a delivery: it is dead after the last attempt, to which the receiver has answered with
    /// this status, or not at all. Otherwise as [`delivered`](Self::delivered).
    ///
    /// # Panics
    /// As [`delivered`](Self::delivered).
    pub fn not_delivered(
        &mut self,
        id: &str,
        status: Option<u16>,
        reason: &str,
    ) -> Vec<(FiredTimer, Outcome)> {
        // The only status that ends a delivery at once.
        let attempts = if status == Some(410) { 1 } else { ATTEMPTS };
        self.end(id, attempts, &End::Dead { status, reason: reason.to_owned() })
    }

    #[allow(
        clippy::panic,
        reason = "a test fails by panicking, and here it is the test or the plugin that is wrong"
    )]
    fn end(&mut self, id: &str, attempts: u32, end: &End) -> Vec<(FiredTimer, Outcome)> {
        let all = &mut self.world.deliveries;
        let Some(place) = all.iter().position(|committed| committed.id == id) else {
            panic!("there is no delivery `{id}` that has not ended; there are {all:?}");
        };
        let Delivery(delivery) = all.remove(place).delivery;
        if let Some(timer) = delivery.result {
            let data = result_data(id, &delivery.key, attempts, end);
            if let Err(refusal) = self.declared.check_timer_data(&timer, &data) {
                panic!(
                    "the timer `{timer}` of a result takes other data than a `DeliveryResult`: {}",
                    refusal.message
                );
            }
            let set = Some((self.now, data));
            let change = Change { id: (timer, id.to_owned()), set, bytes: 0 };
            Rc::make_mut(&mut self.timers).apply(vec![change]);
        }
        self.advance(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::delivery::{DeliveryOutcome, DeliveryResult};
    use crate::http::Request;
    use crate::testing::Effect;
    use crate::{Context, Plugin, Refusal, Result, Timer};

    const ENDED: Timer<DeliveryResult> = Timer::new("ended");
    const OTHER: Timer<DeliveryResult> = Timer::new("other");
    const URL: &str = "https://a.test/hook";

    fn plugin() -> Plugin {
        let send = |ctx: &Context, keys: Vec<String>| -> Result<Vec<String>> {
            let delivery = |key: &String| Delivery::post(key, URL, &json!({"key": key}));
            let ids = keys
                .iter()
                .map(|key| ctx.deliver(delivery(key)?.result(&ENDED)))
                .collect::<Result<_>>()?;
            if keys.len() == 1 { Err(Refusal::new("one", "only one")) } else { Ok(ids) }
        };
        let ended = |ctx: &Context, result: DeliveryResult| {
            if result.status == Some(410) {
                return Err(Refusal::new("gone", "not now"));
            }
            ctx.state().set(&result.key, &result)
        };
        Plugin::new("test", "1.0.0", "").on("send", send).on_timer(ENDED, ended)
    }

    #[test]
    fn only_deliveries_of_handlers_that_have_succeeded_are_sent() {
        let mut host = TestHost::new(plugin());
        assert!(host.handle("send", json!(["never"])).reply.is_err());
        let Outcome { reply, effects } = host.handle("send", json!(["a", "b"]));
        let sent: Vec<_> = host.deliveries().iter().map(|sent| sent.id.clone()).collect();
        assert_eq!(reply, Ok(json!(sent)));
        assert!(sent[0].ends_with("-0") && sent[1].ends_with("-1"), "{sent:?}");
        let [Effect::Deliver(first), Effect::Deliver(_)] = effects.as_slice() else {
            panic!("{effects:?}");
        };
        let request = first.request();
        assert_eq!((first.key(), request.method(), request.url()), ("a", "POST", URL));
        assert_eq!(request.header_value("content-type"), Some("application/json"));
        assert_eq!(request.body(), br#"{"key":"a"}"#);
        // The ids of another event are others.
        host.handle("send", json!(["a", "b"]));
        assert_eq!(host.deliveries().len(), 4);
        assert_ne!(host.deliveries()[0].id, host.deliveries()[2].id);
    }

    #[test]
    fn the_end_of_a_delivery_calls_the_handler_of_its_result() {
        let mut host = TestHost::new(plugin());
        host.handle("send", json!(["a", "b", "c"]));
        let ids: Vec<_> = host.deliveries().iter().map(|sent| sent.id.clone()).collect();
        let fired = host.delivered(&ids[1], 202);
        assert_eq!((fired.len(), fired[0].0.key.as_str()), (1, ids[1].as_str()));
        host.not_delivered(&ids[0], None, "no answer");
        let of = |key: &str| -> DeliveryResult {
            serde_json::from_value(host.state()[key].clone()).unwrap()
        };
        let expected =
            |index: usize, key: &str, outcome, status, attempts, reason: Option<&str>| {
                let (id, key, reason) =
                    (ids[index].clone(), key.to_owned(), reason.map(str::to_owned));
                DeliveryResult { id, key, outcome, status, attempts, reason }
            };
        assert_eq!(of("b"), expected(1, "b", DeliveryOutcome::Delivered, Some(202), 1, None));
        let dead = expected(0, "a", DeliveryOutcome::Dead, None, 10, Some("no answer"));
        assert_eq!(of("a"), dead);
        // The handler that fails is called again, as that of a timer.
        let fired = host.not_delivered(&ids[2], Some(410), "gone");
        assert!(fired[0].1.reply.is_err() && host.deliveries().is_empty());
        assert_eq!(host.advance(Duration::from_secs(1))[0].0.attempt, 2);
    }

    #[test]
    fn a_delivery_that_a_host_refuses_is_refused() {
        let send = |ctx: &Context, number: u32| {
            let request = Request::post(URL);
            let delivery = match number {
                0 => Delivery::new("", request),
                1 => Delivery::new("k", request.header("Webhook-Id", "x")),
                2 => Delivery::new("k", Request::post("a.test/hook")),
                3 => Delivery::new("k", request.with_body(vec![0; 300 << 10])),
                4 => Delivery::new("k".repeat(513), request),
                5 => Delivery::new("k", request).result(&OTHER),
                _ => {
                    return (0..=256).try_for_each(|_| {
                        ctx.deliver(Delivery::new("k", Request::post(URL))).map(drop)
                    });
                }
            };
            ctx.deliver(delivery).map(drop)
        };
        let mut host = TestHost::new(Plugin::new("test", "1.0.0", "").on("send", send));
        for (number, expected) in
            ["misuse", "misuse", "invalid_url", "limit", "limit", "undeclared", "limit"]
                .iter()
                .enumerate()
        {
            let refused = host.handle("send", json!(number)).reply.unwrap_err();
            assert_eq!(refused.code, *expected, "{number}: {}", refused.message);
        }
        assert_eq!(host.deliveries(), []);
        assert_eq!(host.state(), std::collections::BTreeMap::<String, Value>::new());
    }
}
