//! Declares a route for an event with a list of arguments.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Args, Context, Plugin, Result, Route};

fn add(_: &Context, Args((a, b)): Args<(u32, u32)>) -> Result<u32> {
    Ok(a.saturating_add(b))
}

fn plugin() -> Plugin {
    Plugin::new("listed_route", "1.0.0", "Declares too much")
        .on("sum", add)
        .route(Route::Post("/sums"), "sum")
}

sockhop_sdk::export!(plugin);
