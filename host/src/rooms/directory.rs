//! The connections that plugins know from their host events, in the order of their public ids.
//! Plugins read this list in pages, mostly after they have missed host events.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{Connection, Connections};

/// Holds a connection from the time at which its `$connect` is queued to the time at which its
/// `$disconnect` is queued. The dispatcher changes it under the lock under which it queues host
/// events. So a list and the host events after it have no gap and no overlap.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    connections: Mutex<BTreeSet<ById>>,
}

#[derive(Debug)]
struct ById(Arc<Connection>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        &self.0.public_id
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.public_id == other.0.public_id
    }
}

impl Eq for ById {}

impl PartialOrd for ById {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ById {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.public_id.cmp(&other.0.public_id)
    }
}

impl Directory {
    /// Locks the set. A panic of another thread can't leave it half changed: poisoning is ignored.
    fn connections(&self) -> MutexGuard<'_, BTreeSet<ById>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, connection: &Arc<Connection>) {
        self.connections().insert(ById(Arc::clone(connection)));
    }

    pub(crate) fn remove(&self, connection: &Connection) {
        self.connections().remove(connection.public_id.as_str());
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.connections().is_empty()
    }

    /// Returns all connections as they are now.
    pub(crate) fn snapshot(&self) -> Connections {
        self.connections().iter().map(|ById(connection)| Arc::clone(connection)).collect()
    }

    /// Returns the first `limit` connections whose public id is greater than `after`.
    pub(crate) fn page(&self, after: Option<&str>, limit: usize) -> Vec<Arc<Connection>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let connections = self.connections();
        connections
            .range::<str, _>((from, Bound::Unbounded))
            .take(limit)
            .map(|ById(connection)| Arc::clone(connection))
            .collect()
    }
}

/// Like [`Directory::page`], for the result of [`Directory::snapshot`], which is sorted.
pub(crate) fn page_of(
    snapshot: &[Arc<Connection>],
    after: Option<&str>,
    limit: usize,
) -> Vec<Arc<Connection>> {
    let first = after.map_or(0, |after| {
        snapshot.partition_point(|connection| connection.public_id.as_str() <= after)
    });
    snapshot.iter().skip(first).take(limit).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Identity;

    #[test]
    fn pages_of_the_directory_and_of_its_snapshot_are_in_the_order_of_ids() {
        let directory = Directory::default();
        let connection = |id: &str| {
            Arc::new(Connection::new(
                String::new(),
                id.to_owned(),
                "/".into(),
                Arc::new(Identity::default()),
                None,
            ))
        };
        let all: Vec<_> = ["c", "a", "d", "b"].map(connection).into();
        all.iter().for_each(|connection| directory.add(connection));
        let ids = |page: Vec<Arc<Connection>>| {
            page.iter().map(|connection| connection.public_id.clone()).collect::<Vec<_>>()
        };
        let snapshot = directory.snapshot();
        for (after, limit, expected) in
            [(None, 2, vec!["a", "b"]), (Some("b"), 9, vec!["c", "d"]), (Some("d"), 9, vec![])]
        {
            assert_eq!(ids(directory.page(after, limit)), expected);
            assert_eq!(ids(page_of(&snapshot, after, limit)), expected);
        }
        all.iter().for_each(|connection| directory.remove(connection));
        assert!(directory.is_empty() && snapshot.len() == 4);
    }
}
