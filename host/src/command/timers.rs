//! `sockhop timers`: shows the timers of a plugin, and retries or drops dead timers.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::rows::PluginArgs;

/// Shows the timers of a plugin, and retries or drops dead timers
#[derive(Debug, Args)]
pub(crate) struct Timers {
    #[command(subcommand)]
    command: TimersCommand,
}

#[derive(Debug, Subcommand)]
enum TimersCommand {
    /// Lists the timers of a plugin that are set, or the dead timers
    List {
        /// Lists the timers whose handler has failed for the last time
        #[arg(long)]
        dead: bool,
        /// Lists only timers whose id follows this one, which the previous list has printed
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: i64,
        /// Maximum number of timers
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        plugin: PluginArgs,
    },
    /// Lets dead timers fire again at once, with all their attempts
    Retry {
        #[command(flatten)]
        plugin: PluginArgs,
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Removes dead timers; also timers that handlers have set, if their ids are given
    Drop {
        #[command(flatten)]
        plugin: PluginArgs,
        #[command(flatten)]
        which: WhichArgs,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct WhichArgs {
    /// The ids of the timers
    ids: Vec<i64>,
    /// All timers that are dead
    #[arg(long)]
    all_dead: bool,
}

impl WhichArgs {
    fn body(self) -> Value {
        if self.all_dead { json!({"all_dead": true}) } else { json!({"ids": self.ids}) }
    }
}

/// The members of a timer that are listed.
const COLUMNS: [&str; 8] =
    ["id", "timer", "key", "due", "next_attempt", "attempts", "died", "error"];

impl Timers {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (plugin, path, body) = match self.command {
            TimersCommand::List { dead, after, limit, plugin } => {
                let path = format!("timers?dead={dead}&after={after}&limit={limit}");
                (plugin, path, None)
            }
            TimersCommand::Retry { plugin, which } => {
                (plugin, "timers/retry".to_owned(), Some(which.body()))
            }
            TimersCommand::Drop { plugin, which } => {
                (plugin, "timers/drop".to_owned(), Some(which.body()))
            }
        };
        plugin.run(&path, body.as_ref(), "timers", &COLUMNS)
    }
}
