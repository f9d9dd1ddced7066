//! The commands for the rows that a plugin has: `sockhop timers` and `sockhop deliveries`. The
//! modules of the two kinds have the texts and the columns that differ.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::client::HostArgs;
use super::output;

/// A kind of rows.
pub(crate) trait Kind: Debug {
    /// What the rows are called, also in the paths and in the answers of the host.
    const NAME: &'static str;

    /// The members of a row that are listed.
    const COLUMNS: &'static [&'static str];

    /// The help of `list`.
    const LIST: &'static str;

    /// The help of `list --dead`.
    const DEAD: &'static str;

    /// The help of `retry`.
    const RETRY: &'static str;

    /// The help of `drop`.
    const DROP: &'static str;

    /// The help of the ids that `retry` and `drop` take.
    const IDS: &'static str;
}

/// The arguments of the commands for one kind of rows.
#[derive(Debug, Args)]
pub(crate) struct RowsArgs<K: Kind> {
    #[command(subcommand)]
    command: RowsCommand<K>,
}

#[derive(Debug, Subcommand)]
enum RowsCommand<K: Kind> {
    #[command(about = K::LIST)]
    List {
        #[arg(long, help = K::DEAD)]
        dead: bool,
        #[arg(long, value_name = "ID", default_value_t = 0, help = after_help::<K>())]
        after: i64,
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=1000),
              help = format!("Maximum number of {}", K::NAME))]
        limit: u32,
        #[command(flatten)]
        plugin: PluginArgs,
    },
    #[command(about = K::RETRY)]
    Retry {
        #[command(flatten)]
        plugin: PluginArgs,
        #[command(flatten)]
        which: WhichArgs<K>,
    },
    #[command(about = K::DROP)]
    Drop {
        #[command(flatten)]
        plugin: PluginArgs,
        #[command(flatten)]
        which: WhichArgs<K>,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhichArgs<K: Kind> {
    #[arg(help = K::IDS)]
    ids: Vec<i64>,
    #[arg(long, help = format!("All {} that are dead", K::NAME))]
    all_dead: bool,
    #[arg(skip)]
    kind: PhantomData<K>,
}

fn after_help<K: Kind>() -> String {
    format!("Lists only {} whose id follows this one, which the previous list has printed", K::NAME)
}

impl<K: Kind> RowsArgs<K> {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let kind = K::NAME;
        let (plugin, path, body) = match self.command {
            RowsCommand::List { dead, after, limit, plugin } => {
                let path = format!("{kind}?dead={dead}&after={after}&limit={limit}");
                (plugin, path, None)
            }
            RowsCommand::Retry { plugin, which } => {
                (plugin, format!("{kind}/retry"), Some(which.body()))
            }
            RowsCommand::Drop { plugin, which } => {
                (plugin, format!("{kind}/drop"), Some(which.body()))
            }
        };
        plugin.run(&path, body.as_ref(), kind, K::COLUMNS)
    }
}

impl<K: Kind> WhichArgs<K> {
    fn body(self) -> Value {
        if self.all_dead { json!({"all_dead": true}) } else { json!({"ids": self.ids}) }
    }
}

/// The plugin, and how the host is reached.
#[derive(Debug, Args)]
struct PluginArgs {
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
    fn run(
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
            Some(Value::Number(number)) => {
                output::line(format_args!("{number} {kind}"));
                let asked = body.and_then(|body| body.get("ids")?.as_array()).map_or(0, Vec::len);
                let changed = number.as_u64().and_then(|number| usize::try_from(number).ok());
                let others = asked.saturating_sub(changed.unwrap_or(asked));
                if others > 0 {
                    bail!("{}", unchanged(kind, others));
                }
            }
            _ => bail!("the host has answered something else: {document}"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What an operator is told of ids that were without effect.
fn unchanged(kind: &str, number: usize) -> String {
    format!(
        "{number} of the ids are of no {kind} that the command can change: they have ended, or are \
         set by a schedule, or the id is wrong; `sockhop {kind} list` shows the ids"
    )
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
