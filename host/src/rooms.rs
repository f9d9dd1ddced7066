//! Who hears what: applies effects to rooms and connections. The only part that makes clients receive bytes, answers included. It does not
//! know that plugins exist.

mod directory;
mod membership;

use std::sync::Arc;

use crate::effect::{Effect, Emit, Target};
use crate::event::{Connection, EventId, Identity, Json};
use crate::rejection::Rejection;
use crate::socketio::{Answer, Full, Link};

use directory::Directory;
use membership::{Member, Membership};

pub(crate) use directory::page_of;

/// Connections and their rooms.
#[derive(Default)]
pub struct Rooms {
    members: Membership,
    /// The connections of which plugins are told.
    pub(crate) directory: Directory,
}

/// The event by which a client is told of a rejection where it asked for no ack.
const ERROR: &str = "error";

/// Where an answer goes: the ack that the client asked for, or its connection.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    pub(crate) link: Link,
    pub(crate) ack: Option<u64>,
}

/// What became of one event's effects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Connections to which events were sent, each counted for each event.
    pub receivers: usize,
    /// Whether the caller's connection is to be ended, once it has its answer.
    pub ends: bool,
}

impl Rooms {
    /// Makes a connection known: from now on it can be reached by `link`.
    pub(crate) fn enter(&self, connection: &Arc<Connection>, link: Link) {
        self.members.add(connection, link);
    }

    /// Forgets a connection. No join of an earlier event can outlive it.
    pub(crate) fn leave(&self, connection: &Connection) {
        self.members.remove(connection);
    }

    /// Connections that the host knows.
    pub fn connections(&self) -> usize {
        self.members.len()
    }

    /// Applies `effects` for `caller`: membership first, then emits in their order. Where nobody caused them, they go to every namespace.
    /// Cannot fail: a target that is gone is no target. The end of the caller's connection is left to [`Rooms::end`]: its answer goes first.
    pub fn apply(&self, caller: Option<&Arc<Connection>>, effects: &[Effect]) -> Applied {
        let mut applied = Applied::default();
        if let Some(caller) = caller {
            for effect in effects {
                match effect {
                    Effect::Join(room) => self.members.join(caller, room),
                    Effect::Leave(room) => self.members.leave(caller, room),
                    Effect::Emit(_) | Effect::Disconnect(_) => {}
                }
            }
        }
        for effect in effects {
            match effect {
                Effect::Emit(emit) => applied.receivers += self.emit(caller, emit),
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
        for namespace in self.members.namespaces() {
            for member in self.members.everyone(&namespace) {
                self.recheck_one(&member.connection, &may_join);
            }
        }
    }

    /// The same for one connection.
    pub fn recheck_one(&self, connection: &Connection, may_join: &impl Fn(&str, &Identity) -> bool) {
        for room in self.members.rooms_of(connection).into_iter().filter(|room| !may_join(room, &connection.identity)) {
            tracing::info!(client = connection.public_id, room, "taken out of a room: its rule has changed");
            self.members.leave(connection, &room);
        }
    }

    /// Ends the connection, after whatever it was sent before.
    pub fn end(&self, connection: &Connection) {
        if let Some(member) = self.find(connection) {
            member.link.close();
        }
    }

    /// The rooms of a connection.
    pub fn of(&self, connection: &Connection) -> Vec<String> {
        self.members.rooms_of(connection).into_iter().collect()
    }

    /// Connections in `room`.
    pub fn count(&self, namespace: &str, room: &str) -> usize {
        self.members.count(namespace, room)
    }

    /// Answers an event: by the ack, if one was asked for; otherwise a rejection is an `error` event and a success is silent. Returns when there is
    /// space for another answer, or nobody to answer. A client that makes no space for too long is cut.
    pub(crate) async fn answer(&self, to: &ReplyTo, event: &str, id: EventId, answer: &Result<Json, Rejection>) {
        if let Some(text) = Text::of(to, event, id, answer) {
            to.link.answer(text.answer(to)).await;
        }
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// If there is no space.
    pub(crate) fn try_answer(&self, to: &ReplyTo, event: &str, id: EventId, answer: &Result<Json, Rejection>) -> Result<(), Full> {
        Text::of(to, event, id, answer).map_or(Ok(()), |text| to.link.try_answer(text.answer(to)))
    }

    /// Sends an event; returns how many connections there are to receive it.
    fn emit(&self, caller: Option<&Arc<Connection>>, emit: &Emit) -> usize {
        match caller {
            Some(caller) => self.emit_in(&caller.namespace, Some(caller), emit),
            None => self.members.namespaces().iter().map(|namespace| self.emit_in(namespace, None, emit)).sum(),
        }
    }

    fn emit_in(&self, namespace: &str, caller: Option<&Arc<Connection>>, emit: &Emit) -> usize {
        let receivers = match &emit.to {
            Target::Sender => return deliver_to_one(caller.and_then(|caller| self.find(caller)), emit),
            Target::Connection(id) => return deliver_to_one(self.members.find(namespace, id), emit),
            Target::Rooms(rooms) => self.members.in_rooms(namespace, rooms),
            Target::RoomsButSender(rooms) => {
                let mut members = self.members.in_rooms(namespace, rooms);
                members.retain(|member| caller.is_none_or(|caller| !Arc::ptr_eq(&member.connection, caller)));
                members
            }
            Target::Everyone => self.members.everyone(namespace),
        };
        deliver_to_many(&receivers, emit)
    }

    fn find(&self, connection: &Connection) -> Option<Arc<Member>> {
        self.members.find(&connection.namespace, &connection.public_id)
    }
}

fn deliver_to_one(receiver: Option<Arc<Member>>, emit: &Emit) -> usize {
    usize::from(receiver.is_some_and(|receiver| receiver.link.emit(emit)))
}

/// Encodes the event once for all receivers, which are of one namespace.
fn deliver_to_many(receivers: &[Arc<Member>], emit: &Emit) -> usize {
    // One that has just ended can't encode any more.
    let Some(frame) = receivers.iter().find_map(|receiver| receiver.link.encode(emit)) else { return 0 };
    receivers.iter().filter(|receiver| receiver.link.send(&frame)).count()
}

/// The text of an answer: a reply as the plugin wrote it, or a rejection's document.
enum Text<'answer> {
    Reply(&'answer str),
    Rejection(String),
}

impl<'answer> Text<'answer> {
    /// Returns `None` if there is nothing to tell.
    fn of(to: &ReplyTo, event: &str, id: EventId, answer: &'answer Result<Json, Rejection>) -> Option<Self> {
        match (to.ack, answer) {
            (Some(_), Ok(reply)) => Some(Self::Reply(reply.as_str())),
            (None, Ok(_)) => None,
            (Some(_), Err(rejection)) => Some(Self::Rejection(format!("{{\"error\":{}}}", rejection.document(event, &id.to_string())))),
            (None, Err(rejection)) => Some(Self::Rejection(rejection.document(event, &id.to_string()).to_string())),
        }
    }

    fn answer(&self, to: &ReplyTo) -> Answer<'_> {
        let text = match self {
            Self::Reply(text) => text,
            Self::Rejection(text) => text.as_str(),
        };
        to.ack.map_or(Answer::Event(ERROR, text), |id| Answer::Ack(id, text))
    }
}
