//! One connection, from its begin to its end. An event is handled at once or waits in the mailbox
//! ([`intake`]), and only one is handled at a time ([`consumer`]). So are the outcomes of emits
//! with an ack ([`acks`]). The token of the connection can be replaced, and expires
//! ([`authenticate`]).

mod acks;
mod authenticate;
mod consumer;
mod intake;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Context;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, OnceCell};

use crate::auth::{Authenticated, Credentials};
use crate::event::{Caller, Connection, Event, EventId, Handshake};
use crate::memory::ANSWER_BYTES;
use crate::rooms::ReplyTo;
use crate::socketio::{self, ClientAnswer, Clients, Incoming, Link, Newcomer};
use crate::transport::SessionSlot;

use super::mailbox::{ConnectionState, Mailbox, QueuedEvent, ReceivedEvent};
use super::token::TokenState;
use super::{Sockets, packet};

/// One connection to one namespace.
pub(super) struct Client {
    /// Weak: a connection that an implementation never drops must not keep the whole host alive.
    sockets: Weak<Sockets>,
    connection: Arc<Connection>,
    /// The address of its last handshake, for the log.
    address: Mutex<Option<IpAddr>>,
    mailbox: Mutex<Mailbox>,
    /// Notified when the last event is handled after the end of the connection.
    drained: Notify,
    /// Set when plugins have been told that the connection has ended, or must not be told. Only the
    /// first caller of [`Client::end`] tells them.
    left: OnceCell<()>,
    token: Mutex<TokenState>,
    /// Whether its token has expired. Its events are then rejected until it sends a new one.
    has_expired: AtomicBool,
    /// Set when a host that stops ends this connection. Events that arrive later are rejected.
    moves_away: AtomicBool,
    /// Held until the last task of the client has ended: a session that is closing counts against
    /// the limit of connections.
    _slot: Option<SessionSlot>,
}

impl Client {
    pub(super) fn new(
        sockets: &Arc<Sockets>,
        newcomer: Newcomer,
        known: Authenticated,
    ) -> Arc<Self> {
        let public_id = EventId::new(sockets.dispatcher.clock().now()).to_string();
        let handshake = handshake(sockets, &newcomer, &public_id);
        let Newcomer { sid, namespace, address, slot, credentials: _, query: _ } = newcomer;
        let Authenticated { identity, expires_at, issued_at } = known;
        let rate = sockets.dispatcher.rate().of_connection(identity.user.as_deref());
        let connection = Connection::new(sid, public_id, namespace, identity, address);
        let connection = Arc::new(connection.with_rate(rate).with_handshake(handshake));
        let client = Arc::new(Self {
            sockets: Arc::downgrade(sockets),
            connection,
            address: Mutex::new(address),
            mailbox: Mutex::default(),
            drained: Notify::new(),
            left: OnceCell::new(),
            token: Mutex::new(TokenState::new(expires_at, issued_at)),
            has_expired: AtomicBool::new(false),
            moves_away: AtomicBool::new(false),
            _slot: slot,
        });
        sockets.clients().insert(client.connection.public_id.clone(), Arc::downgrade(&client));
        client
    }

    /// The lock is held for a few operations, and never across an await. A panic leaves the queue
    /// consistent.
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self) -> MutexGuard<'_, Option<IpAddr>> {
        self.address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whether [`move_away`](Self::move_away) was called.
    pub(super) fn moves_away(&self) -> bool {
        self.moves_away.load(Ordering::Acquire)
    }

    /// Rejects new events, handles those that have arrived, and ends the session, so that the
    /// client connects to another host.
    pub(super) async fn move_away(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        self.moves_away.store(true, Ordering::Release);
        self.end(sockets).await;
        sockets.rooms.shut_down(&self.connection);
    }

    /// Handles the events that have arrived, and then tells plugins that the client is gone, while
    /// its rooms are unchanged. Only the first caller does this.
    pub(super) async fn end(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        self.left.get_or_init(|| self.finish(sockets)).await;
    }

    async fn finish(self: &Arc<Self>, sockets: &Arc<Sockets>) {
        if self.close(sockets) {
            self.drained.notified().await;
        }
        sockets.dispatcher.disconnected(&self.connection).await;
    }

    /// Stops accepting events. Returns whether some events or answers are still to be handled:
    /// `drained` is notified after them.
    fn close(self: &Arc<Self>, sockets: &Arc<Sockets>) -> bool {
        let mut mailbox = self.mailbox();
        if mailbox.state == ConnectionState::Closed {
            return false;
        }
        if mailbox.state == ConnectionState::New {
            // The implementation has not called `begin` yet, but `$connect` must precede
            // `$disconnect`.
            sockets.dispatcher.connected(&self.connection);
        }
        mailbox.state = ConnectionState::Closing;
        if mailbox.has_no_task() && !mailbox.has_work() {
            mailbox.state = ConnectionState::Closed;
            return false;
        }
        self.wake(sockets, mailbox);
        true
    }
}

/// Returns what is kept of a client's handshake for plugins. The log does not quote it.
fn handshake(sockets: &Sockets, newcomer: &Newcomer, client: &str) -> Option<Handshake> {
    let (query, max) = (newcomer.query.as_deref()?, sockets.handshake_bytes()?);
    let auth = newcomer.credentials.auth.as_deref().unwrap_or_default();
    match Handshake::read(auth, query, sockets.auth.needs_tokens(), max) {
        Ok(handshake) => Some(handshake),
        Err(reason) => {
            tracing::debug!(client, %reason, "handshake not kept for plugins");
            None
        }
    }
}

impl socketio::Client for Client {
    fn id(&self) -> &str {
        &self.connection.public_id
    }

    fn enter(&self, link: Link) {
        let (client, namespace) = (self.connection.public_id.as_str(), &*self.connection.namespace);
        let (address, transport) = (self.address().map(tracing::field::display), link.transport());
        tracing::debug!(client, address, namespace, transport, "client connected");
        if let Some(sockets) = self.sockets.upgrade() {
            sockets.rooms.enter(&self.connection, link);
            sockets.dispatcher.join_own_room(&self.connection);
        }
    }

    fn may_return(self: Arc<Self>, credentials: Credentials) -> BoxFuture<'static, bool> {
        Box::pin(self.may_be_resumed(credentials))
    }

    fn recovered(&self, address: Option<IpAddr>, link: &Link) {
        self.connection.set_address(address);
        *self.address() = address;
        let (client, transport) = (self.connection.public_id.as_str(), link.transport());
        let address = address.map(tracing::field::display);
        tracing::debug!(client, address, transport, "client returned");
    }

    /// `$connect` comes first, then the events that have arrived since.
    fn begin(self: Arc<Self>) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let mut mailbox = self.mailbox();
        if mailbox.state != ConnectionState::New {
            return;
        }
        mailbox.state = ConnectionState::Open;
        if sockets.is_stopping.load(Ordering::Acquire) {
            // Plugins may not learn of the end any more. So they are told of neither begin nor end.
            let _ = self.left.set(());
        } else {
            sockets.dispatcher.connected(&self.connection);
        }
        self.watch_token(&sockets, Instant::now());
        if mailbox.has_work() {
            self.wake(&sockets, mailbox);
        }
    }

    fn event(
        self: Arc<Self>,
        incoming: Incoming<'_>,
        link: Link,
        context: Option<&mut Context<'_>>,
    ) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        let to = ReplyTo { link, ack: incoming.ack };
        let read = packet::read(incoming, &sockets.config.get().limits);
        let size = if read.rejection.is_some() { 0 } else { read.payload.size() };
        let caller = Caller::Connection(Arc::clone(&self.connection));
        let now = sockets.dispatcher.clock().now();
        let event = Arc::new(Event::at(now, read.name, read.payload, caller));
        self.take(&sockets, ReceivedEvent { event, rejection: read.rejection, to, size }, context);
    }

    fn answered(self: Arc<Self>, token: u64, answer: Option<ClientAnswer>) {
        if let Some(sockets) = self.sockets.upgrade() {
            self.take_answer(&sockets, token, answer);
        }
    }

    fn leave(self: Arc<Self>, reason: &'static str) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let address = self.address().map(tracing::field::display);
            tracing::debug!(client = self.id(), address, reason, "client disconnected");
            if let Some(sockets) = self.sockets.upgrade() {
                self.end(&sockets).await;
                sockets.rooms.leave(&self.connection);
            }
        })
    }
}

/// Removes the connection from the host, however it ended, even if it never began.
impl Drop for Client {
    fn drop(&mut self) {
        let Some(sockets) = self.sockets.upgrade() else { return };
        sockets.expiries.remove(self);
        // Events wait at this point only if the connection never began: no consumer has handled
        // them.
        let mailbox = self.mailbox.get_mut().unwrap_or_else(PoisonError::into_inner);
        let charged = |queued: &QueuedEvent| queued.space().charged;
        let waiting: usize = mailbox.events.iter().map(charged).sum();
        sockets.memory.give_back(waiting + mailbox.pending_rejections.len() * ANSWER_BYTES);
        sockets.rooms.leave(&self.connection);
        sockets.clients().remove(&self.connection.public_id);
    }
}
