//! `POST /api/emit`: another program (a business system) emits an event to clients. No handler of a
//! plugin runs.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::Scope;
use crate::effect::Target;
use crate::event::EventId;
use crate::rejection::Rejection;

use super::problem::Problem;
use super::{Api, body};

/// The request body. It has at most one of `room`, `rooms` and `everyone`. If it has none, the
/// declaration of the event selects the receivers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a JSON object")]
struct EmitBody {
    event: String,
    #[serde(default = "null")]
    data: Box<RawValue>,
    room: Option<String>,
    rooms: Option<Vec<String>>,
    #[serde(default)]
    everyone: bool,
}

fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

/// A program that sends this header expects that a repeated request emits only once. The host can't
/// promise that yet, so it refuses the request.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How many bytes a body may be larger than the largest data: space for the event's name and the
/// rooms.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Emits an event in every namespace. Answers 202 with the request's id, the rooms (none if
/// everyone is the target), and the number of connections into whose buffers the event was put.
pub(super) async fn emit(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let key = api.keys.allow(request.headers(), Scope::Emit)?;
    if request.headers().contains_key(IDEMPOTENCY_KEY) {
        let message = "`Idempotency-Key` is not supported yet: nothing was emitted; without the \
                       header, each repeated request emits again";
        return Err(Problem::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", message));
    }
    // The id of this request, for its answer and the log. Receivers do not see it.
    let id = EventId::new(SystemTime::now());
    let problem = |event: &str, rejection: Rejection| rejected(&rejection, event, &id.to_string());
    let max_bytes = api.config.limits.message_bytes.get();
    let body = body::read(request.into_body(), max_bytes + ENVELOPE_BYTES)
        .await
        .map_err(|rejection| problem("", rejection))?;
    let body: EmitBody = serde_json::from_slice(&body).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        let message = format!(
            "the body must be a JSON object {{event, data, room | rooms | everyone: true}}: {error}"
        );
        problem("", Rejection::invalid(message)).with_status(status)
    })?;
    let event = body.event.as_str();
    if body.data.get().len() > max_bytes {
        return Err(problem(
            event,
            Rejection::TooLarge(format!("the data has at most {max_bytes} bytes")),
        ));
    }
    let to = match (body.room, body.rooms, body.everyone) {
        (None, None, false) => None,
        (Some(room), None, false) => Some(Target::Rooms(vec![room])),
        (None, Some(rooms), false) if !rooms.is_empty() => Some(Target::Rooms(rooms)),
        (None, None, true) => Some(Target::Everyone),
        _ => {
            return Err(problem(
                event,
                Rejection::invalid(
                    "give one of `room`, `rooms` (not empty) and `everyone: true`, or none",
                ),
            ));
        }
    };
    let emitted = api
        .dispatcher
        .emit(event, body.data.as_ref(), to)
        .map_err(|rejection| problem(event, rejection))?;
    tracing::debug!(key, event, %id, receivers = emitted.receivers, "emitted over HTTP");
    let answer =
        json!({"id": id.to_string(), "rooms": emitted.rooms, "receivers": emitted.receivers});
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The problem of an emit with this id that was rejected. The message of `unknown_event` is about
/// the events that clients send, but an emit needs a plugin that emits the event.
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
}
