//! Implements what the official Socket.IO test suite expects from a server, as far as a plugin can.

#![allow(missing_docs, reason = "nobody reads it")]

use std::time::Duration;

use serde_json::{Value, json};
use sockhop_sdk::{Context, Emits, Plugin, Result, Target};

/// The suite expects the `auth` payload of its client. A plugin only sees the identity that the
/// host derives from it, so this is always empty.
const AUTH: Emits<Value> = Emits::new("auth");
const BACK: Emits<Value> = Emits::new("message-back");

fn greet(ctx: &Context) -> Result {
    // The suite loses a packet that arrives together with the answer to CONNECT.
    std::thread::sleep(Duration::from_millis(50));
    ctx.emit(Target::Sender, &AUTH, &json!({}))
}

fn message(ctx: &Context, data: Value) -> Result {
    ctx.emit(Target::Sender, &BACK, &data)
}

fn message_with_ack(_: &Context, data: Value) -> Result<Value> {
    Ok(data)
}

fn plugin() -> Plugin {
    Plugin::new("conformance", "0.1.0", "Answers the official test suite")
        .emits(AUTH)
        .emits(BACK)
        .on_connect(greet)
        .on("message", message)
        .on("message-with-ack", message_with_ack)
}

sockhop_sdk::export!(plugin);
