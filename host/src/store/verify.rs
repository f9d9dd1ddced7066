//! A look at the files of one store that changes none of them: all pages, all sums, and whether anything is missing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::manifest::{Manifest, Record};
use super::opening::{beside, open_known};
use super::{BUSY_TIMEOUT, ENTRY_BYTES, Fault, FaultKind, StoreError, files, natural};

/// Findings of one integrity check that are shown.
const MAX_FINDINGS: usize = 10;

/// What is known of a store's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The plugin whose state it is.
    pub plugin: String,
    /// The file.
    pub file: PathBuf,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Transactions that were committed since the store was created.
    pub commits: Option<u64>,
    /// Records.
    pub entries: Option<u64>,
    /// Bytes of all keys and values.
    pub content_bytes: Option<u64>,
    /// Sequences of numbers.
    pub sequences: Option<u64>,
    /// What is lost, so that the plugin does not serve until an operator accepts it.
    pub lost: Option<Fault>,
    /// Everything that is wrong. Empty where the state is in order.
    pub problems: Vec<String>,
}

/// The plugins of which there is state in a data directory, or was.
///
/// # Errors
/// The directories can't be read.
pub fn plugins(data: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let (file, manifest) = files(data, "");
    for (dir, extension) in [(file.parent(), "sqlite"), (manifest.parent(), "json")] {
        let Some(dir) = dir.filter(|dir| dir.exists()) else { continue };
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension)
                && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            {
                found.insert(name.to_owned());
            }
        }
    }
    Ok(found)
}

/// Looks at the state of `plugin` in the data directory `data`. Where no host runs, this is done with a copy in `scratch`, a directory that
/// the caller removes: so nothing is changed by it. A running host is read beside.
pub fn verify(data: &Path, plugin: &str, scratch: Option<&Path>) -> Verified {
    let (file, manifest) = files(data, plugin);
    let bytes = |suffix: &str| fs::metadata(beside(&file, suffix)).map_or(0, |file| file.len());
    let mut verified =
        Verified { plugin: plugin.to_owned(), file: file.clone(), file_bytes: bytes(""), wal_bytes: bytes("-wal"), ..Verified::default() };
    let looked = match scratch {
        None => look_beside_host(&file, &Manifest::new(&manifest), &mut verified),
        Some(scratch) => look_at_copy(&file, &Manifest::new(&manifest), scratch, &mut verified),
    };
    if let Err(error) = looked {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        verified.problems.push(format!("{error}{cause}"));
    }
    verified
}

fn look_beside_host(file: &Path, manifest: &Manifest, verified: &mut Verified) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Open { file: file.to_owned(), source };
    let known = manifest.read().map_err(unusable)?;
    // The host does not use it then, and found the loss itself.
    if let Some(lost) = known.and_then(|known| known.fault) {
        verified.problems.push(lost.to_string());
        verified.lost = Some(lost);
        return Ok(());
    }
    look(&connect_to_read(file)?, verified)
}

fn look_at_copy(file: &Path, manifest: &Manifest, scratch: &Path, verified: &mut Verified) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Open { file: file.to_owned(), source };
    let known = manifest.read().map_err(unusable)?;
    let copy = scratch.join("state.sqlite");
    for suffix in ["", "-wal", "-shm"] {
        if beside(file, suffix).exists() {
            fs::copy(beside(file, suffix), beside(&copy, suffix)).map_err(unusable)?;
        }
    }
    let mut lost = known.as_ref().and_then(|known| known.fault.clone()).filter(|lost| lost.kind == FaultKind::Older);
    let known = known.map(|known| Record { fault: None, ..known });
    if known.is_none() && verified.file_bytes == 0 {
        return Err(StoreError::NotOurs { file: file.to_owned() });
    }
    let mut opened = open_known(&copy, known.as_ref(), None);
    if let Err(StoreError::Lost(fault)) = &opened {
        let reason = fault.reason.replace(&*copy.to_string_lossy(), &file.to_string_lossy());
        lost = lost.or(Some(Fault { kind: fault.kind, reason }));
    }
    if lost.as_ref().is_some_and(|lost| lost.kind == FaultKind::Older) {
        opened = open_known(&copy, known.as_ref(), Some(FaultKind::Older));
    }
    verified.problems.extend(lost.as_ref().map(ToString::to_string));
    verified.lost = lost;
    match opened {
        Err(StoreError::Lost(_)) => Ok(()),
        opened => look(&opened?, verified),
    }
}

fn connect_to_read(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn look(connection: &Connection, verified: &mut Verified) -> Result<(), StoreError> {
    // All of it in one transaction: a host may write meanwhile.
    connection.execute_batch("BEGIN")?;
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_FINDINGS})"))?;
    let findings: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    verified.problems.extend(findings.into_iter().filter(|finding| finding != "ok"));
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(natural);
    let (commits, counted) = (one("SELECT commits FROM meta")?, one("SELECT bytes FROM meta")?);
    let entries = one("SELECT count(*) FROM entries")?;
    let content = one("SELECT coalesce(sum(length(key) + length(value)), 0) FROM entries")?;
    let newest = one("SELECT coalesce(max(version), 0) FROM entries")?;
    (verified.commits, verified.entries, verified.content_bytes) = (Some(commits), Some(entries), Some(content));
    verified.sequences = Some(one("SELECT count(*) FROM sequences")?);
    if counted != content + entries * ENTRY_BYTES {
        verified.problems.push(format!("the records count {} bytes, and {counted} are noted", content + entries * ENTRY_BYTES));
    }
    if newest > commits {
        verified.problems.push(format!("a record is of commit {newest}, and only {commits} are noted"));
    }
    Ok(())
}

/// Why no loss is accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// There is nothing to accept.
    #[error("the state of `{0}` is in order, as far as is known; there is no loss to accept")]
    InOrder(String),
    /// It can't be noted.
    #[error("the decision can't be noted in the data directory")]
    NotNoted(#[from] io::Error),
}

/// Notes that an operator accepts the loss that `verified` shows. The host acts on it when it loads the plugin next.
///
/// # Errors
/// Nothing is lost, or the decision can't be noted.
pub fn accept_loss(data: &Path, verified: &Verified) -> Result<FaultKind, AcceptError> {
    let (_, manifest) = files(data, &verified.plugin);
    let lost = verified.lost.as_ref().ok_or_else(|| AcceptError::InOrder(verified.plugin.clone()))?;
    Manifest::new(&manifest).accept(lost.kind)?;
    Ok(lost.kind)
}
