//! The WebSocket connections that began as upgrades of long-polling: their handshake came over another TCP connection.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::transport::{Cut, WeakCut};

/// The connections, by the ids of their clients.
#[derive(Debug, Default)]
pub(super) struct Upgrades {
    by_sid: Mutex<HashMap<String, WeakCut>>,
}

/// Entries at which those of closed connections are swept, at least.
const SWEEP_AT: usize = 1024;

impl Upgrades {
    /// Remembers that the client `sid` asks to go on over `cut`'s connection, for as long as that lives.
    pub(super) fn remember(&self, sid: &str, cut: &Cut) {
        // The lock guards a map that is whole between any two of its calls.
        let mut by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        if by_sid.len() >= SWEEP_AT && by_sid.len() == by_sid.capacity() {
            by_sid.retain(|_, cut| cut.upgrade().is_some());
        }
        by_sid.insert(sid.to_owned(), cut.downgrade());
    }

    /// The connection to which the client `sid` was upgraded, where it still lives.
    pub(super) fn find(&self, sid: &str) -> Option<Cut> {
        let by_sid = self.by_sid.lock().unwrap_or_else(PoisonError::into_inner);
        by_sid.get(sid).and_then(WeakCut::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_found_while_its_connection_lives() {
        let upgrades = Upgrades::default();
        let cut = Cut::default();
        upgrades.remember("sid", &cut);
        assert!(upgrades.find("sid").is_some());
        drop(cut);
        assert!(upgrades.find("sid").is_none());
    }
}
