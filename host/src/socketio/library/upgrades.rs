//! The TCP connections to which clients have upgraded from long-polling. The host needs them to
//! abort such a client: socketioxide knows only the TCP connection of the handshake, which is
//! another one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::transport::{AbortHandle, WeakAbortHandle};

/// Weak handles of the TCP connections, by the client's Engine.IO session id.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    by_sid: Mutex<HashMap<String, WeakAbortHandle>>,
}

/// A smaller map is never searched for closed connections. A larger one is, before it would grow.
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

    /// Returns the handle that aborts the TCP connection of the client `sid`, if it still lives.
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
