//! The WIT interface `deliver`: a handler asks for requests that are sent after the commit.

use crate::effect::{Delivery, Request};
use crate::plugin::bindings::sockhop::plugin::{deliver, http};
use crate::plugin::state::InstanceState;

use super::CallResult;

impl deliver::Host for InstanceState {
    fn send(&mut self, delivery: deliver::Delivery) -> CallResult<String> {
        let deliver::Delivery { key, method, url, headers, body, result } = delivery;
        let headers = headers.into_iter().map(|http::Header { name, value }| (name, value));
        let request = Request { method, url, headers: headers.collect(), body, timeout: None };
        Ok(self.handling()?.deliver(Delivery { key, request, result })?)
    }
}
