//! The server: settings, namespaces and a handler behind one HTTP service.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http::request::Parts;
use hyper::body::Body;

use crate::client::Client;
use crate::connection::{EventFrame, Handler};
use crate::engineio::{self, Abort, Answer, Config, Engine, Io, Refused, Service, Session};
use crate::hub::Hub;
use crate::namespace::InvalidNamespace;
use crate::recovery::Recoveries;

/// A Socket.IO server. Clones are the same server.
pub struct Server<H: Handler> {
    engine: Arc<Engine<Hub<H>>>,
}

impl<H: Handler> Clone for Server<H> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine) }
    }
}

impl<H: Handler> fmt::Debug for Server<H> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// The protocol of each session is a [`Client`].
impl<H: Handler> Service for Hub<H> {
    type Protocol = Client<H>;

    fn open(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Parts,
    ) -> Result<Client<H>, Refused> {
        let value = self.handler().open(request)?;
        Ok(Client::new(self, session, value))
    }
}

impl<H: Handler> Server<H> {
    /// Returns a server with these settings and namespaces. A client that asks for another
    /// namespace is refused, also the main namespace `/` unless it is among them.
    ///
    /// # Errors
    ///
    /// [`InvalidNamespace`] if a name does not begin with `/`, or has a comma, a question mark or a
    /// control character.
    pub fn new<N: Into<String>>(
        config: Config,
        handler: H,
        namespaces: impl IntoIterator<Item = N>,
    ) -> Result<Self, InvalidNamespace> {
        let hub = Hub::new(&config, handler, namespaces)?;
        let tasks = hub.tasks().clone();
        Ok(Self { engine: Engine::with_tasks(config, Arc::new(hub), tasks) })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        self.engine.config()
    }

    /// The application's handler.
    pub fn handler(&self) -> &H {
        self.engine.service().handler()
    }

    /// Whether requests for this path are the server's, see [`Config::path`].
    pub fn serves(&self, path: &str) -> bool {
        self.engine.serves(path)
    }

    /// Answers one request, which the application's HTTP server received on a connection of type
    /// `I` that it serves with upgrades. The body is hyper's own, or that of the application's HTTP
    /// framework.
    ///
    /// The answer has no CORS headers; the application adds them, and decides about origins before
    /// it calls this.
    ///
    /// # Errors
    ///
    /// [`Abort`] if the connection must be closed without an answer: return it as the error of the
    /// HTTP service.
    pub async fn handle<I: Io, B>(&self, request: Request<B>) -> Result<Answer, Abort>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        self.engine.handle::<I, B>(request).await
    }

    /// Encodes an event for any number of connections of a namespace. `None` if the server has no
    /// such namespace. The arguments are those of [`Connection::emit`](crate::Connection::emit).
    pub fn encode(
        &self,
        namespace: &str,
        name: &str,
        arguments: &str,
        attachments: &[Bytes],
    ) -> Option<EventFrame> {
        let (hub, memory) = (self.engine.service(), self.engine.memory());
        let namespace = hub.namespaces().get(namespace)?;
        Some(EventFrame::new(hub.recovery(), memory, namespace, name, arguments, attachments))
    }

    /// How much of its bounds the server uses at this moment.
    pub fn usage(&self) -> Usage {
        let hub = self.engine.service();
        let recovery = hub.recovery();
        Usage {
            engine: self.engine.usage(),
            connections: hub.namespaces().connections(),
            pending_acks: hub.shared().pending_acks(),
            detached: recovery.map_or(0, Recoveries::detached),
            recovery_bytes: recovery.map_or(0, Recoveries::used),
        }
    }

    /// Ends all sessions and all detached connections, and refuses new ones. Queued packets are
    /// still delivered, so requests of these sessions must reach the server until
    /// [`wait`](Self::wait) has returned. Clients receive no close packet, so stock clients connect
    /// again, to this address.
    pub fn close(&self) {
        if let Some(recovery) = self.engine.service().recovery() {
            recovery.close();
        }
        self.engine.close();
    }

    /// Waits until all sessions and all tasks of the server have ended, after
    /// [`close`](Self::close): at least until the queued packets are delivered, or
    /// [`Config::delivery_timeout`] has passed. May be cancelled and called again.
    pub async fn wait(&self) {
        self.engine.wait().await;
    }
}

/// How much of its bounds a server uses at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sessions, bytes and tasks.
    pub engine: engineio::Usage,
    /// Connections that exist. This includes detached connections, and ended connections that the
    /// application still holds.
    pub connections: usize,
    /// Answers of clients that are waited for.
    pub pending_acks: usize,
    /// Connections whose transport was lost and whose client may return.
    pub detached: usize,
    /// Bytes of the events that are kept for clients that return: at most
    /// [`Recovery::max_bytes`](crate::Recovery::max_bytes), and the events that the application
    /// holds encoded.
    pub recovery_bytes: usize,
}
