//! `sockhop deliveries`: shows the deliveries of a plugin, and retries or drops dead deliveries.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::rows::PluginArgs;

/// Shows the deliveries of a plugin, and retries or drops dead deliveries
#[derive(Debug, Args)]
pub(crate) struct Deliveries {
    #[command(subcommand)]
    command: DeliveriesCommand,
}

#[derive(Debug, Subcommand)]
enum DeliveriesCommand {
    /// Lists the deliveries of a plugin that wait, or the dead deliveries
    List {
        /// Lists the deliveries whose last attempt has failed
        #[arg(long)]
        dead: bool,
        /// Lists only deliveries whose id follows this one, which the previous list has printed
        #[arg(long, value_name = "ID", default_value_t = 0)]
        after: i64,
        /// Maximum number of deliveries
        #[arg(long, value_name = "N", default_value_t = 100,
              value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        #[command(flatten)]
        plugin: PluginArgs,
    },
    /// Lets dead deliveries be sent again at once, with all their attempts; also deliveries that
    /// wait for their next attempt, if their ids are given
    Retry {
        #[command(flatten)]
        plugin: PluginArgs,
        #[command(flatten)]
        which: WhichArgs,
    },
    /// Removes dead deliveries; also deliveries that wait, if their ids are given
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
    /// The ids of the deliveries: the numbers that the list prints first
    ids: Vec<i64>,
    /// All deliveries that are dead
    #[arg(long)]
    all_dead: bool,
}

impl WhichArgs {
    fn body(self) -> Value {
        if self.all_dead { json!({"all_dead": true}) } else { json!({"ids": self.ids}) }
    }
}

/// The members of a delivery that are listed.
const COLUMNS: [&str; 9] =
    ["id", "delivery", "key", "origin", "created", "next_attempt", "attempts", "died", "error"];

impl Deliveries {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let (plugin, path, body) = match self.command {
            DeliveriesCommand::List { dead, after, limit, plugin } => {
                let path = format!("deliveries?dead={dead}&after={after}&limit={limit}");
                (plugin, path, None)
            }
            DeliveriesCommand::Retry { plugin, which } => {
                (plugin, "deliveries/retry".to_owned(), Some(which.body()))
            }
            DeliveriesCommand::Drop { plugin, which } => {
                (plugin, "deliveries/drop".to_owned(), Some(which.body()))
            }
        };
        plugin.run(&path, body.as_ref(), "deliveries", &COLUMNS)
    }
}
