//! `sockhop data`: checks the state of plugins, and accepts its loss.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::json;
use sockhop::files;
use sockhop::host::{StartError, lock_data};
use sockhop::store::{self, Verified};
use tempfile::TempDir;

use super::output;

/// Checks the state of plugins, and accepts the loss of state
#[derive(Debug, Args)]
pub(crate) struct Data {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Checks the state of all plugins, or of one, without changing it: all pages, all sums, and
    /// whether anything is missing
    Verify {
        /// The plugin's name; all plugins without it
        name: Option<String>,
        /// Prints JSON instead
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: StateLocation,
    },
    /// Lets a plugin serve although some or all of its state is lost; `data verify` shows what is
    /// lost
    AcceptLoss {
        /// The plugin's name
        name: String,
        #[command(flatten)]
        place: StateLocation,
    },
}

/// Where the state is
#[derive(Debug, Args)]
struct StateLocation {
    /// Configuration file of the host
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data directory of the host; without it, the one of the configuration
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl StateLocation {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let dir = match &self.data {
            Some(dir) => dir.clone(),
            None => super::load(self.config.as_ref())?.data.dir,
        };
        if !dir.is_dir() {
            bail!("{} is no directory; name the host's data directory with --data", dir.display());
        }
        Ok(dir)
    }
}

impl Data {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            DataCommand::Verify { name, json, place } => verify(&place.dir()?, name, json),
            DataCommand::AcceptLoss { name, place } => accept_loss(&place.dir()?, &name),
        }
    }
}

fn verify(dir: &Path, name: Option<String>, json: bool) -> anyhow::Result<ExitCode> {
    let known = store::plugins(dir).with_context(|| format!("can't read {}", dir.display()))?;
    let names = match name {
        Some(name) if !known.contains(&name) => {
            bail!("no state of `{name}` is known in {}", dir.display())
        }
        Some(name) => vec![name],
        None => known.into_iter().collect(),
    };
    let verified = verify_all(dir, &names)?;
    if json {
        output::json(&json!(verified));
    } else {
        let number = |number: Option<u64>| {
            number.map_or_else(|| "-".to_owned(), |number| number.to_string())
        };
        let row = |one: &Verified| {
            let result = if one.problems.is_empty() {
                "in order".to_owned()
            } else {
                one.problems.join("; ")
            };
            let sizes = [one.file_bytes, one.wal_bytes].map(|bytes| bytes.to_string());
            let counts = [one.commits, one.entries, one.content_bytes, one.sequences].map(number);
            [one.plugin.clone()].into_iter().chain(sizes).chain(counts).chain([result]).collect()
        };
        let header = [
            "PLUGIN",
            "FILE BYTES",
            "WAL BYTES",
            "COMMITS",
            "RECORDS",
            "CONTENT BYTES",
            "SEQUENCES",
            "RESULT",
        ];
        output::table(&header, verified.iter().map(row).collect());
    }
    Ok(if verified.iter().all(|one| one.problems.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn accept_loss(dir: &Path, name: &str) -> anyhow::Result<ExitCode> {
    let verified = verify_all(dir, &[name.to_owned()])?;
    let Some(verified) = verified.first() else { bail!("there is no state of `{name}`") };
    let kind = store::accept_loss(dir, verified)?;
    for problem in &verified.problems {
        output::line(format_args!("lost: {problem}"));
    }
    output::line(format_args!("accepted: {}", kind.consequence()));
    output::line(
        "a running host applies this within a minute; otherwise it is applied at the next start",
    );
    Ok(ExitCode::SUCCESS)
}

/// Verifies the state of these plugins. If no host runs, it reads a copy, and the lock on the data
/// directory keeps a host from starting meanwhile. Otherwise it reads the files while the host
/// runs.
fn verify_all(dir: &Path, names: &[String]) -> anyhow::Result<Vec<Verified>> {
    let lock = match lock_data(dir) {
        Ok(lock) => Some(lock),
        Err(StartError::DataInUse { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let mut verified = Vec::new();
    for name in names {
        // In the data directory, because the system's directory for temporary files may be small.
        let scratch =
            lock.as_ref().map(|_| files::scratch(dir)).transpose().with_context(|| {
                format!("can't make a directory in {} for a copy of the state", dir.display())
            })?;
        verified.push(store::verify(dir, name, scratch.as_ref().map(TempDir::path)));
    }
    Ok(verified)
}
