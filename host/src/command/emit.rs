//! `sockhop emit`: `POST /api/emit` from the command line.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::client::HostArgs;
use super::output;

/// Emits an event through a running host
#[derive(Debug, Args)]
pub(crate) struct Emit {
    /// The event's type
    event: String,
    /// Its data, as JSON
    json: String,
    /// Room to send it to; can be repeated. Without a room, the event's declaration defines where
    /// it goes
    #[arg(long, value_name = "ROOM")]
    room: Vec<String>,
    /// Sends it to every connection
    #[arg(long, conflicts_with = "room")]
    everyone: bool,
    #[command(flatten)]
    host: HostArgs,
}

impl Emit {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let data: Value = serde_json::from_str(&self.json)
            .context("the data is not JSON; quote it for the shell, as in '{\"id\": 7}'")?;
        let mut body = json!({"event": self.event, "data": data});
        if let Some(members) = body.as_object_mut() {
            if self.everyone {
                members.insert("everyone".to_owned(), json!(true));
            } else if !self.room.is_empty() {
                members.insert("rooms".to_owned(), json!(self.room));
            }
        }
        output::json(&self.host.ask("/api/emit", Some(&body))?.success()?);
        Ok(ExitCode::SUCCESS)
    }
}
