//! Asks for HTTP requests that are sent after the commit.

use crate::delivery::Delivery;
use crate::refusal::Result;

use super::Context;

impl Context {
    /// Asks the host to send an HTTP request when the effects of this handler are stored, and to
    /// send it again until it is received. Returns the id of the delivery, which the receiver gets
    /// as `webhook-id`. This is an effect, and counts like a stored value. [`Delivery`] says what
    /// the host promises.
    ///
    /// The operator lists the origin together with the secret that signs deliveries to it:
    ///
    /// ```toml
    /// [plugins.shop]
    /// outbound = [{ origin = "https://hooks.example.com", webhook_secrets = ["whsec_…"] }]
    /// ```
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this. In a
    /// [`TestHost`](crate::testing::TestHost), a test sees the deliveries and says how they end:
    ///
    /// ```
    /// use serde_json::json;
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Delivery, DeliveryResult, Plugin, Result, Timer};
    ///
    /// /// The warehouse has the order, or the order is lost.
    /// const TOLD: Timer<DeliveryResult> = Timer::new("told");
    ///
    /// fn order(ctx: &Context, order: String) -> Result {
    ///     let url = "https://hooks.example.com/orders";
    ///     let body = json!({"order": order, "at": ctx.now()});
    ///     ctx.deliver(Delivery::post(&order, url, &body)?.result(&TOLD))?;
    ///     ctx.state().set(&order, &"ordered")
    /// }
    ///
    /// fn told(ctx: &Context, result: DeliveryResult) -> Result {
    ///     ctx.state().set(&result.key, &result.outcome)
    /// }
    ///
    /// let plugin = Plugin::new("shop", "1.0.0", "").on("order", order).on_timer(TOLD, told);
    /// let mut host = TestHost::new(plugin);
    /// host.handle("order", json!("o7"));
    /// let id = host.deliveries()[0].id.clone();
    /// host.delivered(&id, 204);
    /// assert_eq!(host.state()["o7"], "delivered");
    /// ```
    ///
    /// # Errors
    /// `not_allowed`: the operator does not list the origin, or has set no secret for it.
    /// `invalid_url`: the URL is invalid. `misuse`: an empty key; the method or a header is
    /// invalid, or the header is one of the host's own (`webhook-*` and those of
    /// [`send`](Self::send)).
    /// `undeclared`: the plugin does not declare the timer of the result. `limit`: by default, more
    /// than 10,000 deliveries of the plugin, dead ones included, a key of more than 512 bytes, a
    /// request of more than 256 KiB; or the event has too many effects. If the state, deliveries
    /// included, would have more than 256 MiB, the event is rejected as `too_large`.
    pub fn deliver(&self, delivery: Delivery) -> Result<String> {
        #[cfg(target_family = "wasm")]
        return crate::imports::deliver::send(delivery.0);
        #[cfg(not(target_family = "wasm"))]
        self.host.deliver(delivery.0)
    }
}
