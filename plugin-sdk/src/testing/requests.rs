//! The test host's part for HTTP requests.

use super::TestHost;
use crate::http::{Request, Response};
use crate::refusal::Result;

impl TestHost {
    /// Answers each HTTP request whose URL begins with `prefix` with this response. `prefix` is a
    /// URL whose origin is compared as a whole, such as `https://api.example.com/v1/`. If the
    /// prefixes of several stubs match, the newest answers. A request without a stub is refused as
    /// `not_allowed`.
    pub fn stub(&mut self, prefix: &str, response: Response) -> &mut Self {
        self.stub_with(prefix, move |_| Ok(response.clone()))
    }

    /// Does the same with the result of a function. It returns a
    /// [`Refusal`](crate::Refusal), such as `timeout`, for what a host would refuse.
    pub fn stub_with(
        &mut self,
        prefix: &str,
        answer: impl Fn(&Request) -> Result<Response> + 'static,
    ) -> &mut Self {
        self.world.stubs.add(prefix, answer);
        self
    }

    /// Returns the HTTP requests that the plugin has sent, also those of handlers that have failed.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.world.requests
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::TestHost;
    use crate::http::{Request, Response};
    use crate::{Context, Plugin, Refusal, Result};

    fn plugin() -> Plugin {
        let send = |ctx: &Context, urls: Vec<String>| -> Result<Value> {
            let mut all = Vec::new();
            for url in urls {
                let request = Request::get(url).header("x-event", ctx.event_id());
                all.push(match ctx.send(request) {
                    Ok(response) => json!(response.status()),
                    Err(refusal) => json!(refusal.code),
                });
            }
            if all.len() == 1 { Err(Refusal::new("one", "only one")) } else { Ok(json!(all)) }
        };
        Plugin::new("test", "1.0.0", "").on("send", send)
    }

    #[test]
    fn a_stub_answers_what_it_is_for_and_the_requests_are_kept() {
        let mut host = TestHost::new(plugin());
        host.stub("https://a.test/", Response::new(200, "a"))
            .stub("https://a.test/not", Response::new(404, ""))
            .stub_with("https://b.test/", |_| Err(Refusal::new("timeout", "too slow")));
        let urls = ["https://a.test/x", "https://a.test/not", "https://b.test/", "https://c.test/"];
        let reply = host.handle("send", json!(urls)).reply;
        assert_eq!(reply, Ok(json!([200, 404, "timeout", "not_allowed"])));
        assert_eq!(host.requests().len(), 3);
        assert!(host.requests()[0].header_value("X-Event").is_some());
        // Also of a handler that fails.
        assert!(host.handle("send", json!(["https://a.test/last"])).reply.is_err());
        assert_eq!(host.requests().last().map(Request::url), Some("https://a.test/last"));
    }

    #[test]
    fn a_stub_answers_for_its_whole_origin_and_invalid_urls_are_refused_as_by_a_host() {
        let mut host = TestHost::new(plugin());
        host.stub("https://api.example.com", Response::new(200, "a"));
        let urls = [
            "https://api.example.com/x",
            "HTTPS://API.example.com:443/x",
            "https://api.example.com.evil.test/",
            "https://api.example.com@evil.test/",
            "https://api.example.com/a b",
            "https://api.example.com/../x",
        ];
        let reply = host.handle("send", json!(urls)).reply;
        let invalid = "invalid_url";
        assert_eq!(reply, Ok(json!([200, 200, "not_allowed", invalid, invalid, invalid])));
        assert_eq!(host.requests().len(), 2);
    }

    #[test]
    fn an_event_sends_as_many_requests_as_a_host_allows() {
        let mut host = TestHost::new(plugin());
        host.stub("https://a.test/", Response::new(200, "a"));
        let reply = host.handle("send", json!(vec!["https://a.test/"; 9])).reply.unwrap();
        assert_eq!((&reply[7], &reply[8]), (&json!(200), &json!("limit")));
        // Each event has its own.
        let reply = host.handle("send", json!(vec!["https://a.test/"; 2])).reply;
        assert_eq!(reply, Ok(json!([200, 200])));
    }

    #[test]
    fn a_request_that_the_host_refuses_is_refused() {
        let plugin = Plugin::new("test", "1.0.0", "").on("send", |ctx: &Context, _: Value| {
            ctx.send(Request::get("https://a.test/").header("Host", "b.test")).map(|_| ())
        });
        let mut host = TestHost::new(plugin);
        host.stub("https://a.test/", Response::new(200, "a"));
        let refusal = host.handle("send", json!(null)).reply.unwrap_err();
        assert_eq!(refusal.code, "misuse");
    }
}
