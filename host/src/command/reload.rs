//! `sockhop reload`: makes a running host read its configuration again.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::client::HostArgs;
use super::output;

/// Makes a running host read its configuration and the files that it names again, and apply them:
/// all or nothing, without closing a connection. Same as SIGHUP
#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

impl Reload {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let document = self.host.ask("/api/reload", Some(&json!({})))?.success()?;
        if self.json {
            output::json(&document);
        } else {
            output::line("reloaded");
            print_changes(&document, "applied");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the changes of an answer: those that a host applies, as `applied`, and those that need a
/// restart.
pub(super) fn print_changes(document: &Value, applied: &str) {
    let changes = document.get("changes").and_then(Value::as_array).cloned().unwrap_or_default();
    if changes.is_empty() {
        output::line("no setting differs");
        return;
    }
    let row = |change: &Value| {
        let member = |name: &str| change.get(name).unwrap_or(&Value::Null);
        let text = |name: &str| match member(name) {
            // Not set, or a secret.
            Value::Null => "-".to_owned(),
            value => value.to_string(),
        };
        let effect =
            if member("needs_restart") == &json!(true) { "needs a restart" } else { applied };
        let key = member("key").as_str().unwrap_or_default().to_owned();
        vec![key, text("from"), text("to"), effect.to_owned()]
    };
    output::table(&["KEY", "FROM", "TO", "EFFECT"], changes.iter().map(row).collect());
}
