//! The events of clients: one ordered, bounded mailbox per connection, with at most one consumer.
//!
//! A Socket.IO implementation calls [`Client::event`] in its reader task, in the order in which
//! events arrive. If it passes a context and no event of the connection waits, the event is handled
//! in that task. Otherwise its raw payload waits in the mailbox. The events of a connection are
//! handled one at a time, and each is answered. `$disconnect` follows the last one.

mod acks;
mod client;
mod expiry;
pub(crate) mod fuzzing;
mod mailbox;
mod packet;
mod token;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::auth::Authenticator;
use crate::config::LiveConfig;
use crate::dispatcher::Dispatcher;
use crate::memory::QueueMemory;
use crate::metrics::Metrics;
use crate::rooms::Rooms;
use crate::socketio::{self, Clients, ConnectRefusal, Newcomer};

use client::Client;
use expiry::Expiries;
use mailbox::{Mailbox, Space};

/// Accepts connections and their events.
pub(crate) struct Sockets {
    /// The weak reference that each client gets.
    itself: Weak<Self>,
    dispatcher: Arc<Dispatcher>,
    rooms: Arc<Rooms>,
    config: Arc<LiveConfig>,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    memory: Arc<QueueMemory>,
    auth: Arc<Authenticator>,
    expiries: Expiries<Client>,
    /// Every connection by its public id, so that each can be ended when the host stops.
    clients: Mutex<HashMap<String, Weak<Client>>>,
    /// Set when the host stops. Events that arrive afterwards are rejected.
    is_stopping: AtomicBool,
}

impl Sockets {
    /// Creates the sockets. Their events go to `dispatcher`.
    pub(crate) fn new(
        dispatcher: Arc<Dispatcher>,
        rooms: Arc<Rooms>,
        config: Arc<LiveConfig>,
        metrics: Arc<Metrics>,
        tasks: TaskTracker,
        auth: Arc<Authenticator>,
    ) -> Arc<Self> {
        let (clients, is_stopping) = (Mutex::default(), AtomicBool::new(false));
        let memory = Arc::new(QueueMemory::new(config.get().limits.mailboxes_bytes.get()));
        Arc::new_cyclic(|itself| Self {
            itself: Weak::clone(itself),
            dispatcher,
            rooms,
            config,
            metrics,
            tasks,
            memory,
            auth,
            expiries: Expiries::default(),
            clients,
            is_stopping,
        })
    }

    /// The memory of all mailboxes.
    pub(crate) fn memory(&self) -> &QueueMemory {
        &self.memory
    }

    /// Rejects new events, finishes the events that have arrived, and dispatches `$disconnect` for
    /// every connection.
    pub(crate) async fn stop(self: &Arc<Self>) {
        self.is_stopping.store(true, Ordering::Release);
        let clients: Vec<_> = self.clients().values().filter_map(Weak::upgrade).collect();
        let leaving = TaskTracker::new();
        for client in clients {
            let sockets = Arc::clone(self);
            leaving.spawn(async move { client.end(&sockets).await });
        }
        leaving.close();
        leaving.wait().await;
    }

    /// Ends the sessions one after the other over this time, so that their clients do not all
    /// connect to other hosts at once. Returns when the last one begins to end. If the future is
    /// dropped, the sessions that have not begun to end continue.
    pub(crate) async fn leave_over(self: &Arc<Self>, time: Duration) {
        let sessions = self.sessions();
        let (began, number) = (Instant::now(), sessions.len().max(1));
        for (index, session) in sessions.into_iter().enumerate() {
            // The timer's resolution makes batches of them.
            tokio::time::sleep_until(began + time.mul_f64(index as f64 / number as f64)).await;
            for client in session.iter().filter_map(Weak::upgrade) {
                let sockets = Arc::clone(self);
                self.tasks.spawn(async move { client.move_away(&sockets).await });
            }
        }
    }

    /// Returns the clients that do not move away yet, in random order. Clients of one session, in
    /// several namespaces, are in one list: none of them can leave without the others.
    fn sessions(&self) -> Vec<Vec<Weak<Client>>> {
        let clients: Vec<_> = self.clients().values().filter_map(Weak::upgrade).collect();
        // The order is that of maps with random hashes.
        let mut by_session: HashMap<u128, Vec<Weak<Client>>> = HashMap::new();
        let mut sessions = Vec::new();
        for client in clients.iter().filter(|client| !client.moves_away()) {
            let weak = Arc::downgrade(client);
            match self.rooms.session_key(client.connection()) {
                Some(key) => by_session.entry(key).or_default().push(weak),
                None => sessions.push(vec![weak]),
            }
        }
        sessions.extend(by_session.into_values());
        sessions
    }

    /// Ends the connections of a user: all of them, or those whose token was issued before a time.
    /// Stock clients stay away after the first, and connect again after the second. Returns how
    /// many connections end.
    pub(crate) fn end_user(&self, user: &str, issued_before: Option<SystemTime>) -> usize {
        let clients: Vec<_> = self.clients().values().filter_map(Weak::upgrade).collect();
        let ended = clients.iter().filter(|client| client.end_if_of(self, user, issued_before));
        ended.count()
    }

    /// Frees the mailbox space of an event that was handled.
    fn free(&self, mailbox: &mut Mailbox, space: Space) {
        mailbox.bytes -= space.bytes;
        mailbox.handling = 0;
        mailbox.uncounted -= usize::from(!space.counts);
        self.memory.give_back(space.charged);
    }

    /// The lock guards a map that is consistent between any two of its calls.
    fn clients(&self) -> MutexGuard<'_, HashMap<String, Weak<Client>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients for Sockets {
    fn handshake_bytes(&self) -> Option<usize> {
        let limit = self.config.get().limits.handshake_bytes.get();
        self.dispatcher.needs_handshakes().then_some(limit)
    }

    fn prepare(
        &self,
        newcomer: Newcomer,
    ) -> BoxFuture<'_, Result<Arc<dyn socketio::Client>, ConnectRefusal>> {
        let sockets = Weak::clone(&self.itself);
        Box::pin(async move {
            let sockets = sockets.upgrade().ok_or(ConnectRefusal::UNAVAILABLE)?;
            let known = sockets.auth.identify(&newcomer.credentials).await.map_err(|error| {
                let address = newcomer.address.map(tracing::field::display);
                tracing::info!(address, reason = %error, "client refused: unauthorized");
                ConnectRefusal::UNAUTHORIZED
            })?;
            Ok(Client::new(&sockets, newcomer, known) as Arc<dyn socketio::Client>)
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use std::net::IpAddr;
    use std::task::Context;
    use tower::{Layer, ServiceExt};

    use super::*;
    use crate::auth::Credentials;
    use crate::config::{AuthConfig, Config};
    use crate::registry::Registry;
    use crate::socketio::{Incoming, Link, library};

    /// A host on which no connection begins, though an event waits for each.
    struct Refusing(Arc<Sockets>);

    struct Waiting(Arc<dyn socketio::Client>);

    impl Clients for Refusing {
        fn handshake_bytes(&self) -> Option<usize> {
            None
        }

        fn prepare(
            &self,
            newcomer: Newcomer,
        ) -> BoxFuture<'_, Result<Arc<dyn socketio::Client>, ConnectRefusal>> {
            Box::pin(async {
                let client = self.0.prepare(newcomer).await?;
                Ok(Arc::new(Waiting(client)) as Arc<dyn socketio::Client>)
            })
        }
    }

    impl socketio::Client for Waiting {
        fn id(&self) -> &str {
            self.0.id()
        }

        fn enter(&self, link: Link) {
            let incoming = Incoming {
                call: Some(("ping".into(), "")),
                bytes: 8,
                attachments: Vec::new(),
                ack: None,
            };
            Arc::clone(&self.0).event(incoming, link.clone(), None);
            self.0.enter(link);
        }

        fn may_return(self: Arc<Self>, _: Credentials) -> BoxFuture<'static, bool> {
            Box::pin(std::future::ready(true))
        }

        fn recovered(&self, _: Option<IpAddr>, _: &Link) {}

        fn begin(self: Arc<Self>) {}

        fn event(self: Arc<Self>, _: Incoming<'_>, _: Link, _: Option<&mut Context<'_>>) {}

        fn answered(self: Arc<Self>, _: u64, _: Option<socketio::ClientAnswer>) {}

        fn leave(self: Arc<Self>, _: &'static str) -> BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    /// The sockets of a host without plugins.
    fn sockets() -> (Arc<Sockets>, Arc<Rooms>, TaskTracker) {
        let (tasks, config, metrics) =
            (TaskTracker::new(), Arc::<LiveConfig>::default(), Arc::new(Metrics::default()));
        let rooms = Arc::new(Rooms::default());
        let dispatcher = Dispatcher::new(
            Arc::new(Registry::default()),
            Arc::clone(&rooms),
            Arc::clone(&config),
            Arc::clone(&metrics),
        );
        let auth = Arc::new(Authenticator::load(&AuthConfig::default()).unwrap());
        let sockets = Sockets::new(
            Arc::new(dispatcher),
            Arc::clone(&rooms),
            config,
            metrics,
            tasks.clone(),
            auth,
        );
        (sockets, rooms, tasks)
    }

    #[tokio::test]
    async fn plugins_are_not_told_of_a_connection_that_begins_while_the_host_stops() {
        let (sockets, rooms, _) = sockets();
        let begin = async || {
            let newcomer = Newcomer {
                sid: "sid".to_owned(),
                namespace: "/".into(),
                address: None,
                slot: None,
                query: None,
                credentials: Credentials::default(),
            };
            let client = sockets.prepare(newcomer).await.unwrap();
            Arc::clone(&client).begin();
            client
        };
        let client = begin().await;
        assert!(!rooms.directory.is_empty());
        sockets.stop().await;
        assert!(rooms.directory.is_empty());
        let late = begin().await;
        assert!(rooms.directory.is_empty());
        for client in [client, late] {
            client.leave("transport close").await;
        }
        assert!(rooms.directory.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_never_began_leaves_nothing_though_an_event_waits() {
        let (sockets, rooms, tasks) = sockets();
        let clients: Arc<dyn Clients> = Arc::new(Refusing(Arc::clone(&sockets)));
        let server = library::Server::new(&Config::default(), &Arc::downgrade(&clients), tasks);
        let service = server.layer().layer(tower::service_fn(async |_| {
            Ok::<_, std::convert::Infallible>(http::Response::new(Full::<bytes::Bytes>::default()))
        }));
        let ask = async |query: &str, body: Option<&'static str>| {
            let request = http::Request::builder()
                .uri(format!("http://host/socket.io/?EIO=4&transport=polling{query}"));
            let request = request.method(if body.is_some() { "POST" } else { "GET" });
            let request =
                request.body(Full::new(bytes::Bytes::from(body.unwrap_or_default()))).unwrap();
            let body = service.clone().oneshot(request).await.unwrap().into_body();
            String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
        };
        let opened = ask("", None).await;
        let sid = opened.split('"').nth(3).unwrap();
        ask(&format!("&sid={sid}"), Some("40")).await;
        ask(&format!("&sid={sid}"), None).await;
        assert!(sockets.memory().usage().0 > 0 && rooms.connections() == 1);
        ask(&format!("&sid={sid}"), Some("41")).await;
        // The library drops the socket: nothing that the socket owns refers back to it.
        let until = Instant::now() + Duration::from_secs(20);
        while !sockets.clients().is_empty() {
            assert!(Instant::now() < until, "the client is held");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(sockets.memory().usage().0 == 0 && rooms.connections() == 0);
    }
}
