//! Declares what a host accepts and `check` warns about: a template that no data fills, and rooms
//! that no plugin declares.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use sockhop_sdk::{Access, Emits, Plugin};

#[derive(Serialize, JsonSchema)]
struct Waved {
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct Gone {
    user_id: u64,
}

const WAVED: Emits<Waved> = Emits::new("waved").to(&["wave_{nothing}", "user_{user_id}", "lost"]);
/// Fills the template that `waved` can't fill.
const GONE: Emits<Gone> = Emits::new("gone").to(&["user_{user_id}", "*"]);
const ANYTHING: Emits<Value> = Emits::new("anything").to(&["any_{thing}"]);
const PAIRS: Emits<BTreeMap<String, u64>> = Emits::new("pairs").to(&["any_{thing}"]);

fn plugin() -> Plugin {
    let plugin = Plugin::new("doubtful", "1.0.0", "")
        .room("user_{user}", Access::Owner)
        .room("any_{thing}", Access::Anyone);
    plugin.emits(WAVED).emits(GONE).emits(ANYTHING).emits(PAIRS)
}

sockhop_sdk::export!(plugin);
