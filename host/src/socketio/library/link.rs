//! The handle by which the host reaches one socket of the library. Packets that find no space in
//! the socket's buffer wait in its queue.

use std::sync::Arc;
use std::time::Duration;

use socketioxide::TransportType;

use crate::effect::Emit;
use crate::socketio::{Answer, Full, NotAsked};

use super::asks::Asked;
use super::attendant::Attendant;
use super::outgoing::Outgoing;
use super::queue::{Handed, Packet};
use super::{Frame, argument};

/// So much longer than the host itself does the library wait for an answer.
const LONGER: Duration = Duration::from_secs(60);

/// The handle by which the host reaches one socket.
#[derive(Clone)]
pub(crate) struct Link(pub(super) Arc<Outgoing>);

impl Link {
    pub(crate) fn encode(&self, emit: &Emit) -> Option<Frame> {
        argument::of_emit(&*self.0.reach.adapter.upgrade()?, emit)
    }

    pub(crate) fn emit_with_ack(&self, token: u64, emit: &Emit) -> Result<Asked, NotAsked> {
        let Outgoing { reach, queue, asks } = &*self.0;
        let adapter = reach.adapter.upgrade().ok_or(NotAsked::Disconnected)?;
        let event = argument::of_emit(&adapter, emit).ok_or(NotAsked::Disconnected)?;
        let timeout = emit.ack.as_ref().map(|ack| ack.timeout).unwrap_or_default();
        asks.ask(token, || {
            // Only an emit can wait in the queue, because the library numbers acks when it sends.
            if queue.has() {
                return Err(NotAsked::Full);
            }
            Ok(adapter.event_with_ack(reach.sid, event, timeout.saturating_add(LONGER)))
        })
    }

    pub(crate) fn send_volatile(&self, frame: &Frame) -> bool {
        let Outgoing { reach, queue, .. } = &*self.0;
        queue.try_send(reach, &Packet::Emit(frame.clone()))
    }

    /// The connection has ended: its client answers no more.
    pub(super) fn end_acks(&self) {
        self.0.asks.end();
    }

    /// Waits until the host is ready for the next packet of the client.
    pub(super) fn until_sent(&self) {
        self.0.asks.until_sent();
    }

    pub(crate) fn send(&self, frame: &Frame) -> bool {
        match self.hand(|| Packet::Emit(frame.clone())) {
            Handed::Sent | Handed::Waits(_) => true,
            Handed::NoMemory => {
                self.abort("queue_full");
                false
            }
            Handed::Gone => false,
        }
    }

    pub(crate) async fn answer(&self, answer: Answer<'_>) {
        let Some(packet) = self.packet(answer) else { return };
        if let Handed::Waits(Some(sent)) = self.hand(|| packet.clone()) {
            // An error means that the connection has ended.
            let _ = sent.await;
        }
    }

    pub(crate) fn try_answer(&self, answer: Answer<'_>) -> Result<(), Full> {
        let Some(packet) = self.packet(answer) else { return Ok(()) };
        if self.0.queue.try_send(&self.0.reach, &packet) { Ok(()) } else { Err(Full) }
    }

    pub(crate) fn close(&self) {
        let Outgoing { reach, queue, .. } = &*self.0;
        if queue.has() || reach.try_disconnect().is_err() {
            queue.end(false, &reach.shared.memory, || self.attend());
        }
    }

    pub(crate) fn abort(&self, reason: &'static str) {
        self.0.abort(reason, || self.attend());
    }

    pub(crate) fn waiting_bytes(&self) -> usize {
        self.0.queue.waiting_bytes()
    }

    pub(crate) fn transport(&self) -> &'static str {
        match self.0.reach.socket.upgrade().map(|socket| socket.transport_type()) {
            Some(TransportType::Websocket) => "websocket",
            _ => "polling",
        }
    }

    fn hand(&self, packet: impl Fn() -> Packet) -> Handed {
        self.0.queue.send(&self.0.reach, packet, || self.attend())
    }

    /// Encodes an answer. Returns `None` if the connection has ended. It is ended if its client
    /// would never get an answer.
    fn packet(&self, answer: Answer<'_>) -> Option<Packet> {
        match answer {
            Answer::Event(name, argument) => {
                Some(Packet::Error(argument::of_event(name, argument)))
            }
            Answer::Ack(id, arguments, attachments) => {
                let adapter = self.0.reach.adapter.upgrade()?;
                let ack = argument::of_ack(&adapter, arguments, attachments);
                if ack.is_none() {
                    self.abort("answer_failed");
                }
                Some(Packet::Ack(id.cast_signed(), ack?))
            }
        }
    }

    /// Spawns a task that sends the waiting packets.
    fn attend(&self) {
        let shared = &self.0.reach.shared;
        shared.tasks.spawn(Attendant(Arc::clone(&self.0)).run(shared.stalled));
    }

    /// Drops the packets that wait for an ended connection. Its client may connect again in the
    /// same session.
    pub(super) fn forget(&self) {
        self.0.forget();
    }
}
