//! The rows of deliveries in a plugin's file, as a transaction reads and writes them. The commit of
//! a handler adds deliveries together with the state.

use std::sync::atomic::Ordering;

use rusqlite::{Row, Transaction, params};
use sockhop_core::delivery::Delivery;
use sockhop_core::outbound::Request;
use tokio::sync::futures::Notified;

use super::Store;
use super::connection::integer;
use super::rows::RowCounts;

/// Bytes that a delivery counts against the quota in addition to its texts and its body.
const DELIVERY_BYTES: u64 = 256;

/// A delivery that a handler has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewDelivery {
    /// The id that the receiver gets.
    pub(crate) id: String,
    /// The origin of its URL.
    pub(crate) origin: String,
    /// When it was asked for, in milliseconds since 1970. It is due then.
    pub(crate) created: u64,
    /// The key, the request and where the result goes.
    pub(crate) delivery: Delivery,
}

impl NewDelivery {
    /// Bytes that the delivery counts against the quota.
    pub(super) fn counted(&self) -> u64 {
        (self.id.len() + self.origin.len() + self.delivery.bytes()) as u64 + DELIVERY_BYTES
    }
}

impl Store {
    /// Changes whenever deliveries may have changed.
    pub(crate) fn delivery_changes(&self) -> u64 {
        self.deliveries.changes()
    }

    /// Number of deliveries, dead ones included, as of the last commit.
    pub(super) fn delivery_count(&self) -> u64 {
        self.deliveries.count.load(Ordering::Relaxed)
    }

    /// Returns how many deliveries wait, and how many are dead, as of the last commit.
    pub(crate) fn delivery_counts(&self) -> RowCounts {
        self.deliveries.counts()
    }

    /// Waits for the next change of deliveries.
    pub(crate) fn deliveries_notified(&self) -> Notified<'_> {
        self.deliveries.notified()
    }
}

/// Adds deliveries, in their order.
pub(super) fn write(
    transaction: &Transaction<'_>,
    deliveries: &[NewDelivery],
) -> Result<(), rusqlite::Error> {
    for new in deliveries {
        let NewDelivery { id, origin, created, delivery } = new;
        let Delivery { key, request, result } = delivery;
        let Request { method, url, headers, body, .. } = request;
        let (created, bytes) = (integer(*created), integer(new.counted()));
        transaction
            .prepare_cached(
                "INSERT INTO deliveries
                 (delivery, key, origin, created, next, bytes, result, method, url, headers, body,
                  first)
                 VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9, ?10, NOT EXISTS
                         (SELECT 1 FROM deliveries WHERE key = ?2 AND died IS NULL))",
            )?
            .execute(params![
                id,
                key,
                origin,
                created,
                bytes,
                result,
                method,
                url,
                lines(headers),
                body
            ])?;
    }
    Ok(())
}

/// Marks the first one of the deliveries of `key` that wait. Call this after another of this key
/// was removed, or waits again: no other than the two with the lowest ids can have a wrong mark.
pub(super) fn mark_first(transaction: &Transaction<'_>, key: &str) -> Result<(), rusqlite::Error> {
    let mut waiting = transaction.prepare_cached(
        "SELECT id, first FROM deliveries WHERE key = ?1 AND died IS NULL ORDER BY id LIMIT 2",
    )?;
    let waiting = waiting.query_map([key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let waiting: Vec<(i64, bool)> = waiting.collect::<Result<_, _>>()?;
    for (place, (id, is_first)) in waiting.into_iter().enumerate() {
        if is_first != (place == 0) {
            transaction
                .prepare_cached("UPDATE deliveries SET first = ?2 WHERE id = ?1")?
                .execute(params![id, place == 0])?;
        }
    }
    Ok(())
}

/// Reads the request of a row with `method`, `url`, `headers` and `body`.
pub(super) fn request(row: &Row<'_>) -> Result<Request, rusqlite::Error> {
    let headers: Vec<u8> = row.get(2)?;
    Ok(Request {
        method: row.get(0)?,
        url: row.get(1)?,
        headers: parse(&headers),
        body: row.get(3)?,
        timeout: None,
    })
}

/// Writes one line for each header. A name has no `:`, and a value no line break: both were
/// checked.
fn lines(headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in headers {
        lines.extend_from_slice(name.as_bytes());
        lines.push(b':');
        lines.extend_from_slice(value);
        lines.push(b'\n');
    }
    lines
}

/// Reads what [`lines`] has written.
fn parse(lines: &[u8]) -> Vec<(String, Vec<u8>)> {
    let headers = lines.split(|byte| *byte == b'\n').filter_map(|line| {
        let (name, value) = line.split_at_checked(line.iter().position(|byte| *byte == b':')?)?;
        Some((String::from_utf8_lossy(name).into_owned(), value.get(1..)?.to_vec()))
    });
    headers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_were_written() {
        for headers in [
            vec![],
            vec![("a".to_owned(), Vec::new()), ("b".to_owned(), b"x: y\t\xff".to_vec())],
            vec![("same".to_owned(), b"1".to_vec()), ("same".to_owned(), b"2".to_vec())],
        ] {
            assert_eq!(parse(&lines(&headers)), headers);
        }
    }
}
