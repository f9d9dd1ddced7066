//! `sockhop call`: one event for a plugin, without a running host.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use sockhop::config::Config;
use sockhop::log::{self, Line};
use sockhop::scenario::{Answered, ClientSpec, log_document, log_lines};
use sockhop::trial::{Sent, Trial};

use super::check::Scratch;
use super::interrupts::INTERRUPTED;
use super::output;
use super::workplace::{Workplace, place};

/// Lets a plugin handle one event, and prints the answer and the effects
///
/// The plugin runs under the limits and settings of the configuration, with empty state, for one
/// virtual client. No host is needed and nothing is sent over the network: its HTTP requests fail,
/// and `sockhop test` can answer them. Exit status 0 if the event is answered without an error,
/// else 1.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// The plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The event
    event: String,
    /// Its argument as JSON; `-` for standard input; without it, the event has none
    json: Option<String>,
    /// The authenticated user; without it, the client is anonymous
    #[arg(long)]
    user: Option<String>,
    /// A role of the user; can be repeated
    #[arg(long, requires = "user")]
    role: Vec<String>,
    /// A room in which the client is, as if a handler of the room's plugin had joined it; can be
    /// repeated
    #[arg(long)]
    room: Vec<String>,
    /// Another plugin that is loaded too; can be repeated
    #[arg(long, value_name = "FILE.wasm")]
    with: Vec<PathBuf>,
    /// Configuration with the settings and limits of the plugin
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON document instead
    #[arg(long = "json", id = "as_json")]
    as_json: bool,
}

/// Bytes that are read of standard input.
const MAX_INPUT: u64 = 64 << 20;

/// The name of the only client.
const CLIENT: &str = "caller";

/// What came of the event.
struct Called {
    answered: Answered,
    received: Vec<Value>,
    effects: Vec<Value>,
    changes: Vec<Value>,
    requests: Vec<Value>,
    ended: bool,
    log: Vec<Line>,
}

impl Call {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let config = super::load(self.config.as_ref())?;
        let arguments = self.arguments()?;
        let capture = log::capture()?;
        let mut workplace = Workplace::new()?;
        let calling = workplace.run(async |scratch| {
            let called = self.call(config, arguments, scratch, &capture).await;
            // The plugin's own lines say more than the reason.
            called.inspect_err(|_| print_log(&capture.take().0))
        });
        let Some(called) = calling else {
            output::progress("");
            return Ok(ExitCode::from(INTERRUPTED));
        };
        let called = called?;
        if self.as_json {
            output::json(&called.document());
        } else {
            called.print();
        }
        Ok(match called.answered {
            Answered::Ack(_) => ExitCode::SUCCESS,
            Answered::Error(_) | Answered::Nothing => ExitCode::FAILURE,
        })
    }

    fn arguments(&self) -> anyhow::Result<Vec<Value>> {
        let text = match self.json.as_deref() {
            None => return Ok(Vec::new()),
            Some("-") => {
                let mut text = String::new();
                let mut input = std::io::stdin().lock().take(MAX_INPUT);
                input.read_to_string(&mut text).context("can't read standard input")?;
                text
            }
            Some(text) => text.to_owned(),
        };
        let value = serde_json::from_str(&text)
            .context("the argument is not JSON; write text as '\"text\"'")?;
        Ok(vec![value])
    }

    async fn call(
        &self,
        config: Config,
        arguments: Vec<Value>,
        scratch: &Scratch,
        capture: &log::Capture,
    ) -> anyhow::Result<Called> {
        output::progress(&format!("loading {}", self.file.display()));
        let files: Vec<_> = std::iter::once(&self.file).chain(&self.with).cloned().collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let place = place(scratch, "call", &config)?;
        let started = Trial::start(config, &files, &place, u64::try_from(now)?).await;
        output::progress("");
        let mut trial = started?;
        let client = ClientSpec {
            user: self.user.clone(),
            roles: self.role.clone(),
            rooms: self.room.clone(),
            ..ClientSpec::default()
        };
        let outcome = self.call_in(&mut trial, &client, arguments, capture).await;
        trial.end().await;
        outcome
    }

    async fn call_in(
        &self,
        trial: &mut Trial,
        client: &ClientSpec,
        arguments: Vec<Value>,
        capture: &log::Capture,
    ) -> anyhow::Result<Called> {
        let failed = anyhow::Error::msg::<String>;
        trial.connect(CLIENT, client).await.map_err(failed)?;
        // What came before belongs to `$start` and `$connect`. Lines that the plugin has written
        // stay.
        let before = trial.snapshot().map_err(failed)?;
        drop((trial.take_effects(), trial.take_received(), trial.take_requests()));
        let (event, attachments) = (self.event.clone(), Vec::new());
        let sent = Sent { event, arguments, attachments, ack: true };
        let answered = trial.send(CLIENT, &sent).await.map_err(failed)?;
        if matches!(answered, Answered::Nothing) {
            bail!("the event was not answered: the host has ended the connection");
        }
        let received = trial.take_received().remove(CLIENT).unwrap_or_default();
        let after = trial.snapshot().map_err(failed)?;
        let (requests, _) = trial.take_requests();
        Ok(Called {
            answered,
            received,
            effects: trial.take_effects(),
            changes: before.changes(&after),
            requests,
            ended: !trial.remove_ended().await.is_empty(),
            // A refusal of the event is the answer already.
            log: capture.take().0.into_iter().filter(|line| !is_refusal(line)).collect(),
        })
    }
}

/// Whether a record says only that an event was refused.
fn is_refusal(line: &Line) -> bool {
    !line.is_of_plugin && line.level == "info"
}

impl Called {
    fn document(&self) -> Value {
        let mut document = json!({
            "received": self.received, "effects": self.effects, "changes": self.changes,
            "requests": self.requests, "ended": self.ended,
            "log": self.log.iter().map(log_document).collect::<Vec<_>>(),
        });
        let (name, value) = match &self.answered {
            Answered::Ack(arguments) => ("ack", Value::Array(arguments.clone())),
            Answered::Error(error) => ("error", error.clone()),
            Answered::Nothing => ("ack", Value::Null),
        };
        if let Some(members) = document.as_object_mut() {
            members.insert(name.to_owned(), value);
        }
        document
    }

    fn print(&self) {
        match &self.answered {
            Answered::Ack(arguments) => {
                let texts: Vec<_> = arguments.iter().map(Value::to_string).collect();
                row("ack", &texts.join(", "));
            }
            Answered::Error(error) => row("error", &error.to_string()),
            Answered::Nothing => {}
        }
        self.effects.iter().for_each(print_effect);
        self.changes.iter().for_each(print_change);
        for request in &self.requests {
            let text = |name: &str| request.get(name).and_then(Value::as_str).unwrap_or_default();
            row("request", &format!("{} {} (not sent)", text("method"), text("url")));
        }
        if self.ended {
            row("end", "the connection of the client was ended");
        }
        for event in &self.received {
            row("receives", &with_data(event, "event"));
        }
        print_log(&self.log);
    }
}

/// Prints one row of the result.
fn row(name: &str, text: &str) {
    output::line(format_args!("{name:<9}{text}"));
}

/// The name and the argument of an event.
fn with_data(value: &Value, name: &str) -> String {
    let data = value.get("data").or_else(|| value.get("args")).unwrap_or(&Value::Null);
    format!("{} {data}", value.get(name).and_then(Value::as_str).unwrap_or_default())
}

fn print_effect(effect: &Value) {
    let whom = |value: &Value| {
        let of = |kind: &str| Some(format!(" {kind} {}", value.get(kind)?.as_str()?));
        of("user").or_else(|| of("connection")).unwrap_or_default()
    };
    if effect.get("emit").is_some() {
        let to = effect.get("to").unwrap_or(&Value::Null);
        let names = |rooms: &Vec<Value>| {
            rooms.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        };
        let to = match (to, to.get("rooms").and_then(Value::as_array), to.get("connection")) {
            (Value::String(whom), ..) => whom.clone(),
            (_, Some(rooms), _) if to.get("skip_sender").is_some() => {
                format!("{}, but not the sender", names(rooms))
            }
            (_, Some(rooms), _) => names(rooms),
            (_, None, Some(id)) => format!("connection {}", id.as_str().unwrap_or_default()),
            _ => to.to_string(),
        };
        row("emits", &format!("{} (to: {to})", with_data(effect, "emit")));
    } else if let Some(room) = effect.get("join").and_then(Value::as_str) {
        row("joins", &format!("{room}{}", whom(effect)));
    } else if let Some(room) = effect.get("leave").and_then(Value::as_str) {
        row("leaves", &format!("{room}{}", whom(effect)));
    } else if let Some(reason) = effect.get("disconnect").and_then(Value::as_str) {
        row("ends", reason);
    }
}

fn print_change(change: &Value) {
    let text = |value: &Value, name: &str| {
        value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let timer = |value: &Value| format!("{} {}", text(value, "timer"), text(value, "key"));
    if let Some(value) = change.get("value") {
        row("state", &format!("{} = {value}", text(change, "set")));
    } else if change.get("delete").is_some() {
        row("state", &format!("{} is deleted", text(change, "delete")));
    } else if let Some(cancelled) = change.get("cancelled") {
        row("timer", &format!("{} is cancelled", timer(cancelled).trim_end()));
    } else if change.get("timer").is_some() {
        row("timer", &format!("{} at {}", timer(change).trim_end(), text(change, "due")));
    } else if let Some(request) = change.get("request") {
        let (method, url) = (text(request, "method"), text(request, "url"));
        row("delivery", &format!("{method} {url} (not sent)"));
    }
}

/// Prints what was logged, after the result.
fn print_log(lines: &[Line]) {
    let lines = lines.iter().flat_map(log_lines);
    lines.enumerate().for_each(|(index, line)| {
        let name = if index == 0 { "log" } else { "" };
        output::note(format_args!("{name:<9}{line}"));
    });
}
