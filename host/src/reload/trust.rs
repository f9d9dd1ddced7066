//! Decides whether the result of a scan of the plugin directory is trusted. Pure: the scanner
//! scans, logs and acts.
//!
//! A directory that is suddenly empty is more often an unmounted volume or a mistake than a
//! decision, so its plugins keep serving for a while. A directory that can't be read, or does not
//! exist, says nothing about its files.

use std::time::Duration;

use tokio::time::Instant;

/// Whether the results of scans are trusted.
#[derive(Debug)]
pub(super) struct ScanTrust {
    /// How long the directory must stay empty before that is trusted.
    empty_after: Duration,
    doubt: Option<(Doubt, Instant)>,
}

/// Why the known files are still taken to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The directory holds no plugin any more.
    Empty,
    /// The directory can't be read.
    Unreadable,
}

/// The result of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanResult {
    /// The number of files found.
    Files(usize),
    /// The directory can't be read.
    Unreadable,
}

/// The consequence of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Whether the result of the scan is trusted; if not, the known files are still taken to be
    /// there.
    pub(super) is_trusted: bool,
    /// The change since the last scan, to log it once.
    pub(super) change: Option<TrustChange>,
}

/// A change of what is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrustChange {
    /// The result is not trusted from now on.
    Doubted(Doubt),
    /// The doubt has ended: the directory can be read, and is not unexpectedly empty.
    Over(Doubt),
    /// The directory has stayed empty for long enough, which is now trusted.
    StayedEmpty,
}

impl ScanTrust {
    pub(super) fn new(empty_after: Duration) -> Self {
        Self { empty_after, doubt: None }
    }

    /// Judges the result of a scan at `now`; before it, the host knew `known` plugins in the
    /// directory.
    pub(super) fn judge(&mut self, result: ScanResult, known: usize, now: Instant) -> Judgement {
        let found = match result {
            ScanResult::Files(0) if known > 0 => Some(Doubt::Empty),
            ScanResult::Files(_) => None,
            ScanResult::Unreadable => Some(Doubt::Unreadable),
        };
        match (self.doubt, found) {
            (Some((Doubt::Empty, since)), Some(Doubt::Empty))
                if now.saturating_duration_since(since) >= self.empty_after =>
            {
                self.doubt = None;
                Judgement { is_trusted: true, change: Some(TrustChange::StayedEmpty) }
            }
            (Some((before, _)), Some(doubt)) if before == doubt => {
                Judgement { is_trusted: false, change: None }
            }
            (_, Some(doubt)) => {
                self.doubt = Some((doubt, now));
                Judgement { is_trusted: false, change: Some(TrustChange::Doubted(doubt)) }
            }
            (before, None) => {
                self.doubt = None;
                Judgement {
                    is_trusted: true,
                    change: before.map(|(doubt, _)| TrustChange::Over(doubt)),
                }
            }
        }
    }

    /// Whether the result of the last scan is not trusted.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Returns when an empty directory will be trusted; `None` if the directory is not in doubt,
    /// or can't be read.
    pub(super) fn trusted_at(&self) -> Option<Instant> {
        self.doubt
            .filter(|(doubt, _)| *doubt == Doubt::Empty)
            .map(|(_, since)| since + self.empty_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn trusted(change: Option<TrustChange>) -> Judgement {
        Judgement { is_trusted: true, change }
    }

    fn doubted(change: Option<TrustChange>) -> Judgement {
        Judgement { is_trusted: false, change }
    }

    #[test]
    fn a_directory_that_is_suddenly_empty_is_trusted_when_it_has_stayed_so() {
        let (mut trust, start) = (ScanTrust::new(GRACE), Instant::now());
        assert_eq!(trust.judge(ScanResult::Files(2), 2, start), trusted(None));
        assert_eq!(
            trust.judge(ScanResult::Files(0), 2, start),
            doubted(Some(TrustChange::Doubted(Doubt::Empty)))
        );
        assert_eq!(trust.trusted_at(), Some(start + GRACE));
        assert_eq!(trust.judge(ScanResult::Files(0), 2, start + GRACE / 2), doubted(None));
        assert_eq!(
            trust.judge(ScanResult::Files(0), 2, start + GRACE),
            trusted(Some(TrustChange::StayedEmpty))
        );
        assert_eq!(
            trust.judge(ScanResult::Files(0), 0, start + GRACE * 2),
            trusted(None),
            "it was empty before"
        );
    }

    #[test]
    fn files_that_come_back_end_the_doubt_and_the_next_one_begins_anew() {
        let (mut trust, start) = (ScanTrust::new(GRACE), Instant::now());
        trust.judge(ScanResult::Files(0), 2, start);
        assert_eq!(
            trust.judge(ScanResult::Files(1), 2, start + GRACE / 2),
            trusted(Some(TrustChange::Over(Doubt::Empty)))
        );
        assert_eq!(
            trust.judge(ScanResult::Files(0), 1, start + GRACE),
            doubted(Some(TrustChange::Doubted(Doubt::Empty)))
        );
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_never_trusted_and_reported_once() {
        let (mut trust, start) = (ScanTrust::new(GRACE), Instant::now());
        assert_eq!(
            trust.judge(ScanResult::Unreadable, 2, start),
            doubted(Some(TrustChange::Doubted(Doubt::Unreadable)))
        );
        assert_eq!(trust.judge(ScanResult::Unreadable, 2, start + GRACE * 9), doubted(None));
        assert_eq!(trust.trusted_at(), None);
        assert_eq!(
            trust.judge(ScanResult::Files(0), 2, start + GRACE * 9),
            doubted(Some(TrustChange::Doubted(Doubt::Empty))),
            "its time begins now"
        );
        assert_eq!(
            trust.judge(ScanResult::Unreadable, 2, start + GRACE * 10),
            doubted(Some(TrustChange::Doubted(Doubt::Unreadable)))
        );
        assert_eq!(
            trust.judge(ScanResult::Files(2), 2, start + GRACE * 11),
            trusted(Some(TrustChange::Over(Doubt::Unreadable)))
        );
    }
}
