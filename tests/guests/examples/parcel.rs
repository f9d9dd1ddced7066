//! Takes, returns and emits lists of arguments and bytes, and tells what its caller has sent when
//! it connected.

#![allow(missing_docs, reason = "nobody reads it")]

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sockhop_sdk::{
    Access, Args, Attachment, Context, Emits, Message, Plugin, Refusal, Result, Route, Target,
};

/// The first argument of what `move` emits.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Piece {
    user_id: u32,
    #[schemars(length(max = 10))]
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct Packed {
    label: String,
    content: Vec<Attachment>,
}

/// What `pack` attaches to its reply.
#[derive(Deserialize, JsonSchema)]
struct Pack {
    /// The number of bytes of each attachment.
    sizes: Vec<usize>,
    /// The numbers of the placeholders in the reply.
    named: Vec<u32>,
}

const MOVED: Emits<Args<(Piece, u32)>> = Emits::new("moved").to(&["board", "user_{user_id}"]);
const ECHOED: Emits<Args<Vec<Value>>> = Emits::new("echoed").to(&["board"]);

/// Two arguments in, two out, and two emitted.
fn moved(ctx: &Context, Args((piece, to)): Args<(Piece, u32)>) -> Result<Args<(bool, u32)>> {
    ctx.join("board")?;
    ctx.emit(Target::room("board"), &MOVED, &Args((piece, to)))?;
    Ok(Args((true, to + 1)))
}

/// As many arguments as it gets, with their attachments.
fn echo_all(ctx: &Context, all: Args<Vec<Value>>) -> Result<Args<Vec<Value>>> {
    ctx.join("board")?;
    ctx.emit_binary(Target::room("board"), &ECHOED, &all, ctx.attachments())?;
    for bytes in ctx.attachments() {
        ctx.attach(bytes)?;
    }
    Ok(all)
}

/// A list of arguments in, one out.
fn count(_: &Context, Args(all): Args<Vec<Value>>) -> Result<usize> {
    Ok(all.len())
}

/// One argument in, a list out.
fn split(_: &Context, text: String) -> Result<Args<Vec<String>>> {
    Ok(Args(text.split(' ').map(str::to_owned).collect()))
}

fn pack(ctx: &Context, Pack { sizes, named }: Pack) -> Result<Packed> {
    for size in sizes {
        ctx.attach(&vec![7; size])?;
    }
    let content = named.into_iter().map(Attachment::new).collect();
    Ok(Packed { label: "parcel".to_owned(), content })
}

/// Attaches to a reply that it does not have.
fn pack_nothing(ctx: &Context, _: ()) -> Result {
    ctx.attach(&[1]).map(drop)
}

/// Attaches, and refuses.
fn pack_and_refuse(ctx: &Context, _: ()) -> Result<u32> {
    ctx.attach(&[1])?;
    Err(Refusal::new("no", "as asked"))
}

/// The reply of a list that is no array, or whose first argument looks like a rejection.
fn wrong_list(_: &Context, text: &str) -> Result<Option<String>> {
    Ok(Some(text.to_owned()))
}

/// Emits text as the data of an event with a list.
fn emit_text(ctx: &Context, text: String) -> Result {
    ctx.emit_json(Target::Sender, "text", &text)
}

#[derive(Serialize, JsonSchema)]
struct Shaken {
    auth: Value,
    query: Option<Vec<(String, String)>>,
}

fn handshake(ctx: &Context, _: ()) -> Result<Shaken> {
    Ok(Shaken { auth: ctx.auth()?, query: ctx.query()? })
}

fn plugin() -> Plugin {
    let anything = "true".to_owned();
    Plugin::new("parcel", "1.0.0", "Lists of arguments, bytes in replies, handshakes")
        .handshake()
        .room("board", Access::Anyone)
        .emits(MOVED)
        .emits(ECHOED)
        .emits_json("text", "true", Vec::new())
        .arguments(Message::Emit, "text")
        .on("move", moved)
        .on("echo_all", echo_all)
        .on("count", count)
        .requires(Access::Anyone)
        .on("split", split)
        .on("pack", pack)
        .route(Route::Post("/packs"), "pack")
        .on("pack_nothing", pack_nothing)
        .on("pack_and_refuse", pack_and_refuse)
        .on_json("wrong_list", "true", Some(anything), wrong_list)
        .arguments(Message::Reply, "wrong_list")
        .on("emit_text", emit_text)
        .on("handshake", handshake)
}

sockhop_sdk::export!(plugin);
