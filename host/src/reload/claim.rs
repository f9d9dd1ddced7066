//! Lets the files of the plugin directory claim their slots, and records conflicts and failures.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::metrics::Metrics;
use crate::registry::AdmitError;

use super::files::{Files, LoadOutcome, stem};
use super::slots::{LastError, Slots};

/// Lets the files claim their slots. `more_may_come`: new files are not identified yet.
pub(super) fn claim_slots(
    slots: &mut Slots,
    files: &mut Files,
    more_may_come: bool,
    metrics: &Metrics,
) {
    let now = SystemTime::now();
    let claims = files.claims();
    let taken = slots.claim(&claims, more_may_come, now);
    let conflict = |(file, other): (&Path, PathBuf)| {
        let claim = claims.iter().find(|claim| claim.file == file);
        let (name, digest) = claim.and_then(|claim| claim.content)?;
        let reason = AdmitError::NameTaken { name: name.to_owned(), file: other }.to_string();
        let digest = Some(digest.to_owned());
        Some((file.to_owned(), LastError { digest, reason, at: now, is_retried: false }))
    };
    let conflicts: Vec<_> = taken.into_iter().filter_map(conflict).collect();
    for (file, error) in files.record_conflicts(&conflicts) {
        tracing::error!(file = %file.display(), digest = error.digest, error = error.reason, "plugin failed");
        metrics.reload(&stem(&file), "failed");
    }
    for (path, known) in files.iter() {
        if let Some(LoadOutcome::Failed { failure, error, .. }) = &known.outcome {
            slots.record_failed_file(path, error.clone(), failure.is_invalid_content());
        }
    }
}
