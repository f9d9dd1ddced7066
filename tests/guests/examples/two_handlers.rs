//! Registers two handlers for one event.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Result};

fn nothing(_: &Context, _: ()) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("two_handlers", "1.0.0", "").on("again", nothing).on("again", nothing)
}

sockhop_sdk::export!(plugin);
