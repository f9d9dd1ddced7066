//! What a test answers to the HTTP requests of a plugin.

use std::fmt;
use std::rc::Rc;

use sockhop_core::limits;
use sockhop_core::outbound::{shown, url};

use super::outcome::of_host;
use crate::http::{Request, Response};
use crate::refusal::{Refusal, Result};

type Answer = Rc<dyn Fn(&Request) -> Result<Response>>;

/// The stubs of a test, the newest last.
#[derive(Clone, Default)]
pub(super) struct Stubs(Vec<(String, Answer)>);

impl Stubs {
    pub(super) fn add(
        &mut self,
        prefix: &str,
        answer: impl Fn(&Request) -> Result<Response> + 'static,
    ) {
        self.0.push((prefix.to_owned(), Rc::new(answer)));
    }

    /// Answers a request, after `sent` others of the same event, as a host with the default limits
    /// does.
    pub(super) fn answer(&self, request: &Request, sent: usize) -> Result<Response> {
        request.0.check(limits::OUTBOUND_REQUEST_BYTES).map_err(of_host)?;
        let asked = url::parse(request.url())
            .map_err(|problem| Refusal::new("invalid_url", format!("the URL {problem}")))?;
        let answers =
            |prefix: &str| url::parse(prefix).is_ok_and(|prefix| url::begins_with(&asked, &prefix));
        let Some((_, answer)) = self.0.iter().rev().find(|(prefix, _)| answers(prefix)) else {
            let message = format!("no stub answers {}", shown(request.url()));
            return Err(Refusal::new("not_allowed", message));
        };
        let max = usize::try_from(limits::OUTBOUND_REQUESTS).unwrap_or(usize::MAX);
        if sent >= max {
            return Err(Refusal::new("limit", format!("an event may send at most {max} requests")));
        }
        let response = answer(request)?;
        let max = limits::OUTBOUND_RESPONSE_BYTES;
        if response.body().len() > max {
            let message = format!("the response is too large: its body has more than {max} bytes");
            return Err(Refusal::new("response_too_large", message));
        }
        Ok(response)
    }
}

impl fmt::Debug for Stubs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(prefix, _)| prefix)).finish()
    }
}
