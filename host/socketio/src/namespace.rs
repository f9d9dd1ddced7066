//! The namespaces of a server, by their names, and the counters of each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use thiserror::Error;

/// The name of a namespace that no client could ask for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "invalid namespace {0:?}: it must begin with `/` and have neither `,` nor `?` nor control \
     characters"
)]
pub struct InvalidNamespace(pub String);

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

/// All namespaces of a server.
#[derive(Debug)]
pub(crate) struct Namespaces(BTreeMap<String, Arc<Namespace>>);

impl Namespaces {
    /// # Errors
    ///
    /// If no client could ask for one of the names.
    pub(crate) fn new<N: Into<String>>(
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
        Ok(Self(namespaces))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.0.get(name)
    }

    /// How many connections there are in all of them.
    pub(crate) fn connections(&self) -> usize {
        self.0.values().map(|namespace| namespace.connections.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_a_client_can_ask_for_is_a_namespace() {
        let namespaces = Namespaces::new(["/", "/a/b", "/é", "/"]).unwrap();
        assert!(namespaces.get("/").is_some() && namespaces.get("/é").is_some());
        assert!(namespaces.get("").is_none() && namespaces.get("/a").is_none());
        for name in ["", "a", "/a,b", "/a?b", "/a\u{1e}b", "/\n"] {
            let error = Namespaces::new([name]).unwrap_err();
            assert_eq!(error, InvalidNamespace(name.into()));
        }
    }
}
