//! WebSocket frames (RFC 6455).
//!
//! The frames of clients are parsed and unmasked in place. Messages to a client are queued as
//! frames, also while its session polls, so an upgrade does not change the queue. The answer to a
//! poll is made from the queued frames.
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest, Sha1};

/// The kinds of frames.
pub(crate) mod op {
    pub(crate) const CONTINUE: u8 = 0;
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
    pub(crate) const CLOSE: u8 = 8;
    pub(crate) const PING: u8 = 9;
    pub(crate) const PONG: u8 = 10;
}

/// The longest header of a frame that a server sends.
const MAX_HEADER: usize = 10;

/// The separator of packets in a polling body.
pub(crate) const SEPARATOR: u8 = 0x1e;

/// Why a client's frames are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// No frame that a client may send.
    Protocol,
    /// Longer than a message may be.
    TooBig,
    /// A text that is not UTF-8.
    Text,
}

impl Bad {
    /// The status of the close frame that the client receives.
    pub(crate) fn code(self) -> u16 {
        match self {
            Bad::Protocol => 1002,
            Bad::Text => 1007,
            Bad::TooBig => 1009,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// One frame. Its payload is at this range, unmasked; the next frame begins at the range's end.
    Frame { fin: bool, op: u8, payload: Range<usize> },
    /// At least this many bytes are missing.
    More(usize),
}

/// Parses the frame that begins at `at`. When the frame is complete, its payload is unmasked, so a
/// complete frame must not be parsed again. An incomplete frame is not changed.
///
/// # Errors
///
/// As soon as the header shows that the frame is not acceptable; `max` bounds the payload.
pub(crate) fn parse(buf: &mut [u8], at: usize, max: usize) -> Result<Parsed, Bad> {
    let rest = buf.get(at..).unwrap_or_default();
    let have = rest.len();
    let [first, second, tail @ ..] = rest else { return Ok(Parsed::More(2 - have)) };
    let (fin, op) = (first & 0x80 != 0, first & 0x0f);
    if first & 0x70 != 0 || second & 0x80 == 0 || !matches!(op, 0..=2 | 8..=10) {
        return Err(Bad::Protocol);
    }
    // The length must take the fewest bytes in which it fits.
    let (len, tail) = match second & 0x7f {
        126 => {
            let Some((len, tail)) = tail.split_first_chunk() else {
                return Ok(Parsed::More(8 - have));
            };
            (at_least(u64::from(u16::from_be_bytes(*len)), 126)?, tail)
        }
        127 => {
            let Some((len, tail)) = tail.split_first_chunk() else {
                return Ok(Parsed::More(14 - have));
            };
            (at_least(u64::from_be_bytes(*len), 0x1_0000)?, tail)
        }
        short => (u64::from(short), tail),
    };
    if op >= op::CLOSE && (len > 125 || !fin) {
        return Err(Bad::Protocol);
    }
    // No buffer is longer than `isize::MAX`: without it, the sums below could overflow.
    let max = max.min(isize::MAX.unsigned_abs() - 1024);
    let len = usize::try_from(len).ok().filter(|len| *len <= max).ok_or(Bad::TooBig)?;
    let header = have - tail.len() + 4;
    let Some((key, tail)) = tail.split_first_chunk() else {
        return Ok(Parsed::More(header + len - have));
    };
    if tail.len() < len {
        return Ok(Parsed::More(len - tail.len()));
    }
    let (key, payload) = (*key, at + header..at + header + len);
    unmask(buf.get_mut(payload.clone()).unwrap_or_default(), key);
    Ok(Parsed::Frame { fin, op, payload })
}

fn at_least(len: u64, min: u64) -> Result<u64, Bad> {
    if len < min { Err(Bad::Protocol) } else { Ok(len) }
}

/// Applies the mask eight bytes at a time.
fn unmask(payload: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Appends one complete frame of the server whose payload is the concatenation of `parts`.
pub(crate) fn write(out: &mut Vec<u8>, op: u8, parts: &[&[u8]]) {
    header(out, op, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends an Engine.IO packet as a text frame: its type, then `parts`.
pub(crate) fn write_text(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    header(out, op::TEXT, 1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.push(kind);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn header(out: &mut Vec<u8>, op: u8, len: usize) {
    out.reserve(len + MAX_HEADER);
    out.push(0x80 | op);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..126), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends whole frames of the server to the body of a poll's answer, as Engine.IO packets.
pub(crate) fn append_packets(mut frames: &[u8], body: &mut Vec<u8>) {
    while let Some((op, payload, rest)) = split_own(frames) {
        frames = rest;
        if !matches!(op, op::TEXT | op::BINARY) {
            continue;
        }
        if !body.is_empty() {
            body.push(SEPARATOR);
        }
        if op == op::TEXT {
            body.extend_from_slice(payload);
            continue;
        }
        body.push(b'b');
        let start = body.len();
        body.resize(start + payload.len().div_ceil(3) * 4, b'=');
        // The length is exactly what the encoding needs: this can't fail.
        let _ = BASE64.encode_slice(payload, body.get_mut(start..).unwrap_or_default());
    }
}

/// Splits the first frame of the server off `frames`.
fn split_own(frames: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, second], rest) = frames.split_first_chunk()?;
    let (len, rest) = match second {
        126 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        127 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*len)).ok()?, rest)
        }
        short => (usize::from(short), rest),
    };
    let (payload, rest) = rest.split_at_checked(len)?;
    Some((first & 0x0f, payload, rest))
}

/// Decodes the binary message of a polling client.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`, or `None` if the key is not the
/// base64 of 16 bytes.
pub(crate) fn accept(key: &[u8]) -> Option<String> {
    if BASE64.decode(key).ok()?.len() != 16 {
        return None;
    }
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    Some(BASE64.encode(hash.finalize()))
}

/// Masks a frame as a client does, for tests.
#[cfg(test)]
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame, first & 0x0f, &[payload]);
    frame[0] = first;
    frame[1] |= 0x80;
    let header = frame.len() - payload.len();
    frame.splice(header..header, [1, 2, 3, 4]);
    unmask(&mut frame[header + 4..], [1, 2, 3, 4]);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTHS: [usize; 10] = [0, 1, 7, 8, 125, 126, 127, 65_535, 65_536, 70_000];

    fn payload(len: usize) -> Vec<u8> {
        (0..len).map(|i| i as u8).collect()
    }

    #[test]
    fn a_frame_of_any_length_is_parsed_and_unmasked() {
        for len in LENGTHS {
            let mut buf = [b"??".to_vec(), masked(0x82, &payload(len))].concat();
            let parsed = parse(&mut buf, 2, len).unwrap();
            let Parsed::Frame { fin: true, op: op::BINARY, payload: range } = parsed else {
                panic!("{len}: {parsed:?}")
            };
            assert_eq!((range.end, &buf[range]), (buf.len(), &payload(len)[..]));
        }
    }

    #[test]
    fn a_part_of_a_frame_tells_how_much_is_missing() {
        for len in LENGTHS {
            let whole = masked(0x81, &payload(len));
            for cut in (0..whole.len().min(20)).chain([whole.len() - 1]) {
                let Ok(Parsed::More(more)) = parse(&mut whole[..cut].to_vec(), 0, len) else {
                    panic!("{len} cut to {cut}")
                };
                assert!((1..=whole.len() - cut).contains(&more), "{len} cut to {cut}: {more}");
            }
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_header() {
        for len in LENGTHS.into_iter().filter(|len| *len > 0) {
            let header = &mut masked(0x81, &payload(len))[..12.min(len + 6)];
            assert_eq!(parse(header, 0, len - 1), Err(Bad::TooBig), "{len}");
        }
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        // Reserved bits, unknown kinds, control frames that are fragments.
        for first in [0xC1, 0xA1, 0x91, 0x83, 0x87, 0x8B, 0x8F, 0x09, 0x08, 0x0A] {
            assert_eq!(parse(&mut masked(first, b"x"), 0, 100), Err(Bad::Protocol), "{first:x}");
        }
        let unmasked = &mut [0x81, 1, b'x'];
        let long_ping = &mut masked(0x89, &[0; 126]);
        let long_length = &mut [0x81, 0x80 | 126, 0, 125, 1, 2, 3, 4];
        let longest_length = &mut [0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 1, 2, 3, 4];
        let negative = &mut [0x81, 0x80 | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
        for bad in [&mut unmasked[..], &mut long_ping[..], long_length, longest_length] {
            assert_eq!(parse(bad, 0, 100_000), Err(Bad::Protocol), "{bad:?}");
        }
        assert_eq!(parse(negative, 0, 100_000), Err(Bad::TooBig));
    }

    #[test]
    fn queued_frames_become_the_packets_of_a_poll() {
        let mut frames = Vec::new();
        write_text(&mut frames, b'4', &[b"a", b"b"]);
        write(&mut frames, op::BINARY, &[&[1, 2, 3, 4]]);
        write(&mut frames, op::PONG, &[b"not for polls"]);
        write(&mut frames, op::TEXT, &[&[b'4'; 300]]);
        write(&mut frames, op::TEXT, &[&[b'4'; 70_000]]);
        let mut body = Vec::new();
        append_packets(&frames, &mut body);
        let expected = [&b"4ab\x1ebAQIDBA==\x1e"[..], &[b'4'; 300], b"\x1e", &[b'4'; 70_000]];
        assert_eq!(body, expected.concat());
    }

    #[test]
    fn base64_is_strict() {
        assert_eq!(decode_base64("AQIDBA=="), Some(vec![1, 2, 3, 4]));
        assert_eq!(decode_base64(""), Some(vec![]));
        for bad in ["AQIDBA", "AQ ID", "A", "AQIDBA==x", "é"] {
            assert_eq!(decode_base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_accept_header_is_that_of_the_rfc() {
        let accepted = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for bad in [&b""[..], b"dGhlIHNhbXBsZQ==", b"not base64 at all!!!!!!!"] {
            assert_eq!(accept(bad), None);
        }
    }
}
