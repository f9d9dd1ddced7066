//! Tracks the sent and received numbers of one connection: each must come back once, in the order
//! of sending. Knows nothing of packets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Counts of the faults of a server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Events that were never answered, or messages that were never delivered.
    pub(crate) lost: u64,
    /// Answers or deliveries that came twice, or whose number was never sent.
    pub(crate) duplicated: u64,
    /// Answers or deliveries that came after one that was sent later.
    pub(crate) reordered: u64,
    /// Answers with the wrong content.
    pub(crate) wrong: u64,
    /// Connections that the server has closed.
    pub(crate) closed: u64,
}

impl Faults {
    /// Adds the faults of another part.
    pub(crate) const fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.wrong += other.wrong;
        self.closed += other.closed;
    }

    /// Whether there are no faults.
    pub(crate) const fn is_none(self) -> bool {
        self.lost + self.duplicated + self.reordered + self.wrong + self.closed == 0
    }
}

/// The sent numbers, from 0 on, and which of them have come back.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The number of the first entry of `waiting`.
    low: u64,
    /// The time at which each number was sent or was due, or `None` once it has come back. The
    /// first entry is always an outstanding one.
    waiting: VecDeque<Option<Instant>>,
    /// One more than the highest number that has come back.
    high: u64,
    open: usize,
    faults: Faults,
}

impl Sequence {
    /// Records that the next number is sent, and returns that number.
    pub(crate) fn send(&mut self, at: Instant) -> u64 {
        self.waiting.push_back(Some(at));
        self.open += 1;
        self.low + self.waiting.len() as u64 - 1
    }

    /// Records that `number` has come back. Returns the time since it was sent, or `None` if it was
    /// not outstanding.
    pub(crate) fn receive(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let place = number.checked_sub(self.low).and_then(|place| usize::try_from(place).ok());
        let Some(sent) = place.and_then(|place| self.waiting.get_mut(place)).and_then(Option::take)
        else {
            self.faults.duplicated += 1;
            return None;
        };
        self.open -= 1;
        if number < self.high {
            self.faults.reordered += 1;
        }
        self.high = self.high.max(number + 1);
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.low += 1;
        }
        Some(now.saturating_duration_since(sent))
    }

    /// The count of outstanding numbers.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// Returns all faults. Numbers that are still outstanding count as lost.
    pub(crate) const fn faults(&self) -> Faults {
        let mut faults = self.faults;
        faults.lost += self.open as u64;
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(sent: u64, received: &[u64]) -> Faults {
        let (mut sequence, now) = (Sequence::default(), Instant::now());
        for number in 0..sent {
            assert_eq!(sequence.send(now), number);
        }
        for number in received {
            sequence.receive(*number, now);
        }
        sequence.faults()
    }

    #[test]
    fn each_kind_of_fault_is_found() {
        assert!(after(3, &[0, 1, 2]).is_none());
        assert_eq!(after(3, &[0, 2]), Faults { lost: 1, ..Faults::default() });
        assert_eq!(after(3, &[0, 2, 1]), Faults { reordered: 1, ..Faults::default() });
        assert_eq!(after(3, &[0, 1, 1, 2]), Faults { duplicated: 1, ..Faults::default() });
        assert_eq!(after(1, &[0, 7]), Faults { duplicated: 1, ..Faults::default() });
    }
}
