//! Sends HTTP requests to other services.

use crate::http::{Request, Response};
use crate::refusal::Result;

use super::Context;

impl Context {
    /// Sends an HTTP request to an origin that the operator lists (`[plugins.NAME] outbound`), and
    /// waits for the whole response, which may have any status. Redirects are not followed.
    ///
    /// A request is no effect: it is sent at once, and also if the handler fails afterwards. If the
    /// host runs the handler again after a write conflict, the same requests in the same order get
    /// the recorded responses. So build requests from the event and the state alone.
    ///
    /// A request that was refused can still have been received. Send an idempotency key with what
    /// must not be done twice: for a timer, make it of the name, the key and the due time of
    /// [`timer`](Self::timer). For an event of a client, let the client send an id, and use the
    /// same one when it repeats the event. [`event_id`](Self::event_id) is another one for each
    /// attempt of a timer and for each repeat by a client.
    ///
    /// Hosts before 0.1.1 refuse to load a plugin that calls this. In a
    /// [`TestHost`](crate::testing::TestHost), [`stub`](crate::testing::TestHost::stub) answers.
    ///
    /// ```
    /// use sockhop_sdk::http::{Request, Response};
    /// use sockhop_sdk::testing::TestHost;
    /// use sockhop_sdk::{Context, Plugin, Refusal, Result};
    /// use serde_json::{Value, json};
    ///
    /// fn weather(ctx: &Context, city: String) -> Result<Value> {
    ///     let request = Request::get("https://api.example.com/weather").segment(city);
    ///     let response = ctx.send(request)?;
    ///     if !response.is_success() {
    ///         return Err(Refusal::not_found("no weather of this city"));
    ///     }
    ///     response.json()
    /// }
    ///
    /// let mut host = TestHost::new(Plugin::new("weather", "1.0.0", "").on("weather", weather));
    /// host.stub("https://api.example.com/weather/", Response::new(200, r#"{"sun": true}"#));
    /// assert_eq!(host.handle("weather", json!("ulm")).reply, Ok(json!({"sun": true})));
    /// assert_eq!(host.requests()[0].url(), "https://api.example.com/weather/ulm");
    /// ```
    ///
    /// # Errors
    /// `not_allowed`: the operator does not list the origin, or its address is not allowed.
    /// `invalid_url`: the URL is invalid, perhaps by what a client has sent; build it with
    /// [`segment`](Request::segment) and [`query`](Request::query). `misuse`: the method or a
    /// header is invalid. `limit`: by default, more than 8 requests in one event, a request of more
    /// than 256 KiB or 100 headers. `busy`: nothing was sent, because other requests took all of
    /// the time. `timeout`: there was no response within 3 s by default, or within the time that
    /// the event has left. `unreachable`: nothing was sent, because the name was not resolved, or
    /// the connection or TLS failed. `interrupted`: it was sent, and there is no whole response.
    /// `response_too_large`: by default, a body of more than 1 MiB, or more than 100 headers.
    pub fn send(&self, request: Request) -> Result<Response> {
        #[cfg(target_family = "wasm")]
        return crate::imports::http::send(request.0).map(Response);
        #[cfg(not(target_family = "wasm"))]
        self.host.send(request.0).map(Response)
    }
}
