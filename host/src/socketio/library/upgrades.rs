//! The WebSocket connections that were upgraded from long-polling. Their handshake came over
//! another TCP connection.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::transport::{AbortHandle, WeakAbortHandle};

/// The connections, by the ids of their clients.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    by_sid: Mutex<HashMap<String, WeakAbortHandle>>,
}

/// Number of entries from which the entries of closed connections are removed.
const SWEEP_AT: usize = 1024;

impl Upgrades {
    /// Remembers that the client `sid` upgrades over the connection of `abort_handle`, as long as
    /// that lives.
    pub(super) fn remember(&self, sid: &str, abort_handle: &AbortHandle) {
        // The lock guards a map that is consistent between any two of its calls.
        let mut by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        if by_sid.len() >= SWEEP_AT && by_sid.len() == by_sid.capacity() {
            by_sid.retain(|_, abort_handle| abort_handle.upgrade().is_some());
        }
        by_sid.insert(sid.to_owned(), abort_handle.downgrade());
    }

    /// Returns the connection to which the client `sid` was upgraded, if it still lives.
    pub(super) fn find(&self, sid: &str) -> Option<AbortHandle> {
        let by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        by_sid.get(sid).and_then(WeakAbortHandle::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_found_while_its_connection_lives() {
        let upgrades = Upgrades::default();
        let abort_handle = AbortHandle::default();
        upgrades.remember("sid", &abort_handle);
        assert!(upgrades.find("sid").is_some());
        drop(abort_handle);
        assert!(upgrades.find("sid").is_none());
    }
}
