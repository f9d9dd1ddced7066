//! `sockhop plugins`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Target;
use super::output;

/// Shows the plugins of a running host
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Plugins {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the plugins: what serves, what failed and why
    List(List),
}

#[derive(Debug, Args)]
struct List {
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

impl Plugins {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let list = match self.command {
            Some(Command::List(list)) => list,
            None => self.list,
        };
        let plugins = list.target.ask("/api/plugins", None)?.success()?;
        if list.json {
            output::json(&plugins);
        } else {
            print(&plugins);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Characters of a digest that a person needs to tell two versions apart.
const SHORT_DIGEST: usize = 12;

fn print(plugins: &Value) {
    let rows = plugins.as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |row: &Value, name: &str| match row.get(name) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let cells = rows.iter().map(|row| {
        let digest = text(row, "digest");
        let reason = row.get("last_error").and_then(|error| error.get("reason")).and_then(Value::as_str).unwrap_or("-");
        vec![
            text(row, "name"),
            text(row, "version"),
            text(row, "state"),
            digest.get(..SHORT_DIGEST).unwrap_or(&digest).to_owned(),
            text(row, "calls"),
            text(row, "failures"),
            text(row, "loaded_at"),
            reason.to_owned(),
        ]
    });
    output::table(&["NAME", "VERSION", "STATE", "DIGEST", "CALLS", "FAILURES", "LOADED AT", "LAST ERROR"], cells.collect());
}
