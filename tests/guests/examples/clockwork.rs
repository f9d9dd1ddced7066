//! Sets timers, and tells everybody when they fire.

#![allow(missing_docs, reason = "nobody reads it")]

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_sdk::{Context, Cron, Emits, Plugin, Refusal, Result, Scan, Target, Timer};

/// What a timer carries.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
struct Bell {
    /// What the handler does: `ring`, `refuse`, `trap`, `again`, `slow`.
    #[schemars(length(max = 300_000))]
    how: String,
}

/// What everybody receives when a timer fires.
#[derive(Serialize, JsonSchema)]
struct Rang {
    key: String,
    how: String,
    due: u64,
    at: u64,
    attempt: u32,
}

#[derive(Deserialize, JsonSchema)]
struct Set {
    key: String,
    how: String,
    after: Option<u64>,
    at: Option<u64>,
    /// Number of timers, with the number behind the key.
    times: Option<u32>,
    /// Whether the handler refuses at the end.
    fails: Option<bool>,
}

const BELL: Timer<Bell> = Timer::new("bell");
const RANG: Emits<Rang> = Emits::new("rang").to(&["*"]);

#[allow(clippy::panic, reason = "this is what it is for")]
fn set(ctx: &Context, set: Set) -> Result {
    if set.how == "trap_at_once" {
        panic!("as asked");
    }
    let bell = Bell { how: set.how };
    for number in 0..set.times.unwrap_or(1) {
        let key = if number == 0 { set.key.clone() } else { format!("{}{number}", set.key) };
        match (set.after, set.at) {
            (Some(ms), _) => ctx.after(&BELL, Duration::from_millis(ms), &key, &bell)?,
            (None, Some(time)) => ctx.at(&BELL, time, &key, &bell)?,
            (None, None) => ctx.cancel(&BELL, &key)?,
        }
    }
    ctx.state().set("last", &set.key)?;
    if set.fails == Some(true) {
        return Err(Refusal::new("no", "not this one"));
    }
    Ok(())
}

fn bell(ctx: &Context, bell: Bell) -> Result {
    let Some(fired) = ctx.timer() else { return Err(Refusal::new("odd", "no timer")) };
    // A number that counts every run that has taken effect.
    let count = format!("rang/{}", fired.key);
    let before: u64 = ctx.state().get(&count)?.unwrap_or(0);
    ctx.state().set(&count, &(before + 1))?;
    let (key, due, attempt) = (fired.key, fired.due, fired.attempt);
    let rang = Rang { key, how: bell.how.clone(), due, at: ctx.received_at(), attempt };
    ctx.emit(Target::Everyone, &RANG, &rang)?;
    match bell.how.as_str() {
        "refuse" => Err(Refusal::new("no", "not now")),
        #[allow(clippy::panic, reason = "this is what it is for")]
        "trap" => panic!("as asked"),
        "again" => {
            ctx.after(&BELL, Duration::from_millis(1), &rang.key, &Bell { how: "ring".to_owned() })
        }
        _ => Ok(()),
    }
}

fn minute(ctx: &Context) -> Result {
    let Some(fired) = ctx.timer() else { return Err(Refusal::new("odd", "no timer")) };
    let (key, due, attempt) = ("minute".to_owned(), fired.due, fired.attempt);
    let rang = Rang { key, how: fired.name, due, at: ctx.received_at(), attempt };
    ctx.emit(Target::Everyone, &RANG, &rang)
}

/// How often each key has rung.
fn rung(ctx: &Context, _: ()) -> Result<Vec<(String, u64)>> {
    let mut all: Vec<(String, u64)> = Vec::new();
    loop {
        let last = all.last().map(|(key, _)| key.clone());
        let page = Scan::prefix("rang/");
        let page = last.as_deref().map_or(page, |last| page.cursor(last));
        let page = ctx.state().scan::<u64>(page)?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn plugin() -> Plugin {
    Plugin::new("clockwork", "1.0.0", "Sets timers")
        .on("set", set)
        .on("rung", rung)
        .on_timer(BELL, bell)
        .every("minute", Cron::utc("* * * * *"), minute)
        .emits(RANG)
}

sockhop_sdk::export!(plugin);
