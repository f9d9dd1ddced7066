//! The outcomes of emits with an ack to one connection: each waits in the mailbox, so that it is
//! handled in the order of the client's events.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use crate::config::Limits;
use crate::effect::{EndedAck, Outcome};
use crate::event::Payload;
use crate::log;
use crate::memory::QueueMemory;
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
        if matches!(mailbox.state, ConnectionState::Closing | ConnectionState::Closed) {
            drop(mailbox);
            sockets.end_ack_apart(ended);
            return;
        }
        let size = ended.size();
        let is_answer = matches!(ended.outcome, Outcome::Answered(_));
        let mut charged = 0;
        if is_answer {
            let limits = &sockets.config.get().limits;
            match reserve(&mut mailbox, size, limits, &sockets.memory) {
                Ok(()) => charged = charge(size),
                Err(busy) => ended.outcome = Outcome::Busy(busy.message().to_owned()),
            }
        }
        let size = ended.size();
        mailbox.events.push_back(QueuedEvent::Ack(Box::new(QueuedAck { ended, size, charged })));
        self.wake(sockets, mailbox);
    }

    /// Lets the plugin handle an outcome.
    pub(super) async fn handle_ack(self: &Arc<Self>, sockets: &Arc<Sockets>, mut ended: EndedAck) {
        // The events of this client are rejected too.
        if self.has_expired.load(Ordering::Acquire) && matches!(ended.outcome, Outcome::Answered(_))
        {
            ended.outcome = Outcome::Invalid("the token of the client has expired".to_owned());
        }
        let (ack, event) = (Arc::clone(&ended.ack), ended.ack.request.ack.clone());
        let handling = pin!(sockets.dispatcher.acknowledge(ended));
        match log::catch(handling).await {
            Ok(true) => _ = sockets.rooms.end(&self.connection),
            Ok(false) => {}
            Err(panic) => tracing::error!(
                plugin = ack.plugin,
                event,
                error = panic.message,
                location = panic.location,
                "the host panicked while it handled the outcome of an ack"
            ),
        }
    }
}

/// Reserves space for an answer, as for an event.
fn reserve(
    mailbox: &mut Mailbox,
    size: usize,
    limits: &Limits,
    memory: &QueueMemory,
) -> Result<(), Busy> {
    let bytes = mailbox.bytes.saturating_add(size);
    if mailbox.events.len() + mailbox.handling >= limits.mailbox_events.get()
        || bytes > limits.mailbox_bytes.get()
    {
        return Err(Busy::Mailbox);
    }
    if !memory.take(charge(size), mailbox.memory()) {
        return Err(Busy::Host);
    }
    mailbox.bytes = bytes;
    Ok(())
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
