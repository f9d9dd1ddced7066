//! The plugins that have not handled the `$connect` of a connection yet. Events of the connection
//! to these plugins wait; its events to others do not.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

/// The plugins that have not handled the `$connect` of one connection yet, by name. The set is
/// nearly always empty, and that check is one atomic load.
#[derive(Debug, Default)]
pub(crate) struct PendingConnects {
    count: AtomicUsize,
    plugins: Mutex<Vec<Arc<str>>>,
    /// Notified when a plugin was removed.
    changed: Notify,
}

impl PendingConnects {
    /// Ignores poisoning: the lock is held only for a few moves, and a panic leaves the list
    /// consistent.
    fn plugins(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a plugin that must handle `$connect` first.
    pub(crate) fn add(&self, plugin: &Arc<str>) {
        let mut plugins = self.plugins();
        plugins.push(Arc::clone(plugin));
        self.count.store(plugins.len(), Ordering::Release);
    }

    /// Removes a plugin that has handled `$connect`, or never will.
    pub(crate) fn remove(&self, plugin: &str) {
        let mut plugins = self.plugins();
        plugins.retain(|other| **other != *plugin);
        if plugins.is_empty() {
            // Frees the memory, because a connection is long-lived.
            *plugins = Vec::new();
        }
        self.count.store(plugins.len(), Ordering::Release);
        drop(plugins);
        self.changed.notify_waiters();
    }

    /// Whether the set is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether the set contains `plugin`.
    pub(crate) fn contains(&self, plugin: &str) -> bool {
        !self.is_empty() && self.plugins().iter().any(|other| **other == *plugin)
    }

    /// Waits until the set does not contain `plugin`, at most until `deadline`.
    pub(crate) async fn until_handled(&self, plugin: &str, deadline: Instant) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registers for the notification before it checks, so that no wake-up is lost.
            changed.as_mut().enable();
            if !self.contains(plugin)
                || tokio::time::timeout_at(deadline.into(), changed).await.is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn waiting_for_one_plugin_does_not_wait_for_another() {
        let pending = PendingConnects::default();
        let (slow, quick): (Arc<str>, Arc<str>) = ("slow".into(), "quick".into());
        pending.add(&slow);
        pending.add(&quick);
        let far = Instant::now() + Duration::from_secs(60);
        pending.until_handled("other", far).await;
        tokio::join!(pending.until_handled("quick", far), async { pending.remove("quick") });
        assert!(pending.contains("slow") && !pending.contains("quick") && !pending.is_empty());
        pending.until_handled("slow", Instant::now()).await;
        assert!(pending.contains("slow"), "its time is over");
        pending.remove("slow");
        assert!(pending.is_empty());
    }
}
