//! The HTTP requests of one event, over all runs of its handler: what was sent and answered, so
//! that a later run gets the same responses, and how long the event has waited for others.
//!
//! A request belongs to its place among the requests of a run. If a later run sends another request
//! in that place, the records from there on are of no use, and are dropped. So at most
//! `outbound_requests` responses are kept, and only until the event ends.
//!
//! An event keeps its permit from its first request to its end. So no more events than there are
//! permits keep responses, and an event that waits for one has none.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;

use crate::effect::Request;
use crate::outbound::{Allowance, KeptResponse};
use crate::rejection::Refusal;

/// What a request was answered.
type Answer = Result<KeptResponse, Refusal>;

/// The requests of one event.
#[derive(Debug, Default)]
pub(super) struct EventRequests(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    answered: Vec<([u8; 32], Answer)>,
    /// Number of requests that were sent, over all runs.
    sent: usize,
    /// The permit to send requests.
    permit: Option<OwnedSemaphorePermit>,
    /// The request for which the run was stopped, and until when the event waits for the permit.
    stopped: Option<([u8; 32], Instant)>,
    /// The request for which the event has waited in vain.
    in_vain: Option<[u8; 32]>,
    /// How long the event has waited, for responses and for the permit.
    waited: Duration,
    /// Whether the run has read a state that has changed while the run waited.
    is_outdated: bool,
}

/// Counts the time in which it exists as waiting.
pub(super) struct Waiting<'event> {
    requests: &'event EventRequests,
    began: Instant,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.records().waited += self.began.elapsed();
    }
}

/// What happens to a request.
#[derive(Debug)]
pub(super) enum Next {
    /// A run before has sent it, and this is the answer.
    Recorded(Answer),
    /// It is refused, because there was no permit in time.
    NoPermit,
    /// The event has sent too many.
    TooMany,
    /// It must be sent.
    New,
}

/// Identifies a request by its content.
pub(super) fn digest(request: &Request) -> [u8; 32] {
    let Request { method, url, headers, body, timeout } = request;
    let mut hash = Sha256::new();
    // Each part with its length, so that no two requests have the same bytes.
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(method.as_bytes());
    add(url.as_bytes());
    for (name, value) in headers {
        add(name.as_bytes());
        add(value);
    }
    add(body);
    add(&timeout.map_or(0, |timeout| timeout.as_millis()).to_le_bytes());
    hash.finalize().into()
}

impl EventRequests {
    /// Returns what happens to a request in this place of a run. If it is new, the records from
    /// there on are dropped.
    pub(super) fn next(&self, place: usize, digest: &[u8; 32], max: usize) -> Next {
        let mut records = self.records();
        if let Some((known, answer)) = records.answered.get(place)
            && known == digest
        {
            return Next::Recorded(answer.clone());
        }
        records.answered.truncate(place);
        if records.in_vain.take().is_some_and(|request| request == *digest) {
            return Next::NoPermit;
        }
        if records.sent >= max {
            return Next::TooMany;
        }
        Next::New
    }

    /// Whether the event has a permit, or gets one at once.
    pub(super) fn may_send(&self, allowance: &Allowance) -> bool {
        let mut records = self.records();
        if records.permit.is_none() {
            records.permit = allowance.try_permit();
        }
        records.permit.is_some()
    }

    /// Notes that a request is sent.
    pub(super) fn sending(&self) {
        self.records().sent += 1;
    }

    /// Records the answer of the request in the next place.
    pub(super) fn record(&self, digest: [u8; 32], answer: &Answer) {
        self.records().answered.push((digest, answer.clone()));
    }

    /// Notes that the run is stopped for a request: the event must wait without an instance until
    /// it may send, at most until a time.
    pub(super) fn stop(&self, digest: [u8; 32], until: Instant) {
        self.records().stopped = Some((digest, until));
    }

    /// Whether the run was stopped.
    pub(super) fn is_stopped(&self) -> bool {
        self.records().stopped.is_some()
    }

    /// Waits for the permit for which the run was stopped, if the event has none.
    pub(super) async fn wait(&self, allowance: &Allowance) {
        let (stopped, is_permitted) = {
            let mut records = self.records();
            (records.stopped.take(), records.permit.is_some())
        };
        let (Some((digest, until)), false) = (stopped, is_permitted) else { return };
        let waiting = self.waiting();
        let permit = allowance.permit(until).await;
        drop(waiting);
        let mut records = self.records();
        records.in_vain = permit.is_none().then_some(digest);
        records.permit = permit;
    }

    /// The event waits for others while the result exists.
    pub(super) fn waiting(&self) -> Waiting<'_> {
        Waiting { requests: self, began: Instant::now() }
    }

    /// Whether the event has waited for others for at least half of its time.
    pub(super) fn have_taken_half(&self, wall: Duration) -> bool {
        self.records().waited >= wall / 2
    }

    /// Whether a request was sent.
    pub(super) fn were_sent(&self) -> bool {
        self.records().sent > 0
    }

    /// Forgets what is only about the run before.
    pub(super) fn begin_run(&self) {
        self.records().is_outdated = false;
    }

    /// Notes that the run has read a state that has changed while the run waited.
    pub(super) fn note_outdated(&self) {
        self.records().is_outdated = true;
    }

    /// Whether the run has read such a state.
    pub(super) fn is_outdated(&self) -> bool {
        self.records().is_outdated
    }

    /// The lock is held for a few operations, and never across an await.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::effect::Response;

    use super::*;

    fn request(url: &str) -> [u8; 32] {
        digest(&Request {
            method: "GET".to_owned(),
            url: url.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: None,
        })
    }

    fn answer(status: u16) -> Answer {
        Ok(Response { status, headers: Vec::new(), body: Vec::new() }.into())
    }

    fn is_recorded(next: &Next, expected: &Answer) -> bool {
        matches!(next, Next::Recorded(answer) if answer == expected)
    }

    #[test]
    fn a_later_run_gets_the_recorded_answers_until_it_sends_another_request() {
        let (requests, [a, b, c]) = (EventRequests::default(), ["a", "b", "c"].map(request));
        for (place, (digest, status)) in [(a, 1), (b, 2)].into_iter().enumerate() {
            assert!(matches!(requests.next(place, &digest, 3), Next::New));
            requests.sending();
            requests.record(digest, &answer(status));
        }
        assert!(is_recorded(&requests.next(0, &a, 3), &answer(1)));
        assert!(is_recorded(&requests.next(1, &b, 3), &answer(2)));
        assert!(matches!(requests.next(0, &c, 3), Next::New));
        requests.sending();
        requests.record(c, &answer(3));
        assert!(is_recorded(&requests.next(0, &c, 3), &answer(3)));
        // What followed the request that was replaced is dropped, and three were sent in all.
        assert!(matches!(requests.next(1, &b, 3), Next::TooMany));
    }

    #[test]
    fn two_requests_are_the_same_only_if_all_of_both_is() {
        let plain = Request {
            method: "POST".to_owned(),
            url: "https://a".to_owned(),
            headers: vec![("x".to_owned(), b"yz".to_vec())],
            body: b"body".to_vec(),
            timeout: None,
        };
        let headers = vec![("xy".to_owned(), b"z".to_vec())];
        let moved = [("x".to_owned(), b"y".to_vec()), ("z".to_owned(), Vec::new())];
        let others = [
            Request { method: "PUT".to_owned(), ..plain.clone() },
            Request { url: "https://b".to_owned(), ..plain.clone() },
            Request { headers, ..plain.clone() },
            Request { headers: moved.to_vec(), ..plain.clone() },
            Request { body: b"bod".to_vec(), ..plain.clone() },
            Request { timeout: Some(Duration::from_secs(1)), ..plain.clone() },
        ];
        assert_eq!(digest(&plain), digest(&plain.clone()));
        for other in others {
            assert_ne!(digest(&plain), digest(&other), "{other:?}");
        }
    }
}
