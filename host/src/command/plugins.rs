//! `sockhop plugins`: lists the plugins of a running host, and sends it the decisions of an
//! operator.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::Target;
use super::output;

/// Shows and manages the plugins of a running host
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Plugins {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: Asked,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the plugins: what serves, what failed and why
    List {
        /// Also lists plugins whose file is missing, if the host has saved data about them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        asked: Asked,
    },
    /// Shows one plugin, with the versions to which it can be rolled back
    Show(Named),
    /// Rolls back to the previous version, or to a kept one; state is not rolled back
    Rollback {
        #[command(flatten)]
        named: Named,
        /// Beginning of the digest of a kept version
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
    },
    /// Answers a plugin's events `unavailable` until it is enabled, or its file changes
    Disable(Named),
    /// Serves a disabled plugin again, and closes its breaker
    Enable(Named),
    /// Deletes the saved data about a plugin whose file is missing (disabled, kept versions, failed
    /// versions); its state stays
    Forget(Named),
}

#[derive(Debug, Args)]
struct Asked {
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Named {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    asked: Asked,
}

impl Plugins {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (asked, path, body) = match self.command {
            None => (self.list, "/api/plugins".to_owned(), None),
            Some(Command::List { all, asked }) => {
                (asked, if all { "/api/plugins?all=true" } else { "/api/plugins" }.to_owned(), None)
            }
            Some(Command::Show(Named { name, asked })) => {
                (asked, format!("/api/plugins/{name}"), None)
            }
            Some(Command::Rollback { named: Named { name, asked }, to }) => {
                (asked, format!("/api/plugins/{name}/rollback"), Some(json!({"to": to})))
            }
            Some(Command::Disable(Named { name, asked })) => {
                (asked, format!("/api/plugins/{name}/disable"), Some(json!({})))
            }
            Some(Command::Enable(Named { name, asked })) => {
                (asked, format!("/api/plugins/{name}/enable"), Some(json!({})))
            }
            Some(Command::Forget(Named { name, asked })) => {
                (asked, format!("/api/plugins/{name}/forget"), Some(json!({})))
            }
        };
        let document = asked.target.ask(&path, body.as_ref())?.success()?;
        match (asked.json, document) {
            (true, document) => output::json(&document),
            (false, Value::Array(rows)) => print(&rows),
            (false, one) => print_one(&one),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints one plugin, one line for each member of the document.
fn print_one(plugin: &Value) {
    for (member, value) in plugin.as_object().into_iter().flatten() {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Array(all) if member == "kept" => {
                all.iter().for_each(|version| print_kept(member, version));
                continue;
            }
            Value::Array(all) => all
                .iter()
                .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(" "),
            other => other.to_string(),
        };
        output::line(format_args!("{member:<13}{text}"));
    }
}

/// Prints a kept version, which a rollback can choose.
fn print_kept(member: &str, version: &Value) {
    let text = |name: &str| version.get(name).and_then(Value::as_str).unwrap_or("-");
    output::line(format_args!(
        "{member:<13}{} {} since {}",
        text("digest"),
        text("version"),
        text("served_since")
    ));
}

/// Characters of a digest that are enough to distinguish two versions.
const SHORT_DIGEST: usize = 12;

fn print(rows: &[Value]) {
    let text = |row: &Value, name: &str| match row.get(name) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let cells = rows.iter().map(|row| {
        let digest = text(row, "digest");
        let reason = row
            .get("last_error")
            .and_then(|error| error.get("reason"))
            .and_then(Value::as_str)
            .unwrap_or("-");
        vec![
            text(row, "name"),
            text(row, "version"),
            if row.get("absent_since").is_some() {
                "(file gone)".to_owned()
            } else {
                text(row, "state")
            },
            digest.get(..SHORT_DIGEST).unwrap_or(&digest).to_owned(),
            text(row, "calls"),
            text(row, "failures"),
            text(row, "loaded_at"),
            reason.to_owned(),
        ]
    });
    output::table(
        &["NAME", "VERSION", "STATE", "DIGEST", "CALLS", "FAILURES", "LOADED AT", "LAST ERROR"],
        cells.collect(),
    );
}
