//! Applies effects to rooms and connections, and sends answers. Only this module makes clients
//! receive bytes. It does not know plugins.

mod acks;
mod directory;
mod member;
mod membership;
mod occupancy;
mod room;

use std::sync::Arc;
use std::time::SystemTime;

use crate::effect::{Effect, Emit, MemberTotals, Reply, Target, Who};
use crate::event::{Caller, Connection, EventId, Identity};
use crate::rejection::Rejection;
use crate::socketio::{Answer, Full, Link, TOKEN};

use acks::Acks;
use directory::Directory;
use member::Member;
use membership::Membership;

pub(crate) use directory::page_of;
pub(crate) use occupancy::{Follower, IsFollowed, RoomChange};

/// The connections and their rooms.
#[derive(Default)]
pub struct Rooms {
    members: Membership,
    acks: Acks,
    /// The connections that plugins know from their host events.
    pub(crate) directory: Directory,
}

/// The event that tells a client of a rejection if it asked for no ack.
pub(crate) const ERROR: &str = "error";

/// The destination of an answer: the ack that the client asked for, or an event on its connection.
#[derive(Clone)]
pub(crate) struct ReplyTo {
    pub(crate) link: Link,
    pub(crate) ack: Option<u64>,
}

/// The connections that an emit reaches, by namespace.
pub(crate) struct Receivers(Vec<Vec<Arc<Member>>>);

impl Receivers {
    /// Number of connections.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

/// Decides about the joins that a handler requests for others.
pub(crate) struct MemberRule<'rule> {
    /// Whether the handler may let this identity join the room.
    pub(crate) may_join: &'rule dyn Fn(&str, &Identity) -> bool,
    /// Called for each connection that has joined.
    pub(crate) joined: &'rule dyn Fn(&str, &Connection),
    /// Maximum number of rooms of a connection.
    pub(crate) max_rooms: usize,
}

/// The result of applying the effects of one event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Number of deliveries: each connection counts once for each event that was sent to it.
    pub receivers: usize,
    /// Number of volatile emits that were skipped: each connection counts once for each event.
    pub skipped: usize,
    /// Whether the caller's connection must be ended after its answer is sent.
    pub ends: bool,
}

impl Rooms {
    /// Adds a connection, which can then be reached by `link`.
    pub(crate) fn enter(&self, connection: &Arc<Connection>, link: Link) {
        self.members.add(connection, link);
    }

    /// Adds a connection to a room.
    pub(crate) fn join(&self, connection: &Connection, room: &str) {
        self.members.join(connection, room);
    }

    /// Removes a connection. A join of an earlier event has no effect afterwards.
    pub(crate) fn leave(&self, connection: &Connection) {
        self.members.remove(connection);
    }

    /// Number of connections that the host knows.
    pub fn connections(&self) -> usize {
        self.members.len()
    }

    /// Bytes that wait for the client for which the most waits.
    pub(crate) fn largest_queue(&self) -> usize {
        let namespaces = self.members.namespaces();
        let members = namespaces.iter().flat_map(|namespace| self.members.everyone(namespace));
        members.map(|member| member.link.waiting_bytes()).max().unwrap_or_default()
    }

    /// Applies `effects` for `caller`: first joins and leaves, then emits in their order. Without a
    /// caller, emits go to every namespace. It can't fail: a removed target receives nothing. It
    /// does not end the caller's connection, because the answer goes first: see [`Rooms::end`].
    /// `rule` decides about joins of others.
    pub(crate) fn apply(
        &self,
        caller: &Caller,
        effects: &[Effect],
        rule: &MemberRule<'_>,
    ) -> Applied {
        let mut applied = Applied::default();
        let sender = caller.connection();
        for effect in effects {
            match (effect, sender) {
                (Effect::Join(room), Some(sender)) => self.members.join(sender, room),
                (Effect::Leave(room), Some(sender)) => self.members.leave(sender, room),
                (Effect::JoinMember(who, room), _) => {
                    self.join_members(caller.namespace(), who, room, rule);
                }
                (Effect::RemoveMember(who, room), _) => {
                    for connection in self.connections_of(caller.namespace(), who) {
                        self.members.leave(&connection, room);
                    }
                }
                _ => {}
            }
        }
        for effect in effects {
            match effect {
                Effect::Emit(emit) => match &emit.ack {
                    None => applied.add(self.emit(caller, emit)),
                    Some(ack) => applied.receivers += self.emit_with_ack(caller, emit, ack),
                },
                Effect::Disconnect(reason) => {
                    tracing::info!(
                        client = sender.map(|sender| sender.public_id.as_str()),
                        detail = reason,
                        "connection ended by its handler"
                    );
                    applied.ends = true;
                }
                Effect::Join(_)
                | Effect::Leave(_)
                | Effect::JoinMember(..)
                | Effect::RemoveMember(..) => {}
            }
        }
        applied
    }

    /// The connections that an emit without a sender reaches, in every namespace.
    pub(crate) fn receivers(&self, to: &Target) -> Receivers {
        let of = |namespace: &str| match to {
            Target::Rooms(rooms) | Target::RoomsButSender(rooms) => {
                self.members.in_rooms(namespace, rooms)
            }
            Target::Everyone => self.members.everyone(namespace),
            Target::Connection(id) => Vec::from_iter(self.members.find(namespace, id)),
            Target::Sender => Vec::new(),
        };
        Receivers(self.members.namespaces().iter().map(|namespace| of(namespace)).collect())
    }

    /// Sends an event to these connections. Returns the number of those that it was sent to.
    pub(crate) fn send(&self, emit: &Emit, to: &Receivers) -> usize {
        to.0.iter().map(|members| deliver_to_many(members, emit).sent).sum()
    }

    /// Joins those whom a handler means to a room, as far as the rule allows it.
    fn join_members(&self, namespace: Option<&str>, who: &Who, room: &str, rule: &MemberRule<'_>) {
        let mut left_out = 0_usize;
        for connection in self.connections_of(namespace, who) {
            let may_join = || (rule.may_join)(room, &connection.identity());
            if !may_join() || !self.members.join_within(&connection, room, rule.max_rooms) {
                left_out += 1;
            } else if !may_join() {
                // A reload or a new token came in between, and has not seen it in the room.
                self.members.leave(&connection, room);
                left_out += 1;
            } else {
                (rule.joined)(room, &connection);
            }
        }
        if left_out > 0 {
            tracing::info!(
                room,
                left_out,
                "connections not joined: not allowed, or in too many \
                                            rooms"
            );
        }
    }

    /// The connection with this public id, in one namespace or in all.
    pub(crate) fn connection(&self, namespace: Option<&str>, id: &str) -> Option<Arc<Connection>> {
        let who = Who::Connection(id.to_owned());
        self.connections_of(namespace, &who).pop()
    }

    /// The connections that a handler means, in one namespace or in all.
    fn connections_of(&self, namespace: Option<&str>, who: &Who) -> Vec<Arc<Connection>> {
        let of = |namespace: &str| match who {
            Who::Connection(id) => Vec::from_iter(self.members.find(namespace, id)),
            Who::User(user) => self.members.of_user(namespace, user),
        };
        let members: Vec<Arc<Member>> = match namespace {
            Some(namespace) => of(namespace),
            None => self.members.namespaces().iter().flat_map(|namespace| of(namespace)).collect(),
        };
        members.into_iter().map(|member| Arc::clone(&member.connection)).collect()
    }

    /// Returns the first `limit` connections in `room`, in one namespace or in all, whose public id
    /// is greater than `after`, in the order of their ids.
    pub(crate) fn page(
        &self,
        namespace: Option<&str>,
        room: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Vec<Arc<Connection>> {
        self.members.page(namespace, room, after, limit)
    }

    /// Number of connections and users in `room`, in one namespace or in all.
    pub(crate) fn totals(&self, namespace: Option<&str>, room: &str) -> MemberTotals {
        self.members.totals(namespace, room)
    }

    /// Lets a reader follow which rooms are occupied, of those whose names it wants; `None` for no
    /// room.
    pub(crate) fn follow(&self, follower: &Arc<Follower>, is_followed: Option<IsFollowed>) {
        self.members.follow(follower, is_followed);
    }

    /// Waits until a reader has a change that is due later, and had none before. For one task.
    pub(crate) async fn occupancy_changed(&self) {
        self.members.occupancy_changed().await;
    }

    /// Removes connections from the rooms that they may no longer be in.
    pub fn recheck(&self, may_stay: impl Fn(&str, &Identity) -> bool) {
        for namespace in self.members.namespaces() {
            for member in self.members.everyone(&namespace) {
                self.recheck_one(&member.connection, &may_stay);
            }
        }
    }

    /// Like [`Rooms::recheck`], for one connection.
    pub fn recheck_one(
        &self,
        connection: &Connection,
        may_stay: &impl Fn(&str, &Identity) -> bool,
    ) {
        let identity = connection.identity();
        for room in
            self.members.rooms_of(connection).into_iter().filter(|room| !may_stay(room, &identity))
        {
            tracing::info!(
                client = connection.public_id,
                room,
                "removed from a room that it may no longer be in"
            );
            self.members.leave(connection, &room);
        }
    }

    /// Sends a rejection that is about no event of the client, as an `error` event. A client
    /// without space for it does not get it.
    pub(crate) fn reject(&self, connection: &Connection, rejection: &Rejection) {
        if let Some(member) = self.find(connection) {
            let id = EventId::new(SystemTime::now()).to_string();
            let document = rejection.document(None, &id);
            let _ = member.link.try_answer(Answer::Event(ERROR, &document.to_string()));
        }
    }

    /// Ends the connection at once, so that a stock client connects again. Returns whether it was
    /// there.
    pub(crate) fn abort(&self, connection: &Connection) -> bool {
        self.find(connection).map(|member| member.link.abort(TOKEN)).is_some()
    }

    /// Ends the connection after everything that was sent to it before.
    /// Returns whether it was there.
    pub fn end(&self, connection: &Connection) -> bool {
        self.find(connection).map(|member| member.link.close()).is_some()
    }

    /// Identifies the session of the connection; `None` if that is not known.
    pub(crate) fn session_key(&self, connection: &Connection) -> Option<u128> {
        self.find(connection)?.link.session_key()
    }

    /// Ends the session of the connection after everything that was sent to it before, so that its
    /// client connects to another host. Without effect before it was called for all connections of
    /// the session.
    pub(crate) fn shut_down(&self, connection: &Connection) {
        if let Some(member) = self.find(connection) {
            member.link.shut_down();
        }
    }

    /// The rooms of a connection.
    pub fn of(&self, connection: &Connection) -> Vec<String> {
        self.members.rooms_of(connection).into_iter().collect()
    }

    /// Number of connections in `room`.
    pub fn count(&self, namespace: &str, room: &str) -> usize {
        self.members.count(namespace, room)
    }

    /// Answers an event. If the client asked for no ack, a rejection is sent as an `error` event,
    /// and a success sends nothing. Returns when there is space for another answer, or when the
    /// connection has ended. A client that makes no space for too long is disconnected.
    pub(crate) async fn answer(
        &self,
        to: &ReplyTo,
        event: &str,
        id: EventId,
        answer: &Result<Reply, Rejection>,
    ) {
        if let Some(text) = AnswerText::of(to, event, id, answer) {
            to.link.answer(text.answer(to)).await;
        }
    }

    /// Like [`Rooms::answer`], without waiting.
    ///
    /// # Errors
    /// Returns [`Full`] if there is no space.
    pub(crate) fn try_answer(
        &self,
        to: &ReplyTo,
        event: &str,
        id: EventId,
        answer: &Result<Reply, Rejection>,
    ) -> Result<(), Full> {
        AnswerText::of(to, event, id, answer)
            .map_or(Ok(()), |text| to.link.try_answer(text.answer(to)))
    }

    /// Sends an event.
    fn emit(&self, caller: &Caller, emit: &Emit) -> Delivered {
        match caller.namespace() {
            Some(namespace) => self.emit_in(namespace, caller.connection(), emit),
            None => self
                .members
                .namespaces()
                .iter()
                .map(|namespace| self.emit_in(namespace, None, emit))
                .fold(Delivered::default(), Delivered::and),
        }
    }

    fn emit_in(&self, namespace: &str, sender: Option<&Arc<Connection>>, emit: &Emit) -> Delivered {
        let receivers = match &emit.to {
            Target::Sender => {
                return deliver_to_one(sender.and_then(|sender| self.find(sender)), emit);
            }
            Target::Connection(id) => {
                return deliver_to_one(self.members.find(namespace, id), emit);
            }
            Target::Rooms(rooms) => self.members.in_rooms(namespace, rooms),
            Target::RoomsButSender(rooms) => {
                let mut members = self.members.in_rooms(namespace, rooms);
                members.retain(|member| {
                    sender.is_none_or(|sender| !Arc::ptr_eq(&member.connection, sender))
                });
                members
            }
            Target::Everyone => self.members.everyone(namespace),
        };
        deliver_to_many(&receivers, emit)
    }

    fn find(&self, connection: &Connection) -> Option<Arc<Member>> {
        self.members.of(connection)
    }
}

/// The number of connections that an event was sent to, and of those for which it was skipped.
#[derive(Debug, Clone, Copy, Default)]
struct Delivered {
    sent: usize,
    skipped: usize,
}

impl Delivered {
    fn and(self, other: Self) -> Self {
        Self { sent: self.sent + other.sent, skipped: self.skipped + other.skipped }
    }
}

impl Applied {
    fn add(&mut self, delivered: Delivered) {
        self.receivers += delivered.sent;
        self.skipped += delivered.skipped;
    }
}

fn deliver_to_one(receiver: Option<Arc<Member>>, emit: &Emit) -> Delivered {
    match receiver {
        Some(receiver) if emit.is_volatile => deliver_to_many(&[receiver], emit),
        Some(receiver) => Delivered { sent: usize::from(receiver.link.emit(emit)), skipped: 0 },
        None => Delivered::default(),
    }
}

/// Encodes the event once for all receivers, which are in the same namespace.
fn deliver_to_many(receivers: &[Arc<Member>], emit: &Emit) -> Delivered {
    // A connection that has just ended can't encode any more.
    let Some(frame) = receivers.iter().find_map(|receiver| receiver.link.encode(emit)) else {
        return Delivered::default();
    };
    if !emit.is_volatile {
        let sent = receivers.iter().filter(|receiver| receiver.link.send(&frame)).count();
        return Delivered { sent, skipped: 0 };
    }
    let sent = receivers.iter().filter(|receiver| receiver.link.send_volatile(&frame)).count();
    Delivered { sent, skipped: receivers.len() - sent }
}

/// The text of an answer: a reply as the plugin wrote it, or the JSON document of a rejection.
enum AnswerText<'answer> {
    Reply(&'answer Reply),
    Rejection(String),
}

impl<'answer> AnswerText<'answer> {
    /// Returns `None` if nothing has to be sent.
    fn of(
        to: &ReplyTo,
        event: &str,
        id: EventId,
        answer: &'answer Result<Reply, Rejection>,
    ) -> Option<Self> {
        match (to.ack, answer) {
            (Some(_), Ok(reply)) => Some(Self::Reply(reply)),
            (None, Ok(_)) => None,
            (Some(_), Err(rejection)) => Some(Self::Rejection(format!(
                "{{\"error\":{}}}",
                rejection.document(Some(event), &id.to_string())
            ))),
            (None, Err(rejection)) => {
                Some(Self::Rejection(rejection.document(Some(event), &id.to_string()).to_string()))
            }
        }
    }

    fn answer(&self, to: &ReplyTo) -> Answer<'_> {
        let (text, attachments) = match self {
            Self::Reply(reply) => (reply.json.arguments(), reply.attachments.as_slice()),
            Self::Rejection(text) => (text.as_str(), Default::default()),
        };
        to.ack.map_or(Answer::Event(ERROR, text), |id| Answer::Ack(id, text, attachments))
    }
}
