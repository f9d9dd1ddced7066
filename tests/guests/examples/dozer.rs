//! Sleeps for every client that connects. The first events of other plugins must not wait for that.

#![allow(missing_docs, reason = "nobody reads it")]

use std::time::Duration;

use sockhop_sdk::{Context, Plugin, Result};

/// Slightly less than an event may take by default.
const NAP: Duration = Duration::from_millis(4_500);

#[allow(clippy::unnecessary_wraps, reason = "a handler's signature")]
fn doze(_: &Context) -> Result {
    std::thread::sleep(NAP);
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("dozer", "0.1.0", "Sleeps for every client that connects").on_connect(doze)
}

sockhop_sdk::export!(plugin);
