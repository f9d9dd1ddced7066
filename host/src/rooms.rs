//! Who hears what: applies effects to rooms and connections. The only part that makes clients receive bytes, answers included. It does not
//! know that plugins exist.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{AckSender, SocketRef};
use socketioxide::handler::FromMessageParts;
use socketioxide::socket::{Sid, Socket};
use socketioxide::{SendError, SocketError, SocketIo, TransportType};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::effect::{Effect, Emit, Target};
use crate::event::{Connection, Identity};
use crate::rejection::Rejection;
use crate::transport::{Cut, Upgrades};

/// Connections and their rooms.
pub struct Rooms {
    /// Set once, before anything listens.
    io: OnceLock<(SocketIo, Vec<String>)>,
    /// The connections by their public ids.
    by_public_id: RwLock<HashMap<String, (Sid, Arc<Connection>)>>,
    /// Connections whose transport began as long-polling.
    pub(crate) upgrades: Upgrades,
    /// How long a client may not read before it is cut.
    stalled: Duration,
    tasks: TaskTracker,
}

/// The event by which a client is told of a rejection where it asked for no ack.
const ERROR: &str = "error";

/// How often a full buffer is tried again. There is no signal for room in it.
const RETRY: Duration = Duration::from_millis(5);

/// Where an answer goes: the ack that the client asked for, or its socket.
#[derive(Clone)]
pub struct ReplyTo {
    pub(crate) socket: Arc<Socket<LocalAdapter>>,
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
    /// Rooms without anybody in them, for a host that cuts clients which do not read for `stalled`.
    pub fn new(stalled: Duration, tasks: TaskTracker) -> Self {
        Self { io: OnceLock::new(), by_public_id: RwLock::default(), upgrades: Upgrades::default(), stalled, tasks }
    }

    /// Serves the sockets of these namespaces of `io` from now on.
    pub(crate) fn attach(&self, io: SocketIo, namespaces: Vec<String>) {
        // A second call would change nothing: a host has one.
        let _ = self.io.set((io, namespaces));
    }

    /// Makes a connection known by its public id.
    pub(crate) fn enter(&self, connection: &Arc<Connection>, sid: Sid) {
        let known = (sid, Arc::clone(connection));
        self.by_public_id.write().unwrap_or_else(PoisonError::into_inner).insert(connection.public_id.clone(), known);
    }

    /// Forgets it.
    pub(crate) fn forget(&self, public_id: &str) {
        self.by_public_id.write().unwrap_or_else(PoisonError::into_inner).remove(public_id);
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
        let socket = caller.and_then(|caller| self.find(&caller.namespace, &caller.public_id));
        for effect in effects {
            match (effect, &socket) {
                (Effect::Join(room), Some(socket)) => socket.join(room.clone()),
                (Effect::Leave(room), Some(socket)) => socket.leave(room.clone()),
                _ => {}
            }
        }
        let all = self.io.get().map(|(_, namespaces)| namespaces.as_slice()).unwrap_or_default();
        let namespaces: Vec<&str> = match caller {
            Some(caller) => vec![&caller.namespace],
            None => all.iter().map(String::as_str).collect(),
        };
        for effect in effects {
            match effect {
                Effect::Emit(emit) => {
                    for namespace in &namespaces {
                        applied.receivers += self.emit(namespace, socket.as_ref(), emit);
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
        if let Some(socket) = self.find(&connection.namespace, &connection.public_id) {
            self.disconnect(socket);
        }
    }

    /// The rooms of a connection.
    pub fn of(&self, connection: &Connection) -> Vec<String> {
        let socket = self.find(&connection.namespace, &connection.public_id);
        socket.map_or_else(Vec::new, |socket| socket.rooms().into_iter().map(Into::into).collect())
    }

    /// Connections in `room`.
    pub fn count(&self, namespace: &str, room: &str) -> usize {
        self.members(namespace, vec![room.to_owned()]).len()
    }

    /// Answers an event: by the ack, where one was asked for; otherwise a rejection is an `error` event and a success is silent. Waits for
    /// room in the outgoing buffer; a client that leaves none for too long is cut.
    pub async fn answer(&self, to: &ReplyTo, event: &str, id: &str, answer: &Result<Box<RawValue>, Rejection>) {
        let until = Instant::now() + self.stalled;
        while self.try_answer(to, event, id, answer).is_err() {
            if Instant::now() >= until {
                tracing::warn!(event, id, "client cut: it does not read its answers");
                self.cut(&SocketRef::from(Arc::clone(&to.socket)));
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// Where the outgoing buffer has no room.
    pub fn try_answer(&self, to: &ReplyTo, event: &str, id: &str, answer: &Result<Box<RawValue>, Rejection>) -> Result<(), Full> {
        let sent = match (to.ack, answer) {
            (None, Ok(_)) => return Ok(()),
            (None, Err(rejection)) => to.socket.emit(ERROR, &(rejection.document(event, id),)),
            (Some(_), Ok(reply)) => acknowledge(to, &(reply.as_ref(),)),
            (Some(_), Err(rejection)) => acknowledge(to, &(serde_json::json!({"error": rejection.document(event, id)}),)),
        };
        match sent {
            Err(SendError::Socket(SocketError::InternalChannelFull)) => Err(Full),
            // Whoever is gone needs no answer.
            Ok(()) | Err(SendError::Socket(SocketError::Closed)) => Ok(()),
            Err(error) => {
                tracing::error!(event, id, %error, "answer not encoded");
                Ok(())
            }
        }
    }

    /// Ends a connection that can't be told any more what it should be: its next bytes would hide that some are missing.
    pub(crate) fn cut(&self, socket: &SocketRef) {
        // Where the handshake was a WebSocket's own, that is the connection, whatever a later request has claimed.
        let handshake = socket.req_parts();
        let was_upgraded = !handshake.uri.query().unwrap_or_default().split('&').any(|pair| pair == "transport=websocket");
        let cut = || match was_upgraded {
            true => self.upgrades.find(socket.id.as_str()),
            false => handshake.extensions.get::<Cut>().cloned(),
        };
        match socket.transport_type() {
            TransportType::Websocket => match cut() {
                Some(cut) => cut.now(),
                None => self.disconnect(socket.clone()),
            },
            TransportType::Polling => self.disconnect(socket.clone()),
        }
    }

    /// Ends every connection's transport, so that stock clients connect again elsewhere.
    pub(crate) async fn close(&self) {
        if let Some((io, _)) = self.io.get() {
            io.close().await;
        }
    }

    fn emit(&self, namespace: &str, sender: Option<&SocketRef>, emit: &Emit) -> usize {
        let receivers = match &emit.to {
            Target::Sender => sender.cloned().into_iter().collect(),
            Target::Connection(id) => self.find(namespace, id).into_iter().collect(),
            Target::Rooms(rooms) => self.members(namespace, rooms.clone()),
            Target::RoomsButSender(rooms) => {
                let mut members = self.members(namespace, rooms.clone());
                members.retain(|member| sender.is_none_or(|sender| sender.id != member.id));
                members
            }
            Target::Everyone => self.everyone(namespace),
        };
        let argument = Argument::new(emit);
        receivers.iter().filter(|receiver| self.deliver(receiver, &emit.event, &argument)).count()
    }

    /// Hands one event to one connection; whether there was a buffer that took it.
    fn deliver(&self, receiver: &SocketRef, event: &str, argument: &Argument<'_>) -> bool {
        match receiver.emit(event, &(argument,)) {
            Ok(()) => true,
            Err(SendError::Socket(SocketError::InternalChannelFull)) => {
                tracing::warn!(event, "client cut: its buffer is full, and it would have missed an event");
                self.cut(receiver);
                false
            }
            Err(SendError::Socket(SocketError::Closed)) => false,
            Err(error) => {
                tracing::error!(event, %error, "event not encoded");
                false
            }
        }
    }

    fn find(&self, namespace: &str, public_id: &str) -> Option<SocketRef> {
        let sid = self.by_public_id.read().unwrap_or_else(PoisonError::into_inner).get(public_id)?.0;
        self.io.get()?.0.of(namespace)?.get_socket(sid)
    }

    /// Each connection of any of `rooms`, once. An empty list of rooms is nobody, not everybody.
    fn members(&self, namespace: &str, rooms: Vec<String>) -> Vec<SocketRef> {
        let io = self.io.get().filter(|_| !rooms.is_empty());
        io.and_then(|(io, _)| io.of(namespace)).map_or_else(Vec::new, |sockets| sockets.within(rooms).sockets())
    }

    fn everyone(&self, namespace: &str) -> Vec<SocketRef> {
        self.io.get().and_then(|(io, _)| io.of(namespace)).map_or_else(Vec::new, |sockets| sockets.broadcast().sockets())
    }

    /// Disconnects a socket, as soon as its buffer has room for saying so.
    fn disconnect(&self, socket: SocketRef) {
        if matches!(socket.clone().disconnect(), Err(SocketError::InternalChannelFull)) {
            let until = Instant::now() + self.stalled;
            // Where nobody reads, the heartbeat finds no room either and ends the connection.
            self.tasks.spawn(async move {
                while Instant::now() < until && matches!(socket.clone().disconnect(), Err(SocketError::InternalChannelFull)) {
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
    }
}

fn acknowledge(to: &ReplyTo, argument: &impl Serialize) -> Result<(), SendError> {
    // An ack sender is used up by a send that fails; this makes one for each try.
    let Ok(sender) =
        AckSender::<LocalAdapter>::from_message_parts(&to.socket, &mut socketioxide::handler::Value::Bytes(Bytes::new()), &to.ack);
    sender.send(argument)
}

/// An event's argument as it travels: its text as it is, or, with attachments, the document with bytes where the placeholders stood.
enum Argument<'emit> {
    Text(&'emit RawValue),
    Binary(Value, &'emit [Bytes]),
}

impl<'emit> Argument<'emit> {
    fn new(emit: &'emit Emit) -> Self {
        if emit.attachments.is_empty() {
            return Self::Text(&emit.data);
        }
        match serde_json::from_str(emit.data.get()) {
            Ok(document) => Self::Binary(document, &emit.attachments),
            Err(_) => Self::Text(&emit.data),
        }
    }
}

impl Serialize for Argument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Binary(document, attachments) => WithAttachments(document, attachments).serialize(serializer),
        }
    }
}

/// A document in which placeholders are serialized as the bytes that they stand for; the library makes new placeholders of them, in the
/// order in which it meets them.
struct WithAttachments<'emit>(&'emit Value, &'emit [Bytes]);

impl Serialize for WithAttachments<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(value, attachments) = self;
        match value {
            Value::Object(members) => {
                if members.get("_placeholder") == Some(&Value::Bool(true))
                    && let Some(number) = members.get("num").and_then(Value::as_u64)
                    && let Some(bytes) = usize::try_from(number).ok().and_then(|number| attachments.get(number))
                {
                    return serializer.serialize_bytes(bytes);
                }
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, &WithAttachments(value, attachments))?;
                }
                map.end()
            }
            Value::Array(values) => {
                let mut sequence = serializer.serialize_seq(Some(values.len()))?;
                for value in values {
                    sequence.serialize_element(&WithAttachments(value, attachments))?;
                }
                sequence.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}
