//! The outcomes of emits with an ack to one connection: each waits in the mailbox, so that it is
//! handled in the order of the client's events.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::config::Limits;
use crate::effect::{EndedAck, Outcome};
use crate::event::Payload;
use crate::memory::{QueueMemory, Reserved};
use crate::socket::Sockets;
use crate::socket::mailbox::{Busy, ConnectionState, Mailbox, QueuedAck, QueuedEvent, charge};
use crate::socketio::ClientAnswer;

use super::Client;

impl Client {
    /// Takes the answer of the client, or notes that there will be none.
    pub(super) fn take_answer(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        token: u64,
        answer: Option<ClientAnswer>,
    ) {
        let outcome = answer
            .map_or(Outcome::Disconnected, |answer| received(answer, &sockets.config.get().limits));
        // `None`: its time was over.
        if let Some(ended) = sockets.rooms.end_ack(token, outcome) {
            self.take_ended_ack(sockets, ended);
        }
    }

    /// Puts an outcome into the mailbox. Without space for an answer, the plugin gets the outcome
    /// `busy` instead: each plugin waits only for so many, so these need no space.
    pub(in crate::socket) fn take_ended_ack(
        self: &Arc<Self>,
        sockets: &Arc<Sockets>,
        mut ended: EndedAck,
    ) {
        let mut mailbox = self.mailbox();
        let size = ended.size();
        if matches!(ended.outcome, Outcome::Answered(_)) {
            match reserve(&mut mailbox, size, &sockets.config.get().limits, &sockets.memory) {
                Ok(reserved) => ended.reserved = Some(reserved),
                Err(busy) => ended.outcome = Outcome::Busy(busy.message().to_owned()),
            }
        }
        if mailbox.state == ConnectionState::Closed {
            drop(mailbox);
            sockets.end_ack_apart(ended);
            return;
        }
        // While the connection is closing, a consumer is there until nothing waits.
        let size = ended.size();
        mailbox.bytes += size;
        mailbox.uncounted += usize::from(ended.reserved.is_none());
        mailbox.events.push_back(QueuedEvent::Ack(Box::new(QueuedAck { ended, size })));
        self.wake(sockets, mailbox);
    }

    /// Lets the plugin handle an outcome.
    pub(super) async fn handle_ack(self: &Arc<Self>, sockets: &Arc<Sockets>, mut ended: EndedAck) {
        // The events of this client are rejected too.
        if self.has_expired.load(Ordering::Acquire) && matches!(ended.outcome, Outcome::Answered(_))
        {
            ended.outcome = Outcome::Invalid("the token of the client has expired".to_owned());
        }
        sockets.acknowledge(ended).await;
    }
}

/// Reserves space for an answer, as for an event. The bound of the mailbox applies to all answers
/// of the client together. Answers that wait for their plugins are included.
fn reserve(
    mailbox: &mut Mailbox,
    size: usize,
    limits: &Limits,
    memory: &Arc<QueueMemory>,
) -> Result<Reserved, Busy> {
    let (held, max) = (mailbox.memory(), limits.mailbox_bytes.get());
    let is_full = mailbox.counted() >= limits.mailbox_events.get();
    let answers = mailbox.answers.get_or_insert_default();
    let answered = answers.load(Ordering::Relaxed);
    if is_full || mailbox.bytes.saturating_add(size) > max || answered.saturating_add(size) > max {
        return Err(Busy::Mailbox);
    }
    memory.reserve(charge(size), held.max(answered), answers).ok_or(Busy::Host)
}

/// The outcome of an answer that has the size of a message that a client may send.
fn received(answer: ClientAnswer, limits: &Limits) -> Outcome<Payload> {
    let ClientAnswer { text, attachments } = answer;
    let attached: usize = attachments.iter().map(Bytes::len).sum();
    if text.len() > limits.message_bytes.get() {
        return Outcome::Invalid(format!("a message has at most {} bytes", limits.message_bytes));
    }
    if attachments.len() > limits.attachments || attached > limits.attachment_bytes.get() {
        return Outcome::Invalid(format!(
            "a message has at most {} attachments of {} bytes in all",
            limits.attachments, limits.attachment_bytes
        ));
    }
    Outcome::Answered(Payload { text, attachments })
}
