//! Reads the entries below a prefix one after the other, in as few scans as the host allows.

use std::vec;

use crate::host::Entry;
use crate::refusal::Result;
use crate::state::{Scan, State};

/// Number of entries of a scan whose values can be large. The host refuses a scan whose entries
/// have more than 2 MiB; then a smaller number is tried.
const LARGE_ENTRIES: u32 = 32;

/// The entries below a prefix, in the order of their keys or in reverse.
pub(super) struct Walk<'a> {
    state: State<'a>,
    prefix: String,
    /// Bytes at the beginning of each key that are not part of the texts.
    base: usize,
    /// The key of the last entry that was read, or a text before the first one.
    cursor: Option<String>,
    /// Where the walk ends: a text that no entry has.
    end: Option<String>,
    backwards: bool,
    /// Maximum number of entries in one scan.
    chunk: u32,
    read: vec::IntoIter<Entry>,
    is_at_end: bool,
}

impl<'a> Walk<'a> {
    /// All entries below `prefix`, whose values are small.
    pub(super) fn new(state: State<'a>, prefix: String) -> Self {
        let base = prefix.len();
        Self {
            state,
            prefix,
            base,
            cursor: None,
            end: None,
            backwards: false,
            chunk: Scan::MAX_LIMIT,
            read: Vec::new().into_iter(),
            is_at_end: false,
        }
    }

    /// The values can be large.
    pub(super) fn of_large_values(self) -> Self {
        Self { chunk: LARGE_ENTRIES, ..self }
    }

    /// Only entries whose text begins with `text`.
    pub(super) fn within(mut self, text: &str) -> Self {
        self.prefix.push_str(text);
        self
    }

    /// In reverse order.
    pub(super) fn backwards(self, backwards: bool) -> Self {
        Self { backwards, ..self }
    }

    /// Only entries strictly after `text`, in the order of the walk.
    pub(super) fn after(mut self, text: Option<&str>) -> Self {
        let base = self.prefix.get(..self.base).unwrap_or_default();
        self.cursor = text.map(|text| format!("{base}{text}"));
        self
    }

    /// Only entries before `text`, in the order of the walk. No entry has this text.
    pub(super) fn before(self, text: Option<String>) -> Self {
        Self { end: text, ..self }
    }

    /// Returns the next entry: its key without the prefix of the walk, and its value. `wanted` is
    /// the number of entries that the caller still expects to read.
    ///
    /// # Errors
    /// See [`State`].
    pub(super) fn next(&mut self, wanted: u32) -> Result<Option<(String, Vec<u8>)>> {
        if self.read.as_slice().is_empty() && !self.is_at_end {
            self.scan(wanted)?;
        }
        let Some((key, value)) = self.read.next() else { return Ok(None) };
        let text = key.get(self.base..).unwrap_or_default().to_owned();
        let is_behind = self
            .end
            .as_ref()
            .is_some_and(|end| if self.backwards { text < *end } else { text > *end });
        if is_behind {
            self.is_at_end = true;
            self.read = Vec::new().into_iter();
            return Ok(None);
        }
        self.cursor = Some(key);
        Ok(Some((text, value)))
    }

    fn scan(&mut self, wanted: u32) -> Result {
        loop {
            let limit = wanted.clamp(1, self.chunk);
            let mut scan = Scan::prefix(&self.prefix).limit(limit);
            if self.backwards {
                scan = scan.backwards();
            }
            if let Some(cursor) = &self.cursor {
                scan = scan.cursor(cursor);
            }
            match self.state.scan_bytes(scan) {
                Ok(entries) => {
                    self.is_at_end = u32::try_from(entries.len()).is_ok_and(|read| read < limit);
                    self.read = entries.into_iter();
                    return Ok(());
                }
                Err(refusal) if refusal.code == "limit" && limit > 1 => self.chunk = limit / 2,
                Err(refusal) => return Err(refusal),
            }
        }
    }
}
