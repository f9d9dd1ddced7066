//! Declares a route for requests that another plugin serves.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Result, Route};

fn sit(_: &Context, _: serde_json::Value) -> Result {
    Ok(())
}

// A name that `export!` uses itself: it must not matter.
fn instance() -> Plugin {
    Plugin::new("squatter", "0.1.0", "Wants the requests of others")
        .on("sit", sit)
        .route(Route::Get("/memory-logs/latest"), "sit")
}

sockhop_sdk::export!(instance);
