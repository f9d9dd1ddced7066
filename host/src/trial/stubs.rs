//! The answers to the HTTP requests of plugins that a scenario declares.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value, json};
use sockhop_core::outbound::{Request, Response};

use crate::outbound::{SendError, StandIn};
use crate::scenario::{Captures, Stub, StubError, bytes_value, compare};

/// Requests that are kept for one step. Further ones get no answer.
const MAX_REQUESTS: usize = 1_000;

/// Answers requests by stubs. A request without one is refused, and remembered.
#[derive(Debug, Default)]
pub(super) struct Stubs(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The stubs in the order in which they are tried, with the number of their answers.
    stubs: Vec<(Stub, u32)>,
    requests: Vec<Value>,
    missing: Vec<String>,
}

impl Stubs {
    /// The lock is held for a few operations. A panic leaves the state consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds stubs, which are tried before the earlier ones.
    pub(super) fn add(&self, stubs: &[Stub]) {
        let mut state = self.state();
        let earlier = std::mem::take(&mut state.stubs);
        state.stubs = stubs.iter().map(|stub| (stub.clone(), 0)).chain(earlier).collect();
    }

    /// Returns the requests since the last call, and what to say of those without an answer.
    pub(super) fn take(&self) -> (Vec<Value>, Vec<String>) {
        let mut state = self.state();
        (std::mem::take(&mut state.requests), std::mem::take(&mut state.missing))
    }
}

impl StandIn for Stubs {
    fn answer(&self, plugin: &str, request: &Request) -> Result<Response, SendError> {
        let shown = shown(request);
        let mut state = self.state();
        if state.requests.len() < MAX_REQUESTS {
            state.requests.push(shown.clone());
            let found = state.stubs.iter_mut().find(|(stub, used)| {
                stub.times.is_none_or(|times| *used < times) && is_for(stub, request, &shown)
            });
            if let Some((stub, used)) = found {
                *used += 1;
                return respond(stub);
            }
        }
        let Request { method, url, .. } = request;
        let missing = format!(
            "no stub answers {method} {url} of {plugin}; add one to the scenario:\n  stubs:\n  - \
             method: {method}\n    url: {}\n    answer: {{status: 200, json: null}}",
            Value::from(url.as_str())
        );
        state.missing.push(missing);
        Err(SendError::Unreachable(format!("the scenario has no stub for {method} {url}")))
    }
}

/// The request as a value.
fn shown(request: &Request) -> Value {
    let mut headers = Map::new();
    for (name, value) in &request.headers {
        headers.insert(name.to_ascii_lowercase(), bytes_value(value));
    }
    let mut shown = json!({"method": request.method, "url": request.url, "headers": headers});
    if let Some(members) = shown.as_object_mut().filter(|_| !request.body.is_empty()) {
        let body = serde_json::from_slice(&request.body);
        members.insert("body".to_owned(), body.unwrap_or_else(|_| bytes_value(&request.body)));
    }
    shown
}

fn is_for(stub: &Stub, request: &Request, shown: &Value) -> bool {
    let is_equal = |expected: &Value, actual: Option<&Value>| {
        let (nothing, mut captures) = (crate::scenario::absent(), Captures::default());
        compare("", expected, actual.unwrap_or(&nothing), &mut captures).is_ok()
    };
    let has_header = |(name, value): (&String, &Value)| {
        is_equal(value, shown.get("headers").and_then(|headers| headers.get(name)))
    };
    stub.method.as_ref().is_none_or(|method| method.eq_ignore_ascii_case(&request.method))
        && stub.url == request.url
        && stub.headers.iter().all(has_header)
        && stub.body.as_ref().is_none_or(|body| is_equal(body, shown.get("body")))
}

fn respond(stub: &Stub) -> Result<Response, SendError> {
    let answer = &stub.answer;
    match answer.error {
        Some(StubError::Timeout) => return Err(SendError::Timeout),
        Some(StubError::Unreachable) => {
            return Err(SendError::Unreachable("a stub says so".to_owned()));
        }
        Some(StubError::Interrupted) => {
            return Err(SendError::Interrupted("a stub says so".to_owned()));
        }
        None => {}
    }
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_bytes().to_vec()))
        .collect();
    let body = match (&answer.json, &answer.text) {
        (Some(json), _) => {
            if !answer.headers.keys().any(|name| name.eq_ignore_ascii_case("content-type")) {
                headers.push(("content-type".to_owned(), b"application/json".to_vec()));
            }
            json.to_string().into_bytes()
        }
        (None, Some(text)) => text.clone().into_bytes(),
        (None, None) => Vec::new(),
    };
    Ok(Response { status: answer.status.unwrap_or(200), headers, body })
}
