//! `sockhop plugins`: lists the plugins of a running host, and sends it the decisions of an
//! operator.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::client::HostArgs;
use super::output;

/// Shows and manages the plugins of a running host
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Plugins {
    #[command(subcommand)]
    command: Option<PluginsCommand>,
    #[command(flatten)]
    list: RequestArgs,
}

#[derive(Debug, Subcommand)]
enum PluginsCommand {
    /// Lists the plugins: what serves, what failed and why
    List {
        /// Also lists plugins whose file is missing, if the host has saved data about them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        request: RequestArgs,
    },
    /// Shows one plugin, with the versions to which it can be rolled back
    Show(PluginArgs),
    /// Rolls back to the previous version, or to a kept one; state is not rolled back
    Rollback {
        #[command(flatten)]
        plugin: PluginArgs,
        /// Beginning of the digest of a kept version
        #[arg(long, value_name = "DIGEST")]
        to: Option<String>,
    },
    /// Answers a plugin's events `unavailable` until it is enabled, or its file changes
    Disable(PluginArgs),
    /// Serves a disabled plugin again, and closes its breaker
    Enable(PluginArgs),
    /// Deletes the saved data about a plugin whose file is missing (disabled, kept versions, failed
    /// versions); its state stays
    Forget(PluginArgs),
}

#[derive(Debug, Args)]
struct RequestArgs {
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
struct PluginArgs {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    request: RequestArgs,
}

impl Plugins {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (request, path, body) = match self.command {
            None => (self.list, "/api/plugins".to_owned(), None),
            Some(PluginsCommand::List { all, request }) => (
                request,
                if all { "/api/plugins?all=true" } else { "/api/plugins" }.to_owned(),
                None,
            ),
            Some(PluginsCommand::Show(PluginArgs { name, request })) => {
                (request, format!("/api/plugins/{name}"), None)
            }
            Some(PluginsCommand::Rollback { plugin: PluginArgs { name, request }, to }) => {
                (request, format!("/api/plugins/{name}/rollback"), Some(json!({"to": to})))
            }
            Some(PluginsCommand::Disable(PluginArgs { name, request })) => {
                (request, format!("/api/plugins/{name}/disable"), Some(json!({})))
            }
            Some(PluginsCommand::Enable(PluginArgs { name, request })) => {
                (request, format!("/api/plugins/{name}/enable"), Some(json!({})))
            }
            Some(PluginsCommand::Forget(PluginArgs { name, request })) => {
                (request, format!("/api/plugins/{name}/forget"), Some(json!({})))
            }
        };
        let document = request.host.ask(&path, body.as_ref())?.success()?;
        match (request.json, document) {
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
            Value::Object(counts) if ["timers", "deliveries"].contains(&member.as_str()) => {
                let of = |state: &str| counts.get(state).and_then(Value::as_u64).unwrap_or(0);
                let live = if member == "timers" { "set" } else { "waiting" };
                format!("{} {live}, {} dead", of(live), of("dead"))
            }
            Value::Object(load) if member == "load" => describe_load(load),
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

/// How far the version is with `$load`.
fn describe_load(load: &Map<String, Value>) -> String {
    let text = |name: &str| load.get(name).and_then(Value::as_str).unwrap_or("-");
    let number = |name: &str| load.get(name).and_then(Value::as_u64).unwrap_or(0);
    let progress = match number("total") {
        0 => String::new(),
        total => format!(", {} of {total} done", number("done")),
    };
    match text("state") {
        "finished" => format!("finished at {}", text("finished_at")),
        "failed" => format!(
            "failed {} times, next attempt at {}{progress}: {}",
            number("attempts"),
            text("next_attempt_at"),
            text("error")
        ),
        state => format!("{state}{progress}"),
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
        let last_error = row.pointer("/last_error/reason").and_then(Value::as_str);
        let of_load = row.get("load").and_then(Value::as_object);
        let of_load = of_load.filter(|load| load.contains_key("error")).map(describe_load);
        let reason = match (last_error, of_load) {
            (Some(reason), _) => reason.to_owned(),
            (None, Some(failure)) => format!("$load {failure}"),
            (None, None) => "-".to_owned(),
        };
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
            reason,
        ]
    });
    output::table(
        &["NAME", "VERSION", "STATE", "DIGEST", "CALLS", "FAILURES", "LOADED AT", "LAST ERROR"],
        cells.collect(),
    );
}
