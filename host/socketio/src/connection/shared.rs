//! What the connections of one server share: recovery, and the answers that are waited for.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Connection;
use super::handler::Handler;
use crate::engineio::Config;
use crate::recovery::Recoveries;

/// What the connections of one server share.
pub(crate) struct Shared<H: Handler> {
    recovery: Option<Recoveries<Connection<H>>>,
    pending_acks: AtomicUsize,
    max_pending_acks: usize,
}

impl<H: Handler> Shared<H> {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            recovery: config.recovery.as_ref().map(|recovery| Recoveries::new(recovery, config)),
            pending_acks: AtomicUsize::new(0),
            max_pending_acks: config.max_pending_acks,
        }
    }

    /// The state of recovery, if the server has it.
    pub(crate) fn recovery(&self) -> Option<&Recoveries<Connection<H>>> {
        self.recovery.as_ref()
    }

    /// How many answers all connections together wait for.
    pub(crate) fn pending_acks(&self) -> usize {
        self.pending_acks.load(Ordering::Relaxed)
    }

    pub(super) fn add_pending_acks(&self, count: usize) {
        self.pending_acks.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn remove_pending_acks(&self, count: usize) {
        self.pending_acks.fetch_sub(count, Ordering::Relaxed);
    }

    /// How many answers one connection may wait for.
    pub(super) fn max_pending_acks(&self) -> usize {
        self.max_pending_acks
    }
}
