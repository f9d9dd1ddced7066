//! Hands events to an existing HTTP backend, and applies its answers: a server in another language
//! can move to Sockhop handler by handler.
//!
//! # Settings
//!
//! The host must allow requests to the backend. The plugin is refused without its settings, or with
//! settings that it does not know.
//!
//! ```toml
//! [plugins.forward]
//! outbound = [{ origin = "http://backend.internal:8000", private = true }]
//!
//! [plugins.forward.config]
//! url = "http://backend.internal:8000/events"
//! events = '{"enter": {}, "say": {"data": {"type": "object"}}, "$connect": {}}'
//! emits = '{"said": {"rooms": ["chat"]}, "notice": {"rooms": ["user_{user}"]}}'
//! rooms = '{"chat": "handler"}'
//! ```
//!
//! | setting | value |
//! |---|---|
//! | `url` | where all events go, by `POST`: `http` or `https`, without user, password and fragment |
//! | `events` | a JSON object: each event that clients may send, with the JSON Schemas of its payload (`data`) and of its reply (`reply`). Without a schema, anything is allowed. `$connect` and `$disconnect` are allowed, and have no schemas. |
//! | `emits` | a JSON object: each event that the backend may emit, with its `rooms` (names, templates such as `user_{user}`, or `*` for everyone) and the schema of its `data`. Optional. |
//! | `rooms` | a JSON object: each room or template that this plugin declares, with the rule that says who can join: `handler` (whom the backend lets in), `anyone`, `authenticated`, or `owner`. Optional. |
//! | `timeout_ms` | the time for a request, from 1 to 60000. Optional. The limit `outbound_ms` of the host, 3 s by default, applies too. |
//! | `token` | sent as `authorization: Bearer TOKEN`, so that the backend knows the host. Optional. |
//!
//! If another plugin emits the same event, the schemas must be identical.
//!
//! # The request
//!
//! `POST url`, with the header `idempotency-key` and a JSON object as its body:
//!
//! | member | value |
//! |---|---|
//! | `id` | the id of the event, a ULID, as in the host's log. Also the value of the header. |
//! | `event` | the name of the event |
//! | `data` | the payload as the client has sent it, or `null` |
//! | `user` | the authenticated user; absent for an anonymous client |
//! | `claims` | the claims of the user's token; absent without a token |
//! | `connection` | the public id of the connection. It stays the same while the connection lives. It is no secret: other clients may know it. |
//! | `namespace` | the Socket.IO namespace |
//! | `received_at` | when the host received the event, in milliseconds since 1970 |
//!
//! The host sends each event once. If a client sends an event again, it is another event with
//! another id. The events of one connection come one after the other.
//!
//! # The answer
//!
//! Status 200 with a JSON object. Each member is optional, and no other is allowed:
//!
//! | member | value |
//! |---|---|
//! | `reply` | the argument of the client's ack, `null` by default. An object must not have a member `error`: clients recognize a rejection by it. |
//! | `leave` | names of rooms that the caller leaves, first |
//! | `join` | names of rooms that the caller then joins |
//! | `emits` | events that are emitted afterwards, in this order: `{"event": …, "data": …, "to": …}` |
//! | `refuse` | `{"code": …, "message": …}`: refuses the event. No other member is allowed beside it. |
//!
//! `to` has exactly one of these members; without `to`, the caller is the receiver:
//!
//! | `to` | who receives the event |
//! |---|---|
//! | `{"sender": true}` | the caller |
//! | `{"room": "chat"}`, `{"rooms": ["chat", "hall"]}` | all in these rooms, each once |
//! | `{"user": "7"}` | all in the room `user_7`. The host adds each connection of the user `7` to it, unless a plugin declares this room with a rule that does not allow it. |
//! | `{"connection": "01JD…"}` | one connection |
//! | `{"everyone": true}` | all connections of the namespace |
//!
//! `room`, `rooms` and `user` can have `"skip_sender": true` beside them.
//!
//! Either everything in an answer is applied, or nothing. Status 204 is an answer without members.
//!
//! `code` of a refusal is in snake_case. `forbidden`, `unauthorized`, `invalid_payload`,
//! `too_large`, `rate_limited`, `busy`, `unavailable` and `timed_out` reach the client as such. Any
//! other code is the `reason` of a `refused`.
//!
//! # What the client is answered if there is no answer
//!
//! | cause | code | `retry` |
//! |---|---|---|
//! | the backend can't be reached, or answers 503 | `unavailable` | `safe` |
//! | other events took all places for requests, of the plugin or of the host | `unavailable` | `safe` |
//! | other events took all instances of the plugin | `busy` | `safe` |
//! | the backend does not answer in time, or not wholly, or a proxy answers 502 or 504: it may have handled the event | `timed_out` | `unsafe` |
//! | it answers 429 | `rate_limited` | `safe` |
//! | any other status, or a wrong answer: the log says what is wrong | `refused`, reason `backend_failed` | `never` |
//! | the payload is too large for a request (256 KiB) | `too_large` | `never` |
//! | the payload has binary attachments | `invalid_payload` | `never` |
//!
//! A handler that must not run twice needs a key of the client's own in the payload. None of these
//! counts for the breaker of the plugin: when the backend is back, the next event reaches it. Only
//! a reply that does not match its schema in `events` counts (`plugin_failed`).
//!
//! # Moving a handler
//!
//! 1. Write a plugin that handles the event, and load it. It does not serve yet: this plugin serves
//!    the event, and keeps it.
//! 2. Remove the event from `events`, and reload the configuration. The new plugin serves from the
//!    next event on, and no event is lost.
//!
//! If both plugins use a room, both declare it by the same rule. (`handler` is for one plugin
//! alone: use another rule while two plugins join callers to the room.) If both emit an event,
//! their schemas must be identical.

mod answer;
mod object;
mod settings;

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sockhop_sdk::http::Request;
use sockhop_sdk::{Context, Plugin, Refusal, Result, Settings};

use answer::Answer;
use object::Object;
use settings::{Backend, Config};

fn plugin() -> Plugin {
    Plugin::new(
        "forward",
        env!("CARGO_PKG_VERSION"),
        "Hands events to an HTTP backend and applies its answers",
    )
    .configure(configure)
}

sockhop_sdk::export!(plugin);

/// Declares what the settings name.
fn configure(mut plugin: Plugin, settings: &Settings<'_>) -> Result<Plugin> {
    let Config { backend, events, emits, rooms } = Config::read(settings)?;
    let backend = Arc::new(backend);
    for (room, access) in rooms {
        plugin = plugin.room(room, access.into());
    }
    for (event, emitted) in emits {
        plugin = plugin.emits_json(event, settings::schema(emitted.data), emitted.rooms);
    }
    for (event, schemas) in events {
        let backend = Arc::clone(&backend);
        plugin = match event.as_str() {
            "$connect" => plugin.on_connect(move |ctx| forward_host_event(&backend, ctx)),
            "$disconnect" => plugin.on_disconnect(move |ctx| forward_host_event(&backend, ctx)),
            _ => plugin.on_json(
                event,
                settings::schema(schemas.data),
                Some(settings::schema(schemas.reply)),
                move |ctx, data| forward(&backend, ctx, data),
            ),
        };
    }
    Ok(plugin)
}

/// The body of a request.
#[derive(Serialize)]
struct Body<'event> {
    id: &'event str,
    event: &'event str,
    data: &'event RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'event str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    claims: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'event str>,
    /// Never `None`: only events of clients are forwarded.
    namespace: Option<&'event str>,
    received_at: u64,
}

/// Maximum number of bytes of a request's body. It is the default of the host's limit, which counts
/// the URL and the headers too. A higher limit of the host changes nothing here.
const BODY_BYTES: usize = 256 << 10;

/// Hands an event to the backend, and applies its answer. Returns the reply.
fn forward(backend: &Backend, ctx: &Context, data: &str) -> Result<Option<String>> {
    if !ctx.attachments().is_empty() {
        return Err(Refusal::invalid_payload("this event has no binary attachments"));
    }
    let id = ctx.event_id();
    // This can't fail: the host passes only JSON.
    let data = serde_json::from_str(data).map_err(Refusal::internal)?;
    let body = Body {
        id: &id,
        event: ctx.event(),
        data,
        user: ctx.user(),
        claims: ctx.claims(),
        connection: ctx.connection(),
        namespace: ctx.namespace(),
        received_at: ctx.received_at(),
    };
    let mut request = Request::post(&backend.url).header("idempotency-key", &id).json(&body)?;
    if request.body().len() > BODY_BYTES {
        return Err(too_large());
    }
    if let Some(timeout) = backend.timeout {
        request = request.timeout(timeout);
    }
    if let Some(authorization) = &backend.authorization {
        request = request.header("authorization", authorization);
    }
    let response = ctx.send(request).map_err(|refusal| not_answered(ctx, &refusal))?;
    let answer = match response.status() {
        200 => {
            let answer = response.json::<Object<Answer>>();
            answer.map_err(|refusal| failed(ctx, &refusal.message))?.0
        }
        204 => Answer::default(),
        429 => return Err(Refusal::new("rate_limited", "the backend has too much to do")),
        503 => return Err(unavailable(ctx, "it answers 503")),
        status @ (502 | 504) => return Err(timed_out(ctx, &format!("a proxy answers {status}"))),
        status => return Err(failed(ctx, &format!("its status is {status}"))),
    };
    answer.apply(ctx)
}

/// The same for an event of the host, which nobody is waiting for.
fn forward_host_event(backend: &Backend, ctx: &Context) -> Result {
    match forward(backend, ctx, "null")? {
        None => Ok(()),
        Some(_) => Err(failed(ctx, "it replies, and nobody receives this reply")),
    }
}

/// The host has refused the request, or there was no response.
fn not_answered(ctx: &Context, refusal: &Refusal) -> Refusal {
    match refusal.code.as_str() {
        // `busy`: the request had no place. Without an instance, this handler would not run.
        "unreachable" | "busy" => unavailable(ctx, &refusal.message),
        "limit" => {
            ctx.warn(format_args!("an event is not forwarded: {}", refusal.message));
            too_large()
        }
        "timeout" | "interrupted" => timed_out(ctx, &refusal.message),
        // The operator's settings are wrong, as with `not_allowed`. Or the response is wrong, as
        // with `response_too_large`.
        _ => failed(ctx, &refusal.to_string()),
    }
}

fn too_large() -> Refusal {
    Refusal::new("too_large", "the payload is too large for the backend")
}

fn unavailable(ctx: &Context, why: &str) -> Refusal {
    ctx.warn(format_args!("the backend is not available: {why}"));
    Refusal::new("unavailable", "the backend is not available; try again later")
}

fn timed_out(ctx: &Context, why: &str) -> Refusal {
    ctx.warn(format_args!("the backend has not answered: {why}"));
    Refusal::new(
        "timed_out",
        "the backend has not answered in time, and may have handled the event",
    )
}

/// The backend's answer is wrong. Only the operator learns why.
fn failed(ctx: &Context, why: &str) -> Refusal {
    ctx.error(format_args!("the backend has failed: {why}"));
    Refusal::new("backend_failed", "the backend failed; the host's log has more under this id")
}

#[cfg(test)]
mod tests;
