//! Declares an event and a room that other plugins own.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Access, Context, Plugin, Result};

fn take(_: &Context, _: ()) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("taker", "0.1.0", "Wants what others have")
        .on("ping", take)
        .room("user_{anyone}", Access::Anyone)
}

sockhop_sdk::export!(plugin);
