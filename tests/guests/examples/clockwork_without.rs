//! A version of the plugin `clockwork` that declares no timer and no schedule.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Context, Plugin, Result};

fn hello(_: &Context, _: ()) -> Result<String> {
    Ok("hello".to_owned())
}

fn plugin() -> Plugin {
    Plugin::new("clockwork", "2.0.0", "Sets no timers").on("hello", hello)
}

sockhop_sdk::export!(plugin);
