//! A client without a transport: what the host sends to it is kept until the program that plays the
//! client takes it. It knows no Socket.IO packets: nothing is encoded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::effect::Emit;

use super::{Answer, Asked, NotAsked};

/// The end of a connection that the host has closed. Any other end is the reason of an abort.
pub(crate) const CLOSED: &str = "closed";

/// The reason of the end of a client that has been sent more than may wait for it.
pub(crate) const TOO_MUCH: &str = "too_much_unread";

/// Bytes that a message takes beside its text and its attachments.
const MESSAGE_BYTES: usize = 128;

/// What one client was sent and has not taken yet.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// The most bytes that may wait. A client for which more would wait is disconnected, as with a
    /// transport.
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Arc<Message>>,
    bytes: usize,
    /// Why the host has ended the connection.
    end: Option<&'static str>,
}

/// One message of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The JSON texts of the arguments, separated by commas.
    pub(crate) arguments: Box<str>,
    pub(crate) attachments: Vec<Bytes>,
}

/// What a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event with this name.
    Event(String),
    /// The ack with this id.
    Ack(u64),
}

/// An event for many clients, which they share.
pub(crate) struct Frame(Arc<Message>);

impl Frame {
    pub(super) fn of(emit: &Emit) -> Self {
        Self(Arc::new(Message {
            kind: Kind::Event(emit.event.clone()),
            arguments: emit.data.arguments().into(),
            attachments: emit.attachments.clone(),
        }))
    }
}

/// The handle by which the host reaches the client.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    inbox: Arc<Inbox>,
    /// Held as long as the host may answer an event that came with this link.
    _answers: Option<TaskTrackerToken>,
}

impl Inbox {
    /// An empty inbox of at most `max_bytes`.
    pub(crate) fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, state: Mutex::default() })
    }

    /// A link to this client. `answers` is dropped with its last copy: for the link of an event,
    /// when the event is answered and all its effects are applied.
    pub(crate) fn link(self: &Arc<Self>, answers: Option<TaskTrackerToken>) -> super::Link {
        super::Link::Recorded(Link { inbox: Arc::clone(self), _answers: answers })
    }

    /// Returns what was sent since the last call.
    pub(crate) fn take(&self) -> Vec<Arc<Message>> {
        let mut state = self.state();
        state.bytes = 0;
        std::mem::take(&mut state.messages)
    }

    /// Takes the arguments of an ack out of what was sent; `None` if it was not sent.
    pub(crate) fn take_ack(&self, id: u64) -> Option<String> {
        let mut state = self.state();
        let is_it = |message: &Arc<Message>| message.kind == Kind::Ack(id);
        let index = state.messages.iter().position(is_it)?;
        Some(String::from(&*state.messages.remove(index).arguments))
    }

    /// Why the host has ended the connection; `None` while it has not.
    pub(crate) fn end(&self) -> Option<&'static str> {
        self.state().end
    }

    /// The lock is held for a few operations. A panic leaves the state consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: &Arc<Message>) -> bool {
        let mut state = self.state();
        if state.end.is_some() {
            return false;
        }
        let attached: usize = message.attachments.iter().map(Bytes::len).sum();
        let bytes = state.bytes + message.arguments.len() + attached + MESSAGE_BYTES;
        if bytes > self.max_bytes {
            state.end = Some(TOO_MUCH);
            return false;
        }
        state.bytes = bytes;
        state.messages.push(Arc::clone(message));
        true
    }
}

impl Link {
    pub(super) fn send(&self, Frame(message): &Frame) -> bool {
        self.inbox.push(message)
    }

    /// Sends an event that asks for an ack. Nobody can answer it: the plugin learns that the time
    /// is over, or that the client has left.
    pub(super) fn emit_with_ack(&self, emit: &Emit) -> Result<Asked, NotAsked> {
        if self.send(&Frame::of(emit)) { Ok(Asked::Recorded) } else { Err(NotAsked::Disconnected) }
    }

    pub(super) fn answer(&self, answer: Answer<'_>) {
        let (kind, arguments, attachments) = match answer {
            Answer::Ack(id, arguments, attachments) => (Kind::Ack(id), arguments, attachments),
            Answer::Event(name, argument) => (Kind::Event(name.to_owned()), argument, &[][..]),
        };
        let attachments = attachments.to_vec();
        self.inbox.push(&Arc::new(Message { kind, arguments: arguments.into(), attachments }));
    }

    pub(super) fn end(&self, reason: &'static str) {
        self.inbox.state().end.get_or_insert(reason);
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.inbox.state().bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::Target;
    use crate::event::Json;

    fn emit(text: &str) -> Emit {
        let data = Json::parse(format!("{text:?}")).unwrap().0;
        Emit {
            to: Target::Everyone,
            event: "said".to_owned(),
            data,
            attachments: Vec::new(),
            is_volatile: false,
            ack: None,
        }
    }

    #[test]
    fn a_client_gets_what_it_was_sent_in_order_and_once() {
        let inbox = Inbox::new(10_000);
        let link = inbox.link(None);
        assert!(link.emit(&emit("a")));
        let frame = link.encode(&emit("b")).unwrap();
        assert!(link.send(&frame));
        link.try_answer(Answer::Ack(7, "1,2", &[])).unwrap();
        let taken = inbox.take();
        let taken: Vec<_> =
            taken.iter().map(|message| (message.kind.clone(), &*message.arguments)).collect();
        let said = Kind::Event("said".to_owned());
        assert_eq!(taken, [(said.clone(), "\"a\""), (said, "\"b\""), (Kind::Ack(7), "1,2")]);
        assert!(inbox.take().is_empty() && link.waiting_bytes() == 0);
    }

    #[test]
    fn a_client_for_which_too_much_waits_is_disconnected_and_gets_no_more() {
        let inbox = Inbox::new(3 * (MESSAGE_BYTES + 3));
        let link = inbox.link(None);
        let sent = std::iter::repeat_with(|| link.emit(&emit("a"))).take(5);
        assert_eq!(sent.collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!((inbox.take().len(), inbox.end()), (3, Some(TOO_MUCH)));
        assert!(!link.emit(&emit("a")));
        link.close();
        assert_eq!(inbox.end(), Some(TOO_MUCH));
    }
}
