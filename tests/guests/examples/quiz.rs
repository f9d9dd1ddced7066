//! Asks clients by emits with an ack, and draws for those that read fast enough.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is what it is for")]

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sockhop_sdk::{
    Access, Ack, Args, Attachment, Context, Emits, NoAnswer, Plugin, Refusal, Result, Scan, Target,
};

const QUESTION: Emits<u64> = Emits::new("question");
const PICTURE: Emits<Attachment> = Emits::new("picture");
const SEEN: Emits<String> = Emits::new("seen");
const OUTCOME: Emits<Value> = Emits::new("outcome");
const LINE: Emits<Drawn> = Emits::new("line").to(&["board"]);
const CURSOR: Emits<Drawn> = Emits::new("cursor").to(&["board"]);

/// The answer is a small number. The context is the question, and who has asked.
const ANSWERED: Ack<u32, (u64, Option<String>)> = Ack::new("answered");
/// Any number of arguments.
const LISTED: Ack<Args<Vec<Value>>, String> = Ack::new("listed");

#[derive(Deserialize, JsonSchema)]
struct Question {
    to: String,
    number: u64,
    timeout_ms: u64,
}

#[derive(Serialize, JsonSchema)]
struct Drawn {
    number: u64,
    fill: String,
}

#[derive(Deserialize, JsonSchema)]
struct Draw {
    from: u64,
    count: u64,
    bytes: usize,
    /// Which of them are lines, and not places of a cursor: every so many.
    line_every: u64,
}

fn me(ctx: &Context, _: ()) -> Result<Option<String>> {
    Ok(ctx.connection().map(str::to_owned))
}

fn ask(ctx: &Context, Question { to, number, timeout_ms }: Question) -> Result<String> {
    let context = (number, ctx.connection().map(str::to_owned));
    let ask = ANSWERED.within(Duration::from_millis(timeout_ms), &context);
    ctx.emit_with_ack(&to, &QUESTION, &number, ask)
}

fn ask_and_refuse(ctx: &Context, question: Question) -> Result {
    ask(ctx, question)?;
    Err(Refusal::new("because", "I do not want to"))
}

/// Asks with a picture, and for any arguments. The context has so many bytes.
fn ask_list(ctx: &Context, (to, bytes): (String, usize)) -> Result<String> {
    let (context, attachments) = ("x".repeat(bytes), [vec![1, 2]]);
    let ask = LISTED.within(Duration::from_secs(5), &context).attachments(&attachments);
    ctx.emit_with_ack(&to, &PICTURE, &Attachment::new(0), ask)
}

fn record(ctx: &Context, line: &Value) -> Result {
    let number = ctx.state().next_id("line")?;
    ctx.state().set(&format!("log/{number:09}"), line)
}

fn answered(
    ctx: &Context,
    (number, asker): (u64, Option<String>),
    answer: Result<u32, NoAnswer>,
) -> Result {
    let what = match &answer {
        Ok(666) => panic!("that number"),
        Ok(668) => {
            ctx.disconnect("that answer");
            json!(668)
        }
        Ok(667) => return Err(Refusal::new("because", "not that number")),
        Ok(answer) => json!(answer),
        Err(NoAnswer::Timeout) => json!("timeout"),
        Err(NoAnswer::Disconnected) => json!("disconnected"),
        Err(other) => json!(other.to_string()),
    };
    if ctx.connection().is_some() {
        ctx.emit(Target::Sender, &SEEN, &format!("answer {number}"))?;
    }
    let rooms = ctx.rooms();
    let line = json!({"number": number, "what": what, "by": ctx.connection(), "rooms": rooms});
    record(ctx, &line)?;
    match asker {
        Some(asker) => ctx.emit(Target::Connection(asker), &OUTCOME, &line),
        None => Ok(()),
    }
}

fn listed(ctx: &Context, context: String, answer: Result<Args<Vec<Value>>, NoAnswer>) -> Result {
    let sizes: Vec<_> = ctx.attachments().iter().map(Vec::len).collect();
    let what = match answer {
        Ok(Args(arguments)) => json!(arguments),
        Err(other) => json!(other.to_string()),
    };
    record(ctx, &json!({"context": context.len(), "what": what, "attachments": sizes}))
}

fn doze(_: &Context, ms: u64) -> Result {
    std::thread::sleep(Duration::from_millis(ms));
    Ok(())
}

/// Records that it has slept.
fn nap(ctx: &Context, ms: u64) -> Result {
    std::thread::sleep(Duration::from_millis(ms));
    record(ctx, &json!({"slept": ms}))
}

fn note(ctx: &Context, number: u64) -> Result {
    ctx.emit(Target::Sender, &SEEN, &format!("note {number}"))
}

fn log(ctx: &Context, _: ()) -> Result<Vec<Value>> {
    let stored = ctx.state().scan::<Value>(Scan::prefix("log/").limit(1000))?;
    Ok(stored.into_iter().map(|(_, line)| line).collect())
}

fn enter(ctx: &Context, _: ()) -> Result {
    ctx.join("board")
}

/// How many connections get what is drawn.
fn size(ctx: &Context, _: ()) -> Result<u32> {
    Ok(ctx.room_size("board"))
}

fn draw(ctx: &Context, Draw { from, count, bytes, line_every }: Draw) -> Result {
    for number in from..from + count {
        let drawn = Drawn { number, fill: "x".repeat(bytes) };
        if number % line_every == 0 {
            ctx.emit(Target::room("board"), &LINE, &drawn)?;
        } else {
            ctx.emit_volatile(Target::room("board"), &CURSOR, &drawn)?;
        }
    }
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("quiz", env!("CARGO_PKG_VERSION"), "Asks its clients")
        .room("board", Access::Anyone)
        .on("me", me)
        .on("ask", ask)
        .on("ask_and_refuse", ask_and_refuse)
        .on("ask_list", ask_list)
        .on("doze", doze)
        .on("nap", nap)
        .on("note", note)
        .on("log", log)
        .on("enter", enter)
        .on("size", size)
        .on("draw", draw)
        .emits(QUESTION)
        .emits(PICTURE)
        .emits(SEEN)
        .emits(OUTCOME)
        .emits(LINE)
        .emits(CURSOR)
        .on_ack(ANSWERED, answered)
        .on_ack(LISTED, listed)
        .on_disconnect(|ctx| record(ctx, &json!({"left": ctx.connection()})))
}

sockhop_sdk::export!(plugin);
