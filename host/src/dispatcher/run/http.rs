//! The WIT interface `http`, for one run of a handler.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use crate::dispatcher::requests::{EventRequests, Next, digest};
use crate::effect::{HttpCalls, Request, Response, Stopped};
use crate::metrics::Metrics;
use crate::outbound::{KeptResponse, Outbound, SendError};
use crate::rejection::Refusal;

use super::Run;

/// A request ends so long before the time of its event, or a quarter of that time if it is shorter:
/// enough for a handler to handle a timeout and to answer.
const MARGIN: Duration = Duration::from_millis(250);

/// What a run needs to send requests. A plugin that may send none does not have it.
pub(in crate::dispatcher) struct Sending {
    pub(in crate::dispatcher) outbound: Arc<Outbound>,
    pub(in crate::dispatcher) metrics: Arc<Metrics>,
    pub(in crate::dispatcher) requests: Arc<EventRequests>,
    /// The deadline of the event.
    pub(in crate::dispatcher) deadline: Instant,
    /// Whether the run holds the plugin's commit lock. Then it does not wait for a response.
    pub(in crate::dispatcher) holds_lock: bool,
    /// Number of requests that this run has made.
    pub(in crate::dispatcher) made: usize,
}

impl Run {
    /// Checks a request, without regard to those before.
    fn check_request(&self, request: &Request) -> Result<(), (Refusal, Option<String>)> {
        let allowance = &self.active.allowance;
        request.check(allowance.request_bytes).map_err(|refusal| (refusal, None))?;
        let with_text = |error: SendError| (Refusal::from(error.clone()), Some(error.to_string()));
        allowance.check_url(&request.url).map_err(with_text)
    }

    /// Until when a request may take.
    fn until(&self, event: Instant, timeout: Option<Duration>) -> Instant {
        let allowed = self.active.allowance.time;
        let own = Instant::now() + timeout.map_or(allowed, |timeout| timeout.min(allowed));
        let margin = MARGIN.min(self.limits().event_wall_ms / 4);
        own.min(event.checked_sub(margin).unwrap_or(event))
    }

    async fn answer(&mut self, request: Request) -> Result<Result<KeptResponse, Refusal>, Stopped> {
        let max = self.active.allowance.requests;
        let too_many =
            || Refusal::limit(format!("an event may send at most {max} requests, with its reruns"));
        let no_origin = || SendError::NotAllowed("no origin is listed".to_owned());
        let Some(sending) = self.sending.as_mut() else { return Ok(Err(no_origin().into())) };
        let (place, holds_lock, deadline) = (sending.made, sending.holds_lock, sending.deadline);
        if place >= max {
            return Ok(Err(too_many()));
        }
        sending.made += 1;
        let (requests, outbound) = (Arc::clone(&sending.requests), Arc::clone(&sending.outbound));
        let digest = digest(&request);
        match requests.next(place, &digest, max) {
            Next::Recorded(answer) => return Ok(answer),
            Next::TooMany => {
                let refused = Err(too_many());
                self.note(&request.url, &refused, None, None);
                return Ok(refused);
            }
            Next::NoPermit => {
                let message = "other requests of the plugin took all of the time";
                let refused = Err(Refusal::new("busy", message));
                requests.record(digest, &refused);
                self.note(&request.url, &refused, None, None);
                return Ok(refused);
            }
            Next::New => {}
        }
        let until = self.until(deadline, request.timeout);
        if until <= Instant::now() {
            let refused = Err(SendError::Timeout.into());
            requests.record(digest, &refused);
            self.note(&request.url, &refused, None, None);
            return Ok(refused);
        }
        // A handler does not wait while it holds the lock: other events need the lock.
        if holds_lock || !requests.may_send(&self.active.allowance) {
            requests.stop(digest, until);
            return Err(Stopped);
        }
        if let Some(view) = &self.view {
            view.end_snapshot();
        }
        requests.sending();
        let url = request.url.clone();
        let began = Instant::now();
        let waiting = requests.waiting();
        let answer = outbound.send(&self.active.allowance, request, until).await;
        drop(waiting);
        let error = answer.as_ref().err().map(ToString::to_string);
        let answer = answer.map_err(Refusal::from);
        requests.record(digest, &answer);
        self.note(&url, &answer, Some(began.elapsed()), error);
        Ok(answer)
    }

    /// Counts a request and logs it, without its path, its headers and its body. `error` is what
    /// operators are told of a refusal; `None` if it is what the handler is told.
    fn note(
        &self,
        url: &str,
        answer: &Result<KeptResponse, Refusal>,
        elapsed: Option<Duration>,
        error: Option<String>,
    ) {
        let plugin = self.active.code.name();
        let (outcome, status, told) = match answer {
            Ok(response) => ("answered", Some(response.status()), None),
            Err(refusal) => (refusal.code.as_str(), None, Some(refusal.message.as_str())),
        };
        if let Some(sending) = &self.sending {
            sending.metrics.outbound_request(plugin, outcome, elapsed);
        }
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let error = error.as_deref().or(told);
        let elapsed_ms = elapsed.map(|elapsed| elapsed.as_secs_f64() * 1000.0);
        let (id, origin) = (self.event.id, self.active.allowance.origin_of(url));
        tracing::debug!(plugin, %id, origin, outcome, status, error, elapsed_ms, "outbound request");
    }
}

impl HttpCalls for Run {
    fn send(
        &mut self,
        request: Request,
    ) -> BoxFuture<'_, Result<Result<Response, Refusal>, Stopped>> {
        Box::pin(async move {
            // The run is discarded anyway, so it sends nothing more.
            if self.discarded.is_some() {
                return Err(Stopped);
            }
            if let Err((refusal, error)) = self.check_request(&request) {
                self.note(&request.url, &Err(refusal.clone()), None, error);
                return Ok(Err(refusal));
            }
            Ok(self.answer(request).await?.map(|kept| kept.response()))
        })
    }
}
