//! The state that all clients of a server share: handler, namespaces, limits and tasks.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::connection::{Connection, Handler, Shared};
use crate::engineio::Config;
use crate::namespace::{InvalidNamespace, Namespaces};
use crate::recovery::Recoveries;

/// The shared state of a server.
pub(crate) struct Hub<H: Handler> {
    handler: H,
    shared: Arc<Shared<H>>,
    namespaces: Namespaces,
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
            shared: Arc::new(Shared::new(config)),
            namespaces: Namespaces::new(names)?,
            max_attachments: config.max_attachments,
            max_attachment_bytes: config.max_attachment_bytes,
            tasks: TaskTracker::new(),
        })
    }

    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// What its connections share.
    pub(crate) fn shared(&self) -> &Arc<Shared<H>> {
        &self.shared
    }

    /// The state of recovery, if the server has it.
    pub(crate) fn recovery(&self) -> Option<&Recoveries<Connection<H>>> {
        self.shared.recovery()
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The tasks that end detached connections, and those of the Engine.IO server.
    pub(crate) fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    pub(crate) fn max_attachments(&self) -> usize {
        self.max_attachments
    }

    /// Maximum bytes of all attachments of one packet.
    pub(crate) fn max_attachment_bytes(&self) -> usize {
        self.max_attachment_bytes
    }
}
