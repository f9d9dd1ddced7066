//! What an HTTP connection waits for, which determines its deadline.

use std::sync::atomic::{AtomicU32, Ordering};

/// What an HTTP connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The first byte of its first request.
    Opened,
    /// The rest of a request's head.
    Head,
    /// The host's answer. The request's body has its own deadline.
    Request,
    /// The next request, or the client to read the answer to the last one.
    Idle,
}

/// The stage of one connection. The connection's I/O, service and deadline run in one task, so
/// separate loads and stores suffice.
#[derive(Debug, Default)]
pub(super) struct StageCell(AtomicU32);

/// The low bits hold the stage, the others count its changes. So a stage that was left and entered
/// again gets a new deadline.
const STAGE_BITS: u32 = 2;

impl StageCell {
    /// The stage, and a number that differs after each change.
    pub(super) fn get(&self) -> (Stage, u32) {
        let value = self.0.load(Ordering::Relaxed);
        let stage = match value & ((1 << STAGE_BITS) - 1) {
            0 => Stage::Opened,
            1 => Stage::Head,
            2 => Stage::Request,
            _ => Stage::Idle,
        };
        (stage, value >> STAGE_BITS)
    }

    /// Enters `stage`.
    pub(super) fn set(&self, stage: Stage) {
        let (_, turn) = self.get();
        self.0.store((turn.wrapping_add(1) << STAGE_BITS) | stage as u32, Ordering::Relaxed);
    }

    /// Records received bytes: a request's head begins, unless a head is being read already or a
    /// request is in progress.
    pub(super) fn received(&self) {
        if matches!(self.get().0, Stage::Opened | Stage::Idle) {
            self.set(Stage::Head);
        }
    }

    /// Records sent bytes of an answer: the client gets the deadline of an idle connection again.
    pub(super) fn sent(&self) {
        if self.get().0 == Stage::Idle {
            self.set(Stage::Idle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_begin_a_head_only_where_none_is_read_and_no_answer_is_due() {
        let cell = StageCell::default();
        assert_eq!(cell.get(), (Stage::Opened, 0));
        cell.received();
        assert_eq!(cell.get(), (Stage::Head, 1));
        cell.received();
        assert_eq!(cell.get(), (Stage::Head, 1), "the head's deadline does not move");
        cell.set(Stage::Request);
        cell.received();
        assert_eq!(cell.get(), (Stage::Request, 2), "a body");
        cell.set(Stage::Idle);
        cell.sent();
        assert_eq!(cell.get(), (Stage::Idle, 4), "a client that reads is not idle");
        cell.received();
        cell.sent();
        assert_eq!(cell.get(), (Stage::Head, 5));
    }
}
