//! `POST /api/emit`: another program (a business system) emits events to clients. No handler of a
//! plugin runs. The forms of a request are in [`forms`].

mod forms;

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::config::Scope;
use crate::dispatcher::PreparedEmit;
use crate::error_chain::ErrorChain;
use crate::event::EventId;
use crate::rejection::Rejection;
use crate::store::{AnswerError, Begun, Execution, KEPT};

use super::problem::Problem;
use super::{Api, body};

use forms::{EmitRequest, Form};

/// A program that sends this header expects that a repeated request emits only once.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Maximum number of characters of an idempotency key.
const MAX_KEY: usize = 255;

/// How many bytes a body may be larger than the largest data: space for the event's name and the
/// rooms.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Maximum number of events in one request.
const MAX_EVENTS: usize = 100;

/// Emits events in every namespace, all or none. Answers 202 with the request's id, the rooms (none
/// if everyone is the target), and the number of connections into whose buffers each event was put.
pub(super) async fn emit(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, Problem> {
    let owner = api.keys.allow(request.headers(), Scope::Emit)?;
    // The id of this request, for its answer and the log. Receivers do not see it.
    let id = EventId::new(SystemTime::now()).to_string();
    let problem = |event: &str, rejection: Rejection| rejected(&rejection, event, &id);
    let (parts, body) = request.into_parts();
    let form = Form::of(&parts.headers)?;
    let max_bytes = api.config.get().limits.message_bytes.get();
    let max_body = if form.is_single() { max_bytes } else { max_bytes.saturating_mul(MAX_BATCH) };
    let body = body::read(body, max_body + ENVELOPE_BYTES)
        .await
        .map_err(|rejection| problem("", rejection))?;
    let requests = form.requests(&parts.headers, &body).map_err(|wrong| {
        problem("", Rejection::invalid(wrong.message)).with_status(wrong.status)
    })?;
    if requests.emits.len() > MAX_EVENTS {
        let message = format!("a request has at most {MAX_EVENTS} events");
        return Err(problem("", Rejection::TooLarge(message)));
    }
    let key = match key_of(&parts.headers)? {
        Some(key) => Some(key),
        None => requests.key.clone(),
    };
    let execution = match key {
        None => None,
        Some(key) => {
            let digest: [u8; 32] = digest(&parts.headers, &body);
            let (answers, owner) = (Arc::clone(&api.answers), Arc::clone(&owner));
            let begin = move || answers.begin(&owner, &key, digest, SystemTime::now());
            match blocking(begin).await {
                Ok(Begun::New(execution)) => Some(execution),
                Ok(Begun::Answered(answer)) => return Ok(repeated(&answer)),
                Ok(Begun::Running) => return Err(still_running()),
                Ok(Begun::Different) => return Err(another_request()),
                Err(error) => return Err(not_kept(&error)),
            }
        }
    };
    let mut prepared = Vec::new();
    for EmitRequest { event, data, to } in requests.emits {
        let data = data.as_ref();
        if data.get().len() > max_bytes {
            let message = format!("the data has at most {max_bytes} bytes");
            return Err(problem(&event, Rejection::TooLarge(message)));
        }
        let to = to.map_err(|message| problem(&event, Rejection::invalid(message)))?;
        let checked = api.dispatcher.prepare_emit(&event, data, to);
        prepared.push(checked.map_err(|rejection| problem(&event, rejection))?);
        tokio::task::yield_now().await;
    }
    tracing::debug!(key = &*owner, %id, events = prepared.len(), "emitted over HTTP");
    let (host, is_batch) = (Arc::clone(&api), requests.is_batch);
    // In a task of its own: a program that hangs up must not end the request between the answer
    // that is kept and the events.
    let emitted = api.tasks.spawn(async move {
        match execution {
            Some(execution) => emit_once(&host, execution, &id, &prepared, is_batch).await,
            None => {
                let receivers = deliver(&host, &prepared).await;
                Ok(answer(&id, &prepared, &receivers, is_batch))
            }
        }
    });
    let emitted = emitted.await.unwrap_or_else(|_| Err(AnswerError::Ended));
    let answer = emitted.map_err(|error| not_kept(&error))?;
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Sends the events of one request, in their order. Returns, for each, the number of connections
/// into whose buffers it was put.
async fn deliver(api: &Api, prepared: &[PreparedEmit]) -> Vec<usize> {
    let mut receivers = Vec::with_capacity(prepared.len());
    for emit in prepared {
        receivers.push(api.dispatcher.send(emit));
        tokio::task::yield_now().await;
    }
    receivers
}

/// Keeps the answer and sends the events. The answer is kept before anything is sent: a repeated
/// request must not emit again, whatever happens. It counts the connections that are there then.
/// If fewer got the events, it is corrected after that.
async fn emit_once(
    api: &Api,
    execution: Execution,
    id: &str,
    prepared: &[PreparedEmit],
    is_batch: bool,
) -> Result<Value, AnswerError> {
    let expected: Vec<_> = prepared.iter().map(PreparedEmit::receivers).collect();
    let before = answer(id, prepared, &expected, is_batch);
    let text = before.to_string();
    let kept = blocking(move || {
        execution.keep(&text, SystemTime::now())?;
        Ok(execution)
    });
    // Ends the execution after the events.
    let execution = kept.await?;
    let receivers = deliver(api, prepared).await;
    if receivers == expected {
        return Ok(before);
    }
    let after = answer(id, prepared, &receivers, is_batch);
    let text = after.to_string();
    match blocking(move || execution.correct(&text)).await {
        Ok(()) => Ok(after),
        Err(error) => {
            tracing::warn!(id, error = %ErrorChain(&error), "count of receivers not kept");
            // Repeated requests get this answer too.
            Ok(before)
        }
    }
}

/// Runs a function that uses the disk.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, AnswerError> + Send + 'static,
) -> Result<T, AnswerError> {
    let ended = tokio::task::spawn_blocking(run).await;
    ended.unwrap_or_else(|_| Err(AnswerError::Ended))
}

/// How many times larger than the body of one event the body of a batch may be.
const MAX_BATCH: usize = 8;

/// The answer to a request: that of its event, or a list. `receivers` has a number for each event.
fn answer(id: &str, prepared: &[PreparedEmit], receivers: &[usize], is_batch: bool) -> Value {
    match (prepared, receivers) {
        ([emit], [receivers]) if !is_batch => {
            json!({"id": id, "rooms": emit.rooms, "receivers": receivers})
        }
        _ => {
            let events: Vec<_> = prepared
                .iter()
                .zip(receivers)
                .map(|(emit, receivers)| json!({"rooms": emit.rooms, "receivers": receivers}))
                .collect();
            json!({"id": id, "events": events})
        }
    }
}

/// The idempotency key of a request.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    // The draft writes it as a string of structured fields; many programs leave out the quotes.
    let key = value.to_str().ok().map(|key| key.trim_matches('"').to_owned());
    match key.filter(|key| (1..=MAX_KEY).contains(&key.len())) {
        Some(key) => Ok(Some(key)),
        None => {
            let message = format!("`Idempotency-Key` has 1 to {MAX_KEY} printable characters");
            Err(Problem::new(StatusCode::BAD_REQUEST, "bad_request", &message))
        }
    }
}

/// The digest of what a request asks for: its body, and the headers that are a part of it.
fn digest(headers: &HeaderMap, body: &[u8]) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut described: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str() == "content-type" || name.as_str().starts_with("ce-"))
        .collect();
    described.sort_by_key(|(name, _)| name.as_str());
    for (name, value) in described {
        digest.update(name.as_str());
        digest.update([0]);
        digest.update(value.as_bytes());
        digest.update([0]);
    }
    digest.update(body);
    digest.finalize().into()
}

/// The answer to a request that was executed before.
fn repeated(answer: &str) -> Response {
    let answer = RawValue::from_string(answer.to_owned());
    match answer {
        Ok(answer) => (StatusCode::ACCEPTED, Json(answer)).into_response(),
        Err(_) => StatusCode::ACCEPTED.into_response(),
    }
}

fn still_running() -> Problem {
    let message = "the first request with this key still runs; send it again later";
    Problem::new(StatusCode::CONFLICT, "busy", message)
}

fn another_request() -> Problem {
    let message = "another request has used this `Idempotency-Key`; nothing was emitted";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_payload", message)
}

fn not_kept(error: &AnswerError) -> Problem {
    match error {
        AnswerError::Full { .. } => Problem::rejection(&Rejection::RateLimited {
            message: format!("{error}; nothing was emitted"),
            // Space comes when the oldest answer is deleted, which may be much earlier.
            retry_after: KEPT / 24,
        }),
        AnswerError::Store(_) | AnswerError::Ended => {
            tracing::error!(error = %ErrorChain(error), "answer to a request not kept");
            let message = "the answer can't be kept now; nothing was emitted".to_owned();
            Problem::rejection(&Rejection::Unavailable(message))
        }
    }
}

/// The problem of an emit with this id that was rejected. The message of `unknown_event` is about
/// the events that clients send, but an emit needs a declaration of the event.
fn rejected(rejection: &Rejection, event: &str, id: &str) -> Problem {
    let problem = Problem::rejected(rejection, event, id);
    match rejection {
        Rejection::UnknownEvent => problem.with_message("no plugin emits this event"),
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emit_of_an_undeclared_event_is_unknown_because_no_plugin_emits_it() {
        let problem = rejected(&Rejection::UnknownEvent, "nobody", "01JD").to_string();
        let expected = json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "code": "unknown_event",
            "message": "no plugin emits this event", "detail": "no plugin emits this event",
            "event": "nobody", "id": "01JD", "retry": "never", "origin": "host",
        });
        assert_eq!(serde_json::from_str::<Value>(&problem).unwrap(), expected);
    }

    #[test]
    fn a_key_is_taken_with_and_without_quotes() {
        let key = |value: &str| {
            let headers =
                HeaderMap::from_iter([(IDEMPOTENCY_KEY.parse().unwrap(), value.parse().unwrap())]);
            key_of(&headers).map_err(|problem| problem.to_string().contains("255"))
        };
        assert_eq!(key("\"a b\""), Ok(Some("a b".to_owned())));
        assert_eq!(key("a b"), Ok(Some("a b".to_owned())));
        assert_eq!((key(""), key(&"x".repeat(256))), (Err(true), Err(true)));
        assert!(matches!(key_of(&HeaderMap::new()), Ok(None)));
    }
}
