//! The state that all clients of a server share: handler, namespaces, limits and counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::request::Parts;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::engineio::{Config, Refused, Service, Session};
use crate::handler::Handler;
use crate::recovery::Recoveries;
use crate::server::InvalidNamespace;

/// A namespace of the server.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    connections: AtomicUsize,
    next_ack: AtomicU64,
}

impl Namespace {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// An id for an answer. It is new in the namespace: a client that has left and entered again
    /// may still answer an event of its earlier connection.
    pub(crate) fn next_ack(&self) -> u64 {
        self.next_ack.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_connection(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The service of the Engine.IO server: the protocol of each session is a [`Client`].
#[derive(Debug)]
pub(crate) struct Hub<H: Handler> {
    handler: H,
    recovery: Option<Recoveries<H>>,
    namespaces: BTreeMap<String, Arc<Namespace>>,
    pending_acks: AtomicUsize,
    max_pending_acks: usize,
    max_attachments: usize,
    max_attachment_bytes: usize,
    tasks: TaskTracker,
}

impl<H: Handler> Hub<H> {
    pub(crate) fn new<N: Into<String>>(
        config: &Config,
        handler: H,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, InvalidNamespace> {
        let mut namespaces = BTreeMap::new();
        for name in names {
            let name = name.into();
            // Comma and question mark end a name in a packet; U+001E ends a packet in a POST.
            if !name.starts_with('/')
                || name.contains([',', '?'])
                || name.contains(char::is_control)
            {
                return Err(InvalidNamespace(name));
            }
            let namespace = Namespace {
                name: name.clone(),
                connections: AtomicUsize::new(0),
                next_ack: AtomicU64::new(0),
            };
            namespaces.insert(name, Arc::new(namespace));
        }
        let tasks = TaskTracker::new();
        Ok(Self {
            handler,
            recovery: config
                .recovery
                .as_ref()
                .map(|recovery| Recoveries::new(recovery, config, &tasks)),
            tasks,
            namespaces,
            pending_acks: AtomicUsize::new(0),
            max_pending_acks: config.max_pending_acks,
            max_attachments: config.max_attachments,
            max_attachment_bytes: config.max_attachment_bytes,
        })
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// The state of recovery, if the server has it.
    pub(crate) fn recovery(&self) -> Option<&Recoveries<H>> {
        self.recovery.as_ref()
    }

    /// The tasks of the server.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    pub(crate) fn connections(&self) -> usize {
        self.namespaces
            .values()
            .map(|namespace| namespace.connections.load(Ordering::Relaxed))
            .sum()
    }

    pub(crate) fn pending_acks(&self) -> usize {
        self.pending_acks.load(Ordering::Relaxed)
    }

    pub(crate) fn add_pending_acks(&self, count: usize) {
        self.pending_acks.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn remove_pending_acks(&self, count: usize) {
        self.pending_acks.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn max_pending_acks(&self) -> usize {
        self.max_pending_acks
    }

    pub(crate) fn max_attachments(&self) -> usize {
        self.max_attachments
    }

    pub(crate) fn max_attachment_bytes(&self) -> usize {
        self.max_attachment_bytes
    }
}

impl<H: Handler> Service for Hub<H> {
    type Protocol = Client<H>;

    fn open(
        self: &Arc<Self>,
        session: &Arc<Session>,
        request: &Parts,
    ) -> Result<Client<H>, Refused> {
        let value = self.handler.open(request)?;
        Ok(Client::new(self, session, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{ConnectError, ConnectRequest, Context, Event};

    #[derive(Debug)]
    struct Silent;

    impl Handler for Silent {
        type Session = ();
        type Data = ();

        fn open(&self, _request: &Parts) -> Result<(), Refused> {
            Ok(())
        }

        async fn connect(&self, _request: &ConnectRequest<'_, Self>) -> Result<(), ConnectError> {
            std::future::ready(Ok(())).await
        }

        async fn event(&self, _cx: &Context<'_, Self>, _event: &Event<'_>) {
            std::future::ready(()).await;
        }
    }

    #[test]
    fn only_a_name_that_a_client_can_ask_for_is_a_namespace() {
        let config = Config::default();
        let hub = Hub::new(&config, Silent, ["/", "/a/b", "/é", "/"]).unwrap();
        assert!(hub.namespace("/").is_some() && hub.namespace("/é").is_some());
        assert!(hub.namespace("").is_none() && hub.namespace("/a").is_none());
        for name in ["", "a", "/a,b", "/a?b", "/a\u{1e}b", "/\n"] {
            let error = Hub::new(&config, Silent, [name]).unwrap_err();
            assert_eq!(error, InvalidNamespace(name.into()));
        }
    }
}
