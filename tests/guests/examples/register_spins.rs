//! Never finishes registering.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::Plugin;

fn plugin() -> Plugin {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

sockhop_sdk::export!(plugin);
