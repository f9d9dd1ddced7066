//! Clients whose outgoing buffer was full: emits that wait for space in it, in their order, and connections that are to be ended. Nothing
//! else goes to such a client before them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use socketioxide::SocketError;
use socketioxide::socket::Sid;
use socketioxide_core::{Str, Value as Serialized};

use crate::config::EVENT_BYTES;
use crate::memory::QueueMemory;

use super::outlet::Outlet;

/// A connection: a session and its namespace.
type Key = (Sid, Str);

/// What waits for all clients.
pub(super) struct Overflow {
    /// Number of clients in `waiting`. Each packet looks at it, so it has no lock.
    clients: AtomicUsize,
    waiting: Mutex<HashMap<Key, Waiting>>,
    /// Emits that [`Overflow::drain`] sends in one call.
    batch: usize,
    memory: QueueMemory,
}

/// What waits for one client.
#[derive(Default)]
struct Waiting {
    emits: VecDeque<Serialized>,
    /// Bytes of the memory that they take.
    bytes: usize,
    /// The connection is to be ended after them. It gets nothing more.
    ends: bool,
}

/// Whether a client may be sent something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing waits for it.
    Free,
    /// Something waits, and comes first.
    Waits,
    /// Its connection is to be ended.
    Ends,
}

/// What became of an emit.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handed {
    /// It is in the outgoing buffer, or waits for space in it.
    Taken,
    /// There is no memory for it: the client would miss it.
    NoMemory,
    /// The client is gone, or its connection is to be ended.
    Gone,
}

/// How far what waited for a client could be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Nothing waits any more.
    All,
    /// There was space for some of it.
    Some,
    /// There was no space.
    None,
    /// Nothing waits any more, and the connection is to be ended.
    Ends,
}

impl Overflow {
    /// An empty one with its `memory`, for buffers of so many `packets`. A call of [`Overflow::drain`] fills a half of a buffer, because the
    /// library closes a session if its ping finds no space.
    pub(super) fn new(packets: usize, memory: QueueMemory) -> Self {
        Self { clients: AtomicUsize::new(0), waiting: Mutex::default(), batch: packets.div_ceil(2), memory }
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// Whether `client` may be sent something.
    pub(super) fn way(&self, outlet: &Outlet, client: Sid) -> Way {
        if self.clients.load(Ordering::Acquire) == 0 {
            return Way::Free;
        }
        match self.waiting().get(&key(outlet, client)) {
            None => Way::Free,
            Some(Waiting { ends: false, .. }) => Way::Waits,
            Some(Waiting { ends: true, .. }) => Way::Ends,
        }
    }

    /// Hands an event to `client`, after what waits for it. Calls `attend` if nothing waited before: somebody has to call
    /// [`Overflow::drain`] from then on.
    pub(super) fn emit(&self, outlet: &Outlet, client: Sid, event: &Serialized, attend: impl FnOnce()) -> Handed {
        match self.way(outlet, client) {
            Way::Ends => return Handed::Gone,
            Way::Waits => {}
            Way::Free => match outlet.event(client, event.clone()) {
                Ok(()) => return Handed::Taken,
                Err(SocketError::Closed) => return Handed::Gone,
                Err(SocketError::InternalChannelFull) => {}
            },
        }
        let (key, bytes) = (key(outlet, client), charge(event));
        let mut waiting = self.waiting();
        let held = waiting.get(&key).map_or(0, |waiting| waiting.bytes);
        if !self.memory.take(bytes, held) {
            return Handed::NoMemory;
        }
        let of_client = self.of_client(&mut waiting, key, attend);
        of_client.emits.push_back(event.clone());
        of_client.bytes += bytes;
        Handed::Taken
    }

    /// Ends the connection of `client` after what waits for it, or at once if it is to be `cut`. Calls `attend` as [`Overflow::emit`] does.
    pub(super) fn end(&self, outlet: &Outlet, client: Sid, cut: bool, attend: impl FnOnce()) {
        let mut waiting = self.waiting();
        let of_client = self.of_client(&mut waiting, key(outlet, client), attend);
        of_client.ends = true;
        if cut {
            self.memory.give_back(of_client.bytes);
            (of_client.emits, of_client.bytes) = (VecDeque::new(), 0);
        }
    }

    /// Sends some of what waits for `client`, as far as its buffer has space.
    pub(super) fn drain(&self, outlet: &Outlet, client: Sid) -> Drained {
        let (key, mut drained) = (key(outlet, client), Drained::None);
        let mut waiting = self.waiting();
        let Some(of_client) = waiting.get_mut(&key) else { return Drained::All };
        for _ in 0..self.batch {
            let Some(event) = of_client.emits.front() else { break };
            let bytes = charge(event);
            match outlet.event(client, event.clone()) {
                Err(SocketError::InternalChannelFull) => return drained,
                // One that is gone takes everything.
                Ok(()) | Err(SocketError::Closed) => drained = Drained::Some,
            }
            of_client.emits.pop_front();
            of_client.bytes -= bytes;
            self.memory.give_back(bytes);
        }
        if !of_client.emits.is_empty() {
            return drained;
        }
        if of_client.ends {
            return Drained::Ends;
        }
        self.remove(&mut waiting, &key);
        Drained::All
    }

    /// Forgets a client whose connection has ended.
    pub(super) fn forget(&self, outlet: &Outlet, client: Sid) {
        self.remove(&mut self.waiting(), &key(outlet, client));
    }

    fn of_client<'map>(&self, waiting: &'map mut HashMap<Key, Waiting>, key: Key, attend: impl FnOnce()) -> &'map mut Waiting {
        waiting.entry(key).or_insert_with(|| {
            self.clients.fetch_add(1, Ordering::Release);
            attend();
            Waiting::default()
        })
    }

    fn remove(&self, waiting: &mut HashMap<Key, Waiting>, key: &Key) {
        if let Some(Waiting { bytes, .. }) = waiting.remove(key) {
            self.memory.give_back(bytes);
            self.clients.fetch_sub(1, Ordering::Release);
        }
    }

    /// The lock is held for a few moves of packets; a panic leaves the map whole.
    fn waiting(&self) -> MutexGuard<'_, HashMap<Key, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(outlet: &Outlet, client: Sid) -> Key {
    (client, outlet.path().clone())
}

/// Bytes of the memory that an event takes: its text, its attachments and its place.
fn charge(event: &Serialized) -> usize {
    let size = match event {
        Serialized::Str(text, attachments) => text.len() + attachments.iter().flatten().map(|bytes| bytes.len()).sum::<usize>(),
        Serialized::Bytes(bytes) => bytes.len(),
    };
    EVENT_BYTES.saturating_add(size)
}
