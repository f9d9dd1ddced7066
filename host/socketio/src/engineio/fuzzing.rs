//! Functions for fuzzers: see the crate's `fuzzing`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::config::Config;
use super::end::End;
use super::engine::{Batch, Engine, Protocol, Refused, Service};
use super::frame::{Bad, op};
use super::incoming::{Incoming, Next};
use super::memory::{Memory, Usage};
use super::polling::handle_body;
use super::session::{Session, Transport};
use super::sid::Sid;

const MAX_PAYLOAD: usize = 4096;
const MAX_FRAGMENTS: usize = 4;

/// A message or a control frame: its kind and its data.
type Frame = (u8, Vec<u8>);

/// Bytes that the client of a WebSocket sends. The first byte of `data` is not one of them: it sets
/// the size of the pieces in which they arrive. The result must be the same for any size.
pub fn frames(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let at_once = read(data, data.len().max(1));
    let in_pieces = read(data, usize::from(*piece) + 1);
    assert_eq!(at_once, in_pieces);
    for (kind, payload) in &at_once.0 {
        let max = if *kind >= op::CLOSE { 125 } else { MAX_PAYLOAD };
        assert!(payload.len() <= max);
    }
}

/// All that is understood of the bytes, and why the rest is refused.
fn read(data: &[u8], piece: usize) -> (Vec<Frame>, Option<Bad>) {
    let mut incoming = Incoming::new(&[], MAX_PAYLOAD, MAX_FRAGMENTS);
    let mut frames = Vec::new();
    for piece in data.chunks(piece) {
        incoming.spare(1).extend_from_slice(piece);
        loop {
            match incoming.next() {
                Ok(Next::Message { op, data }) => frames.push((op, incoming.bytes(&data).to_vec())),
                Ok(Next::Control { op, payload }) => frames.push((op, payload.to_vec())),
                Ok(Next::More(more)) => {
                    assert!(more > 0);
                    break;
                }
                Err(bad) => return (frames, Some(bad)),
            }
        }
        incoming.compact();
        incoming.shrink();
    }
    (frames, None)
}

/// The body of a POST.
pub fn polling_body(data: &[u8]) {
    let config = Arc::new(Config::default());
    let memory = Arc::new(Memory::new(&config));
    let Ok(sid) = Sid::random() else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else { return };
    let session = Session::new(sid, &config, &memory, Transport::Polling);
    let mut received = Recorder::default();
    let end = runtime.block_on(handle_body(&session, &mut received, data, &Batch::default()));
    let (expected, expected_end) = expected(data);
    assert_eq!(received.0, expected);
    assert_eq!(end, expected_end);
}

/// The messages of a body according to the protocol's specification.
fn expected(data: &[u8]) -> (Vec<Frame>, Result<(), End>) {
    let mut messages = Vec::new();
    let Ok(text) = str::from_utf8(data) else { return (messages, Err(End::Parse)) };
    for packet in text.split('\u{1e}') {
        let mut characters = packet.chars();
        match (characters.next(), characters.as_str()) {
            (Some('4'), message) => messages.push((op::TEXT, message.into())),
            (Some('b'), message) => match BASE64.decode(message) {
                Ok(message) => messages.push((op::BINARY, message)),
                Err(_) => return (messages, Err(End::Parse)),
            },
            (Some('3' | '5' | '6'), _) => {}
            (Some('1'), _) => return (messages, Err(End::Client)),
            _ => return (messages, Err(End::Parse)),
        }
    }
    (messages, Ok(()))
}

/// An HTTP request as text: a first line, the headers, an empty line, and the body. The first line
/// has the method and the target. If it has a third word, the request is of HTTP/1.0, otherwise of
/// HTTP/1.1. `SID` in the target is replaced by the id of a session.
pub fn request(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_time().build() else {
        return;
    };
    runtime.block_on(async {
        let engine = Engine::new(Config::default(), Arc::new(Recorders));
        let mut handshake = Request::new(Full::default());
        *handshake.uri_mut() = Uri::from_static("/socket.io/?EIO=4&transport=polling");
        let (_, opened) = ask(&engine, handshake).await.unwrap_or_default();
        let sid = opened.split('"').nth(3).unwrap_or_default();
        assert_eq!(engine.usage().sessions, 1);
        let Some(request) = read_request(text, sid) else { return };
        match ask(&engine, request).await {
            // A poll waits for packets.
            None => assert!(text.starts_with("GET") && text.contains("sid=SID")),
            Some((StatusCode::SWITCHING_PROTOCOLS, _)) => assert!(asks_for_upgrade(text)),
            Some((StatusCode::OK, body)) => {
                assert!(body == "ok" || body.starts_with("0{"), "{body}");
            }
            Some((_, body)) => {
                let error: Value = serde_json::from_str(&body).unwrap_or_default();
                let code = error.get("code").and_then(Value::as_u64);
                let has_message = error.get("message").is_some_and(Value::is_string);
                assert!(code.is_some_and(|code| code <= 5) && has_message, "{body}");
            }
        }
        engine.close();
        engine.wait().await;
        assert_eq!(engine.usage(), Usage::default());
    });
}

fn read_request(text: &str, sid: &str) -> Option<Request<Full<Bytes>>> {
    let (head, body) = text.split_once("\n\n")?;
    let mut lines = head.split('\n');
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.parse::<Method>().ok()?, first.next()?);
    let version = if first.next().is_some() { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut request =
        Request::builder().method(method).uri(target.replace("SID", sid)).version(version);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).ok()
}

/// Returns the status and the body of the answer. Returns `None` if the request still waits when
/// the other tasks have nothing to do, or if it fails without an answer.
async fn ask(
    engine: &Arc<Engine<Recorders>>,
    request: Request<Full<Bytes>>,
) -> Option<(StatusCode, String)> {
    let idle = async {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    };
    let answer = tokio::select! {
        biased;
        answer = engine.handle::<TokioIo<TcpStream>, _>(request) => answer.ok()?,
        () = idle => return None,
    };
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((parts.status, String::from_utf8_lossy(&body).into_owned()))
}

/// Whether a request has the method and the headers that RFC 6455, section 4.2.1, requires for a
/// WebSocket, without `Host`.
fn asks_for_upgrade(text: &str) -> bool {
    let (head, _) = text.split_once("\n\n").unwrap_or_default();
    let has = |name: &str, is_right: &dyn Fn(&str) -> bool| {
        let mut headers = head.lines().filter_map(|line| line.split_once(": "));
        headers.any(|(found, value)| found.eq_ignore_ascii_case(name) && is_right(value))
    };
    text.starts_with("GET ")
        && has("connection", &|value| value.to_ascii_lowercase().contains("upgrade"))
        && has("upgrade", &|value| value.to_ascii_lowercase().contains("websocket"))
        && has("sec-websocket-version", &|value| value == "13")
        && has("sec-websocket-key", &|key| BASE64.decode(key).is_ok_and(|key| key.len() == 16))
}

/// Makes a [`Recorder`] for each session.
struct Recorders;

impl Service for Recorders {
    type Protocol = Recorder;

    fn open(self: &Arc<Self>, _: &Arc<Session>, _: &Parts) -> Result<Recorder, Refused> {
        Ok(Recorder::default())
    }
}

/// Keeps all messages.
#[derive(Default)]
struct Recorder(Vec<Frame>);

impl Protocol for Recorder {
    async fn text(&mut self, text: &str, _batch: &Batch) -> Result<(), End> {
        self.0.push((op::TEXT, text.into()));
        std::future::ready(Ok(())).await
    }

    async fn binary(&mut self, data: &[u8], _batch: &Batch) -> Result<(), End> {
        self.0.push((op::BINARY, data.into()));
        std::future::ready(Ok(())).await
    }

    async fn closed(&mut self, _end: End, _batch: &Batch) {
        std::future::ready(()).await;
    }
}
