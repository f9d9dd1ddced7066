//! Panics while it registers.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is what it is for")]

use sockhop_sdk::Plugin;

fn plugin() -> Plugin {
    panic!("no plugin today");
}

sockhop_sdk::export!(plugin);
