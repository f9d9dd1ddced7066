//! What a fuzzer calls for the events of clients: see the crate's `fuzzing`.

use bytes::Bytes;
use sockhop_core::name::MAX_EVENT_NAME;

use crate::config::Limits;
use crate::event::{AUTHENTICATE, is_event_name};
use crate::socketio::Incoming;

use super::packet::read;

/// An event: a byte for the number of its attachments, its name, a line break, and its arguments.
pub fn packet(data: &[u8]) {
    let Some((attachments, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let call = text.split_once('\n').map(|(name, arguments)| (name.into(), arguments));
    let attachments = vec![Bytes::from_static(b"x"); usize::from(*attachments & 7)];
    let (is_call, attached, limits) = (call.is_some(), attachments.len(), Limits::default());
    let incoming = Incoming { call, bytes: text.len(), attachments, ack: None };
    let packet = read(incoming, &limits);
    match packet.rejection {
        None => {
            assert!(is_call && (is_event_name(&packet.name) || packet.name == AUTHENTICATE));
            assert!(attached <= limits.attachments);
            assert_eq!(packet.payload.attachments.len(), attached);
        }
        Some(_) => {
            assert!(packet.name.len() <= 2 * MAX_EVENT_NAME, "a rejection repeats no long name");
            assert_eq!((&*packet.payload.text, packet.payload.size()), ("null", 4));
        }
    }
}
