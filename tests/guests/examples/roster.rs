//! Knows which users are present, by the presence helper of the SDK.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is a part of what it is for")]

use std::time::Duration;

use sockhop_sdk::{Context, Plugin, Presence, Result, Scan};

const PRESENCE: Presence = Presence::new(joined, left).grace(Duration::from_millis(200));

fn joined(ctx: &Context, user: &str) -> Result {
    note(ctx, format!("+{user}"))
}

fn left(ctx: &Context, user: &str) -> Result {
    note(ctx, format!("-{user}"))
}

/// Ids are never taken twice, so lines don't conflict.
fn note(ctx: &Context, line: String) -> Result {
    let id = ctx.state().next_id("log")?;
    ctx.state().set(&format!("log/{id:016}"), &line)
}

fn log(ctx: &Context, _: ()) -> Result<Vec<String>> {
    let lines = ctx.state().scan::<String>(Scan::prefix("log/").limit(1_000))?;
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

fn plugin() -> Plugin {
    Plugin::new("roster", "1.0.0", "Knows who is present")
        .presence(PRESENCE)
        .on("roster", |ctx: &Context, (): ()| Presence::users(ctx, None, 1_000))
        .on("roster_log", log)
        .on("roster_trap", |_: &Context, (): ()| -> Result { panic!("told so") })
}

sockhop_sdk::export!(plugin);
