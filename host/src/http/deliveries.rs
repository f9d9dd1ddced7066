//! `/api/plugins/{name}/deliveries`: the deliveries of a plugin, for operators. Their paths,
//! headers and bodies, which may hold secrets, are not shown.

use serde_json::{Value, json};

use crate::store::{CommitError, DeliveryRow, Store, StoreError, Which};

use super::rows::{Kind, Page, rfc3339};

/// Deliveries, as a kind of rows.
pub(super) enum Deliveries {}

impl Kind for Deliveries {
    const NAME: &'static str = "deliveries";

    type Row = DeliveryRow;

    fn read(store: &Store, page: Page) -> Result<Vec<DeliveryRow>, StoreError> {
        store.deliveries(page.dead, page.after, page.limit)
    }

    fn id(row: &DeliveryRow) -> i64 {
        row.id
    }

    fn document(row: &DeliveryRow) -> Value {
        json!({
            "id": row.id,
            "delivery": row.delivery,
            "key": row.key,
            "origin": row.origin,
            "created": rfc3339(row.created),
            "next_attempt": row.died.is_none().then(|| rfc3339(row.next)),
            "attempts": row.attempts,
            "died": row.died.map(rfc3339),
            "status": row.status,
            "error": row.error,
        })
    }

    /// Sends dead deliveries again at once. If ids are given, also deliveries that wait.
    fn retry(store: &Store, which: &Which, now: u64) -> Result<usize, CommitError> {
        store.retry_deliveries(which, now)
    }

    /// Removes dead deliveries. If ids are given, also deliveries that wait.
    fn drop(store: &Store, which: &Which) -> Result<usize, CommitError> {
        store.drop_deliveries(which)
    }
}
