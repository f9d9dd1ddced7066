//! The plugin's durable state: keys and values, JSON by default.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::Level;
use crate::handlers::encode;
use crate::host::Host;
use crate::refusal::{Refusal, Result};

/// The plugin's durable state, private to its name and shared by its versions.
///
/// Reads see one consistent view and the handler's own writes; writes are applied with the handler's other effects, or not at all. If what
/// a handler that writes has read was changed meanwhile, the host drops its effects and runs it again: so a handler must not depend on
/// what it remembers outside of the state. What one version writes, its predecessor and its successor must be able to read: a rollback
/// changes code, never data. A value that a version can't read is `corrupt_state`: a handler that passes it on has failed (`plugin_failed`),
/// and a new version that does so in its first minute is rolled back.
///
/// Every call is refused as `limit` where a key has more than 512 bytes, a value more than 256 KiB, the plugin more than 256 MiB, or a
/// scan would return more than 2 MiB, or one event's stored values and other effects are more than 256 or have more than 1 MiB; as `misuse`
/// where a key is empty; as `unavailable` where the state can't be read now.
#[derive(Clone, Copy)]
pub struct State<'ctx> {
    pub(crate) host: &'ctx dyn Host,
}

impl State<'_> {
    /// The value of `key`, read from JSON; none where it has none.
    ///
    /// # Errors
    /// As the type says, and `corrupt_state` where the value is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.host.get(key)?.map(|value| self.decode(key, &value)).transpose()
    }

    /// Stores `value` under `key`, as JSON.
    ///
    /// # Errors
    /// As the type says, and `misuse` where the value is no JSON (a map whose keys are no text).
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result {
        self.host.set(key, encode(value)?.as_bytes())
    }

    /// Removes `key`; one that is not there is no error.
    ///
    /// # Errors
    /// As the type says.
    pub fn delete(&self, key: &str) -> Result {
        self.host.delete(key)
    }

    /// The entries that `scan` names, values read from JSON, in its order.
    ///
    /// # Errors
    /// As the type says, and `corrupt_state` where a value is not a `T`.
    pub fn scan<T: DeserializeOwned>(&self, scan: Scan<'_>) -> Result<Vec<(String, T)>> {
        let entries = self.scan_bytes(scan)?.into_iter();
        entries.map(|(key, value)| self.decode(&key, &value).map(|value| (key, value))).collect()
    }

    /// The value of `key` as it is stored.
    ///
    /// # Errors
    /// As the type says.
    pub fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.host.get(key)
    }

    /// Stores bytes under `key`.
    ///
    /// # Errors
    /// As the type says.
    pub fn set_bytes(&self, key: &str, value: &[u8]) -> Result {
        self.host.set(key, value)
    }

    /// The entries that `scan` names, as they are stored.
    ///
    /// # Errors
    /// As the type says.
    pub fn scan_bytes(&self, scan: Scan<'_>) -> Result<Vec<(String, Vec<u8>)>> {
        self.host.scan(scan.prefix, scan.cursor, scan.backwards, scan.limit)
    }

    /// Reads the stored `value` of `key` from JSON, as [`get`](Self::get) and [`scan`](Self::scan) do.
    ///
    /// # Errors
    /// `corrupt_state`: it is not a `T`. Passed on by a handler, it is the plugin's own failure: the client is told `plugin_failed`, and
    /// the operator this message, which names the key. What is wrong with the value stands in the log alone, because it may quote the value.
    pub fn decode<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T> {
        serde_json::from_slice(value).map_err(|error| {
            self.host.log(Level::Error, &format!("the value of `{key}` is not what this version stores: {error}"));
            Refusal::new("corrupt_state", format!("the value of `{key}` is not what this version of the plugin stores"))
        })
    }

    /// The next number of `sequence`, from 1, growing, below 2^53. Taken at once and never given back: a handler that fails leaves a gap,
    /// and so may a stop of the host.
    ///
    /// # Errors
    /// `misuse`: the name is empty or has more than 128 bytes.
    pub fn next_id(&self, sequence: &str) -> Result<u64> {
        self.host.next_id(sequence)
    }
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// Which entries a scan returns: those whose key begins with a prefix, in the order of the keys' bytes.
///
/// ```
/// # use sockhop_sdk::Scan;
/// let newest = Scan::prefix("note/").backwards().limit(20);
/// let next_page = newest.cursor("note/0000000000000042");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan<'a> {
    prefix: &'a str,
    cursor: Option<&'a str>,
    backwards: bool,
    limit: u32,
}

impl<'a> Scan<'a> {
    /// At most this many entries in one scan.
    pub const MAX_LIMIT: u32 = 1000;

    /// Every key that begins with `prefix`, ascending, at most [`MAX_LIMIT`](Self::MAX_LIMIT).
    #[must_use]
    pub const fn prefix(prefix: &'a str) -> Self {
        Self { prefix, cursor: None, backwards: false, limit: Self::MAX_LIMIT }
    }

    /// Only what comes strictly after `key` (backwards: before it), whether or not it exists.
    #[must_use]
    pub const fn cursor(self, key: &'a str) -> Self {
        Self { cursor: Some(key), ..self }
    }

    /// From the last key to the first.
    #[must_use]
    pub const fn backwards(self) -> Self {
        Self { backwards: true, ..self }
    }

    /// At most `limit` entries, 1 to [`MAX_LIMIT`](Self::MAX_LIMIT).
    #[must_use]
    pub const fn limit(self, limit: u32) -> Self {
        Self { limit, ..self }
    }
}
