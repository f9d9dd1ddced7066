//! Records what the host reports about connections.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is a part of what it is for")]

use std::time::Duration;

use sockhop_sdk::{Access, Context, Plugin, Result};

fn note(ctx: &Context, sign: char) -> Result {
    let mut told = told(ctx, ())?;
    told.push(format!("{sign}{}", ctx.connection().unwrap_or_default()));
    ctx.state().set("told", &told)
}

/// Returns all records in order, each with the id of a connection: `+` for connected, `-` for
/// disconnected, `=` for one that the plugin has read itself.
fn told(ctx: &Context, (): ()) -> Result<Vec<String>> {
    Ok(ctx.state().get("told")?.unwrap_or_default())
}

/// If it is held, runs until a client has opened the gate.
fn connected(ctx: &Context) -> Result {
    if ctx.state().get("held")?.unwrap_or(false) {
        while ctx.room_size("presence_gate") == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    note(ctx, '+')
}

fn disconnected(ctx: &Context) -> Result {
    note(ctx, '-')
}

fn resync(ctx: &Context) -> Result {
    let connections = ctx
        .connections()?
        .iter()
        .map(|connection| format!("={}", connection.id))
        .collect::<Vec<_>>();
    ctx.state().set("told", &connections)
}

fn plugin() -> Plugin {
    Plugin::new("presence", "1.0.0", "Writes down who is there")
        .room("presence_gate", Access::Anyone)
        .on_connect(connected)
        .on_disconnect(disconnected)
        .on_resync(resync)
        .on("told", told)
        .on("presence_id", |ctx: &Context, (): ()| {
            Ok(ctx.connection().unwrap_or_default().to_owned())
        })
        .on("hold", |ctx: &Context, (): ()| ctx.state().set("held", &true))
        .on("release", |ctx: &Context, (): ()| ctx.join("presence_gate"))
        .on("presence_trap", |_: &Context, (): ()| -> Result { panic!("told so") })
}

sockhop_sdk::export!(plugin);
