//! Has any number of rooms, and emits to the room that a client names.

#![allow(missing_docs, reason = "nobody reads it")]

use sockhop_sdk::{Access, Context, Emits, Plugin, Result, Target};

const TOLD: Emits<u64> = Emits::new("crowd_told").to(&["crowd_{number}"]);

fn tell(ctx: &Context, number: u64) -> Result {
    ctx.emit(Target::room(format!("crowd_{number}")), &TOLD, &number)
}

fn plugin() -> Plugin {
    Plugin::new("crowd", "0.1.0", "Has many rooms")
        .room("crowd_{number}", Access::Anyone)
        .emits(TOLD)
        .on("crowd_tell", tell)
}

sockhop_sdk::export!(plugin);
