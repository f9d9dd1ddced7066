//! The host's record of a store, kept outside of the store's directory. With it, the host detects a
//! file that is missing or older than it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;

/// The files of one store's manifest: its record, and beside it an operator's decision.
#[derive(Debug)]
pub(super) struct Manifest {
    file: PathBuf,
}

/// The record of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ManifestRecord {
    /// Minimum number of commits in the file: the number at its last opening or clean close.
    pub(super) commits: i64,
    /// Whether commits may be in the write-ahead log alone.
    pub(super) is_open: bool,
    /// The boot of the machine in which the store was opened. After another boot, missing parts of
    /// the log are no fault: a power cut may have taken them.
    pub(super) boot: Option<String>,
    /// The detected fault, until an operator has decided.
    pub(super) fault: Option<StoreFault>,
}

impl ManifestRecord {
    /// The record of a store that is being written.
    pub(super) fn open() -> Self {
        Self { is_open: true, boot: boot(), ..Self::default() }
    }
}

/// A loss of state. Only an operator can decide to continue without the lost data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}")]
pub struct StoreFault {
    /// The kind of the loss.
    pub kind: StoreFaultKind,
    /// The reason, for the operator.
    pub reason: String,
}

/// Kinds of loss, distinguished by the consequence of accepting them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreFaultKind {
    /// The file is missing or empty. The plugin would start with an empty state.
    Missing,
    /// Commits are missing from the write-ahead log, or the file is older than it was. The plugin
    /// would continue with the remaining data.
    Older,
    /// The file is damaged. It would be renamed, and the plugin would start with an empty state.
    Damaged,
}

impl StoreFaultKind {
    /// The consequence if an operator accepts the loss, as a text.
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Missing => "the plugin starts with an empty state, unless its file was restored",
            Self::Older => "the plugin continues with the records that can be read",
            Self::Damaged => {
                "damaged files are renamed, and the plugin starts with an empty state, unless its \
                 file was restored"
            }
        }
    }

    /// Whether an operator who has accepted a loss of this kind has also accepted `found`, because
    /// it loses no more. This matters if a host was killed after it had renamed a damaged file, and
    /// if a restored file is older than the lost one.
    pub(super) const fn covers(self, found: Self) -> bool {
        match self {
            Self::Damaged => true,
            Self::Missing => matches!(found, Self::Missing | Self::Older),
            Self::Older => matches!(found, Self::Older),
        }
    }

    pub(super) fn because(self, reason: impl Into<String>) -> StoreFault {
        StoreFault { kind: self, reason: reason.into() }
    }
}

impl Manifest {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.to_owned() }
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The record; `None` if the store is not known. A record that can't be parsed still shows that
    /// there was a store.
    pub(super) fn read(&self) -> io::Result<Option<ManifestRecord>> {
        match fs::read(&self.file) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %self.file.display(), %error, "the record of a plugin's \
                                        state can't be read; it only shows that there was state");
                ManifestRecord::default()
            }))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record atomically. `is_durable` waits until it is on the disk.
    pub(super) fn write(&self, record: &ManifestRecord, is_durable: bool) -> io::Result<()> {
        self.make_dir()?;
        let record = serde_json::to_vec(record)?;
        if is_durable {
            files::replace_durably(&self.file, &[&record])
        } else {
            files::replace(&self.file, &[&record])
        }
    }

    /// The kind of loss that an operator has accepted, if any.
    pub(super) fn accepted(&self) -> Option<StoreFaultKind> {
        serde_json::from_slice(&fs::read(self.decision()).ok()?).ok()
    }

    /// Records that an operator accepts a loss of this kind.
    pub(super) fn accept(&self, kind: StoreFaultKind) -> io::Result<()> {
        self.make_dir()?;
        files::replace_durably(&self.decision(), &[&serde_json::to_vec(&kind)?])
    }

    /// Removes the operator's decision: it was for one loss.
    pub(super) fn forget_accepted(&self) {
        let _ = fs::remove_file(self.decision());
    }

    fn decision(&self) -> PathBuf {
        self.file.with_extension("accepted")
    }

    fn make_dir(&self) -> io::Result<()> {
        self.file.parent().map_or(Ok(()), files::create_private_dir)
    }
}

/// The boot id of the machine, if the system provides one.
pub(super) fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|id| id.trim().to_owned())
}
