//! The answers to requests that have an idempotency key: a repeated request is answered again, and
//! is not executed again. They are in one SQLite file of the host, beside the states of plugins.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, params};

use super::StoreError;
use super::connection::{connect, natural};
use crate::files;

/// How long an answer is kept.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes that an answer counts in addition to its texts.
const ENTRY_BYTES: u64 = 128;

/// Maximum number of answers that one request deletes because their time is over. More than one, so
/// that they become fewer.
const DELETED_AT_ONCE: u32 = 16;

const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS answers (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        request BLOB NOT NULL,
        answer TEXT NOT NULL,
        at INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS answers_at ON answers (at);
";

/// The kept answers of one host.
pub struct Answers {
    connection: Mutex<Connection>,
    shared: Mutex<Shared>,
    /// Maximum bytes of the answers of one owner.
    max_bytes: u64,
}

#[derive(Default)]
struct Shared {
    /// Owner and key of the requests that are being executed.
    running: HashSet<(String, String)>,
    /// Bytes of the kept answers, by owner.
    bytes: HashMap<String, u64>,
}

/// What is known of a request.
pub enum Begun {
    /// It is new, and must be executed now.
    New(Execution),
    /// It was executed, with this answer.
    Answered(String),
    /// It is being executed.
    Running,
    /// Another request has used the key.
    Different,
}

/// Why the answer of a request can't be kept. The request is not executed then.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The owner has too many answers.
    #[error("the answers of this key's last 24 hours have more than {max} bytes")]
    Full {
        /// The limit.
        max: u64,
    },
    /// The file can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The task that uses the file has ended.
    #[error("the task that uses the file has ended")]
    Ended,
}

impl From<rusqlite::Error> for AnswerError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The right to execute a new request. If it is dropped, the request counts as never received.
pub struct Execution {
    answers: Arc<Answers>,
    owner: String,
    key: String,
    request: [u8; 32],
}

impl Answers {
    /// Opens the answers in `file`, or creates it, readable by its owner only.
    ///
    /// # Errors
    /// The file can't be opened, or is no database.
    pub fn open(file: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        let unusable = |source| StoreError::Open { file: file.to_owned(), source };
        if !file.exists() {
            files::replace_durably(file, &[]).map_err(unusable)?;
        }
        let connection = connect(file)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.execute_batch(TABLE)?;
        let mut bytes = HashMap::new();
        {
            let sums = "SELECT owner, SUM(bytes) FROM answers GROUP BY owner";
            let mut sums = connection.prepare(sums)?;
            let mut rows = sums.query([])?;
            while let Some(row) = rows.next()? {
                bytes.insert(row.get(0)?, natural(row.get(1)?));
            }
        }
        let shared = Mutex::new(Shared { bytes, ..Shared::default() });
        Ok(Self { connection: Mutex::new(connection), shared, max_bytes })
    }

    /// The locks guard data that is consistent between any two calls.
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of all kept answers.
    pub fn used(&self) -> u64 {
        self.shared().bytes.values().sum()
    }

    /// Begins a request of `owner`. `request` is the digest of what it asks for. Blocks:
    /// it uses the disk.
    ///
    /// # Errors
    /// The file can't be read, or no answer more can be kept for `owner`.
    pub fn begin(
        self: &Arc<Self>,
        owner: &str,
        key: &str,
        request: [u8; 32],
        now: SystemTime,
    ) -> Result<Begun, AnswerError> {
        let place = (owner.to_owned(), key.to_owned());
        if !self.shared().running.insert(place.clone()) {
            return Ok(Begun::Running);
        }
        // Ends the request when it is dropped, also after an error.
        let execution =
            Execution { answers: Arc::clone(self), owner: place.0, key: place.1, request };
        let connection = self.connection();
        self.delete_old(&connection, now)?;
        let known: Option<(Vec<u8>, String)> = connection
            .prepare_cached("SELECT request, answer FROM answers WHERE owner = ?1 AND key = ?2")?
            .query_row(params![owner, key], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        drop(connection);
        match known {
            Some((known, answer)) if known == request => Ok(Begun::Answered(answer)),
            Some(_) => Ok(Begun::Different),
            None if self.shared().bytes.get(owner).is_some_and(|used| *used >= self.max_bytes) => {
                Err(AnswerError::Full { max: self.max_bytes })
            }
            None => Ok(Begun::New(execution)),
        }
    }

    /// Deletes some answers whose time is over.
    fn delete_old(&self, connection: &Connection, now: SystemTime) -> Result<(), rusqlite::Error> {
        let until = seconds(now.checked_sub(KEPT).unwrap_or(UNIX_EPOCH));
        let mut old = connection.prepare_cached(
            "DELETE FROM answers WHERE (owner, key) IN (
                SELECT owner, key FROM answers WHERE at < ?1 ORDER BY at LIMIT ?2
            ) RETURNING owner, bytes",
        )?;
        let mut rows = old.query(params![until, DELETED_AT_ONCE])?;
        while let Some(row) = rows.next()? {
            let (owner, bytes): (String, u64) = (row.get(0)?, natural(row.get(1)?));
            let mut shared = self.shared();
            if let Some(used) = shared.bytes.get_mut(&owner) {
                *used = used.saturating_sub(bytes);
                if *used == 0 {
                    shared.bytes.remove(&owner);
                }
            }
        }
        Ok(())
    }
}

impl Execution {
    /// Keeps the answer. Call this before the request takes effect: if it fails, or the process
    /// dies before, the request can be sent again. Blocks: it uses the disk.
    ///
    /// # Errors
    /// The file can't be written. Nothing is kept then.
    pub fn keep(&self, answer: &str, now: SystemTime) -> Result<(), AnswerError> {
        let texts = self.owner.len() + self.key.len() + answer.len();
        let bytes = texts as u64 + ENTRY_BYTES;
        let (request, at) = (self.request.as_slice(), seconds(now));
        self.answers
            .connection()
            .prepare_cached("INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![self.owner, self.key, request, answer, at, bytes.cast_signed()])?;
        *self.answers.shared().bytes.entry(self.owner.clone()).or_default() += bytes;
        Ok(())
    }

    /// Replaces the answer that was kept by one that is not longer. Blocks: it uses the disk.
    ///
    /// # Errors
    /// The file can't be written. The answer of before remains then.
    pub fn correct(&self, answer: &str) -> Result<(), AnswerError> {
        self.answers
            .connection()
            .prepare_cached("UPDATE answers SET answer = ?3 WHERE owner = ?1 AND key = ?2")?
            .execute(params![self.owner, self.key, answer])?;
        Ok(())
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        let place = (std::mem::take(&mut self.owner), std::mem::take(&mut self.key));
        self.answers.shared().running.remove(&place);
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(1_800_000_000);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + NOON + Duration::from_secs(seconds)
    }

    fn open(file: &Path) -> Arc<Answers> {
        Arc::new(Answers::open(file, 1_000).unwrap())
    }

    fn new(begun: Begun) -> Execution {
        match begun {
            Begun::New(execution) => execution,
            Begun::Answered(answer) => panic!("answered {answer}"),
            Begun::Running | Begun::Different => panic!("it runs, or is another"),
        }
    }

    #[test]
    fn a_request_is_executed_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("answers.sqlite");
        let answers = open(&file);
        let begin = |answers: &Arc<Answers>, request, seconds| {
            answers.begin("shop", "k", [request; 32], at(seconds)).unwrap()
        };
        let execution = new(begin(&answers, 1, 0));
        assert!(matches!(begin(&answers, 1, 0), Begun::Running));
        // The first run has failed: the request can be sent again.
        drop(execution);
        let execution = new(begin(&answers, 1, 0));
        execution.keep("{ }", at(0)).unwrap();
        execution.correct("{}").unwrap();
        drop(execution);
        assert!(matches!(begin(&answers, 1, 1), Begun::Answered(answer) if answer == "{}"));
        assert!(matches!(begin(&answers, 2, 1), Begun::Different));
        new(answers.begin("other", "k", [2; 32], at(1)).unwrap());
        drop(answers);

        let answers = open(&file);
        assert!(answers.used() > 128);
        assert!(matches!(begin(&answers, 1, 86_399), Begun::Answered(_)));
        new(begin(&answers, 2, 86_402));
        assert_eq!(answers.used(), 0);
    }

    #[test]
    fn the_answers_of_one_owner_have_a_bound_and_those_of_others_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let answers = open(&dir.path().join("answers.sqlite"));
        let keep = |owner: &str, key: &str| {
            let begun = answers.begin(owner, key, [0; 32], at(0))?;
            new(begun).keep(&"x".repeat(400), at(0))
        };
        keep("shop", "1").unwrap();
        keep("shop", "2").unwrap();
        assert!(matches!(keep("shop", "3"), Err(AnswerError::Full { max: 1_000 })));
        keep("other", "3").unwrap();
        // A day later there is space again.
        new(answers.begin("shop", "3", [0; 32], at(86_401)).unwrap());
    }
}
