//! Connection state recovery: the shared state of all connections of a server by which a client
//! whose transport was lost finds its connection again.
//!
//! It knows which connection a secret belongs to, how many are detached, and for how long. The kept
//! events of a connection are in `ring`; how it is detached from its session and attached to
//! another one is the connection's, in `connection::recovery`; `client::detached` ends those whose
//! clients don't return.

mod ring;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use foldhash::fast::RandomState;
use serde::Deserialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::engineio::{Config, Recovery};

pub(crate) use ring::{Kept, Offset, Ring};

use ring::Bounds;

/// The secret with which a client finds its connection again: 128 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pid([u8; 16]);

impl Pid {
    /// Returns a new secret from the system's random numbers.
    pub(crate) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 18];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        Some(Self(bytes.get(..length)?.try_into().ok()?))
    }

    /// The secret as its client gets it.
    pub(crate) fn text(self) -> [u8; 22] {
        let mut text = [b'A'; 22];
        // 16 bytes are 22 characters: this can't fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        text
    }
}

/// Does not show the secret: a client that knows it can take the connection over.
impl fmt::Debug for Pid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pid(…)")
    }
}

/// The fields in the CONNECT of a client that returns.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resume {
    pub(crate) pid: Pid,
    /// Of the last event that it has received. `None` if it has received none, or none of this
    /// server.
    pub(crate) offset: Option<Offset>,
}

impl Resume {
    /// Reads the `auth` of a CONNECT. `None` if the client does not ask for an earlier connection.
    pub(crate) fn parse(auth: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Fields {
            pid: String,
            offset: Option<String>,
        }
        let fields: Fields = serde_json::from_str(auth).ok()?;
        let offset = fields.offset.and_then(|offset| Offset::parse(&offset));
        Some(Self { pid: Pid::parse(&fields.pid)?, offset })
    }
}

/// The shared state of all connections of a server. `C` is a connection.
pub(crate) struct Recoveries<C> {
    duration: Duration,
    max_detached: usize,
    bounds: Arc<Bounds>,
    /// The offset of the event that was encoded last. It begins with a random number: an offset of
    /// another process, which a client may still have, means nothing here.
    last_offset: AtomicU64,
    detached: AtomicUsize,
    /// The connections that have not ended, attached or detached.
    connections: Mutex<HashMap<Pid, Weak<C>, RandomState>>,
    /// The server stops: nothing is kept any more.
    closing: CancellationToken,
}

impl<C> Recoveries<C> {
    pub(crate) fn new(recovery: &Recovery, config: &Config) -> Self {
        // Without random numbers there are no sessions either.
        let first = getrandom::u64().unwrap_or_default() >> 1;
        // Half of the queue of a client: the other half may be occupied when it returns.
        let max_each = (config.max_queued / 2).min(recovery.max_bytes / 16);
        // A client that returns may miss events that were sent before the missing pong was noticed.
        let unnoticed = config.ping_interval.saturating_add(config.ping_timeout);
        let max_age = recovery.duration.saturating_add(unnoticed);
        Self {
            duration: recovery.duration,
            max_detached: config.max_sessions,
            bounds: Bounds::new(recovery.max_bytes, max_each, max_age),
            last_offset: AtomicU64::new(first),
            detached: AtomicUsize::new(0),
            connections: Mutex::default(),
            closing: CancellationToken::new(),
        }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<Pid, Weak<C>, RandomState>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of events are kept.
    pub(crate) fn used(&self) -> usize {
        self.bounds.used()
    }

    /// How many connections are detached.
    pub(crate) fn detached(&self) -> usize {
        self.detached.load(Ordering::Relaxed)
    }

    /// Returns an empty ring for a new connection.
    pub(crate) fn ring(&self) -> Ring {
        Ring::new(&self.bounds, Offset(self.last_offset.load(Ordering::SeqCst)))
    }

    /// An offset that is greater than all that were given before.
    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.last_offset.fetch_add(1, Ordering::SeqCst).wrapping_add(1))
    }

    /// Encodes an event with a new offset. `parts` is its text without the closing bracket.
    pub(crate) fn encode(&self, parts: [&[u8]; 5], attachments: &[Bytes]) -> Arc<Kept> {
        Kept::encode(&self.bounds, self.next_offset(), parts, attachments)
    }

    /// The connection to which a secret belongs, attached or detached.
    pub(crate) fn find(&self, pid: Pid) -> Option<Arc<C>> {
        self.connections().get(&pid)?.upgrade()
    }

    pub(crate) fn insert(&self, pid: Pid, connection: &Arc<C>) {
        self.connections().insert(pid, Arc::downgrade(connection));
    }

    pub(crate) fn remove(&self, pid: Pid) {
        self.connections().remove(&pid);
    }

    /// Counts one more detached connection. False if there are too many, or if the server stops.
    pub(crate) fn add_detached(&self) -> bool {
        let free = |count: usize| (count < self.max_detached).then_some(count + 1);
        !self.closing.is_cancelled()
            && self.detached.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok()
    }

    pub(crate) fn remove_detached(&self) {
        self.detached.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns when a connection that is detached now must end: its time is over, or the server
    /// stops.
    pub(crate) async fn expired(&self) {
        tokio::select! {
            () = sleep(self.duration) => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// Ends all detached connections. From now on, a connection ends when its transport is lost.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_returns_is_understood() {
        let pid = Pid::random().unwrap();
        let text = String::from_utf8(pid.text().to_vec()).unwrap();
        let offset = "AAAAAAAAAAc";
        let resume = |offset| Some(Resume { pid, offset });
        assert_eq!(Resume::parse(&format!(r#"{{"pid":"{text}"}}"#)), resume(None));
        assert_eq!(
            Resume::parse(&format!(r#"{{"token":[{{}}],"pid":"{text}","offset":"{offset}"}}"#)),
            resume(Some(Offset(7)))
        );
        assert_eq!(
            Resume::parse(&format!(r#"{{"pid":"{text}","offset":"of another server"}}"#)),
            resume(None)
        );
        for auth in [
            "{}",
            r#"{"offset":"AAAAAAAAAAc"}"#,
            r#"{"pid":1}"#,
            r#"{"pid":"AAAA"}"#,
            r#"{"pid":null}"#,
        ] {
            assert_eq!(Resume::parse(auth), None, "{auth}");
        }
        for auth in [format!(r#"{{"pid":"{text}A"}}"#), format!(r#"{{"pid":"{text}","offset":3}}"#)]
        {
            assert_eq!(Resume::parse(&auth), None, "{auth}");
        }
        assert!(!format!("{:?}", resume(None)).contains(&text));
    }

    #[test]
    fn deep_auth_costs_no_stack() {
        let deep = "[".repeat(400_000) + &"]".repeat(400_000);
        assert_eq!(Resume::parse(&format!(r#"{{"a":{deep}}}"#)), None);
    }
}
