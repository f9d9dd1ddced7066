//! Who hears what: applies effects to rooms and connections. The only part that makes clients receive bytes, answers included. It does not
//! know that plugins exist.

mod argument;
mod attendant;
mod directory;
mod outlet;
mod overflow;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use socketioxide::extract::SocketRef;
use socketioxide::socket::{Sid, Socket};
use socketioxide::{SocketError, SocketIo, TransportType};
use socketioxide_core::Value as Serialized;
use tokio_util::task::TaskTracker;

use crate::config::Limits;
use crate::effect::{Effect, Emit, Target};
use crate::event::{Connection, EventId, Identity, Json};
use crate::memory::QueueMemory;
use crate::rejection::Rejection;
use crate::transport::{Cut, Upgrades};

use attendant::Attendant;
use directory::Directory;
use overflow::{Handed, Overflow, Packet, Queue};

pub(crate) use directory::page_of;
pub(crate) use outlet::{Outlet, Outlets};

/// Connections and their rooms.
pub struct Rooms {
    /// For tasks that must not keep it.
    itself: Weak<Self>,
    /// Set once, before anything listens.
    io: OnceLock<(SocketIo<Outlet>, Vec<String>)>,
    outlets: Outlets,
    overflow: Overflow,
    /// The connections by their public ids.
    /// Hashed fast: the host makes these ids.
    by_public_id: RwLock<HashMap<String, (Sid, Arc<Connection>), foldhash::fast::RandomState>>,
    /// The connections of which plugins are told.
    pub(crate) directory: Directory,
    /// Connections whose transport began as long-polling.
    pub(crate) upgrades: Upgrades,
    /// How long a client may not read before it is cut.
    stalled: Duration,
    tasks: TaskTracker,
}

/// The event by which a client is told of a rejection where it asked for no ack.
const ERROR: &str = "error";

/// Where an answer goes: the ack that the client asked for, or its socket.
#[derive(Clone)]
pub struct ReplyTo {
    /// Weak: the library owns the socket while there is somebody to answer, and the socket owns the mailbox in which this waits.
    pub(crate) socket: Weak<Socket<Outlet>>,
    pub(crate) ack: Option<i64>,
}

/// What became of one event's effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Connections into whose buffers events were handed, each counted for each event.
    pub receivers: usize,
    /// Whether the caller's connection is to be ended, once it has its answer.
    pub ends: bool,
}

/// The outgoing buffer has no room for an answer now.
#[derive(Debug)]
pub struct Full;

impl Rooms {
    /// Rooms without connections.
    pub fn new(limits: &Limits, tasks: TaskTracker) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            itself: Weak::clone(itself),
            io: OnceLock::new(),
            outlets: Outlets::default(),
            overflow: Overflow::new(limits.outgoing_packets.get(), QueueMemory::new(limits.overflow_bytes.get())),
            by_public_id: RwLock::default(),
            directory: Directory::default(),
            upgrades: Upgrades::default(),
            stalled: limits.stalled_reader_ms,
            tasks,
        })
    }

    /// Where the library's namespaces are to put their adapters.
    pub(crate) fn outlets(&self) -> Outlets {
        self.outlets.clone()
    }

    /// Serves the sockets of these namespaces of `io` from now on.
    pub(crate) fn attach(&self, io: SocketIo<Outlet>, namespaces: Vec<String>) {
        // A second call would change nothing: a host has one.
        let _ = self.io.set((io, namespaces));
    }

    /// Makes a connection known by its public id.
    pub(crate) fn enter(&self, connection: &Arc<Connection>, sid: Sid) {
        let known = (sid, Arc::clone(connection));
        self.by_public_id.write().unwrap_or_else(PoisonError::into_inner).insert(connection.public_id.clone(), known);
    }

    /// Drops what still waits for a connection that has ended: its client may connect again in the same session.
    pub(crate) fn leave(&self, connection: &Connection) {
        if let Some(outlet) = self.outlets.of(&connection.namespace)
            && let Some(sid) = self.sid(&connection.namespace, &connection.public_id)
        {
            self.overflow.forget(&outlet, sid);
        }
    }

    /// Forgets it.
    pub(crate) fn forget(&self, public_id: &str) {
        self.by_public_id.write().unwrap_or_else(PoisonError::into_inner).remove(public_id);
    }

    /// The memory of emits that wait for space in an outgoing buffer.
    pub(crate) fn overflow(&self) -> &QueueMemory {
        self.overflow.memory()
    }

    /// Connections that the host knows.
    pub fn connections(&self) -> usize {
        self.by_public_id.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Applies `effects` for `caller`: membership first, then emits in their order. Where nobody caused them, they go to every namespace.
    /// Cannot fail: a target that is gone is no target. The end of the caller's connection is left to [`Rooms::end`]: its answer goes first.
    pub fn apply(&self, caller: Option<&Arc<Connection>>, effects: &[Effect]) -> Applied {
        let mut applied = Applied::default();
        if effects.is_empty() {
            return applied;
        }
        if effects.iter().any(|effect| matches!(effect, Effect::Join(_) | Effect::Leave(_)))
            && let Some(socket) = caller.and_then(|caller| self.find(&caller.namespace, &caller.public_id))
        {
            for effect in effects {
                match effect {
                    Effect::Join(room) => socket.join(room.clone()),
                    Effect::Leave(room) => socket.leave(room.clone()),
                    Effect::Emit(_) | Effect::Disconnect(_) => {}
                }
            }
        }
        let sender = caller.and_then(|caller| self.sid(&caller.namespace, &caller.public_id));
        let all = self.io.get().map(|(_, namespaces)| namespaces.as_slice()).unwrap_or_default();
        let own = caller.map(|caller| caller.namespace.as_ref());
        for effect in effects {
            match effect {
                Effect::Emit(emit) => {
                    let namespaces = own.into_iter().chain(all.iter().map(String::as_str).filter(|_| own.is_none()));
                    for namespace in namespaces {
                        applied.receivers += self.emit(namespace, sender, emit);
                    }
                }
                Effect::Disconnect(reason) => {
                    tracing::info!(client = caller.map(|caller| caller.public_id.as_str()), reason, "connection ended by its handler");
                    applied.ends = true;
                }
                Effect::Join(_) | Effect::Leave(_) => {}
            }
        }
        applied
    }

    /// Takes connections out of the rooms that they may not be in any more.
    pub fn recheck(&self, may_join: impl Fn(&str, &Identity) -> bool) {
        let known = self.by_public_id.read().unwrap_or_else(PoisonError::into_inner);
        let connections: Vec<_> = known.values().map(|(_, connection)| Arc::clone(connection)).collect();
        drop(known);
        for connection in connections {
            self.recheck_one(&connection, &may_join);
        }
    }

    /// The same for one connection.
    pub fn recheck_one(&self, connection: &Connection, may_join: &impl Fn(&str, &Identity) -> bool) {
        let Some(socket) = self.find(&connection.namespace, &connection.public_id) else { return };
        for room in socket.rooms().into_iter().filter(|room| !may_join(room, &connection.identity)) {
            tracing::info!(client = connection.public_id, %room, "taken out of a room: its rule has changed");
            socket.leave(room);
        }
    }

    /// Ends the connection, after whatever it was sent before.
    pub fn end(&self, connection: &Connection) {
        let Some(socket) = self.find(&connection.namespace, &connection.public_id) else { return };
        let Some(outlet) = self.outlets.of(socket.ns()) else { return };
        let sid = socket.id;
        if self.overflow.has(&outlet, sid) || Self::try_disconnect(socket).is_err() {
            self.overflow.end(&outlet, sid, false, |queue| self.attend(&outlet, sid, queue));
        }
    }

    /// The rooms of a connection.
    pub fn of(&self, connection: &Connection) -> Vec<String> {
        let socket = self.find(&connection.namespace, &connection.public_id);
        socket.map_or_else(Vec::new, |socket| socket.rooms().into_iter().map(Into::into).collect())
    }

    /// Connections in `room`.
    pub fn count(&self, namespace: &str, room: &str) -> usize {
        self.outlets.of(namespace).map_or(0, |outlet| outlet.members(&[room.to_owned()]).len())
    }

    /// Answers an event: by the ack, if one was asked for; otherwise a rejection is an `error` event and a success is silent. Returns when the
    /// answer is in the outgoing buffer, or when there is nobody to answer. A client that makes no space in its buffer for too long is cut.
    pub async fn answer(&self, to: &ReplyTo, event: &str, id: EventId, answer: &Result<Json, Rejection>) {
        let Some((outlet, client)) = self.receiver(to) else { return };
        if to.ack.is_none() && answer.is_ok() {
            return;
        }
        let packet = || packet(to.ack, event, id, answer);
        if let Handed::Waits(Some(sent)) = self.overflow.send(&outlet, client, packet, |queue| self.attend(&outlet, client, queue)) {
            // An error says that the connection has ended.
            let _ = sent.await;
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// If the outgoing buffer has no space.
    pub fn try_answer(&self, to: &ReplyTo, event: &str, id: EventId, answer: &Result<Json, Rejection>) -> Result<(), Full> {
        let Some((outlet, client)) = self.receiver(to) else { return Ok(()) };
        if to.ack.is_none() && answer.is_ok() || self.overflow.try_send(&outlet, client, packet(to.ack, event, id, answer)) {
            return Ok(());
        }
        Err(Full)
    }

    /// Where an answer goes. Returns `None` if its client is gone, or the namespace.
    fn receiver(&self, to: &ReplyTo) -> Option<(Arc<Outlet>, Sid)> {
        let socket = to.socket.upgrade()?;
        Some((self.outlets.of(socket.ns())?, socket.id))
    }

    /// Ends a connection that can't be told any more what it should be: its next bytes would hide that some are missing.
    pub(crate) fn cut(&self, socket: &SocketRef<Outlet>, reason: &str) {
        let connection = socket.extensions.get::<Arc<Connection>>();
        tracing::warn!(client = connection.map(|connection| connection.public_id.clone()), reason, "client cut");
        if let Some(outlet) = self.outlets.of(socket.ns()) {
            self.overflow.end(&outlet, socket.id, true, |queue| self.attend(&outlet, socket.id, queue));
        }
        self.abort(socket);
    }

    /// Ends the WebSocket of a client. One that polls has none.
    fn abort(&self, socket: &SocketRef<Outlet>) {
        // Where the handshake was a WebSocket's own, that is the connection, whatever a later request has claimed.
        let handshake = socket.req_parts();
        let was_upgraded = !handshake.uri.query().unwrap_or_default().split('&').any(|pair| pair == "transport=websocket");
        let cut = || match was_upgraded {
            true => self.upgrades.find(socket.id.as_str()),
            false => handshake.extensions.get::<Cut>().cloned(),
        };
        if socket.transport_type() == TransportType::Websocket
            && let Some(cut) = cut()
        {
            cut.now();
        }
    }

    fn cut_receiver(&self, outlet: &Outlet, receiver: Sid, reason: &str) {
        if let Some(socket) = self.socket(outlet, receiver) {
            self.cut(&socket, reason);
        }
    }

    /// Ends every connection's transport, so that stock clients connect again elsewhere.
    pub(crate) async fn close(&self) {
        if let Some((io, _)) = self.io.get() {
            io.close().await;
        }
    }

    fn emit(&self, namespace: &str, sender: Option<Sid>, emit: &Emit) -> usize {
        let Some(outlet) = self.outlets.of(namespace) else { return 0 };
        let receivers = match &emit.to {
            // The only one that most events have, and so without a list.
            Target::Sender => return sender.map_or(0, |sender| self.deliver_to(&outlet, [sender], emit)),
            Target::Connection(id) => self.sid(namespace, id).into_iter().collect(),
            Target::Rooms(rooms) => outlet.members(rooms),
            Target::RoomsButSender(rooms) => {
                let mut members = outlet.members(rooms);
                members.retain(|member| Some(*member) != sender);
                members
            }
            Target::Everyone => outlet.everyone(),
        };
        self.deliver_to(&outlet, receivers, emit)
    }

    /// Hands one event to connections; how many there are to receive it.
    fn deliver_to(&self, outlet: &Arc<Outlet>, receivers: impl IntoIterator<Item = Sid>, emit: &Emit) -> usize {
        // Serialized once for all of them.
        let Some(event) = argument::of_emit(outlet, emit) else { return 0 };
        receivers.into_iter().filter(|receiver| self.deliver(outlet, *receiver, &event)).count()
    }

    fn deliver(&self, outlet: &Arc<Outlet>, receiver: Sid, event: &Serialized) -> bool {
        let packet = || Packet::Emit(event.clone());
        match self.overflow.send(outlet, receiver, packet, |queue| self.attend(outlet, receiver, queue)) {
            Handed::Sent | Handed::Waits(_) => true,
            Handed::NoMemory => {
                self.cut_receiver(outlet, receiver, "no memory is left for the events that it does not read");
                false
            }
            Handed::Gone => false,
        }
    }

    /// The library's id of a connection, which its connections to other namespaces have as well.
    fn sid(&self, namespace: &str, public_id: &str) -> Option<Sid> {
        let known = self.by_public_id.read().unwrap_or_else(PoisonError::into_inner);
        known.get(public_id).filter(|(_, connection)| *connection.namespace == *namespace).map(|(sid, _)| *sid)
    }

    fn find(&self, namespace: &str, public_id: &str) -> Option<SocketRef<Outlet>> {
        let sid = self.sid(namespace, public_id)?;
        self.io.get()?.0.of(namespace)?.get_socket(sid)
    }

    fn socket(&self, outlet: &Outlet, sid: Sid) -> Option<SocketRef<Outlet>> {
        self.io.get()?.0.of(outlet.path().as_str())?.get_socket(sid)
    }

    /// Disconnects a socket, if its buffer has space for saying so.
    fn try_disconnect(socket: SocketRef<Outlet>) -> Result<(), Full> {
        match socket.disconnect() {
            Err(SocketError::InternalChannelFull) => Err(Full),
            Ok(()) | Err(SocketError::Closed) => Ok(()),
        }
    }

    /// Sees in a task of its own to what waits for a client.
    fn attend(&self, outlet: &Arc<Outlet>, client: Sid, queue: Arc<Queue>) {
        let attendant = Attendant { rooms: Weak::clone(&self.itself), outlet: Arc::clone(outlet), client, queue };
        self.tasks.spawn(attendant.run(self.stalled));
    }
}

/// The answer to an event as it is sent: an ack, or an `error` event without one.
fn packet(ack: Option<i64>, event: &str, id: EventId, answer: &Result<Json, Rejection>) -> Packet {
    match (ack, answer) {
        (Some(ack), Ok(reply)) => Packet::Ack(ack, argument::of_reply(reply)),
        (Some(ack), Err(rejection)) => Packet::Ack(ack, argument::of_rejection(&rejection.document(event, &id.to_string()))),
        (None, Ok(reply)) => Packet::Error(argument::of_event(ERROR, reply)),
        (None, Err(rejection)) => Packet::Error(argument::of_event(ERROR, &Json::from(&rejection.document(event, &id.to_string())))),
    }
}
