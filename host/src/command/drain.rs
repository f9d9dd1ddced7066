//! `sockhop drain`: stops a running host slowly.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use serde_json::json;

use super::client::HostArgs;
use super::output;

/// Stops a running host as SIGTERM does, and closes the connections of its clients over a longer
/// time, in random order, so that they do not all connect to other hosts at once. SIGTERM ends the
/// rest of that time
#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Over how much time connections are closed, such as `60s` or `5m`; without it, `[limits]
    /// shutdown_close_ms` of the host
    #[arg(long, value_name = "TIME", value_parser = time)]
    over: Option<Duration>,
    /// Prints JSON instead
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    host: HostArgs,
}

fn time(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as `60s` or `5m`, at most 1h";
    let time: SignedDuration = text.parse().map_err(|_| expected.to_owned())?;
    Duration::try_from(time)
        .ok()
        .filter(|time| *time <= Duration::from_secs(3_600))
        .ok_or_else(|| expected.to_owned())
}

impl Drain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let body = match self.over {
            Some(over) => json!({"over_ms": u64::try_from(over.as_millis()).unwrap_or(u64::MAX)}),
            None => json!({}),
        };
        let document = self.host.ask("/api/drain", Some(&body))?.success()?;
        if self.json {
            output::json(&document);
        } else {
            let number = |member: &str| document.get(member).and_then(serde_json::Value::as_u64);
            let over = Duration::from_millis(number("over_ms").unwrap_or_default());
            output::line(format_args!(
                "the host stops: {} connections are closed over {over:?}, after the time in which \
                 load balancers notice that it is not ready; the host's log shows the progress",
                number("connections").unwrap_or_default()
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}
