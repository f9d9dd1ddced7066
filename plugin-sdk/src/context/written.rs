//! What the collections of a plugin have written in one event, and whether the host has refused one
//! of several writes that belong together.

use std::cell::{Cell, RefCell};

use crate::refusal::Refusal;

/// The writes of collections in one event.
#[derive(Debug, Default)]
pub(crate) struct Written {
    keys: Cell<usize>,
    bytes: Cell<usize>,
    /// The refusal of a write after which a record, its index entries and the count disagree.
    torn: RefCell<Option<Refusal>>,
}

impl Written {
    /// Number of keys that were written. A key that was written twice counts twice.
    pub(crate) fn keys(&self) -> usize {
        self.keys.get()
    }

    /// Bytes of these keys and of their values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Counts a write of one key.
    pub(crate) fn add(&self, bytes: usize) {
        self.keys.set(self.keys.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
    }

    /// Records that a write was refused after others that belong to it. The event then fails, also
    /// if the handler does not pass on the refusal.
    pub(crate) fn tear(&self, refusal: &Refusal) {
        self.torn.borrow_mut().get_or_insert_with(|| refusal.clone());
    }

    /// Returns the first such refusal.
    pub(crate) fn torn(&self) -> Option<Refusal> {
        self.torn.take()
    }
}
