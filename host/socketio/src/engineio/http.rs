//! Engine.IO's requests: handshakes, polls, posts, upgrades.
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Body as HttpBody;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{self, Abort, Body, Unreceived};
use super::end::End;
use super::engine::{Batch, Engine, Protocol, Refused, Service};
use super::heartbeat::after;
use super::packet::handshake;
use super::receiver::Receiver;
use super::session::{Polled, Session, Transport};
use super::sessions::{Entry, SessionPermit, Shared};
use super::stream::{Io, Reader, Writer, split};
use super::{frame, polling, upgrade, websocket};

/// The answer to a request.
pub type Answer = Response<Body>;

/// Why a request is refused, with the reference server's numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    UnsupportedVersion,
    TooBig,
    /// No more sessions, or no memory for the body.
    Overload,
    ReceiveTimeout,
    Service(Refused),
}

impl Refusal {
    fn answer(self) -> Answer {
        let bad = StatusCode::BAD_REQUEST;
        let (status, code, message) = match &self {
            Refusal::UnknownTransport => (bad, 0, "Transport unknown"),
            Refusal::UnknownSid => (bad, 1, "Session ID unknown"),
            Refusal::BadMethod => (bad, 2, "Bad handshake method"),
            Refusal::BadRequest => (bad, 3, "Bad request"),
            Refusal::UnsupportedVersion => (bad, 5, "Unsupported protocol version"),
            Refusal::TooBig => (StatusCode::PAYLOAD_TOO_LARGE, 3, "Payload too large"),
            Refusal::Overload => (StatusCode::SERVICE_UNAVAILABLE, 4, "Server overloaded"),
            Refusal::ReceiveTimeout => (StatusCode::REQUEST_TIMEOUT, 3, "Request timeout"),
            Refusal::Service(refused) => (refused.status, 4, &*refused.message),
        };
        let body = serde_json::json!({ "code": code, "message": message }).to_string();
        answer(status, "application/json", body.into())
    }
}

fn answer(status: StatusCode, kind: &'static str, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn packets(body: impl Into<Body>) -> Answer {
    answer(StatusCode::OK, "text/plain; charset=UTF-8", body.into())
}

/// The parameters in the query of a request. No valid value needs to be escaped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query<'a> {
    transport: Option<&'a str>,
    version: Option<&'a str>,
    sid: Option<&'a str>,
}

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Self {
        let mut found = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let field = match key {
                "transport" => &mut found.transport,
                "EIO" => &mut found.version,
                "sid" => &mut found.sid,
                _ => continue,
            };
            field.get_or_insert(value);
        }
        found
    }
}

impl<S: Service> Engine<S> {
    /// Answers one request whose path the server [`serves`](Self::serves).
    ///
    /// The HTTP server of the application must serve the connection with the type `I` and with
    /// upgrades (`with_upgrades` of hyper). It may drop the future if the client disconnects: a
    /// message that is being handled is handled to its end.
    ///
    /// # Errors
    ///
    /// [`Abort`] if the connection must be closed without an answer.
    pub async fn handle<I: Io, B>(self: &Arc<Self>, request: Request<B>) -> Result<Answer, Abort>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        match self.route::<I, B>(request).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Refusal(refusal)) => {
                if refusal == Refusal::UnsupportedVersion {
                    tracing::info!("a client of another Engine.IO version was refused");
                }
                tracing::debug!(?refusal, "a request was refused");
                Ok(refusal.answer())
            }
            Err(Failure::Abort) => Err(Abort),
        }
    }

    async fn route<I: Io, B>(self: &Arc<Self>, request: Request<B>) -> Result<Answer, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let transports = &self.config().transports;
        let transport = match query.transport {
            Some("polling") if transports.polling => Transport::Polling,
            Some("websocket") if transports.websocket => Transport::WebSocket,
            _ => return Err(Refusal::UnknownTransport.into()),
        };
        let entry = match query.sid.map(|sid| self.sessions().find(sid)) {
            Some(None) => return Err(Refusal::UnknownSid.into()),
            found => found.flatten(),
        };
        if entry.is_none() && query.version != Some("4") {
            return Err(Refusal::UnsupportedVersion.into());
        }
        match (transport, entry, request.method()) {
            (Transport::WebSocket, entry, &Method::GET) => self.websocket::<I, B>(request, entry),
            (_, None, method) if method != Method::GET => Err(Refusal::BadMethod.into()),
            // A WebSocket's request must say so.
            (Transport::Polling, ..)
                if has_token(request.headers(), &header::UPGRADE, "websocket") =>
            {
                Err(Refusal::BadRequest.into())
            }
            (Transport::Polling, None, _) => self.open_polling(&request.into_parts().0),
            (Transport::Polling, Some(entry), &Method::GET) => poll(&entry.session).await,
            (
                Transport::Polling,
                Some(Entry { session, protocol: Some(protocol) }),
                &Method::POST,
            ) => {
                let (parts, body) = request.into_parts();
                self.post(&session, protocol, &parts, body).await
            }
            _ => Err(Refusal::BadRequest.into()),
        }
    }

    /// Makes a session and its protocol, with the permit for them.
    fn open(&self, parts: &Parts, transport: Transport) -> Result<Opened<S::Protocol>, Refusal> {
        let permit = self.sessions().try_acquire().ok_or(Refusal::Overload)?;
        let session = self.new_session(transport).map_err(|error| {
            tracing::error!(%error, "the system has no random numbers");
            Refusal::Overload
        })?;
        if transport == Transport::WebSocket {
            session.packet(b'0', handshake(&session, self.config(), false).as_bytes());
        }
        let protocol = self.service().open(&session, parts).map_err(Refusal::Service)?;
        Ok(Opened { session, protocol, permit })
    }

    pub(crate) fn open_polling(&self, parts: &Parts) -> Result<Answer, Failure> {
        let Opened { session, protocol, mut permit } = self.open(parts, Transport::Polling)?;
        let protocol = Shared::new(tokio::sync::Mutex::new(protocol));
        let entry = Entry { session: Arc::clone(&session), protocol: Some(Arc::clone(&protocol)) };
        permit.register(entry);
        let transports = &self.config().transports;
        let upgrades = transports.upgrade && transports.websocket;
        let handshake = handshake(&session, self.config(), upgrades);
        self.tasks().spawn(polling::keep(session, protocol, permit));
        Ok(packets(format!("0{handshake}")))
    }

    async fn post<B>(
        &self,
        session: &Arc<Session>,
        protocol: Shared<S::Protocol>,
        parts: &Parts,
        body: B,
    ) -> Result<Answer, Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let max = self.config().max_payload;
        let guard = session.start_post().ok_or(Refusal::BadRequest)?;
        let mut held = session.reserve();
        let announced = parts.headers.get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > max) {
            session.end(End::TooBig);
            return Err(Refusal::TooBig.into());
        }
        let received = tokio::select! {
            received = timeout(
                self.config().receive_timeout,
                body::receive(body, max, &mut held),
            ) => received,
            () = guard.over() => return Err(Refusal::BadRequest.into()),
        };
        let (end, failure) = match received {
            Ok(Ok(body)) => {
                let handled = polling::receive(guard, protocol, body, held);
                return match self.tasks().spawn(handled).await {
                    // A client that the server disconnects still fetches the queued packets.
                    Ok(Ok(()) | Err(Some(End::Client | End::Server | End::Shutdown))) => {
                        Ok(answer(StatusCode::OK, "text/html", "ok".into()))
                    }
                    Ok(Err(_)) => Err(Refusal::BadRequest.into()),
                    // The handler has panicked, and the session has ended.
                    Err(_) => Err(Failure::Abort),
                };
            }
            Ok(Err(Unreceived::TooBig)) => (End::TooBig, Refusal::TooBig.into()),
            Ok(Err(Unreceived::Overload)) => (End::Overload, Refusal::Overload.into()),
            Ok(Err(Unreceived::Broken)) => (End::Transport, Failure::Abort),
            Err(_) => (End::ReceiveTimeout, Refusal::ReceiveTimeout.into()),
        };
        session.end(end);
        Err(failure)
    }

    fn websocket<I: Io, B>(
        self: &Arc<Self>,
        mut request: Request<B>,
        entry: Option<Entry<S::Protocol>>,
    ) -> Result<Answer, Failure> {
        let answer = accept(&request).ok_or(Refusal::BadRequest)?;
        if entry.is_some() && !self.config().transports.upgrade {
            return Err(Refusal::BadRequest.into());
        }
        let on_upgrade = hyper::upgrade::on(&mut request);
        let deadline = after(Instant::now(), self.config().upgrade_timeout);
        match entry {
            None => {
                let parts = request.into_parts().0;
                let Opened { session, protocol, mut permit } =
                    self.open(&parts, Transport::WebSocket)?;
                permit.register(Entry { session: Arc::clone(&session), protocol: None });
                self.tasks().spawn(async move {
                    permit.task_started();
                    let stream = upgraded::<I>(on_upgrade, deadline, &session).await;
                    open_websocket(session, protocol, permit, stream).await;
                });
            }
            Some(Entry { session, .. }) if session.start_upgrade() => {
                self.tasks().spawn(async move {
                    match upgraded::<I>(on_upgrade, deadline, &session).await {
                        Some((receiver, writer)) => {
                            upgrade::upgrade(session, receiver, writer, deadline).await;
                        }
                        None => session.abandon_upgrade(),
                    }
                });
            }
            // As the reference server: a second WebSocket of a session is accepted, and closed.
            Some(_) => drop(self.tasks().spawn(async move {
                let _ = timeout_at(deadline, on_upgrade).await;
            })),
        }
        Ok(answer)
    }
}

/// A session that was accepted, and that requests can't find yet.
struct Opened<P> {
    session: Arc<Session>,
    protocol: P,
    permit: SessionPermit<P>,
}

/// Serves a session that begins with a WebSocket.
async fn open_websocket<P: Protocol>(
    session: Arc<Session>,
    mut protocol: P,
    mut permit: SessionPermit<P>,
    stream: Option<(Receiver, Writer)>,
) {
    if let Some((receiver, writer)) = stream {
        session.opened(writer);
        session.flush();
        websocket::pump(&session, &mut protocol, receiver, &mut permit).await;
    } else {
        let end = session.conclude(End::Transport);
        session.finish();
        permit.unregister();
        protocol.closed(end, &Batch::default()).await;
    }
}

/// Waits for the connection after the answer to an upgrade; `None` if the client has disconnected.
async fn upgraded<I: Io>(
    on_upgrade: OnUpgrade,
    deadline: Instant,
    session: &Session,
) -> Option<(Receiver, Writer)> {
    let upgraded = tokio::select! {
        upgraded = timeout_at(deadline, on_upgrade) => upgraded.ok()?.ok()?,
        () = session.over() => return None,
    };
    let Ok(parts) = upgraded.downcast::<I>() else {
        tracing::error!("the HTTP server does not serve connections with the type of `handle`");
        return None;
    };
    let (stream, guard) = parts.io.into_parts();
    let (reader, writer): (Reader, Writer) = split(stream);
    let receiver = Receiver::new(reader, &parts.read_buf, session.config(), Box::new(guard));
    Some((receiver, writer))
}

/// Why [`Engine::route`] has no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    Refusal(Refusal),
    Abort,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Failure::Refusal(refusal)
    }
}

async fn poll(session: &Arc<Session>) -> Result<Answer, Failure> {
    match polling::poll(session).await {
        Polled::Packets(body) => Ok(packets(body)),
        Polled::Packet(packet) => Ok(packets(packet)),
        Polled::Refused => Err(Refusal::BadRequest.into()),
        Polled::Closed => Err(Failure::Abort),
    }
}

/// Returns the answer to a correct upgrade request, and `None` to any other request.
fn accept<B>(request: &Request<B>) -> Option<Answer> {
    let headers = request.headers();
    let correct = request.version() == Version::HTTP_11
        && has_token(headers, &header::CONNECTION, "upgrade")
        && has_token(headers, &header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| correct)?;
    let accepted = HeaderValue::try_from(frame::accept(key.as_bytes())?).ok()?;
    let mut answer = Response::new(Body::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let ours = answer.headers_mut();
    ours.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    ours.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    ours.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    // A browser that offers subprotocols insists on one of them.
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|list| list.to_str().ok());
    let first = offered.and_then(|list| list.split(',').next());
    if let Some(Ok(first)) = first.map(|first| HeaderValue::from_str(first.trim())) {
        ours.insert(header::SEC_WEBSOCKET_PROTOCOL, first);
    }
    Some(answer)
}

/// Whether a header that is a list names `token`.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut tokens = values.flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_understood_in_any_order_and_its_first_value_counts() {
        let query = Query::parse("t=abc&sid=one&EIO=4&transport=polling&sid=two&x");
        let expected = Query { transport: Some("polling"), version: Some("4"), sid: Some("one") };
        assert_eq!(query, expected);
        assert_eq!(Query::parse(""), Query::default());
    }

    #[test]
    fn a_token_is_found_among_others_in_any_case() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        for token in ["upgrade", "close", "keep-alive"] {
            assert!(has_token(&headers, &header::CONNECTION, token), "{token}");
        }
        assert!(!has_token(&headers, &header::CONNECTION, "grade"));
        assert!(!has_token(&headers, &header::UPGRADE, "websocket"));
    }
}
