//! The handlers of the backend in `plugins/README.md`, written as a plugin. A setting says which of
//! them have moved.

#![allow(missing_docs, reason = "nobody reads it")]

use serde_json::Value;
use sockhop_sdk::{Access, Context, Plugin, Refusal, Result, Settings, Target};

/// The schema that `forward` declares without a setting. Those of two plugins must be identical.
const ANYTHING: &str = "true";

fn enter(ctx: &Context, data: Value) -> Result<Value> {
    ctx.join("chat")?;
    let others = Target::RoomsButSender(vec!["chat".to_owned()]);
    ctx.emit_json(others, "entered", &data.to_string())?;
    Ok(serde_json::json!({"room": "chat"}))
}

fn say(ctx: &Context, data: Value) -> Result<Value> {
    let text = data.get("text").and_then(Value::as_str).unwrap_or_default();
    if text.is_empty() {
        return Err(Refusal::new("empty", "say something"));
    }
    ctx.emit_json(Target::room("chat"), "said", &data.to_string())?;
    Ok(serde_json::json!({"length": text.chars().count()}))
}

fn configure(mut plugin: Plugin, settings: &Settings<'_>) -> Result<Plugin> {
    let moved = settings.get("events").unwrap_or_default();
    for event in moved.split_whitespace() {
        plugin = match event {
            "enter" => plugin.on("enter", enter),
            "say" => plugin.on("say", say),
            _ => return Err(Refusal::new("unknown", format!("there is no event `{event}`"))),
        };
    }
    Ok(plugin)
}

fn plugin() -> Plugin {
    Plugin::new("moved", "1.0.0", "Handlers that were behind a backend")
        .room("chat", Access::Anyone)
        .emits_json("entered", ANYTHING, vec!["chat".to_owned()])
        .emits_json("said", ANYTHING, vec!["chat".to_owned()])
        .configure(configure)
}

sockhop_sdk::export!(plugin);
