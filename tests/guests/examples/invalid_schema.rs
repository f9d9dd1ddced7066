//! Registers an invalid schema.

#![allow(missing_docs, reason = "nobody reads it")]

use schemars::JsonSchema;
use serde::Deserialize;
use sockhop_sdk::{Context, Plugin, Result};

#[derive(Deserialize, JsonSchema)]
#[schemars(extend("type" = 7))]
struct Wrong {}

fn nothing(_: &Context, _: Wrong) -> Result {
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("invalid_schema", "1.0.0", "").on("wrong", nothing)
}

sockhop_sdk::export!(plugin);
