//! A plugin that handles `$load` as its state says, or else its setting `mood`: a word with a
//! number of steps, such as `steps 5`, or with a URL.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is what it is for")]

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use sockhop_sdk::http::Request;
use sockhop_sdk::{Context, Emits, Plugin, Progress, Refusal, Result, Target};

/// What was done in all calls of `$load` that took effect.
#[derive(Serialize, JsonSchema)]
struct Done {
    /// Calls.
    steps: u64,
    /// Calls that have finished.
    runs: u64,
}

const MOVED: Emits<u64> = Emits::new("moved").to(&["*"]);

fn number(ctx: &Context, key: &str) -> Result<u64> {
    Ok(ctx.state().get(key)?.unwrap_or(0))
}

fn load(ctx: &Context) -> Result<Progress> {
    let state = ctx.state();
    let mood = match state.get::<String>("mood")? {
        Some(mood) => mood,
        None => ctx.setting("mood").unwrap_or_default(),
    };
    let mut words = mood.split(' ');
    let (kind, most) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if kind == "send" {
        ctx.send(Request::get(most))?;
    }
    let most: u64 = most.parse().unwrap_or(1);
    // The effects of a call that fails are dropped.
    let (steps, at) = (number(ctx, "steps")? + 1, number(ctx, "at")? + 1);
    state.set("steps", &steps)?;
    ctx.emit(Target::Everyone, &MOVED, &steps)?;
    match kind {
        "trap" => panic!("no"),
        "refuse" => return Err(Refusal::new("not_ready", "the list is missing")),
        "spin" => loop {
            std::hint::black_box(());
        },
        "stuck" => return Ok(Progress::new(1, 2)),
        "slow" => std::thread::sleep(Duration::from_millis(300)),
        _ => {}
    }
    if at < most {
        state.set("at", &at)?;
        return Ok(Progress::new(at, most));
    }
    state.delete("at")?;
    state.set("runs", &(number(ctx, "runs")? + 1))?;
    Ok(Progress::finished())
}

fn mood(ctx: &Context, mood: String) -> Result {
    ctx.state().set("mood", &mood)
}

fn done(ctx: &Context, _: ()) -> Result<Done> {
    Ok(Done { steps: number(ctx, "steps")?, runs: number(ctx, "runs")? })
}

fn plugin() -> Plugin {
    Plugin::new("mover", "1.0.0", "Prepares its state")
        .on_load(load)
        .emits(MOVED)
        .on("mood", mood)
        .on("done", done)
}

sockhop_sdk::export!(plugin);
