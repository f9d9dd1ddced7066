//! `/api/plugins/{name}/timers`: the timers of a plugin, for operators.

use serde_json::{Value, json};

use crate::store::{CommitError, Store, StoreError, TimerRow, Which};

use super::rows::{Kind, Page, rfc3339};

/// Timers, as a kind of rows.
pub(super) enum Timers {}

impl Kind for Timers {
    const NAME: &'static str = "timers";

    type Row = TimerRow;

    fn read(store: &Store, page: Page) -> Result<Vec<TimerRow>, StoreError> {
        store.timers(page.dead, page.after, page.limit)
    }

    fn id(row: &TimerRow) -> i64 {
        row.id
    }

    fn document(row: &TimerRow) -> Value {
        json!({
            "id": row.id,
            "timer": row.timer,
            "key": row.key,
            "due": rfc3339(row.due),
            "next_attempt": row.died.is_none().then(|| rfc3339(row.next)),
            "attempts": row.attempts,
            "died": row.died.map(rfc3339),
            "error": row.error,
        })
    }

    /// Lets dead timers fire again at once.
    fn retry(store: &Store, which: &Which, now: u64) -> Result<usize, CommitError> {
        store.retry_timers(which, now)
    }

    /// Removes dead timers, or timers that handlers have set if their ids are given.
    fn drop(store: &Store, which: &Which) -> Result<usize, CommitError> {
        store.drop_timers(which)
    }
}
