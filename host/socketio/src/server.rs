//! The server: settings, namespaces and a handler behind one HTTP service.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use hyper::body::Body;
use thiserror::Error;

use crate::connection::EventFrame;
use crate::engineio::{self, Abort, Answer, Config, Engine, Io};
use crate::handler::Handler;
use crate::hub::Hub;

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

impl<H: Handler> Server<H> {
    /// Returns a server with these settings and namespaces. A client that asks for another
    /// namespace is refused, also the main namespace `/` unless it is among them.
    ///
    /// # Errors
    ///
    /// [`InvalidNamespace`] if a name does not begin with `/`, or has a comma, a question mark or a
    /// control character.
    pub fn new<N: Into<String>>(config: Config, handler: H, namespaces: impl IntoIterator<Item = N>) -> Result<Self, InvalidNamespace> {
        let hub = Hub::new(&config, handler, namespaces)?;
        Ok(Self { engine: Engine::new(config, Arc::new(hub)) })
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
    /// `I` that it serves with upgrades. The body is hyper's own, or what the application's HTTP
    /// framework makes of it.
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
    pub fn encode(&self, namespace: &str, name: &str, arguments: &str, attachments: &[Bytes]) -> Option<EventFrame> {
        let namespace = self.engine.service().namespace(namespace)?;
        let frame = |parts: &[&[u8]]| self.engine.frame(parts, attachments);
        Some(EventFrame::new(namespace, name, arguments, attachments.len(), frame))
    }

    /// How much of its bounds the server uses at this moment.
    pub fn usage(&self) -> Usage {
        let hub = self.engine.service();
        Usage { engine: self.engine.usage(), connections: hub.connections(), pending_acks: hub.pending_acks() }
    }

    /// Ends all sessions and refuses new ones. Clients are not told, so stock clients connect
    /// again, to this address.
    pub fn close(&self) {
        self.engine.close();
    }

    /// Waits until all sessions and all tasks of the server have ended, after
    /// [`close`](Self::close). May be cancelled and called again.
    pub async fn wait(&self) {
        self.engine.wait().await;
    }
}

/// How much of its bounds a server uses at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Sessions, bytes and tasks.
    pub engine: engineio::Usage,
    /// Connections that exist, those included that have ended while the application still holds
    /// them.
    pub connections: usize,
    /// Answers of clients that are waited for.
    pub pending_acks: usize,
}

/// The name of a namespace that no client could ask for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid namespace {0:?}: it must begin with `/` and have neither `,` nor `?` nor control characters")]
pub struct InvalidNamespace(pub String);
