//! What an HTTP connection waits for, which determines its deadline.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What an HTTP connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The first byte of its first request.
    Opened,
    /// The rest of a request's head.
    Head,
    /// The host's answer. The request's body has its own deadline.
    Request,
    /// The client, which has to read the answer; the host has more of it.
    Answer,
    /// The client, which has to read the last bytes of the answer.
    AnswerEnd,
    /// The next request.
    Idle,
}

/// The stage of one connection. The connection's I/O, service and deadline run in one task, so
/// separate loads and stores suffice.
#[derive(Debug, Default)]
pub(super) struct StageCell {
    /// The stage and the number of its changes.
    stage: AtomicU32,
    /// Bytes written since the connection began.
    sent: AtomicU64,
}

/// The low bits hold the stage, the others count its changes. So a stage that was left and entered
/// again gets a new deadline.
const STAGE_BITS: u32 = 3;

impl StageCell {
    /// The stage, and a number that differs after each change.
    pub(super) fn get(&self) -> (Stage, u32) {
        let value = self.stage.load(Ordering::Relaxed);
        let stage = match value & ((1 << STAGE_BITS) - 1) {
            0 => Stage::Opened,
            1 => Stage::Head,
            2 => Stage::Request,
            3 => Stage::Answer,
            4 => Stage::AnswerEnd,
            _ => Stage::Idle,
        };
        (stage, value >> STAGE_BITS)
    }

    /// Enters `stage`.
    pub(super) fn set(&self, stage: Stage) {
        let (_, turn) = self.get();
        self.stage.store((turn.wrapping_add(1) << STAGE_BITS) | stage as u32, Ordering::Relaxed);
    }

    /// Records received bytes: a request's head begins, unless a head is being read already or a
    /// request is in progress.
    pub(super) fn received(&self) {
        if matches!(self.get().0, Stage::Opened | Stage::AnswerEnd | Stage::Idle) {
            self.set(Stage::Head);
        }
    }

    /// Records written bytes.
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.store(self.sent().wrapping_add(bytes as u64), Ordering::Relaxed);
    }

    /// Bytes written since the connection began.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Records that everything is written: a client that has read its answer may send the next
    /// request.
    pub(super) fn flushed(&self) {
        if self.get().0 == Stage::AnswerEnd {
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
        cell.set(Stage::Answer);
        cell.flushed();
        assert_eq!(cell.get(), (Stage::Answer, 3), "a part of an answer that has more");
        cell.set(Stage::AnswerEnd);
        cell.add_sent(7);
        assert_eq!((cell.get(), cell.sent()), ((Stage::AnswerEnd, 4), 7), "it is not read yet");
        cell.flushed();
        assert_eq!(cell.get(), (Stage::Idle, 5));
        cell.received();
        cell.flushed();
        assert_eq!(cell.get(), (Stage::Head, 6));
    }
}
