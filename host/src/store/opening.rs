//! Opens a store for writing: creates it, or checks that an existing store is present, intact, and
//! no older than it was. A file that fails a check is not changed, unless an operator has accepted
//! the loss.
//!
//! Detected: a missing or empty file; a file that is not a database, or whose pages contradict each
//! other (only a file small enough to be read at each start); a file with fewer commits than it had
//! at its last opening or clean close; and a write-ahead log that is missing, truncated, replaced
//! or damaged after the process was killed. The last is detected with the log's index, which
//! survives the process. Not detected: values that were changed without harm to SQLite's pages; an
//! older copy with as many commits; and, after a power cut, the commits that the log has lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::connection::{checkpoint, connect, integer, meta, natural};
use super::format::{
    APPLICATION_ID, DELIVERY_FORMAT, FIRST_FORMAT, FORMAT, ORDER_DELIVERIES, TABLES,
    UNORDERED_FORMAT,
};
use super::manifest::{Manifest, ManifestRecord, StoreFaultKind, boot};
use super::wal::Wal;
use super::{StoreError, StoreLimits};

/// Largest file whose pages are all checked at each start, in bytes: this takes some ten
/// milliseconds.
const QUICK_CHECK_BYTES: u64 = 16 * 1024 * 1024;

/// Bytes that are read of the wal-index: two copies of its header, and the number of frames that
/// are in the file.
const INDEX_BYTES: usize = 100;

/// Bytes of the log's own header.
const LOG_HEADER_BYTES: u64 = 32;

/// A store that is ready to be written.
pub(super) struct Opened {
    pub(super) writer: Connection,
    /// Number of commits that are in the file and on the disk.
    pub(super) saved: i64,
    /// Why the manifest could not be written, if so.
    pub(super) unrecorded: Option<String>,
}

/// Opens the state in `file` for writing. Creates it, readable by its owner only, if it never
/// existed.
///
/// # Errors
/// [`StoreError::Lost`] if the state is missing, older or damaged. An operator may accept the loss.
pub(super) fn open(file: &Path, manifest: &Manifest) -> Result<Opened, StoreError> {
    let unusable = |source| StoreError::Open { file: file.to_owned(), source };
    let mut known = manifest.read().map_err(unusable)?;
    let mut opened = open_known(file, known.as_ref(), None);
    let decision = manifest.accepted();
    let mut is_accepted = false;
    // At most twice: a file that is opened without its log may turn out to be damaged.
    for _ in 0..2 {
        let Err(StoreError::Lost(fault)) = &opened else { break };
        let kind = fault.kind;
        if !decision.is_some_and(|decision| decision.covers(kind)) {
            break;
        }
        tracing::warn!(file = %file.display(), error = fault.reason, "an operator has accepted a \
                                        loss of state: {}", kind.consequence());
        is_accepted = true;
        if kind != StoreFaultKind::Older {
            put_aside(file).map_err(unusable)?;
        }
        // The file may have fewer commits than the record says. If the host is killed now, its next
        // start continues from here.
        known = Some(ManifestRecord::default());
        manifest.write(&ManifestRecord::default(), true).map_err(unusable)?;
        opened = open_known(file, known.as_ref(), Some(kind));
    }
    let (record, mut result) = match opened {
        // After the checkpoint, the contents of the log are in the file and on the disk. If the
        // checkpoint fails, for example because the disk is full, the number of commits in the
        // record does not change; a recorded loss is over all the same.
        Ok(writer) => match checkpoint(&writer, "TRUNCATE") {
            Ok(log) if !log.is_busy => {
                let saved = meta(&writer)?.commits;
                (
                    Some(ManifestRecord { commits: saved, ..ManifestRecord::default() }),
                    Ok(Opened { writer, saved, unrecorded: None }),
                )
            }
            _ => (
                known.clone().map(|known| ManifestRecord { fault: None, ..known }),
                Ok(Opened {
                    writer,
                    saved: known.as_ref().map_or(0, |known| known.commits),
                    unrecorded: None,
                }),
            ),
        },
        // The next connection to the file rebuilds the index that shows the loss, so the loss must
        // be recorded.
        Err(StoreError::Lost(fault)) => (
            Some(ManifestRecord {
                fault: Some(fault.clone()),
                ..known.clone().unwrap_or_default()
            }),
            Err(StoreError::Lost(fault)),
        ),
        Err(other) => (None, Err(other)),
    };
    if let Some(record) = record.filter(|record| known.as_ref() != Some(record))
        && let Err(error) = manifest.write(&record, true)
    {
        match &mut result {
            // Intact state is served. The record is written later: see `Store::wake` and
            // `Store::sleep`.
            Ok(opened) if !is_accepted => {
                let record = manifest.file().display().to_string();
                tracing::warn!(file = %file.display(), record, %error, "the record of a plugin's \
                                        state can't be written: until it is, a loss of state is \
                                        not detected");
                opened.unrecorded = Some(format!("its record {record} can't be written: {error}"));
            }
            // The operator's decision is kept, and is applied at the next attempt.
            _ => return Err(unusable(error)),
        }
    }
    if result.is_ok() {
        // The decision was for this loss only.
        manifest.forget_accepted();
    }
    result
}

/// Opens `file` and checks it against the record `known`. A loss that an operator has `accepted`
/// does not fail the opening.
pub(super) fn open_known(
    file: &Path,
    known: Option<&ManifestRecord>,
    accepted: Option<StoreFaultKind>,
) -> Result<Connection, StoreError> {
    let is_new = fs::metadata(file).map_or(0, |file| file.len()) == 0;
    let known = known.filter(|_| {
        accepted != Some(StoreFaultKind::Missing) && accepted != Some(StoreFaultKind::Damaged)
    });
    let is_accepted = accepted == Some(StoreFaultKind::Older);
    if let Some(known) = known {
        // Missing commits can't be detected a second time, so the record counts. A missing or
        // damaged file is detected again, unless it was restored.
        if let Some(fault) =
            known.fault.as_ref().filter(|fault| fault.kind == StoreFaultKind::Older && !is_accepted)
        {
            return Err(StoreError::Lost(fault.clone()));
        }
        if is_new {
            return Err(StoreError::Lost(
                StoreFaultKind::Missing.because(format!("{} is missing or empty", file.display())),
            ));
        }
    }
    let index = known
        .filter(|known| {
            known.is_open && known.boot.is_some() && known.boot == boot() && !is_accepted
        })
        .map(|_| Index::of(file));
    if let Some(index) = &index {
        index.check_log(file)?;
    }
    if is_new {
        create(file)?;
    }
    let damaged = |error: StoreError| match (error, known) {
        (StoreError::NotOurs { .. }, Some(_)) => StoreError::Lost(
            StoreFaultKind::Damaged
                .because(format!("{} is no longer a store of plugin state", file.display())),
        ),
        (StoreError::Sqlite(error), Some(_)) if is_corrupt(&error) => StoreError::Lost(
            StoreFaultKind::Damaged.because(format!("{} is damaged: {error}", file.display())),
        ),
        (error, _) => error,
    };
    let mut writer = connect(file).map_err(damaged)?;
    prepare(&mut writer, file).map_err(damaged)?;
    if let Some(Index { frames, .. }) = index
        && let found = checkpoint(&writer, "NOOP")?.frames
        && found < i64::from(frames)
    {
        let reason = format!(
            "{} of {frames} frames in the write-ahead log of {} can't be read",
            i64::from(frames) - found,
            file.display()
        );
        return Err(StoreError::Lost(StoreFaultKind::Older.because(reason)));
    }
    if let Some(known) = known.filter(|_| !is_accepted) {
        let commits = meta(&writer).map_err(|error| damaged(error.into()))?.commits;
        if commits < known.commits {
            let reason = format!(
                "{} has {commits} commits, but had {} when it was last closed",
                file.display(),
                known.commits
            );
            return Err(StoreError::Lost(StoreFaultKind::Older.because(reason)));
        }
    }
    if is_accepted || fs::metadata(file).is_ok_and(|file| file.len() <= QUICK_CHECK_BYTES) {
        let found: String = writer
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .or_else(|error| if is_corrupt(&error) { Ok(error.to_string()) } else { Err(error) })?;
        if found != "ok" {
            return Err(StoreError::Lost(
                StoreFaultKind::Damaged.because(format!("{} is damaged: {found}", file.display())),
            ));
        }
    }
    Ok(writer)
}

/// Creates the tables in an empty file, and checks that any other file is a store. Brings the
/// tables of an older format up to date where this host needs it.
fn prepare(connection: &mut Connection, file: &Path) -> Result<(), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, format) = (read("application_id")?, read("user_version")?);
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = tables == 0 && application == 0 && format == 0;
    if !is_new && application != i64::from(APPLICATION_ID) {
        return Err(StoreError::NotOurs { file: file.to_owned() });
    }
    if format > i64::from(FORMAT) {
        return Err(StoreError::Newer { file: file.to_owned(), found: format });
    }
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        // The file system has no shared memory. Readers would block the writer, and a crash might
        // lose a commit.
        return Err(StoreError::Damaged("its file system does not support write-ahead logging"));
    }
    if is_new {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FIRST_FORMAT)?;
        transaction.commit()?;
    }
    if format == i64::from(UNORDERED_FORMAT) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(ORDER_DELIVERIES)?;
        transaction.pragma_update(None, "user_version", DELIVERY_FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
}

/// Configures a connection for writing: the limit of the file for handlers, and the report of the
/// log's length.
pub(super) fn set_up(
    writer: &mut Connection,
    limits: &StoreLimits,
    wal: &Wal,
) -> Result<(), rusqlite::Error> {
    let page_bytes =
        natural(writer.pragma_query_value(None, "page_size", |row| row.get(0))?).max(1);
    writer.pragma_update(
        None,
        "max_page_count",
        integer(limits.file_bytes_of_handlers(page_bytes) / page_bytes),
    )?;
    wal.follow(writer)
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn create(file: &Path) -> Result<(), StoreError> {
    let mut create = OpenOptions::new();
    create.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        // SQLite gives the log and its index the same mode.
        use std::os::unix::fs::OpenOptionsExt;
        create.mode(0o600);
    }
    create.open(file).map(drop).map_err(|source| StoreError::Open { file: file.to_owned(), source })
}

/// Renames the files of a store so that an operator can still find them.
fn put_aside(file: &Path) -> io::Result<()> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    for suffix in ["", "-wal", "-shm"] {
        let from = beside(file, suffix);
        if from.exists() {
            fs::rename(&from, beside(file, &format!(".lost-{seconds}{suffix}")))?;
        }
    }
    Ok(())
}

/// The path of `file` with `suffix` appended to its name.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The wal-index of a write-ahead log. It is a file in shared memory that survives the death of the
/// process; its format is documented at sqlite.org/walformat.html.
struct Index {
    /// Committed frames; 0 if the index can't be read.
    frames: u32,
    /// Number of these frames that are in the file already.
    in_file: u32,
    salt: Option<[u8; 8]>,
}

impl Index {
    fn of(file: &Path) -> Self {
        let none = Self { frames: 0, in_file: 0, salt: None };
        let mut bytes = [0; INDEX_BYTES];
        if File::open(beside(file, "-shm"))
            .and_then(|mut index| index.read_exact(&mut bytes))
            .is_err()
        {
            return none;
        }
        let [header, copy] = [bytes.get(..48), bytes.get(48..96)];
        let number = |at: usize| {
            bytes
                .get(at..at + 4)
                .and_then(|four| four.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        // The process was killed while it wrote the index. The log may or may not contain that
        // commit.
        if header != copy || bytes.get(12) != Some(&1) {
            return none;
        }
        Self {
            frames: number(16),
            in_file: number(96),
            salt: bytes.get(32..40).and_then(|salt| salt.try_into().ok()),
        }
    }

    /// Checks that the log exists and belongs to this index.
    fn check_log(&self, file: &Path) -> Result<(), StoreError> {
        let log = beside(file, "-wal");
        let lost = |what: &str| {
            let reason =
                format!("the host was killed, and its write-ahead log {} {what}", log.display());
            Err(StoreError::Lost(StoreFaultKind::Older.because(reason)))
        };
        let bytes = fs::metadata(&log).map_or(0, |log| log.len());
        // If the index is missing as well, the host did not remove the log.
        let needs_log = self.salt.is_none() || self.in_file < self.frames;
        if bytes < LOG_HEADER_BYTES {
            return if needs_log { lost("is missing or empty") } else { Ok(()) };
        }
        let mut header = [0; LOG_HEADER_BYTES as usize];
        let read = File::open(&log).and_then(|mut log| log.read_exact(&mut header));
        match self.salt {
            _ if read.is_err() => lost("can't be read"),
            Some(salt) if self.frames > 0 && header.get(16..24) != Some(&salt[..]) => {
                lost("is not the log that the host wrote")
            }
            _ => Ok(()),
        }
    }
}
