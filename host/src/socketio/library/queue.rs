//! What waits for one connection whose outgoing buffer is full: packets in their order, and whether the connection is to be ended after them.
//! While something waits for a connection, nothing is sent to it in another way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socketioxide::SocketError;
use socketioxide_core::Value as Serialized;
use tokio::sync::oneshot;

use crate::config::EVENT_BYTES;
use crate::memory::QueueMemory;

use super::Reach;

/// The most packets that [`Queue::drain`] sends in one call.
const LARGEST_BATCH: usize = 256;

/// The most packets that [`Queue::drain`] sends in one call to a client with a buffer of so many `packets`.
pub(super) fn largest_batch(packets: usize) -> usize {
    packets.div_ceil(2).min(LARGEST_BATCH)
}

/// What waits for one connection.
#[derive(Default)]
pub(super) struct Queue {
    /// Whether packets must pass by `state`. Each packet reads it, so it has no lock.
    is_in_use: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    packets: VecDeque<Waiting>,
    /// Bytes of the memory that the emits among them take.
    bytes: usize,
    /// Packets that the next call of [`Queue::drain`] sends; 0 before the first.
    batch: usize,
    stage: Stage,
}

/// What becomes of a packet.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It is sent at once: nothing waits.
    #[default]
    Idle,
    /// It waits behind others.
    Waiting,
    /// It is too late: the connection is to be ended after what waits.
    Ending,
    /// It is too late: the connection has ended.
    Ended,
}

struct Waiting {
    packet: Packet,
    /// Bytes of the memory that it takes.
    charge: usize,
    /// For an answer: resolved when it is in the buffer, dropped when it never will be.
    sent: Option<oneshot::Sender<()>>,
}

/// What can be sent to a connection.
pub(super) enum Packet {
    /// An event that an effect or a business system emits.
    Emit(Serialized),
    /// An event that answers one of the client's.
    Error(Serialized),
    /// The answer to the client's event of this number.
    Ack(i64, Serialized),
}

/// What became of a packet.
#[derive(Debug)]
pub(super) enum Handed {
    /// It is in the outgoing buffer.
    Sent,
    /// It waits for space in the outgoing buffer. An answer's receiver resolves when it has it, and fails if the connection ends before.
    Waits(Option<oneshot::Receiver<()>>),
    /// There is no memory for it. The client would miss it, so it gets nothing more.
    NoMemory,
    /// The connection has ended, or is to be ended.
    Gone,
}

/// How far what waited for a connection could be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Nothing waits any more.
    All,
    /// A whole batch was sent, and there is more.
    Batch,
    /// Some packets were sent, then the buffer was full.
    Some,
    /// The buffer was full.
    None,
    /// Nothing waits any more, and the connection is to be ended.
    Ends,
}

impl Queue {
    /// Sends a packet after what waits. An emit waits in the memory of all connections. An answer takes none of it: its sender keeps it until it
    /// is sent, and has one at a time. `attend` is called when something begins to wait: it has to see to [`Queue::drain`] from then on.
    pub(super) fn send(&self, to: &Reach, packet: impl Fn() -> Packet, attend: impl FnOnce()) -> Handed {
        if !self.has() {
            match packet().send(to) {
                Ok(()) => return Handed::Sent,
                Err(SocketError::Closed) => return Handed::Gone,
                Err(SocketError::InternalChannelFull) => {}
            }
        }
        let mut state = self.state();
        match state.stage {
            // There may be space by now.
            Stage::Idle => match packet().send(to) {
                Ok(()) => return Handed::Sent,
                Err(SocketError::Closed) => return Handed::Gone,
                Err(SocketError::InternalChannelFull) => {
                    self.enter(&mut state, Stage::Waiting);
                    attend();
                }
            },
            Stage::Waiting => {}
            Stage::Ending | Stage::Ended => return Handed::Gone,
        }
        let (packet, memory) = (packet(), &to.shared.memory);
        let charge = packet.charge();
        if charge > 0 && !memory.take(charge, state.bytes) {
            self.enter(&mut state, Stage::Ending);
            state.clear(memory);
            return Handed::NoMemory;
        }
        let (sent, is_sent) = (!matches!(packet, Packet::Emit(_))).then(oneshot::channel).unzip();
        state.bytes += charge;
        state.packets.push_back(Waiting { packet, charge, sent });
        Handed::Waits(is_sent)
    }

    /// The same for a packet that its sender keeps if it can't be sent now: returns whether it is done with.
    pub(super) fn try_send(&self, to: &Reach, packet: &Packet) -> bool {
        if self.has() {
            // Nobody waits for the answer of a connection that ends.
            return matches!(self.state().stage, Stage::Ending | Stage::Ended);
        }
        !matches!(packet.send(to), Err(SocketError::InternalChannelFull))
    }

    /// Whether something waits, or the connection is to be ended or has ended.
    pub(super) fn has(&self) -> bool {
        self.is_in_use.load(Ordering::Acquire)
    }

    /// Ends the connection after what waits, or without that if it is `cut`. Calls `attend` as [`Queue::send`] does.
    pub(super) fn end(&self, cut: bool, memory: &QueueMemory, attend: impl FnOnce()) {
        let mut state = self.state();
        let before = state.stage;
        if before != Stage::Ended {
            self.enter(&mut state, Stage::Ending);
        }
        if cut {
            state.clear(memory);
        }
        if before == Stage::Idle {
            attend();
        }
    }

    /// Sends some of what waits, as far as the buffer has space. The library ends a session whose ping finds no space, so a full buffer halves
    /// the next batch, until the client makes space faster than it is filled.
    pub(super) fn drain(&self, to: &Reach) -> Drained {
        let (mut state, memory) = (self.state(), &to.shared.memory);
        let largest = to.shared.largest_batch;
        let batch = if state.batch == 0 { largest } else { state.batch };
        for number in 0..batch {
            let Some(first) = state.packets.front() else { break };
            if matches!(first.packet.send(to), Err(SocketError::InternalChannelFull)) {
                state.batch = (number / 2).max(1);
                return if number > 0 { Drained::Some } else { Drained::None };
            }
            state.pop(memory);
        }
        state.batch = (batch + batch.div_ceil(4)).min(largest);
        match (state.packets.is_empty(), state.stage) {
            (_, Stage::Ended) => Drained::All,
            (false, _) => Drained::Batch,
            (true, Stage::Ending) => Drained::Ends,
            (true, Stage::Idle | Stage::Waiting) => {
                self.enter(&mut state, Stage::Idle);
                (state.packets, state.batch) = (VecDeque::new(), 0);
                Drained::All
            }
        }
    }

    /// The connection has ended: drops what waits, and accepts nothing more.
    pub(super) fn forget(&self, memory: &QueueMemory) {
        let mut state = self.state();
        self.enter(&mut state, Stage::Ended);
        state.clear(memory);
    }

    /// Called with the lock, so that the mark is never older than the stage.
    fn enter(&self, state: &mut State, stage: Stage) {
        state.stage = stage;
        self.is_in_use.store(stage != Stage::Idle, Ordering::Release);
    }

    /// The lock is held for at most [`LARGEST_BATCH`] packets; a panic leaves the queue whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes the first packet, which was sent.
    fn pop(&mut self, memory: &QueueMemory) {
        if let Some(Waiting { charge, sent, .. }) = self.packets.pop_front() {
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
        let outlet = to.outlet.upgrade().ok_or(SocketError::Closed)?;
        match self {
            Self::Emit(event) | Self::Error(event) => outlet.event(to.sid, event.clone()),
            Self::Ack(id, arguments) => outlet.ack(to.sid, *id, arguments.clone()),
        }
    }

    /// Bytes of the memory that it takes while it waits: text, attachments and its place. An event that waits for several connections is counted
    /// for each, though they share its text.
    fn charge(&self) -> usize {
        match self {
            Self::Emit(event) => EVENT_BYTES.saturating_add(size(event)),
            Self::Error(_) | Self::Ack(..) => 0,
        }
    }
}

fn size(value: &Serialized) -> usize {
    match value {
        Serialized::Str(text, attachments) => text.len() + attachments.iter().flatten().map(|bytes| bytes.len()).sum::<usize>(),
        Serialized::Bytes(bytes) => bytes.len(),
    }
}
