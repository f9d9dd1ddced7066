//! The interface `http`.

use std::rc::Rc;

use sockhop_core::outbound::{self, Response};

use crate::host::HttpCalls;
use crate::http::Request;
use crate::refusal::Result;

use super::Run;

impl HttpCalls for Rc<Run> {
    fn send(&self, request: outbound::Request) -> Result<Response> {
        let request = Request(request);
        let (stubs, sent) = {
            let world = self.world.borrow();
            (world.stubs.clone(), world.requests.len() - self.before.requests.len())
        };
        let answer = stubs.answer(&request, sent);
        // A request that a host refuses to send is not recorded.
        let is_sent = !matches!(&answer, Err(refusal)
            if ["misuse", "invalid_url", "limit", "not_allowed"].contains(&refusal.code.as_str()));
        if is_sent {
            self.world.borrow_mut().requests.push(request);
        }
        answer.map(|response| response.0)
    }
}
