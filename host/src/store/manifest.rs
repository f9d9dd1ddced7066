//! What the host remembers of a store outside of the store's directory, so that a file that is gone, or older than it was, is noticed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A file for each store: its record, and beside it an operator's decision.
#[derive(Debug)]
pub(super) struct Manifest {
    file: PathBuf,
}

/// What is remembered of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// Commits that the file has at least: those at the last time that it was closed.
    pub(super) commits: i64,
    /// Whether commits may be in the write-ahead log alone.
    pub(super) is_open: bool,
    /// The run of the machine in which the store was opened: what a power cut took from the log is not damage.
    pub(super) boot: Option<String>,
    /// What was found wrong, until an operator has decided.
    pub(super) fault: Option<Fault>,
}

impl Record {
    /// Of a store that is being written now.
    pub(super) fn open() -> Self {
        Self { is_open: true, boot: boot(), ..Self::default() }
    }
}

/// Something of the state is lost, and only an operator can decide to go on without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct Fault {
    /// What to do about it.
    pub kind: FaultKind,
    /// For the operator.
    pub reason: String,
}

/// Kinds of loss, by what it means to accept it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The file is gone or empty. The plugin would begin with an empty state.
    Missing,
    /// Commits are missing from the write-ahead log, or the file is older than it was. The plugin would go on with what there is.
    Older,
    /// The file is damaged. It would be put aside, and the plugin would begin with an empty state.
    Damaged,
}

impl FaultKind {
    /// What follows where an operator accepts the loss.
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Missing => "the plugin begins with an empty state, unless its file was restored",
            Self::Older => "the plugin goes on with the records that can be read",
            Self::Damaged => "damaged files are put aside, and the plugin begins with an empty state, unless its file was restored",
        }
    }

    /// Whether an operator who has accepted a loss of this kind has accepted `found` as well: it takes no more. So it is where a host was
    /// killed after it had put a damaged file aside, and where a file was restored that is older than the lost one.
    pub(super) const fn covers(self, found: Self) -> bool {
        match self {
            Self::Damaged => true,
            Self::Missing => matches!(found, Self::Missing | Self::Older),
            Self::Older => matches!(found, Self::Older),
        }
    }

    pub(super) fn because(self, reason: impl Into<String>) -> Fault {
        Fault { kind: self, reason: reason.into() }
    }
}

impl Manifest {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The record; `None` where the store was never known. One that can't be read still tells that there was a store.
    pub(super) fn read(&self) -> io::Result<Option<Record>> {
        match fs::read(&self.file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %self.file.display(), %error, "the record of a plugin's state can't be read; only that there was one is known");
                Record::default()
            }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record in one step. `is_durable` waits for the disk.
    pub(super) fn write(&self, record: &Record, is_durable: bool) -> io::Result<()> {
        replace(&self.file, &serde_json::to_vec(record)?, is_durable)
    }

    /// The kind of loss that an operator has accepted.
    pub(super) fn accepted(&self) -> Option<FaultKind> {
        serde_json::from_slice(&fs::read(self.decision()).ok()?).ok()
    }

    /// Notes that an operator accepts a loss of this kind.
    pub(super) fn accept(&self, kind: FaultKind) -> io::Result<()> {
        replace(&self.decision(), &serde_json::to_vec(&kind)?, true)
    }

    /// Forgets the operator's decision: it was for one loss.
    pub(super) fn forget_accepted(&self) {
        let _ = fs::remove_file(self.decision());
    }

    fn decision(&self) -> PathBuf {
        self.file.with_extension("accepted")
    }
}

/// Writes a file beside it and renames: a reader sees the old content or the new, whole.
fn replace(file: &Path, bytes: &[u8], is_durable: bool) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        let mut new = fs::DirBuilder::new();
        new.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut new, 0o700);
        new.create(dir)?;
    }
    let unfinished = file.with_extension("new");
    let mut opened = File::create(&unfinished)?;
    opened.write_all(bytes)?;
    if is_durable {
        opened.sync_all()?;
    }
    fs::rename(unfinished, file)
}

/// The run of the machine, where the system tells.
pub(super) fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}
