//! `sockhop check FILE.wasm --state DIR`: runs a version on a copy of the state that a host has
//! stored, and reports what it can't read. The state itself is only read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use sockhop::config::{Config, LiveConfig};
use sockhop::host::{
    CheckStep, LoadOutcome, RecordsOutcome, StartError, StateOutcome, check_state, share_data,
};
use sockhop::registry::Generation;
use sockhop::store::{CopyMode, copied_bytes, copy_store};

use super::{Scratch, check};
use crate::command::output;

/// The time between two lines about the progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// The directory with the states of plugins.
pub(super) struct Source {
    /// The data directory of a host, if it is known.
    data: Option<PathBuf>,
    /// The directory with the files.
    files: PathBuf,
}

/// What the check of one plugin's state has found.
pub(super) enum StateReport {
    /// The directory has no state of the plugin.
    None,
    /// The version was run on a copy.
    Checked {
        /// The file that was copied.
        file: PathBuf,
        /// Its bytes, with those of its log.
        bytes: u64,
        /// What the version has done with the copy.
        outcome: StateOutcome,
    },
    /// The state could not be copied, or the version not be loaded with it.
    Failed(String),
}

impl Source {
    /// Finds the files in a host's data directory, or in the directory `state` in it.
    pub(super) fn find(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().with_context(|| format!("can't read {}", dir.display()))?;
        let files = dir.join("state");
        if files.is_dir() {
            return Ok(Self { data: Some(dir), files });
        }
        let entries =
            fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))?;
        let is_state = |path: &Path| path.extension().is_some_and(|kind| kind == "sqlite");
        if !entries.flatten().any(|entry| is_state(&entry.path())) {
            bail!(
                "{} is neither a host's data directory nor the directory `state` in it",
                dir.display()
            );
        }
        let is_in_data = dir.file_name().is_some_and(|name| name == "state");
        let data = dir.parent().filter(|_| is_in_data).map(Path::to_owned);
        Ok(Self { data, files: dir })
    }

    /// Copies the state of a plugin to a directory that is like a host's data directory. Returns
    /// the file and its bytes, or `None` if there is none. Blocks.
    fn copy(&self, plugin: &str, to: &Path) -> anyhow::Result<Option<(PathBuf, u64)>> {
        let file = self.files.join(format!("{plugin}.sqlite"));
        let Some(bytes) = copied_bytes(&file) else { return Ok(None) };
        check_space(to, bytes)?;
        // A host that starts now waits until the copy is made.
        let lock = self.data.as_deref().map(share_data).transpose();
        let (_lock, mode) = match lock {
            Ok(lock) => (lock.flatten(), CopyMode::Closed),
            Err(StartError::DataInUse { .. }) => (None, CopyMode::Live),
            Err(error) => return Err(error.into()),
        };
        let dir = to.join("state");
        fs::create_dir(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let mut shown = Instant::now();
        let progress = |done: u64, all: u64| {
            show(&mut shown, || format!("copied {done} of {all} pages of the state of {plugin}"));
        };
        copy_store(&file, mode, &dir.join(format!("{plugin}.sqlite")), progress)
            .with_context(|| format!("can't copy {} to {}", file.display(), dir.display()))?;
        Ok(Some((file, bytes)))
    }
}

/// Checks that the copy, and what a version adds to it, fit.
fn check_space(dir: &Path, bytes: u64) -> anyhow::Result<()> {
    let space = rustix::fs::statvfs(dir)
        .with_context(|| format!("can't find out the free space in {}", dir.display()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    // A version that converts all records writes as much again.
    let wanted = bytes.saturating_mul(2);
    if free < wanted {
        bail!(
            "the copy of the state can take {wanted} bytes in {}, which has {free} bytes free: let \
             the environment variable TMPDIR name another directory",
            dir.display()
        );
    }
    Ok(())
}

/// Runs the version in `file`, which has registered as `plugin`, on a copy of its state. `cache`
/// has its compiled code, and `timeout` is the time of all calls together.
pub(super) async fn try_state(
    config: Config,
    file: &Path,
    plugin: &str,
    source: &Arc<Source>,
    cache: PathBuf,
    timeout: Duration,
) -> StateReport {
    let tried = try_copy(config, file, plugin, source, cache, timeout).await;
    tried.unwrap_or_else(|error| StateReport::Failed(format!("{error:#}")))
}

async fn try_copy(
    config: Config,
    file: &Path,
    plugin: &str,
    source: &Arc<Source>,
    cache: PathBuf,
    timeout: Duration,
) -> anyhow::Result<StateReport> {
    let scratch = Scratch::new()?;
    let (from, name, to) = (Arc::clone(source), plugin.to_owned(), scratch.0.clone());
    let copying = tokio::task::spawn_blocking(move || from.copy(&name, &to));
    let Some((copied, bytes)) = copying.await.context("the copy has panicked")?? else {
        return Ok(StateReport::None);
    };
    let files = [file.to_owned()];
    let mut loaded = check(config.clone(), &files, &scratch, Some(cache)).await?;
    let active = match loaded.pop() {
        Some((_, Ok(active))) => active,
        Some((_, Err(reason))) => return Ok(StateReport::Failed(reason)),
        None => bail!("the plugin was not loaded"),
    };
    let mut generation = Generation::default();
    generation.admit(&active, false)?;
    let mut shown = Instant::now();
    let progress = |step| {
        show(&mut shown, || match step {
            CheckStep::Load(progress) => {
                format!("$load of {plugin}: {} of {} done", progress.done, progress.total)
            }
            CheckStep::Records(checked) => format!("{checked} entries of {plugin} checked"),
        });
    };
    let config = LiveConfig::new(Arc::new(config));
    let outcome = check_state(&config, &active, generation, timeout, progress).await;
    Ok(StateReport::Checked { file: copied, bytes, outcome })
}

/// Shows the progress, at most once a second.
fn show(shown: &mut Instant, text: impl FnOnce() -> String) {
    if shown.elapsed() >= PROGRESS {
        output::note(text());
        *shown = Instant::now();
    }
}

impl StateReport {
    /// Whether nothing speaks against the version.
    pub(super) fn is_ok(&self) -> bool {
        match self {
            Self::None => true,
            Self::Checked { outcome, .. } => outcome.is_ok(),
            Self::Failed(_) => false,
        }
    }

    pub(super) fn print(&self, dir: &Path) {
        let (file, bytes, outcome) = match self {
            Self::None => {
                return output::line(format_args!("  state    none in {}", dir.display()));
            }
            Self::Failed(reason) => {
                return output::line(format_args!("  state    not checked: {reason}"));
            }
            Self::Checked { file, bytes, outcome } => (file, bytes, outcome),
        };
        output::line(format_args!("  state    a copy of {} ({bytes} bytes)", file.display()));
        let load = match &outcome.load {
            None => "not handled by this version".to_owned(),
            Some(LoadOutcome::FinishedBefore) => "has finished on this host before".to_owned(),
            Some(LoadOutcome::Finished { calls }) => format!("finished after {calls} calls"),
            Some(LoadOutcome::Failed { reason, progress }) => {
                format!("FAILED at {} of {}: {reason}", progress.done, progress.total)
            }
        };
        output::line(format_args!("  $load    {load}"));
        if outcome.refuses_requests {
            output::line(
                "  network  none: requests to other services were refused as `unreachable`",
            );
        }
        match &outcome.records {
            None if matches!(outcome.load, Some(LoadOutcome::Failed { .. })) => {
                output::line("  records  not checked, because $load has failed");
            }
            None => output::line(
                "  records  not checked: this version does not handle $check (`Plugin::on_check`)",
            ),
            Some(Err(reason)) => {
                output::line(format_args!("  records  not checked: $check FAILED: {reason}"));
            }
            Some(Ok(records)) => print_records(records),
        }
    }

    pub(super) fn document(&self) -> Value {
        let (file, bytes, outcome) = match self {
            Self::None => return Value::Null,
            Self::Failed(reason) => return json!({"ok": false, "reason": reason}),
            Self::Checked { file, bytes, outcome } => (file, bytes, outcome),
        };
        let load = outcome.load.as_ref().map(|load| match load {
            LoadOutcome::FinishedBefore => json!({"state": "finished", "calls": 0}),
            LoadOutcome::Finished { calls } => json!({"state": "finished", "calls": calls}),
            LoadOutcome::Failed { reason, progress } => json!({
                "state": "failed", "error": reason, "done": progress.done, "total": progress.total
            }),
        });
        let records = outcome.records.as_ref().map(|records| match records {
            Err(reason) => json!({"error": reason}),
            Ok(RecordsOutcome { checked, unreadable, examples }) => {
                json!({"checked": checked, "unreadable": unreadable, "examples": examples})
            }
        });
        json!({
            "ok": outcome.is_ok(), "file": file.to_string_lossy(), "bytes": bytes, "load": load,
            "records": records, "network": false,
        })
    }
}

fn print_records(RecordsOutcome { checked, unreadable, examples }: &RecordsOutcome) {
    if *unreadable == 0 {
        return output::line(format_args!("  records  {checked} checked: this version reads all"));
    }
    output::line(format_args!("  records  {unreadable} of {checked} can't be read:"));
    for example in examples {
        output::line(format_args!("    {}: {}", example.key, example.reason));
    }
    let more = unreadable.saturating_sub(examples.len() as u64);
    if more > 0 {
        output::line(format_args!("    and {more} more"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_does_not_fit_is_not_begun() {
        let dir = tempfile::tempdir().unwrap();
        check_space(dir.path(), 1).unwrap();
        let error = check_space(dir.path(), u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("bytes free: let the environment variable TMPDIR name"), "{error}");
    }
}
