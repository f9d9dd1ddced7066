//! The HTTP routes of plugins: a request becomes an event, and the answer of the event the
//! response.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method as HttpMethod, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use serde::de::IgnoredAny;
use serde_json::Value;
use sockhop_core::request::{Parameters, encode_segment, pairs, segments};
use sockhop_core::route::{Found, Method, OwnedRoute, Route};

use crate::auth::{Credentials, bearer, kept_bearer};
use crate::config::{EVENT_BYTES, Scope};
use crate::event::{Caller, Event, Identity, Json, Payload, Requester};
use crate::registry::Generation;
use crate::rejection::Rejection;
use crate::transport::Peer;

use super::problem::{self, Problem};
use super::slots::network;
use super::{Api, body, keys};

/// Answers a request that no endpoint of the host itself answers.
pub(super) async fn serve(State(api): State<Arc<Api>>, request: Request) -> Response {
    let generation = api.registry.snapshot();
    let Some(path) = segments(request.uri().path()) else {
        let message = "the path is no UTF-8 text";
        return Problem::new(StatusCode::BAD_REQUEST, "bad_request", message).into_response();
    };
    let is_head = request.method() == HttpMethod::HEAD;
    let method =
        if is_head { Some(Method::Get) } else { request.method().as_str().parse::<Method>().ok() };
    let response = match generation.routes().find(method, &path) {
        Found::Nothing => problem::not_found().await.into_response(),
        Found::Methods(methods) => other_method(request.method(), &methods),
        Found::Route(OwnedRoute { route, .. }, variables) => {
            let answer = answer(&api, &generation, route, variables, request).await;
            answer.unwrap_or_else(Problem::into_response)
        }
    };
    if is_head { without_body(response) } else { response }
}

/// The response to a method that no route of the path has: to OPTIONS, the methods that exist.
fn other_method(method: &HttpMethod, methods: &[Method]) -> Response {
    let mut response = if method == HttpMethod::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        problem::other_method().into_response()
    };
    let mut names: Vec<_> = methods.iter().map(|method| method.name()).collect();
    if methods.contains(&Method::Get) {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    if let Ok(allow) = HeaderValue::from_str(&names.join(", ")) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// The response to HEAD: the headers of the response to GET, with the length of its body.
fn without_body(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact() {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(parts, Body::empty())
}

/// Lets the plugin handle the event of a request.
async fn answer(
    api: &Arc<Api>,
    generation: &Generation,
    route: &Route,
    variables: Vec<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // Every route has an event, because a plugin declares both.
    let Some(event_route) = generation.route(&route.event) else {
        return Err(problem::not_found().await);
    };
    let mut event = Event::now(route.event.clone(), Payload::null(), Caller::None);
    let id = event.id.to_string();
    let identity = identity(api, &parts).await?;
    let rejected = |rejection: &Rejection| Problem::rejected(rejection, &route.event, &id);
    // First, because a caller without the right learns nothing about the payload.
    event_route.access.check_sender(&identity).map_err(|rejection| rejected(&rejection))?;
    let config = api.config.get();
    let namespace = config.server.namespaces.first().map_or("/", String::as_str);
    let namespace: Arc<str> = namespace.into();
    drop(config);
    let address = parts.extensions.get::<Peer>().map(|Peer(address)| *address);
    let network = address.map(network);
    let rate = api.dispatcher.rate().of_request(identity.user.as_deref(), network);
    let requester = Requester::new(&id, namespace, identity, address, rate);
    event.caller = Caller::Request(Arc::new(requester));
    api.dispatcher
        .limit_rate(&event, Instant::now())
        .map_err(|rejection| rejected(&rejection).logged())?;
    let memory = BodyMemory::take(api, &body).map_err(|rejection| rejected(&rejection))?;
    let text = text(api, route.method, &parts.headers, body, &rejected).await?;
    let query = pairs(parts.uri.query().unwrap_or_default());
    let max_depth = api.config.get().limits.json_depth.get();
    event.payload.text = Parameters { path: variables, query }
        .payload(text.as_deref(), &event_route.inbound.data, max_depth)
        .map_err(|rejection| {
            let problem = rejected(&rejection);
            match text.as_deref().map(serde_json::from_str::<IgnoredAny>) {
                Some(Err(_)) if matches!(rejection, Rejection::InvalidPayload { .. }) => {
                    problem.with_status(StatusCode::BAD_REQUEST)
                }
                _ => problem,
            }
        })?
        .into();
    let dispatcher = Arc::clone(&api.dispatcher);
    // In a task of its own: a client that hangs up must not end the event between the commit of its
    // state and the delivery of its effects.
    let handled = api.tasks.spawn(async move {
        let handled = dispatcher.handle_within_rate(Arc::new(event), Instant::now()).await;
        drop(memory);
        handled
    });
    let handled = handled.await.unwrap_or(Err(Rejection::PluginFailed));
    let reply = handled.map_err(|rejection| rejected(&rejection).logged())?;
    Ok(success(generation, route, parts.uri.path(), &reply.json))
}

/// Decides who sends a request: a user by a token, a program by a key, or nobody if the host allows
/// anonymous clients.
async fn identity(api: &Api, parts: &Parts) -> Result<Arc<Identity>, Problem> {
    if let Some(secret) = bearer(&parts.headers) {
        match api.keys.find(secret) {
            Some(key) => return key.allow(Scope::Route).map(|key| Arc::clone(&key.identity)),
            None if !api.auth.needs_tokens() => return Err(keys::unknown()),
            None => {}
        }
    }
    let credentials = Credentials { auth: None, bearer: kept_bearer(&parts.headers) };
    match api.auth.identify(&credentials).await {
        Ok(known) => Ok(known.identity),
        Err(error) => {
            let address = parts.extensions.get::<Peer>().map(|Peer(address)| address);
            let address = address.map(tracing::field::display);
            tracing::debug!(address, reason = %error, "request refused: unauthorized");
            let message = "send a token or a key: `Authorization: Bearer TOKEN`";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
        }
    }
}

/// The memory of a body, from that of all events that wait. It is free again when the event is
/// handled.
struct BodyMemory {
    api: Arc<Api>,
    bytes: usize,
}

impl BodyMemory {
    /// Takes memory for a body, as much as its length tells, or as much as it may have.
    fn take(api: &Arc<Api>, body: &Body) -> Result<Self, Rejection> {
        let max = api.config.get().limits.message_bytes.get();
        let told = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = told.unwrap_or(max).min(max) + EVENT_BYTES;
        if api.sockets.memory().take(bytes, 0) {
            return Ok(Self { api: Arc::clone(api), bytes });
        }
        Err(Rejection::Busy("too many events wait; try again later".to_owned()))
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.api.sockets.memory().give_back(self.bytes);
    }
}

/// Answers a request OPTIONS that is no preflight of a page with the methods of a route. Stands
/// before the layer that answers every other such request.
pub(crate) async fn options(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let is_preflight = request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == HttpMethod::OPTIONS
        && !is_preflight
        && let Some(path) = segments(request.uri().path())
        && let Found::Methods(methods) = api.registry.snapshot().routes().find(None, &path)
    {
        return other_method(&HttpMethod::OPTIONS, &methods);
    }
    next.run(request).await
}

/// Reads the body of a request as text. `None` if it has none.
async fn text(
    api: &Api,
    method: Method,
    headers: &HeaderMap,
    body: Body,
    rejected: &impl Fn(&Rejection) -> Problem,
) -> Result<Option<String>, Problem> {
    let bad_request = |message: String| {
        rejected(&Rejection::invalid(message)).with_status(StatusCode::BAD_REQUEST)
    };
    if body.is_end_stream() {
        return Ok(None);
    }
    if !method.has_body() {
        return Err(bad_request(format!("a request with the method {method} has no body here")));
    }
    if !is_json(headers) {
        let message = "the body must be JSON: send `Content-Type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Problem::new(status, "unsupported_media_type", message));
    }
    let max_bytes = api.config.get().limits.message_bytes.get();
    let bytes = body::read(body, max_bytes).await.map_err(|rejection| rejected(&rejection))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    match String::from_utf8(bytes.into()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(bad_request("the body is no UTF-8 text".to_owned())),
    }
}

/// Whether the media type of a body is JSON, or a format that is based on JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || kind.starts_with("application/") && kind.ends_with("+json")
}

/// The response to an event that a plugin has handled.
fn success(generation: &Generation, route: &Route, path: &str, reply: &Json) -> Response {
    if reply.as_str() == "null" {
        return StatusCode::NO_CONTENT.into_response();
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let created = (route.method == Method::Post && generation.routes().reads_items_of(route))
        .then(|| item_path(path, reply.as_str()))
        .flatten();
    match created {
        Some(location) => {
            let location = [(header::LOCATION, location)];
            (StatusCode::CREATED, json, location, reply.as_str().to_owned()).into_response()
        }
        None => (json, reply.as_str().to_owned()).into_response(),
    }
}

/// The path of a created item: that of its collection and the `id` of the reply. `None` if the
/// reply has no id.
fn item_path(collection: &str, reply: &str) -> Option<String> {
    let id = match serde_json::from_str::<Value>(reply).ok()?.get("id")? {
        Value::String(id) if !id.is_empty() => encode_segment(id),
        Value::Number(id) => id.to_string(),
        _ => return None,
    };
    Some(format!("{collection}/{id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_created_item_has_a_path_if_its_reply_has_an_id() {
        let path = |reply: &str| item_path("/notes", reply);
        assert_eq!(path(r#"{"id": 7}"#), Some("/notes/7".to_owned()));
        assert_eq!(path(r#"{"id": "a/b"}"#), Some("/notes/a%2Fb".to_owned()));
        for reply in [r#"{"id": ""}"#, r#"{"id": null}"#, r#"{"ids": 7}"#, "7", "[1]"] {
            assert_eq!(path(reply), None, "{reply}");
        }
    }

    #[test]
    fn a_body_is_json_by_its_media_type() {
        for (kind, expected) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/merge-patch+json", true),
            ("text/json", false),
            ("application/jsonp", false),
            ("text/plain", false),
            ("", false),
        ] {
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_json(&headers), expected, "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }

    #[test]
    fn the_allowed_methods_include_those_that_the_host_answers_itself() {
        let allow = |method: &HttpMethod, methods: &[Method]| {
            let response = other_method(method, methods);
            (response.status(), response.headers().get(header::ALLOW).cloned().unwrap())
        };
        let (status, allowed) = allow(&HttpMethod::PUT, &[Method::Get, Method::Delete]);
        assert_eq!(
            (status.as_u16(), allowed.to_str().ok()),
            (405, Some("GET, DELETE, HEAD, OPTIONS"))
        );
        let (status, allowed) = allow(&HttpMethod::OPTIONS, &[Method::Post]);
        assert_eq!((status.as_u16(), allowed.to_str().ok()), (204, Some("POST, OPTIONS")));
    }
}
