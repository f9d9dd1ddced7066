//! The messages of a WebSocket's client, out of the bytes that arrive.
use std::ops::Range;

use smallvec::SmallVec;

use super::buffer;
use super::frame::{self, Bad, Parsed, op};

/// Minimum spare capacity for a read, in bytes, if the buffer holds a part of a frame. A read with
/// an empty buffer gets a spare buffer of the thread, with at least [`buffer::SIZE`].
const MIN_SPARE: usize = 4 << 10;

/// Maximum spare capacity that is reserved for a read, in bytes. The header of a frame may announce
/// far more bytes than the client ever sends.
const MAX_ADVANCE: usize = 64 << 10;

/// Received bytes, and the received part of an unfinished message.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// While messages are handled, it holds their frames. Between two reads, it holds a part of one
    /// frame, or no bytes and no memory.
    buf: Vec<u8>,
    /// Where the next frame begins.
    at: usize,
    partial: Option<Partial>,
    max_payload: usize,
    max_fragments: usize,
}

/// A message that comes in fragments.
#[derive(Debug)]
struct Partial {
    op: u8,
    data: Vec<u8>,
    fragments: usize,
}

#[derive(Debug)]
pub(crate) enum Next {
    /// A text or a binary message.
    Message { op: u8, data: Data },
    /// A ping, a pong or a close frame.
    Control { op: u8, payload: SmallVec<[u8; 125]> },
    /// At least this many bytes are missing.
    More(usize),
}

/// Where a message is.
#[derive(Debug)]
pub(crate) enum Data {
    Buffered(Range<usize>),
    Assembled(Vec<u8>),
}

impl Incoming {
    /// `first`: the bytes that have arrived already.
    pub(crate) fn new(first: &[u8], max_payload: usize, max_fragments: usize) -> Self {
        Self { buf: first.to_vec(), at: 0, partial: None, max_payload, max_fragments }
    }

    /// Returns the next message or control frame.
    ///
    /// # Errors
    ///
    /// If the client does not follow the WebSocket protocol, or a message is too long. Nothing that
    /// follows can be understood.
    pub(crate) fn next(&mut self) -> Result<Next, Bad> {
        loop {
            let (fin, op, range) = match frame::parse(&mut self.buf, self.at, self.max_payload)? {
                Parsed::More(more) => return Ok(Next::More(more)),
                Parsed::Frame { fin, op, payload } => (fin, op, payload),
            };
            self.at = range.end;
            let payload = self.buf.get(range.clone()).unwrap_or_default();
            match (op, &mut self.partial) {
                (op::CLOSE.., _) => {
                    return Ok(Next::Control { op, payload: SmallVec::from_slice(payload) });
                }
                (op::TEXT | op::BINARY, None) if fin => {
                    return Ok(Next::Message { op, data: Data::Buffered(range) });
                }
                (op::TEXT | op::BINARY, partial @ None) => {
                    *partial = Some(Partial { op, data: payload.to_vec(), fragments: 1 });
                }
                (op::CONTINUE, Some(partial)) => {
                    if partial.data.len() + payload.len() > self.max_payload
                        || partial.fragments >= self.max_fragments
                    {
                        return Err(Bad::TooBig);
                    }
                    partial.data.extend_from_slice(payload);
                    partial.fragments += 1;
                    if let Some(Partial { op, data, .. }) = self.partial.take_if(|_| fin) {
                        return Ok(Next::Message { op, data: Data::Assembled(data) });
                    }
                }
                _ => return Err(Bad::Protocol),
            }
        }
    }

    /// The bytes of a message, until the next call of [`compact`](Self::compact).
    pub(crate) fn bytes<'a>(&'a self, data: &'a Data) -> &'a [u8] {
        match data {
            Data::Buffered(range) => self.buf.get(range.clone()).unwrap_or_default(),
            Data::Assembled(data) => data,
        }
    }

    /// Removes the handled frames from the buffer, and gives it back if nothing is left in it.
    pub(crate) fn compact(&mut self) {
        if self.at == self.buf.len() {
            buffer::give(std::mem::take(&mut self.buf));
        } else {
            self.buf.drain(..self.at);
        }
        self.at = 0;
    }

    /// Returns the buffer to read into, with spare capacity for some of the `more` bytes that are
    /// missing. A client that announces a long frame gets the memory for it only as it sends it.
    pub(crate) fn spare(&mut self, more: usize) -> &mut Vec<u8> {
        if self.buf.capacity() == 0 {
            self.buf = buffer::take();
        } else {
            self.buf.reserve(more.clamp(MIN_SPARE, MAX_ADVANCE));
        }
        &mut self.buf
    }

    /// Gives the buffer back if it is empty, and reduces it to its content if it is mostly empty:
    /// the content may stay for long.
    pub(crate) fn shrink(&mut self) {
        if self.buf.is_empty() {
            buffer::give(std::mem::take(&mut self.buf));
        } else {
            buffer::shrink(&mut self.buf);
        }
    }

    /// How much memory is held, in bytes: the buffer of the last read, and an unfinished message.
    pub(crate) fn held(&self) -> usize {
        self.buf.capacity() + self.partial.as_ref().map_or(0, |partial| partial.data.capacity())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engineio::frame::masked;

    /// Everything that is there, as texts: `t:…`, `b:…`, and control frames by their number.
    fn all(incoming: &mut Incoming) -> Result<Vec<String>, Bad> {
        let mut found = Vec::new();
        loop {
            found.push(match incoming.next()? {
                Next::Message { op, data } => {
                    let kind = if op == op::TEXT { 't' } else { 'b' };
                    format!("{kind}:{}", String::from_utf8_lossy(incoming.bytes(&data)))
                }
                Next::Control { op, payload } => {
                    format!("{op}:{}", String::from_utf8_lossy(&payload))
                }
                Next::More(_) => return Ok(found),
            });
        }
    }

    fn frames(frames: &[(u8, &str)]) -> Vec<u8> {
        frames.iter().flat_map(|(first, text)| masked(*first, text.as_bytes())).collect()
    }

    const STREAM: &[(u8, &str)] = &[
        (0x81, "4one"),
        (0x01, "4t"),
        (0x89, "ping"),
        (0x00, "w"),
        (0x80, "o"),
        (0x02, "ab"),
        (0x80, "cd"),
        (0x82, ""),
        (0x88, "bye"),
    ];
    const FOUND: &[&str] = &["t:4one", "9:ping", "t:4two", "b:abcd", "b:", "8:bye"];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn messages_are_the_same_however_the_stream_is_cut(cuts in proptest::collection::vec(0..70usize, 0..20)) {
            let stream = frames(STREAM);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.push(stream.len());
            cuts.sort_unstable();
            let (mut incoming, mut found, mut from) = (Incoming::new(b"", 100, 10), Vec::new(), 0);
            for cut in cuts {
                incoming.spare(1).extend_from_slice(&stream[from..cut]);
                from = cut;
                found.extend(all(&mut incoming).unwrap());
                incoming.compact();
                incoming.shrink();
            }
            prop_assert_eq!(found, FOUND);
            prop_assert_eq!(incoming.held(), 0);
        }

        #[test]
        fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut incoming = Incoming::new(&bytes, 64, 4);
            let _ = all(&mut incoming);
            incoming.compact();
            prop_assert!(incoming.held() <= bytes.len() + 64);
        }
    }

    #[test]
    fn fragments_are_bounded_in_bytes_and_number() {
        let long = frames(&[(0x01, "12345"), (0x00, "67890"), (0x80, "1")]);
        assert_eq!(all(&mut Incoming::new(&long, 11, 3)).map(|found| found.len()), Ok(1));
        assert_eq!(all(&mut Incoming::new(&long, 10, 3)), Err(Bad::TooBig));
        assert_eq!(all(&mut Incoming::new(&long, 11, 2)), Err(Bad::TooBig));
    }

    #[test]
    fn fragments_must_belong_together() {
        for bad in
            [&[(0x80, "no start")][..], &[(0x01, "a"), (0x81, "b")], &[(0x02, "a"), (0x01, "b")]]
        {
            assert_eq!(all(&mut Incoming::new(&frames(bad), 100, 10)), Err(Bad::Protocol));
        }
    }

    #[test]
    fn an_announcement_gets_little_memory() {
        let mut incoming = Incoming::new(&masked(0x82, &[0; 900_000])[..20], 1_000_000, 10);
        let Ok(Next::More(more)) = incoming.next() else { panic!() };
        assert!(more > 800_000);
        assert!(incoming.spare(more).capacity() <= 2 * MAX_ADVANCE);
        let mut incoming = Incoming::new(b"", 1_000_000, 10);
        incoming.spare(more);
        incoming.shrink();
        assert_eq!(incoming.held(), 0, "an idle client holds nothing");
        incoming.spare(1).push(0x81);
        incoming.shrink();
        assert_eq!(incoming.held(), 1);
    }
}
