//! Declares a reply with the property by which clients recognise a rejection.

#![allow(missing_docs, reason = "nobody reads it")]

use schemars::JsonSchema;
use serde::Serialize;
use sockhop_sdk::{Context, Plugin, Result};

#[derive(Serialize, JsonSchema)]
struct Confusing {
    error: Option<String>,
}

fn confuse(_: &Context, _: ()) -> Result<Confusing> {
    Ok(Confusing { error: None })
}

fn plugin() -> Plugin {
    Plugin::new("reply_with_error", "1.0.0", "").on("confuse", confuse)
}

sockhop_sdk::export!(plugin);
