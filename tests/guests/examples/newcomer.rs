//! A plugin that the bundled plugins don't know: it declares a room and an event to it.

#![allow(missing_docs, reason = "nobody reads it")]

use serde_json::Value;
use sockhop_sdk::{Access, Context, Emits, Plugin, Result, Target};

const NEWS: Emits<Value> = Emits::new("news").to(&["newcomers"]);

fn tell(ctx: &Context, news: Value) -> Result {
    ctx.emit(Target::room("newcomers"), &NEWS, &news)
}

fn plugin() -> Plugin {
    Plugin::new("newcomer", "0.1.0", "A room and an event into it")
        .room("newcomers", Access::Anyone)
        .emits(NEWS)
        .on("tell", tell)
}

sockhop_sdk::export!(plugin);
