//! One connection to the file of a store: the settings of SQLite, and the statements that several
//! parts of the store use.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::StoreError;

/// How long another process, such as an operator's tool, may hold the file before a call fails. The
/// host's own connections never wait for each other here.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// KiB of pages that one connection caches. Each plugin has several connections, and the operating
/// system caches the file as well.
const CACHE_KIB: i64 = 512;

/// Bytes that an entry counts in addition to its key and its value, so that a million tiny entries
/// are not free.
pub(super) const ENTRY_BYTES: u64 = 32;

/// Closes a connection. If it is the last one, SQLite deletes the log. Call this only when the
/// manifest does not expect a log, or the host would report the log as lost.
pub(super) fn close_with_log(connection: Connection) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    connection.close().map_err(|(_, error)| error)
}

/// Opens a connection that keeps the log when it is closed, unless [`close_with_log`] closes it.
pub(super) fn connect(file: &Path) -> Result<Connection, StoreError> {
    // SQLite need not lock the connection: the type system ensures that one thread at a time uses
    // it.
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The first of these reads the file, so it fails if the file is not a database.
    connection
        .pragma_update(None, "synchronous", "NORMAL")
        .and_then(|()| connection.pragma_update(None, "cache_size", -CACHE_KIB))
        .and_then(|()| connection.pragma_update(None, "trusted_schema", false))
        .map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => StoreError::NotOurs { file: file.to_owned() },
            _ => error.into(),
        })?;
    Ok(connection)
}

/// The result of a checkpoint.
pub(super) struct CheckpointResult {
    /// Whether readers or another process prevented its completion.
    pub(super) is_busy: bool,
    pub(super) frames: i64,
}

/// Checkpoints the log in this `mode` without waiting for locks; `NOOP` only reads its state.
pub(super) fn checkpoint(
    connection: &Connection,
    mode: &str,
) -> Result<CheckpointResult, rusqlite::Error> {
    connection.busy_timeout(Duration::ZERO)?;
    let log = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        Ok(CheckpointResult { is_busy: row.get::<_, i64>(0)? != 0, frames: row.get(1)? })
    });
    connection.busy_timeout(BUSY_TIMEOUT)?;
    log
}

/// The one row of `meta`. It changes with every commit, so it shows whether a snapshot is still the
/// newest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) commits: i64,
    pub(super) bytes: u64,
}

pub(super) fn meta(connection: &Connection) -> Result<Meta, rusqlite::Error> {
    connection
        .prepare_cached("SELECT commits, bytes FROM meta")?
        .query_row([], |row| Ok(Meta { commits: row.get(0)?, bytes: natural(row.get(1)?) }))
}

/// The bytes that the stored entry of `key` counts against the quota; 0 if there is no entry.
pub(super) fn stored_bytes(connection: &Connection, key: &[u8]) -> Result<u64, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached("SELECT length(value) FROM entries WHERE key = ?1")?;
    let length: Option<i64> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(length.map_or(0, |length| entry_bytes(key, natural(length))))
}

pub(super) fn entry_bytes(key: &[u8], value_bytes: u64) -> u64 {
    key.len() as u64 + value_bytes + ENTRY_BYTES
}

/// Converts a number for SQLite. Byte counts and sequence numbers are far below the maximum of
/// either type.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Converts a number that is never negative from SQLite.
pub(super) fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
