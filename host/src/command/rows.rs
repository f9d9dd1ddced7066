//! What the commands for timers and for deliveries share: the arguments that name a plugin, and the
//! table of a list.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde_json::Value;

use super::client::HostArgs;
use super::output;

/// The plugin, and how the host is reached.
#[derive(Debug, Args)]
pub(super) struct PluginArgs {
    /// The plugin's name
    name: String,
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

impl PluginArgs {
    /// Asks the host at `path` below the plugin, and prints its answer: a table with these columns,
    /// or the number of rows of this `kind` that were changed.
    pub(super) fn run(
        self,
        path: &str,
        body: Option<&Value>,
        kind: &str,
        columns: &[&str],
    ) -> anyhow::Result<ExitCode> {
        let path = format!("/api/plugins/{}/{path}", self.name);
        let document = self.host.ask(&path, body)?.success()?;
        if self.json {
            output::json(&document);
            return Ok(ExitCode::SUCCESS);
        }
        match document.get(kind) {
            Some(Value::Array(rows)) => {
                print(rows, columns, document.get("next").and_then(Value::as_i64));
            }
            Some(Value::Number(number)) => output::line(format_args!("{number} {kind}")),
            _ => bail!("the host has answered something else: {document}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints a column for each of these members.
fn print(rows: &[Value], columns: &[&str], next: Option<i64>) {
    let text = |row: &Value, name: &str| match row.get(name) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    };
    let cells = rows.iter().map(|row| columns.iter().map(|name| text(row, name)).collect());
    let header: Vec<_> = columns.iter().map(|name| name.replace('_', " ").to_uppercase()).collect();
    let header: Vec<_> = header.iter().map(String::as_str).collect();
    output::table(&header, cells.collect());
    if let Some(next) = next {
        output::line(format_args!("more: --after {next}"));
    }
}
