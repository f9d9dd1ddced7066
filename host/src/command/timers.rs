//! `sockhop timers`: shows the timers of a plugin, and retries or drops dead timers.

use super::rows::{Kind, RowsArgs};

/// The arguments of `sockhop timers`.
pub(crate) type Timers = RowsArgs<TimerRows>;

/// Timers, as a kind of rows.
#[derive(Debug)]
pub(crate) enum TimerRows {}

impl Kind for TimerRows {
    const NAME: &'static str = "timers";

    const COLUMNS: &'static [&'static str] =
        &["id", "timer", "key", "due", "next_attempt", "attempts", "died", "error"];

    const LIST: &'static str = "Lists the timers of a plugin that are set, or the dead timers";

    const DEAD: &'static str = "Lists the timers whose handler has failed for the last time";

    const RETRY: &'static str = "Lets dead timers fire again at once, with all their attempts";

    const DROP: &'static str =
        "Removes dead timers; also timers that handlers have set, if their ids are given";

    const IDS: &'static str = "The ids of the timers";
}
