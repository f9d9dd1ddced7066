//! `sockhop state`: reads, exports and imports the stored state of a plugin: through the API of a
//! running host, or in the data directory of a stopped one.

mod place;
mod transfer;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use sockhop::store::ImportMode;
use sockhop::store::document::EntryDocument;

use super::client::HostArgs;
use super::output;
use place::Place;

/// Reads, exports and imports the stored state of a plugin
///
/// The commands use the API of the host if one runs, and the files in its data directory if not.
#[derive(Debug, Args)]
pub(crate) struct State {
    #[command(subcommand)]
    command: StateCommand,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Prints the value of one key
    Get {
        /// The plugin's name
        name: String,
        /// The key
        key: String,
        /// Prints the entry as JSON instead
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Lists entries in the order of their keys
    Scan {
        /// The plugin's name
        name: String,
        /// Lists only keys that begin with this text
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        /// Lists only keys that follow this one, which the previous list has printed
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
        /// Maximum number of entries
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Prints JSON with the whole values instead
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Writes all entries and sequences, one JSON document in each line
    ///
    /// Timers and deliveries are not exported. The export has the state of one moment: if the
    /// plugin changes an entry meanwhile, it fails. Then disable the plugin for the export.
    Export {
        /// The plugin's name
        name: String,
        /// The file to write, which only its owner can read; without it, standard output
        file: Option<PathBuf>,
        #[command(flatten)]
        host: HostArgs,
    },
    /// Reads what `export` has written into the state of a plugin
    ///
    /// On a running host, the plugin must be disabled. Entries are stored in several steps: if the
    /// import fails, import again with --replace. Sequences never go back.
    Import {
        /// The plugin's name
        name: String,
        /// The file to read; `-` for standard input
        file: PathBuf,
        /// Removes the entries that the plugin has
        #[arg(long, conflicts_with = "merge")]
        replace: bool,
        /// Keeps the entries that the plugin has, except those with an imported key
        #[arg(long)]
        merge: bool,
        #[command(flatten)]
        host: HostArgs,
    },
}

impl State {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            StateCommand::Get { name, key, json, host } => {
                get(&Place::find(host, name)?, &key, json)
            }
            StateCommand::Scan { name, prefix, after, limit, json, host } => {
                scan(&Place::find(host, name)?, &prefix, after.as_deref(), limit, json)
            }
            StateCommand::Export { name, file, host } => {
                transfer::export(&Place::find(host, name)?, file.as_deref())
            }
            StateCommand::Import { name, file, replace, merge, host } => {
                let mode = match (replace, merge) {
                    (true, _) => ImportMode::Replace,
                    (_, true) => ImportMode::Merge,
                    _ => ImportMode::Empty,
                };
                transfer::import(&Place::find(host, name)?, &file, mode)
            }
        }
    }
}

fn get(place: &Place, key: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let entry = place.entry(key)?;
    if as_json {
        output::json_text(&serde_json::to_string_pretty(&entry)?);
    } else {
        output::bytes(&entry.into_entry()?.1);
    }
    Ok(ExitCode::SUCCESS)
}

/// Characters of a value that a table shows.
const SHOWN: usize = 60;

fn scan(
    place: &Place,
    prefix: &str,
    after: Option<&str>,
    limit: u32,
    as_json: bool,
) -> anyhow::Result<ExitCode> {
    let page = place.page(prefix, after, limit)?;
    if as_json {
        output::json_text(&serde_json::to_string_pretty(&page)?);
        return Ok(ExitCode::SUCCESS);
    }
    let row = |entry: EntryDocument| {
        let (key, value) = entry.into_entry()?;
        let text = String::from_utf8_lossy(&value);
        let mut shown: String = text.chars().take(SHOWN).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Ok(vec![key, value.len().to_string(), shown])
    };
    let rows: anyhow::Result<Vec<_>> = page.entries.into_iter().map(row).collect();
    output::table(&["KEY", "BYTES", "VALUE"], rows?);
    if let Some(next) = page.next {
        // For a shell, whatever the key is.
        output::line(format_args!("more: --after='{}'", next.replace('\'', "'\\''")));
    }
    Ok(ExitCode::SUCCESS)
}
