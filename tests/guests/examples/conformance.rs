//! Does what the official Socket.IO test suite expects from a server.

#![allow(missing_docs, reason = "nobody reads it")]

use std::time::Duration;

use serde_json::Value;
use sockhop_sdk::{Args, Context, Emits, Plugin, Result, Target};

/// The `auth` of the client's handshake.
const AUTH: Emits<Value> = Emits::new("auth");
const BACK: Emits<Args<Vec<Value>>> = Emits::new("message-back");

fn greet(ctx: &Context) -> Result {
    // The suite loses a packet that arrives together with the answer to CONNECT.
    std::thread::sleep(Duration::from_millis(50));
    ctx.emit(Target::Sender, &AUTH, &ctx.auth()?)
}

fn message(ctx: &Context, arguments: Args<Vec<Value>>) -> Result {
    ctx.emit_binary(Target::Sender, &BACK, &arguments, ctx.attachments())
}

fn message_with_ack(ctx: &Context, arguments: Args<Vec<Value>>) -> Result<Args<Vec<Value>>> {
    for bytes in ctx.attachments() {
        ctx.attach(bytes)?;
    }
    Ok(arguments)
}

fn plugin() -> Plugin {
    Plugin::new("conformance", "0.2.0", "Answers the official test suite")
        .handshake()
        .emits(AUTH)
        .emits(BACK)
        .on_connect(greet)
        .on("message", message)
        .on("message-with-ack", message_with_ack)
}

sockhop_sdk::export!(plugin);
