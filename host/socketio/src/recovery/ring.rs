//! The recent events of one connection, in the order in which they were sent, and their bounds.
//!
//! The ring stores encoded events and returns the events after an offset. It does not depend on
//! connections or sessions.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use tokio::time::Instant;

use crate::engineio::{Budget, write_attachments, write_message};

/// The memory of a kept event besides its bytes: the allocator's part and its counters, in bytes.
const EVENT_COST: usize = 128;

/// The memory of an event in one more connection, in bytes: an entry in a list that is at least a
/// quarter full.
const ENTRY_COST: usize = 4 * size_of::<Entry>();

/// How many characters an offset has. All have the same length, so that one can replace another in
/// an encoded event.
const OFFSET_CHARS: usize = 11;

/// The place of an event among all events of a server: a later event has a greater offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Offset(pub(crate) u64);

impl Offset {
    /// Returns `None` if `text` is not an offset.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // 9: the decoder wants space for its estimate; an offset has 8 bytes.
        let mut bytes = [0; 9];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let bytes = bytes.get(..length)?.try_into().ok()?;
        Some(Self(u64::from_be_bytes(bytes)))
    }

    fn text(self) -> [u8; OFFSET_CHARS] {
        let mut text = [b'A'; OFFSET_CHARS];
        // 8 bytes are 11 characters: this can't fail.
        let _ = URL_SAFE_NO_PAD.encode_slice(self.0.to_be_bytes(), &mut text);
        text
    }
}

/// The bounds of the rings of a server. When more than half of `budget` is used, each ring is
/// limited to an equal share of the other half.
#[derive(Debug)]
pub(crate) struct Bounds {
    budget: Budget,
    /// How many rings exist, for the equal share.
    rings: AtomicUsize,
    /// Maximum bytes of one ring.
    max_each: usize,
    /// How long after it was sent an event may still be needed, in seconds.
    max_age: u32,
    began: Instant,
}

impl Bounds {
    /// `max`: for all rings together, in bytes. `max_each`: for one of them. `max_age`: how long
    /// after it was sent an event may still be needed.
    pub(crate) fn new(max: usize, max_each: usize, max_age: Duration) -> Arc<Self> {
        Arc::new(Self {
            budget: Budget::new(max),
            rings: AtomicUsize::new(0),
            max_each,
            max_age: seconds(max_age),
            began: Instant::now(),
        })
    }

    /// How many bytes are kept.
    pub(crate) fn used(&self) -> usize {
        self.budget.used()
    }
}

/// Whole seconds, at most `u32::MAX` (136 years).
fn seconds(duration: Duration) -> u32 {
    duration.as_secs().try_into().unwrap_or(u32::MAX)
}

/// An encoded event with its offset. Its bytes count against the bounds while it exists.
pub(crate) struct Kept {
    offset: Offset,
    bytes: Bytes,
    /// Where the text of the offset begins in `bytes`.
    offset_at: usize,
    bounds: Arc<Bounds>,
}

impl Kept {
    /// Encodes an event. `parts`: the packet's head, `[`, the name, a comma or nothing, and the
    /// arguments. The closing bracket follows the offset.
    pub(crate) fn encode(
        bounds: &Arc<Bounds>,
        offset: Offset,
        parts: [&[u8]; 5],
        attachments: &[Bytes],
    ) -> Arc<Self> {
        let [head, bracket, name, comma, arguments] = parts;
        let mut bytes = Vec::new();
        // The attachments follow below: the offset is found from the end of the text.
        write_message(
            &mut bytes,
            &[head, bracket, name, comma, arguments, b",\"", &offset.text(), b"\"]"],
            &[],
        );
        // After the offset come a quote and the bracket.
        let offset_at = bytes.len().saturating_sub(OFFSET_CHARS + 2);
        write_attachments(&mut bytes, attachments);
        Self::new(bounds, offset, bytes, offset_at)
    }

    fn new(
        bounds: &Arc<Bounds>,
        offset: Offset,
        mut bytes: Vec<u8>,
        offset_at: usize,
    ) -> Arc<Self> {
        // Attachments may have left much spare capacity, which would be kept and not counted.
        if bytes.capacity() - bytes.len() > EVENT_COST / 4 {
            bytes.shrink_to_fit();
        }
        // Counted beyond the bound too: the event is sent in any case. The rings then keep less.
        bounds.budget.add(bytes.len() + EVENT_COST);
        Arc::new(Self { offset, bytes: bytes.into(), offset_at, bounds: Arc::clone(bounds) })
    }

    /// The same event with another offset.
    pub(crate) fn with_offset(&self, offset: Offset) -> Arc<Self> {
        let mut bytes = self.bytes.to_vec();
        if let Some(text) = bytes.get_mut(self.offset_at..).and_then(|rest| rest.first_chunk_mut())
        {
            *text = offset.text();
        }
        Self::new(&self.bounds, offset, bytes, self.offset_at)
    }

    pub(crate) fn offset(&self) -> Offset {
        self.offset
    }

    /// The frames of the event's messages.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The memory that this needs if only one connection keeps it.
    fn cost(&self) -> usize {
        self.bytes.len() + EVENT_COST + ENTRY_COST
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.bounds.budget.remove(self.bytes.len() + EVENT_COST);
    }
}

/// Without the event's content.
impl fmt::Debug for Kept {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Kept")
            .field("offset", &self.offset)
            .field("len", &self.bytes.len())
            .finish_non_exhaustive()
    }
}

/// An event of one connection.
#[derive(Debug)]
struct Entry {
    event: Arc<Kept>,
    /// When it was sent, in seconds after the bounds began. Not when it was encoded, which may have
    /// been long before.
    sent: u32,
}

/// The recent events of one connection, with growing offsets.
#[derive(Debug)]
pub(crate) struct Ring {
    bounds: Arc<Bounds>,
    entries: VecDeque<Entry>,
    /// The memory that the entries would need if no other connection kept them: an event of many
    /// connections counts in full in each. The maximum and the share of one ring are about this.
    cost: usize,
    /// The offset of the event that was dropped last, because of its age or for want of space. A
    /// client that received this event as its last one has missed no dropped event.
    dropped: Option<Offset>,
    /// The offset of the event that was sent last, or the server's last one when the ring was made.
    newest: Offset,
}

impl Ring {
    /// `newest`: the offset that the server has given last.
    pub(crate) fn new(bounds: &Arc<Bounds>, newest: Offset) -> Self {
        bounds.rings.fetch_add(1, Ordering::Relaxed);
        Self {
            bounds: Arc::clone(bounds),
            entries: VecDeque::new(),
            cost: 0,
            dropped: None,
            newest,
        }
    }

    /// Whether an event with this offset may follow. An event that was encoded before the last one
    /// that was sent, or that is sent twice, needs a new offset, so that each offset means one
    /// place in the order.
    pub(crate) fn accepts(&self, offset: Offset) -> bool {
        offset > self.newest
    }

    /// Keeps an event, whose offset it [`accepts`](Self::accepts). Drops the oldest events: those
    /// that no client can need any more, and then as many as the bounds require.
    pub(crate) fn push(&mut self, event: Arc<Kept>, now: Instant) {
        self.newest = event.offset;
        let sent = seconds(now.duration_since(self.bounds.began));
        let max_age = self.bounds.max_age;
        while let Some(oldest) =
            self.entries.pop_front_if(|oldest| sent.saturating_sub(oldest.sent) > max_age)
        {
            self.forget(&oldest.event);
        }
        let cost = event.cost();
        while !self.try_count(cost) {
            let Some(oldest) = self.entries.pop_front() else {
                self.dropped = Some(event.offset);
                return;
            };
            self.forget(&oldest.event);
        }
        self.cost += cost;
        self.entries.push_back(Entry { event, sent });
        // `ENTRY_COST` is that of a list that is a quarter full. One that is less full becomes half
        // full, so that it is not moved at every event.
        if self.entries.capacity() > 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// Counts the place of an entry with this cost, if the bounds allow it: the maximum of one
    /// ring, and its share of the budget. The budget counts the event itself already.
    fn try_count(&self, cost: usize) -> bool {
        let own = self.cost + cost;
        own <= self.bounds.max_each
            && self.bounds.budget.try_add(
                ENTRY_COST,
                own,
                self.bounds.rings.load(Ordering::Relaxed),
            )
    }

    fn forget(&mut self, event: &Kept) {
        self.dropped = Some(event.offset);
        self.cost -= event.cost();
        self.bounds.budget.remove(ENTRY_COST);
    }

    /// The events after the one with this offset, which is the last that the client has received.
    /// `None` if some of them were dropped: the connection then ends, and its client begins anew.
    ///
    /// A client without an offset has received nothing. A stock client keeps the offset of its
    /// earlier connection until it receives an event of this one. So an offset that is unknown here
    /// means the same, as long as nothing was dropped.
    pub(crate) fn after(
        &self,
        offset: Option<Offset>,
    ) -> Option<impl ExactSizeIterator<Item = &Arc<Kept>>> {
        let begin = match offset
            .map(|offset| self.entries.binary_search_by_key(&offset, |entry| entry.event.offset))
        {
            Some(Ok(at)) => at + 1,
            _ if self.dropped.is_none() || self.dropped == offset => 0,
            _ => return None,
        };
        Some(self.entries.range(begin..).map(|entry| &entry.event))
    }

    /// Drops all events and their memory.
    pub(crate) fn clear(&mut self) {
        for entry in std::mem::take(&mut self.entries) {
            self.forget(&entry.event);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.clear();
        self.bounds.rings.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
