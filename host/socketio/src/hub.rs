//! The state that all clients of a server share: handler, namespaces, limits and counters.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_util::task::TaskTracker;

use crate::connection::Connection;
use crate::engineio::Config;
use crate::handler::Handler;
use crate::namespace::{InvalidNamespace, Namespaces};
use crate::recovery::Recoveries;

/// The shared state of a server.
pub(crate) struct Hub<H: Handler> {
    handler: H,
    recovery: Option<Recoveries<Connection<H>>>,
    namespaces: Namespaces,
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
        Ok(Self {
            handler,
            recovery: config.recovery.as_ref().map(|recovery| Recoveries::new(recovery, config)),
            namespaces: Namespaces::new(names)?,
            pending_acks: AtomicUsize::new(0),
            max_pending_acks: config.max_pending_acks,
            max_attachments: config.max_attachments,
            max_attachment_bytes: config.max_attachment_bytes,
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// The state of recovery, if the server has it.
    pub(crate) fn recovery(&self) -> Option<&Recoveries<Connection<H>>> {
        self.recovery.as_ref()
    }

    /// The tasks of the server.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
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
