//! Verification of one store's files without changing them: all pages, all counts, and whether
//! anything is missing.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::error_chain::ErrorChain;

use super::connection::{BUSY_TIMEOUT, ENTRY_BYTES, natural};
use super::format::{DELIVERY_FORMAT, LOAD_FORMAT, TIMER_FORMAT};
use super::manifest::{Manifest, ManifestRecord};
use super::opening::{beside, open_known};
use super::{StoreError, StoreFault, StoreFaultKind, files};

/// Maximum number of results of one integrity check that are shown.
const MAX_RESULTS: usize = 10;

/// The result of verifying a store's files.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// The plugin that owns the state.
    pub plugin: String,
    /// The path of the file.
    pub file: PathBuf,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of its write-ahead log.
    pub wal_bytes: u64,
    /// Number of commits since the store was created. `None`, as below, if the state could not be
    /// read.
    pub commits: Option<u64>,
    /// Number of entries.
    pub entries: Option<u64>,
    /// Bytes of all keys and values.
    pub content_bytes: Option<u64>,
    /// Number of sequences.
    pub sequences: Option<u64>,
    /// Number of timers. Also `None` if the plugin has never set one.
    pub timers: Option<u64>,
    /// Number of deliveries. Also `None` if the plugin has never asked for one.
    pub deliveries: Option<u64>,
    /// Number of versions of which it is known how far they are with `$load`. Also `None` if the
    /// plugin has never handled it.
    pub loads: Option<u64>,
    /// The loss, if there is one: the plugin does not serve until an operator accepts it.
    pub lost: Option<StoreFault>,
    /// All problems. Empty if the state is in order.
    pub problems: Vec<String>,
}

/// The names of the plugins with state, or a record of state, in a data directory.
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

/// Verifies the state of `plugin` in the data directory `data`. If no host runs, pass the directory
/// `scratch`: the check uses a copy in it, so the state is not changed. The caller removes the
/// directory. With `None`, the state is read beside a running host.
pub fn verify(data: &Path, plugin: &str, scratch: Option<&Path>) -> Verified {
    let (file, manifest) = files(data, plugin);
    let bytes = |suffix: &str| fs::metadata(beside(&file, suffix)).map_or(0, |file| file.len());
    let mut verified = Verified {
        plugin: plugin.to_owned(),
        file: file.clone(),
        file_bytes: bytes(""),
        wal_bytes: bytes("-wal"),
        ..Verified::default()
    };
    let looked = match scratch {
        None => check_beside_host(&file, &Manifest::new(&manifest), &mut verified),
        Some(scratch) => check_copy(&file, &Manifest::new(&manifest), scratch, &mut verified),
    };
    if let Err(error) = looked {
        verified.problems.push(ErrorChain(&error).to_string());
    }
    verified
}

fn check_beside_host(
    file: &Path,
    manifest: &Manifest,
    verified: &mut Verified,
) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Open { file: file.to_owned(), source };
    let known = manifest.read().map_err(unusable)?;
    // Then the host does not use the state, and has detected the loss itself.
    if let Some(lost) = known.and_then(|known| known.fault) {
        verified.problems.push(lost.to_string());
        verified.lost = Some(lost);
        return Ok(());
    }
    check(&connect_to_read(file)?, verified)
}

fn check_copy(
    file: &Path,
    manifest: &Manifest,
    scratch: &Path,
    verified: &mut Verified,
) -> Result<(), StoreError> {
    let unusable = |source| StoreError::Open { file: file.to_owned(), source };
    let known = manifest.read().map_err(unusable)?;
    let copy = scratch.join("state.sqlite");
    for suffix in ["", "-wal", "-shm"] {
        if beside(file, suffix).exists() {
            fs::copy(beside(file, suffix), beside(&copy, suffix)).map_err(unusable)?;
        }
    }
    let mut lost = known
        .as_ref()
        .and_then(|known| known.fault.clone())
        .filter(|lost| lost.kind == StoreFaultKind::Older);
    let known = known.map(|known| ManifestRecord { fault: None, ..known });
    if known.is_none() && verified.file_bytes == 0 {
        return Err(StoreError::NotOurs { file: file.to_owned() });
    }
    let mut opened = open_known(&copy, known.as_ref(), None);
    if let Err(StoreError::Lost(fault)) = &opened {
        let reason = fault.reason.replace(&*copy.to_string_lossy(), &file.to_string_lossy());
        lost = lost.or(Some(StoreFault { kind: fault.kind, reason }));
    }
    if lost.as_ref().is_some_and(|lost| lost.kind == StoreFaultKind::Older) {
        opened = open_known(&copy, known.as_ref(), Some(StoreFaultKind::Older));
    }
    verified.problems.extend(lost.as_ref().map(ToString::to_string));
    verified.lost = lost;
    match opened {
        Err(StoreError::Lost(_)) => Ok(()),
        opened => check(&opened?, verified),
    }
}

fn connect_to_read(file: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn check(connection: &Connection, verified: &mut Verified) -> Result<(), StoreError> {
    // All reads are in one transaction, because a host may write meanwhile.
    connection.execute_batch("BEGIN")?;
    let mut check = connection.prepare(&format!("PRAGMA integrity_check({MAX_RESULTS})"))?;
    let results: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    verified.problems.extend(results.into_iter().filter(|result| result != "ok"));
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(natural);
    let (commits, counted) = (one("SELECT commits FROM meta")?, one("SELECT bytes FROM meta")?);
    let entries = one("SELECT count(*) FROM entries")?;
    let content = one("SELECT coalesce(sum(length(key) + length(value)), 0) FROM entries")?;
    let newest = one("SELECT coalesce(max(version), 0) FROM entries")?;
    (verified.commits, verified.entries, verified.content_bytes) =
        (Some(commits), Some(entries), Some(content));
    verified.sequences = Some(one("SELECT count(*) FROM sequences")?);
    let format: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let mut of_rows = 0;
    if format >= TIMER_FORMAT {
        verified.timers = Some(one("SELECT count(*) FROM timers")?);
        of_rows += one("SELECT coalesce(sum(bytes), 0) FROM timers")?;
    }
    if format >= DELIVERY_FORMAT {
        verified.deliveries = Some(one("SELECT count(*) FROM deliveries")?);
        of_rows += one("SELECT coalesce(sum(bytes), 0) FROM deliveries")?;
    }
    if format >= LOAD_FORMAT {
        verified.loads = Some(one("SELECT count(*) FROM loads")?);
    }
    let found = content + entries * ENTRY_BYTES + of_rows;
    if counted != found {
        verified
            .problems
            .push(format!("the records have {found} bytes, but {counted} are recorded"));
    }
    if newest > commits {
        verified
            .problems
            .push(format!("a record is from commit {newest}, but only {commits} are recorded"));
    }
    Ok(())
}

/// Why a loss could not be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The state of this plugin is in order.
    #[error("the state of `{0}` is in order, as far as is known; there is no loss to accept")]
    InOrder(String),
    /// The decision can't be written.
    #[error("the decision can't be saved in the data directory")]
    NotNoted(#[from] io::Error),
}

/// Records that an operator accepts the loss in `verified`. The host applies the decision when it
/// next loads the plugin. Returns the kind of the loss.
///
/// # Errors
/// Nothing is lost, or the decision can't be written.
pub fn accept_loss(data: &Path, verified: &Verified) -> Result<StoreFaultKind, AcceptError> {
    let (_, manifest) = files(data, &verified.plugin);
    let lost =
        verified.lost.as_ref().ok_or_else(|| AcceptError::InOrder(verified.plugin.clone()))?;
    Manifest::new(&manifest).accept(lost.kind)?;
    Ok(lost.kind)
}
