//! What was asked on one connection and what has come back: each number once, in the order of sending. Knows nothing of packets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Where a server did not do what it must.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Sent and never answered, or never delivered.
    pub(crate) lost: u64,
    /// Answered or delivered a second time, or never sent.
    pub(crate) duplicated: u64,
    /// Came after one that was sent later.
    pub(crate) reordered: u64,
    /// Answered by something else than was asked for.
    pub(crate) wrong: u64,
    /// Connections that the server has closed.
    pub(crate) closed: u64,
}

impl Faults {
    /// Adds what another part has found.
    pub(crate) const fn add(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.wrong += other.wrong;
        self.closed += other.closed;
    }

    /// Whether there was none.
    pub(crate) const fn is_none(self) -> bool {
        self.lost + self.duplicated + self.reordered + self.wrong + self.closed == 0
    }
}

/// Numbers from 0 on that were sent, and which of them came back.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// The number of the first of `waiting`.
    low: u64,
    /// When each was sent or was due; `None` once it has come back. Begins with one that waits.
    waiting: VecDeque<Option<Instant>>,
    /// One more than the highest that has come back.
    high: u64,
    open: usize,
    faults: Faults,
}

impl Sequence {
    /// Notes that the next number is sent, and returns it.
    pub(crate) fn send(&mut self, at: Instant) -> u64 {
        self.waiting.push_back(Some(at));
        self.open += 1;
        self.low + self.waiting.len() as u64 - 1
    }

    /// Notes that `number` has come back; how long after it was sent, where it was waited for.
    pub(crate) fn receive(&mut self, number: u64, now: Instant) -> Option<Duration> {
        let place = number.checked_sub(self.low).and_then(|place| usize::try_from(place).ok());
        let Some(sent) = place.and_then(|place| self.waiting.get_mut(place)).and_then(Option::take) else {
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

    /// How many have not come back.
    pub(crate) const fn open(&self) -> usize {
        self.open
    }

    /// All faults; what has not come back by now is lost.
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
