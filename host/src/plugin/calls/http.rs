//! The WIT interface `http`: a handler sends requests to other services.

use std::time::Duration;

use crate::effect::Request;
use crate::plugin::bindings::sockhop::plugin::http;
use crate::plugin::state::InstanceState;

use super::CallResult;

impl http::Host for InstanceState {
    async fn send(
        &mut self,
        request: http::Request,
    ) -> wasmtime::Result<CallResult<http::Response>> {
        let http::Request { method, url, headers, body, timeout_ms } = request;
        let headers = headers.into_iter().map(|http::Header { name, value }| (name, value));
        let timeout = timeout_ms.map(|ms| Duration::from_millis(ms.into()));
        let request = Request { method, url, headers: headers.collect(), body, timeout };
        let calls = match self.handling() {
            Ok(calls) => calls,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        // A handler that is stopped can't go on with a wrong answer, and can't hide it.
        let response = match calls.send(request).await? {
            Ok(response) => response,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        let headers = response.headers.into_iter();
        let headers = headers.map(|(name, value)| http::Header { name, value }).collect();
        Ok(Ok(http::Response { status: response.status, headers, body: response.body }))
    }
}
