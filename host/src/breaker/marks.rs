//! Sets of clients of bounded size.
//!
//! Clients are stored as bits, not by name. Recording one costs a few instructions and no memory,
//! however many there are. Two clients may share a bit: then a failing client hides an answered
//! one, and the breaker opens a little sooner.

/// Bits of a set of clients: enough to distinguish some hundreds of clients. With that many
/// clients, shares no longer depend on single clients.
const BITS: usize = 512;

/// The position of a client in a [`Marks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u16);

impl Mark {
    pub(super) const fn of(hash: u64) -> Self {
        Self((hash % BITS as u64) as u16)
    }
}

/// A set of clients, with one bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marks([u64; BITS / 64]);

impl Marks {
    pub(super) const NONE: Self = Self([0; BITS / 64]);

    pub(super) fn add(&mut self, Mark(bit): Mark) {
        if let Some(word) = self.0.get_mut(usize::from(bit) / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word |= other);
    }

    pub(super) fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= !other);
        self
    }
}
