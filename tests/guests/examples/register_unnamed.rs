//! Registers under an invalid name.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::Plugin;

fn plugin() -> Plugin {
    Plugin::new("Not A Name", "1.0.0", "")
}

sockhop_sdk::export!(plugin);
