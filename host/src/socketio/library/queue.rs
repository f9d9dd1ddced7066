//! Connections whose outgoing buffer was full: the packets that wait for space in it, in their order, and whether the connection is to be
//! ended after them. While something waits for a connection, nothing is sent to it in another way.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socketioxide::SocketError;
use socketioxide::socket::Sid;
use socketioxide_core::{Str, Value as Serialized};
use tokio::sync::oneshot;

use crate::config::EVENT_BYTES;
use crate::memory::QueueMemory;

use super::outlet::Outlet;

/// A connection: its session and its namespace.
type Key = (Sid, Str);

/// The most packets that [`Overflow::drain`] sends in one call.
const LARGEST_BATCH: usize = 256;

/// What waits for all connections.
pub(super) struct Overflow {
    /// Number of entries in `queues`. Each packet reads it, so it has no lock.
    connections: AtomicUsize,
    queues: Mutex<HashMap<Key, Arc<Queue>>>,
    largest_batch: usize,
    memory: QueueMemory,
}

/// What waits for one connection. A queue's lock may be held while the map's is taken, never the other way round.
#[derive(Default)]
pub(super) struct Queue(Mutex<State>);

#[derive(Default)]
struct State {
    packets: VecDeque<Waiting>,
    /// Bytes of the memory that the emits among them take.
    bytes: usize,
    /// Packets that the next call of [`Overflow::drain`] sends; 0 before the first.
    batch: usize,
    /// The connection is to be ended after the packets, and accepts no others.
    ends: bool,
    /// The queue is no longer in the map.
    is_removed: bool,
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

impl Overflow {
    /// An empty one with its `memory`, for buffers of so many `packets`.
    pub(super) fn new(packets: usize, memory: QueueMemory) -> Self {
        let largest_batch = packets.div_ceil(2).min(LARGEST_BATCH);
        Self { connections: AtomicUsize::new(0), queues: Mutex::default(), largest_batch, memory }
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// Sends a packet to `client` after what waits for it. An emit waits in the memory of all connections. An answer takes none of it: its sender
    /// keeps it until it is sent, and has one at a time. `attend` is called with the new queue of a connection for which nothing waited: it has to
    /// see to [`Overflow::drain`] from then on.
    pub(super) fn send(&self, outlet: &Outlet, client: Sid, packet: impl Fn() -> Packet, attend: impl Fn(Arc<Queue>)) -> Handed {
        loop {
            let queue = match self.find(outlet, client) {
                Some(queue) => queue,
                None => match packet().send(outlet, client) {
                    Ok(()) => return Handed::Sent,
                    Err(SocketError::Closed) => return Handed::Gone,
                    Err(SocketError::InternalChannelFull) => self.find_or_insert(outlet, client, &attend),
                },
            };
            let mut state = queue.state();
            // Drained meanwhile: the buffer has space.
            if state.is_removed {
                continue;
            }
            if state.ends {
                return Handed::Gone;
            }
            let packet = packet();
            let charge = packet.charge();
            if charge > 0 && !self.memory.take(charge, state.bytes) {
                state.ends = true;
                state.clear(&self.memory);
                return Handed::NoMemory;
            }
            let (sent, is_sent) = (!matches!(packet, Packet::Emit(_))).then(oneshot::channel).unzip();
            state.bytes += charge;
            state.packets.push_back(Waiting { packet, charge, sent });
            return Handed::Waits(is_sent);
        }
    }

    /// The same for a packet that its sender keeps if it can't be sent now: returns whether it is done with.
    pub(super) fn try_send(&self, outlet: &Outlet, client: Sid, packet: Packet) -> bool {
        match self.find(outlet, client) {
            None => !matches!(packet.send(outlet, client), Err(SocketError::InternalChannelFull)),
            // Nobody waits for the answer of a connection that ends.
            Some(queue) => queue.state().ends,
        }
    }

    /// Whether something waits for `client`, or its connection is to be ended.
    pub(super) fn has(&self, outlet: &Outlet, client: Sid) -> bool {
        self.find(outlet, client).is_some()
    }

    /// Ends the connection of `client` after what waits for it, or without that if it is `cut`. Calls `attend` as [`Overflow::send`] does.
    pub(super) fn end(&self, outlet: &Outlet, client: Sid, cut: bool, attend: impl Fn(Arc<Queue>)) {
        loop {
            let queue = self.find_or_insert(outlet, client, &attend);
            let mut state = queue.state();
            if state.is_removed {
                continue;
            }
            state.ends = true;
            if cut {
                state.clear(&self.memory);
            }
            return;
        }
    }

    /// Sends some of what waits in the queue of `client`, as far as its buffer has space. The library ends a session whose ping finds no space, so a full
    /// buffer halves the next batch, until the client makes space faster than it is filled.
    pub(super) fn drain(&self, outlet: &Outlet, client: Sid, queue: &Arc<Queue>) -> Drained {
        let mut state = queue.state();
        if state.is_removed {
            return Drained::All;
        }
        let batch = if state.batch == 0 { self.largest_batch } else { state.batch };
        for number in 0..batch {
            let Some(first) = state.packets.front() else { break };
            if matches!(first.packet.send(outlet, client), Err(SocketError::InternalChannelFull)) {
                state.batch = (number / 2).max(1);
                return if number > 0 { Drained::Some } else { Drained::None };
            }
            state.pop(&self.memory);
        }
        state.batch = (batch + batch.div_ceil(4)).min(self.largest_batch);
        match (state.packets.is_empty(), state.ends) {
            (false, _) => Drained::Batch,
            (true, true) => Drained::Ends,
            (true, false) => {
                self.remove(outlet, client, queue, &mut state);
                Drained::All
            }
        }
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&self, outlet: &Outlet, client: Sid) {
        if let Some(queue) = self.find(outlet, client) {
            let mut state = queue.state();
            state.clear(&self.memory);
            self.remove(outlet, client, &queue, &mut state);
        }
    }

    fn find(&self, outlet: &Outlet, client: Sid) -> Option<Arc<Queue>> {
        if self.connections.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.queues().get(&key(outlet, client)).cloned()
    }

    fn find_or_insert(&self, outlet: &Outlet, client: Sid, attend: impl Fn(Arc<Queue>)) -> Arc<Queue> {
        let (mut is_new, mut queues) = (false, self.queues());
        let queue = queues.entry(key(outlet, client)).or_insert_with(|| {
            is_new = true;
            self.connections.fetch_add(1, Ordering::Release);
            Arc::default()
        });
        let queue = Arc::clone(queue);
        drop(queues);
        if is_new {
            attend(Arc::clone(&queue));
        }
        queue
    }

    fn remove(&self, outlet: &Outlet, client: Sid, queue: &Arc<Queue>, state: &mut State) {
        if std::mem::replace(&mut state.is_removed, true) {
            return;
        }
        let (mut queues, key) = (self.queues(), key(outlet, client));
        if queues.get(&key).is_some_and(|other| Arc::ptr_eq(other, queue)) {
            queues.remove(&key);
            self.connections.fetch_sub(1, Ordering::Release);
        }
    }

    /// The lock is held for one access to the map; a panic leaves it whole.
    fn queues(&self) -> MutexGuard<'_, HashMap<Key, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// The lock is held for at most [`LARGEST_BATCH`] packets; a panic leaves the queue whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn send(&self, outlet: &Outlet, client: Sid) -> Result<(), SocketError> {
        match self {
            Self::Emit(event) | Self::Error(event) => outlet.event(client, event.clone()),
            Self::Ack(id, arguments) => outlet.ack(client, *id, arguments.clone()),
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

fn key(outlet: &Outlet, client: Sid) -> Key {
    (client, outlet.path().clone())
}

fn size(value: &Serialized) -> usize {
    match value {
        Serialized::Str(text, attachments) => text.len() + attachments.iter().flatten().map(|bytes| bytes.len()).sum::<usize>(),
        Serialized::Bytes(bytes) => bytes.len(),
    }
}
