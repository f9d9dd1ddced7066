//! The queue of one connection whose outgoing buffer is full: packets in their order, and whether
//! the connection must be ended after them. While packets wait, nothing is sent to the connection
//! except through the queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socketioxide::SocketError;
use socketioxide_core::Value as Serialized;
use tokio::sync::oneshot;

use crate::config::EVENT_BYTES;
use crate::memory::QueueMemory;

use super::reach::Reach;

/// Maximum number of packets that [`PacketQueue::drain`] sends in one call.
const LARGEST_BATCH: usize = 256;

/// Maximum number of packets that [`PacketQueue::drain`] sends in one call to a client whose buffer
/// holds `packets`.
pub(super) fn largest_batch(packets: usize) -> usize {
    packets.div_ceil(2).min(LARGEST_BATCH)
}

/// The queue of one connection.
#[derive(Default)]
pub(super) struct PacketQueue {
    /// Whether packets must go through `inner`. Read for each packet, so it has no lock.
    is_in_use: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    packets: VecDeque<WaitingPacket>,
    /// Bytes of [`QueueMemory`] that the waiting emits take.
    bytes: usize,
    /// Packets that the next call of [`PacketQueue::drain`] sends at most; 0 before the first call.
    batch: usize,
    state: QueueState,
}

/// The state of the queue, which decides what happens to the next packet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum QueueState {
    /// No packet waits: the packet is sent at once.
    #[default]
    Idle,
    /// Packets wait: the packet is queued behind them.
    Waiting,
    /// The connection must be ended after the waiting packets: the packet is dropped.
    Ending,
    /// The connection has ended: the packet is dropped.
    Ended,
}

struct WaitingPacket {
    packet: Packet,
    /// Bytes of [`QueueMemory`] that it takes.
    charge: usize,
    /// For an answer: resolved when the answer is in the buffer, dropped if it will never be.
    sent: Option<oneshot::Sender<()>>,
}

/// A packet for a connection.
#[derive(Clone)]
pub(super) enum Packet {
    /// An event that an effect or a business system emits.
    Emit(Serialized),
    /// An event that answers an event of the client.
    Error(Serialized),
    /// The ack with this id.
    Ack(i64, Serialized),
}

/// The outcome for a packet.
#[derive(Debug)]
pub(super) enum Handed {
    /// It is in the outgoing buffer.
    Sent,
    /// It waits for space in the outgoing buffer. The receiver of an answer resolves when the
    /// answer is in the buffer, and fails if the connection ends before.
    Waits(Option<oneshot::Receiver<()>>),
    /// There is no memory for it. The client would miss it, so the client receives nothing more.
    NoMemory,
    /// The connection has ended, or must be ended.
    Gone,
}

/// How far the waiting packets could be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// No packet waits any more.
    All,
    /// A whole batch was sent, and more packets wait.
    Batch,
    /// Some packets were sent, then the buffer was full.
    Some,
    /// The buffer was full.
    None,
    /// No packet waits any more, and the connection must be ended.
    Ends,
}

impl PacketQueue {
    /// Sends a packet after the waiting packets. A waiting emit takes memory that all connections
    /// share. A waiting answer takes none: its sender holds it until it is sent, and has only one
    /// at a time. `attend` is called when the first packet waits. From then on it must call
    /// [`PacketQueue::drain`].
    pub(super) fn send(
        &self,
        to: &Reach,
        packet: impl Fn() -> Packet,
        attend: impl FnOnce(),
    ) -> Handed {
        if !self.has() {
            match packet().send(to) {
                Ok(()) => return Handed::Sent,
                Err(SocketError::Closed) => return Handed::Gone,
                Err(SocketError::InternalChannelFull) => {}
            }
        }
        let mut inner = self.lock();
        match inner.state {
            // There may be space by now.
            QueueState::Idle => match packet().send(to) {
                Ok(()) => return Handed::Sent,
                Err(SocketError::Closed) => return Handed::Gone,
                Err(SocketError::InternalChannelFull) => {
                    self.enter(&mut inner, QueueState::Waiting);
                    attend();
                }
            },
            QueueState::Waiting => {}
            QueueState::Ending | QueueState::Ended => return Handed::Gone,
        }
        let (packet, memory) = (packet(), &to.shared.memory);
        let charge = packet.charge();
        if charge > 0 && !memory.take(charge, inner.bytes) {
            self.enter(&mut inner, QueueState::Ending);
            inner.clear(memory);
            return Handed::NoMemory;
        }
        let (sent, is_sent) = (!matches!(packet, Packet::Emit(_))).then(oneshot::channel).unzip();
        inner.bytes += charge;
        inner.packets.push_back(WaitingPacket { packet, charge, sent });
        Handed::Waits(is_sent)
    }

    /// Like [`PacketQueue::send`], but does not queue the packet. Returns whether the sender can
    /// drop it: it was sent, or the connection ends.
    pub(super) fn try_send(&self, to: &Reach, packet: &Packet) -> bool {
        if self.has() {
            // The answer of a connection that ends is not needed.
            return matches!(self.lock().state, QueueState::Ending | QueueState::Ended);
        }
        !matches!(packet.send(to), Err(SocketError::InternalChannelFull))
    }

    /// Whether packets wait, or the connection must be ended or has ended.
    pub(super) fn has(&self) -> bool {
        self.is_in_use.load(Ordering::Acquire)
    }

    /// Ends the connection after the waiting packets, or without them `at_once`. Calls `attend` as
    /// [`PacketQueue::send`] does.
    pub(super) fn end(&self, at_once: bool, memory: &QueueMemory, attend: impl FnOnce()) {
        let mut inner = self.lock();
        let before = inner.state;
        if before != QueueState::Ended {
            self.enter(&mut inner, QueueState::Ending);
        }
        if at_once {
            inner.clear(memory);
        }
        if before == QueueState::Idle {
            attend();
        }
    }

    /// Sends waiting packets while the buffer has space, at most one batch. The library ends a
    /// session whose ping finds no space. So a full buffer halves the next batch, until the client
    /// makes space faster than the buffer is filled.
    pub(super) fn drain(&self, to: &Reach) -> Drained {
        let (mut inner, memory) = (self.lock(), &to.shared.memory);
        let largest = to.shared.largest_batch;
        let batch = if inner.batch == 0 { largest } else { inner.batch };
        for number in 0..batch {
            let Some(first) = inner.packets.front() else { break };
            if matches!(first.packet.send(to), Err(SocketError::InternalChannelFull)) {
                inner.batch = (number / 2).max(1);
                return if number > 0 { Drained::Some } else { Drained::None };
            }
            inner.pop(memory);
        }
        inner.batch = (batch + batch.div_ceil(4)).min(largest);
        match (inner.packets.is_empty(), inner.state) {
            (_, QueueState::Ended) => Drained::All,
            (false, _) => Drained::Batch,
            (true, QueueState::Ending) => Drained::Ends,
            (true, QueueState::Idle | QueueState::Waiting) => {
                self.enter(&mut inner, QueueState::Idle);
                (inner.packets, inner.batch) = (VecDeque::new(), 0);
                Drained::All
            }
        }
    }

    /// Drops the waiting packets and accepts no more, because the connection has ended.
    pub(super) fn forget(&self, memory: &QueueMemory) {
        let mut inner = self.lock();
        self.enter(&mut inner, QueueState::Ended);
        inner.clear(memory);
    }

    /// Called under the lock, so that `is_in_use` is never older than the state.
    fn enter(&self, inner: &mut Inner, state: QueueState) {
        inner.state = state;
        self.is_in_use.store(state != QueueState::Idle, Ordering::Release);
    }

    /// Bytes of the emits that wait.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().bytes
    }

    /// The lock is held for at most [`LARGEST_BATCH`] packets. A panic leaves the queue consistent.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Removes the first packet, which was sent.
    fn pop(&mut self, memory: &QueueMemory) {
        if let Some(WaitingPacket { charge, sent, .. }) = self.packets.pop_front() {
            self.bytes -= charge;
            memory.give_back(charge);
            let _ = sent.map(|sent| sent.send(()));
        }
    }

    fn clear(&mut self, memory: &QueueMemory) {
        self.packets = VecDeque::new();
        memory.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Packet {
    fn send(&self, to: &Reach) -> Result<(), SocketError> {
        let adapter = to.adapter.upgrade().ok_or(SocketError::Closed)?;
        match self {
            Self::Emit(event) | Self::Error(event) => adapter.event(to.sid, event.clone()),
            Self::Ack(id, arguments) => adapter.ack(to.sid, *id, arguments.clone()),
        }
    }

    /// Bytes of [`QueueMemory`] that it takes while it waits: text, attachments and its entry. An
    /// event that waits for several connections is counted for each, though they share its text.
    fn charge(&self) -> usize {
        match self {
            Self::Emit(event) => EVENT_BYTES.saturating_add(size(event)),
            Self::Error(_) | Self::Ack(..) => 0,
        }
    }
}

fn size(value: &Serialized) -> usize {
    match value {
        Serialized::Str(text, attachments) => {
            text.len() + attachments.iter().flatten().map(|bytes| bytes.len()).sum::<usize>()
        }
        Serialized::Bytes(bytes) => bytes.len(),
    }
}
