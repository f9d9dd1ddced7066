//! A session without a client, for tests of the protocol above it.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::config::Config;
use super::memory::Memory;
use super::session::{Polled, Session, Transport};
use super::sid::Sid;

/// A session that polls, and in whose place [`take_packets`] polls.
pub(crate) fn session() -> Arc<Session> {
    session_of(Transport::Polling)
}

/// A session with this transport.
pub(crate) fn session_of(transport: Transport) -> Arc<Session> {
    let config = Arc::new(Config::default());
    let memory = Arc::new(Memory::new(&config));
    Session::new(Sid::random().unwrap(), &config, &memory, transport)
}

/// The packets that a poll receives.
pub(crate) fn take_packets(session: &Arc<Session>) -> Vec<String> {
    if session.is_drained() {
        return Vec::new();
    }
    let polled =
        session.start_poll().unwrap().poll_packets(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Polled::Packets(packets)) = polled else { panic!("nothing is received") };
    let body = str::from_utf8(packets.as_ref()).unwrap();
    body.split('\u{1e}').map(str::to_owned).collect()
}
