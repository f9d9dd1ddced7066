//! The check of stored state by a version that has not stored it.

use serde::de::DeserializeOwned;
use sockhop_core::state_check::{CheckReply, CheckRequest, MAX_EXAMPLES, MAX_REASON, Unreadable};

use crate::collection::{Attempts, Collection, Record};
use crate::context::Context;
use crate::json::encode;
use crate::refusal::{Refusal, Result};
use crate::state::Scan;

/// One event checks up to so many entries.
const ENTRIES: u64 = 500;

/// One event ends after it has read so many bytes.
const BYTES: usize = 1024 * 1024;

/// Number of values in one scan. The host refuses a scan whose entries have more than 2 MiB; then a
/// smaller number is tried.
const SCANNED: u32 = 32;

/// Tries to read what is stored, for `sockhop check NEW.wasm --state DIR`. See
/// [`Plugin::on_check`](crate::Plugin::on_check).
#[derive(Debug)]
pub struct StateCheck<'a> {
    ctx: &'a Context,
    /// The part with which this event begins, and the text of its last entry that was checked.
    from: (usize, Option<String>),
    /// The number of the next part.
    part: usize,
    bytes: usize,
    reply: CheckReply,
}

impl<'a> StateCheck<'a> {
    /// Runs a handler on the part of the state that `data` names.
    pub(crate) fn run(
        ctx: &'a Context,
        data: &str,
        handler: impl Fn(&mut StateCheck<'a>) -> Result,
    ) -> Result<Option<String>> {
        let CheckRequest { cursor } = serde_json::from_str(data)
            .map_err(|error| Refusal::invalid_payload(error.to_string()))?;
        let cursor = cursor.as_deref().and_then(|cursor| cursor.split_once(' '));
        let from = cursor.and_then(|(part, text)| Some((part.parse().ok()?, text.to_owned())));
        let from = from
            .map_or((0, None), |(part, text)| (part, Some(text).filter(|text| !text.is_empty())));
        let reply = CheckReply::default();
        let mut check = Self { ctx, from, part: 0, bytes: 0, reply };
        handler(&mut check)?;
        encode(&check.reply).map(Some)
    }

    /// The context of the event, to read settings.
    #[must_use]
    pub fn context(&self) -> &'a Context {
        self.ctx
    }

    /// Tries to read each record of a collection, and to upgrade it to the format of this version.
    ///
    /// # Errors
    /// As [`State`](crate::State). A record that can't be read is no error.
    pub fn collection<R: Record>(&mut self, collection: &Collection<R>) -> Result {
        self.part(|check, after| collection.check(check.ctx, after, check))
    }

    /// Tries to read each value whose key begins with `prefix` as a `T`, as
    /// [`State::get`](crate::State::get) does.
    ///
    /// # Errors
    /// As [`State`](crate::State). A value that can't be read is no error.
    pub fn values<T: DeserializeOwned>(&mut self, prefix: &str) -> Result {
        self.part(|check, after| {
            let (state, mut cursor, mut limit) = (check.ctx.state(), after, SCANNED);
            loop {
                let mut scan = Scan::prefix(prefix).limit(limit);
                if let Some(cursor) = &cursor {
                    scan = scan.cursor(cursor);
                }
                let entries = match state.scan_bytes(scan) {
                    Ok(entries) => entries,
                    Err(refusal) if refusal.code == "limit" && limit > 1 => {
                        limit /= 2;
                        continue;
                    }
                    Err(refusal) => return Err(refusal),
                };
                let is_last = entries.len() < limit as usize;
                for (key, value) in entries {
                    if check.is_over() {
                        return Ok(Some(cursor.unwrap_or_default()));
                    }
                    let read = serde_json::from_slice::<T>(&value);
                    let read = read.map(drop).map_err(|error| {
                        Refusal::new("corrupt_state", format!("not what it stores: {error}"))
                    });
                    check.took(&key, value.len(), read);
                    cursor = Some(key);
                }
                if is_last {
                    return Ok(None);
                }
            }
        })
    }

    /// Checks the next part of the state with `visit`, if it belongs to this event. `visit` gets
    /// the text after which it begins, and returns that after which it has ended if it has not
    /// finished.
    fn part(
        &mut self,
        visit: impl FnOnce(&mut Self, Option<String>) -> Result<Option<String>>,
    ) -> Result {
        let part = self.part;
        self.part += 1;
        let (first, after) = (self.from.0, self.from.1.take());
        if part < first {
            // The text belongs to the first part of this event.
            self.from.1 = after;
            return Ok(());
        }
        if self.reply.next.is_some() {
            return Ok(());
        }
        let ended = if self.is_over() { Some(String::new()) } else { visit(self, after)? };
        self.reply.next = ended.map(|text| format!("{part} {text}"));
        Ok(())
    }
}

impl Attempts for StateCheck<'_> {
    fn is_over(&self) -> bool {
        self.reply.checked >= ENTRIES || self.bytes >= BYTES
    }

    fn took(&mut self, key: &str, bytes: usize, read: Result) {
        self.reply.checked += 1;
        self.bytes += bytes;
        let Err(refusal) = read else { return };
        self.reply.unreadable += 1;
        if self.reply.examples.len() < MAX_EXAMPLES {
            let mut reason = match refusal.code.as_str() {
                "corrupt_state" => refusal.message,
                code => format!("{code}: {}", refusal.message),
            };
            while reason.len() > MAX_REASON {
                reason.pop();
            }
            self.reply.examples.push(Unreadable { key: key.to_owned(), reason });
        }
    }
}
