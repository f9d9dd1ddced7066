//! Functions for fuzzers: see the crate's `fuzzing`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::config::Config;
use super::end::End;
use super::engine::{Batch, Protocol};
use super::frame::{Bad, op};
use super::incoming::{Incoming, Next};
use super::memory::Memory;
use super::polling::handle_body;
use super::session::{Session, Transport};
use super::sid::Sid;

const MAX_PAYLOAD: usize = 4096;
const MAX_FRAGMENTS: usize = 4;

/// A message or a control frame: its kind and its data.
type Frame = (u8, Vec<u8>);

/// The bytes of a WebSocket's client. The first one says in which pieces they arrive.
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
