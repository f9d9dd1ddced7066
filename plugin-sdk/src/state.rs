//! The plugin's durable key-value state, with JSON values by default.

use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sockhop_core::state::MAX_SCAN_ENTRIES;

use crate::host::Host;
use crate::json::encode;
use crate::level::Level;
use crate::refusal::{Refusal, Result};

/// The plugin's durable key-value state. It belongs to the plugin's name: other plugins can't see
/// it, and all versions of the plugin share it.
///
/// Reads see one consistent snapshot and the handler's own writes. Writes are applied together with
/// the handler's other effects, or not at all. If a value that a handler has read was changed
/// meanwhile, the host can drop its effects and run it again. So a handler must not depend on data
/// that it keeps outside of the state.
///
/// The previous and the next version must be able to read what a version writes: a rollback changes
/// the code, never the data. A value that a version can't read is refused as `corrupt_state`. A
/// handler that passes this on has failed (`plugin_failed`). If a new version fails too often in
/// its first minute, the host rolls it back. A [`collection`](crate::collection) keeps records with
/// ids and indexes in the state, and with each record the number of its format.
///
/// Every call can be refused:
///
/// - `limit`: a key has more than 512 bytes, a value more than 256 KiB, the state of the plugin
///   more than 256 MiB, or the result of a scan more than 2 MiB
/// - `limit`: one event has more than 256 effects, or more than 1 MiB of them, stored values
///   included
/// - `misuse`: an empty key, or a scan limit of 0 or of more than [`Scan::MAX_LIMIT`]
/// - `unavailable`: the state can't be used now. The event fails or runs again, whatever the
///   handler returns
#[derive(Clone, Copy)]
pub struct State<'ctx> {
    pub(crate) host: &'ctx dyn Host,
}

impl State<'_> {
    /// Returns the value of `key`, parsed from JSON, or `None` if `key` does not exist.
    ///
    /// # Errors
    /// See [`State`], and `corrupt_state` if the value is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        self.host.get(key)?.map(|value| self.decode(key, &value)).transpose()
    }

    /// Stores `value` under `key` as JSON.
    ///
    /// # Errors
    /// See [`State`], and `misuse` if `value` can't be written as JSON (a map whose keys are not
    /// text).
    pub fn set<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result {
        self.host.set(key, encode(value)?.as_bytes())
    }

    /// Removes `key`. A key that does not exist is no error.
    ///
    /// # Errors
    /// See [`State`].
    pub fn delete(&self, key: &str) -> Result {
        self.host.delete(key)
    }

    /// Returns the entries that `scan` selects, in its order, with values parsed from JSON.
    ///
    /// # Errors
    /// See [`State`], and `corrupt_state` if a value is not a `T`.
    pub fn scan<T: DeserializeOwned>(&self, scan: Scan<'_>) -> Result<Vec<(String, T)>> {
        let entries = self.scan_bytes(scan)?.into_iter();
        entries.map(|(key, value)| self.decode(&key, &value).map(|value| (key, value))).collect()
    }

    /// Returns the stored bytes of `key`, or `None` if `key` does not exist.
    ///
    /// # Errors
    /// See [`State`].
    pub fn get_bytes(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.host.get(key)
    }

    /// Stores the bytes `value` under `key`.
    ///
    /// # Errors
    /// See [`State`].
    pub fn set_bytes(&self, key: &str, value: &[u8]) -> Result {
        self.host.set(key, value)
    }

    /// Returns the entries that `scan` selects, in its order, with the stored bytes.
    ///
    /// # Errors
    /// See [`State`].
    pub fn scan_bytes(&self, scan: Scan<'_>) -> Result<Vec<(String, Vec<u8>)>> {
        self.host.scan(scan.prefix, scan.cursor, scan.backwards, scan.limit)
    }

    /// Parses the stored `value` of `key` from JSON, as [`get`](Self::get) and [`scan`](Self::scan)
    /// do.
    ///
    /// # Errors
    /// `corrupt_state`: `value` is not a `T`. If the handler passes it on, the plugin has failed:
    /// the client receives `plugin_failed`, and the operator sees this message, which names the
    /// key. Only the log says what is wrong with the value, because that text can quote the value.
    pub fn decode<T: DeserializeOwned>(&self, key: &str, value: &[u8]) -> Result<T> {
        serde_json::from_slice(value).map_err(|error| {
            self.host.log(
                Level::Error,
                &format!("the value of `{key}` is not what this version stores: {error}"),
            );
            Refusal::new(
                "corrupt_state",
                format!("the value of `{key}` is not what this version of the plugin stores"),
            )
        })
    }

    /// Returns the next number of `sequence`. Numbers start at 1, increase, and stay below 2^53. A
    /// number is taken at once and never returned to the sequence: a failed handler leaves a gap,
    /// and a stop of the host can leave one.
    ///
    /// # Errors
    /// `misuse`: the name is empty. `limit`: the name has more than 128 bytes. `unavailable`: the
    /// state can't be written now.
    pub fn next_id(&self, sequence: &str) -> Result<u64> {
        self.host.next_id(sequence)
    }
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("State")
    }
}

/// Selects the entries of a scan: those whose key begins with a prefix, in the byte order of the
/// keys.
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
    /// The maximum number of entries in one scan.
    pub const MAX_LIMIT: u32 = MAX_SCAN_ENTRIES;

    /// All keys that begin with `prefix`, ascending, at most [`MAX_LIMIT`](Self::MAX_LIMIT).
    #[must_use]
    pub const fn prefix(prefix: &'a str) -> Self {
        Self { prefix, cursor: None, backwards: false, limit: Self::MAX_LIMIT }
    }

    /// Only entries strictly after `key`, or strictly before it if the scan goes backwards. `key`
    /// need not exist.
    #[must_use]
    pub const fn cursor(self, key: &'a str) -> Self {
        Self { cursor: Some(key), ..self }
    }

    /// In reverse order, from the last key to the first.
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
