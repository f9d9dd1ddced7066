//! WebSocket frames (RFC 6455).
//!
//! Frames of the server are also what waits for a polling client: they delimit themselves, so an
//! upgrade converts nothing, and the answer to a poll only rewrites their headers.

/// The kinds of frames.
pub(crate) mod op {
    pub(crate) const TEXT: u8 = 1;
    pub(crate) const BINARY: u8 = 2;
}

/// The longest header of a frame that a server sends.
pub(crate) const MAX_HEADER: usize = 10;

/// Appends one complete frame of the server whose payload is the concatenation of `parts`.
pub(crate) fn write(out: &mut Vec<u8>, op: u8, parts: &[&[u8]]) {
    header(out, op, parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Appends an Engine.IO packet as a text frame: its type, then `parts`.
pub(crate) fn write_text(out: &mut Vec<u8>, kind: &[u8; 1], parts: &[&[u8]]) {
    header(out, op::TEXT, 1 + parts.iter().map(|part| part.len()).sum::<usize>());
    out.extend_from_slice(kind);
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
