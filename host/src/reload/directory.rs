//! Decides whether the result of a scan of the plugin directory is believed. Pure: the reloader
//! scans, logs and acts.
//!
//! A directory that is suddenly empty is more often an unmounted volume or a mistake than a
//! decision, so its plugins keep serving for a while. A directory that can't be read, or does not
//! exist, says nothing about its files.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of the directory apart from its files.
#[derive(Debug)]
pub(super) struct Directory {
    /// How long the directory must stay empty before that is believed.
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
pub(super) enum Look {
    /// The number of files found.
    Files(usize),
    /// The directory can't be read.
    Unreadable,
}

/// The consequence of a scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Whether the result of the scan is believed; if not, the known files are still taken to be
    /// there.
    pub(super) is_believed: bool,
    /// What to log about it, once per change.
    pub(super) news: Option<News>,
}

/// A change of what is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The result is not believed from now on.
    Doubted(Doubt),
    /// The doubt has ended: the directory can be read, and is not unexpectedly empty.
    Over(Doubt),
    /// The directory has stayed empty for long enough, which is now believed.
    StayedEmpty,
}

impl Directory {
    pub(super) fn new(empty_after: Duration) -> Self {
        Self { empty_after, doubt: None }
    }

    /// Judges the result of a scan at `now`; before it, the host knew `known` plugins in the
    /// directory.
    pub(super) fn judge(&mut self, look: Look, known: usize, now: Instant) -> Judgement {
        let found = match look {
            Look::Files(0) if known > 0 => Some(Doubt::Empty),
            Look::Files(_) => None,
            Look::Unreadable => Some(Doubt::Unreadable),
        };
        match (self.doubt, found) {
            (Some((Doubt::Empty, since)), Some(Doubt::Empty))
                if now.saturating_duration_since(since) >= self.empty_after =>
            {
                self.doubt = None;
                Judgement { is_believed: true, news: Some(News::StayedEmpty) }
            }
            (Some((before, _)), Some(doubt)) if before == doubt => {
                Judgement { is_believed: false, news: None }
            }
            (_, Some(doubt)) => {
                self.doubt = Some((doubt, now));
                Judgement { is_believed: false, news: Some(News::Doubted(doubt)) }
            }
            (before, None) => {
                self.doubt = None;
                Judgement { is_believed: true, news: before.map(|(doubt, _)| News::Over(doubt)) }
            }
        }
    }

    /// Whether the result of the last scan is not believed.
    pub(super) fn is_doubted(&self) -> bool {
        self.doubt.is_some()
    }

    /// Returns when an empty directory will be believed; `None` if the directory is not in doubt,
    /// or can't be read.
    pub(super) fn believed_at(&self) -> Option<Instant> {
        self.doubt
            .filter(|(doubt, _)| *doubt == Doubt::Empty)
            .map(|(_, since)| since + self.empty_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn believed(news: Option<News>) -> Judgement {
        Judgement { is_believed: true, news }
    }

    fn doubted(news: Option<News>) -> Judgement {
        Judgement { is_believed: false, news }
    }

    #[test]
    fn a_directory_that_is_suddenly_empty_is_believed_when_it_has_stayed_so() {
        let (mut directory, start) = (Directory::new(GRACE), Instant::now());
        assert_eq!(directory.judge(Look::Files(2), 2, start), believed(None));
        assert_eq!(
            directory.judge(Look::Files(0), 2, start),
            doubted(Some(News::Doubted(Doubt::Empty)))
        );
        assert_eq!(directory.believed_at(), Some(start + GRACE));
        assert_eq!(directory.judge(Look::Files(0), 2, start + GRACE / 2), doubted(None));
        assert_eq!(
            directory.judge(Look::Files(0), 2, start + GRACE),
            believed(Some(News::StayedEmpty))
        );
        assert_eq!(
            directory.judge(Look::Files(0), 0, start + GRACE * 2),
            believed(None),
            "it was empty before"
        );
    }

    #[test]
    fn files_that_come_back_end_the_doubt_and_the_next_one_begins_anew() {
        let (mut directory, start) = (Directory::new(GRACE), Instant::now());
        directory.judge(Look::Files(0), 2, start);
        assert_eq!(
            directory.judge(Look::Files(1), 2, start + GRACE / 2),
            believed(Some(News::Over(Doubt::Empty)))
        );
        assert_eq!(
            directory.judge(Look::Files(0), 1, start + GRACE),
            doubted(Some(News::Doubted(Doubt::Empty)))
        );
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_never_believed_and_said_once() {
        let (mut directory, start) = (Directory::new(GRACE), Instant::now());
        assert_eq!(
            directory.judge(Look::Unreadable, 2, start),
            doubted(Some(News::Doubted(Doubt::Unreadable)))
        );
        assert_eq!(directory.judge(Look::Unreadable, 2, start + GRACE * 9), doubted(None));
        assert_eq!(directory.believed_at(), None);
        assert_eq!(
            directory.judge(Look::Files(0), 2, start + GRACE * 9),
            doubted(Some(News::Doubted(Doubt::Empty))),
            "its time begins now"
        );
        assert_eq!(
            directory.judge(Look::Unreadable, 2, start + GRACE * 10),
            doubted(Some(News::Doubted(Doubt::Unreadable)))
        );
        assert_eq!(
            directory.judge(Look::Files(2), 2, start + GRACE * 11),
            believed(Some(News::Over(Doubt::Unreadable)))
        );
    }
}
