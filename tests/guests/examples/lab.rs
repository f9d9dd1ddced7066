//! Does what a test asks, good or bad. Each bad event first emits, joins and writes; none of these
//! effects may remain.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is what it is for")]

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sockhop_sdk::Route::{Get, Post, Put};
use sockhop_sdk::{Access, Attachment, Context, Emits, Plugin, Refusal, Result, Scan, Target};

const GOSSIP: Emits<String> = Emits::new("gossip").to(&["lab", "*"]);
const PARCEL: Emits<Parcel> = Emits::new("parcel");
const NOISE: Emits<Value> = Emits::new("noise").to(&["lab", "left"]);

/// The effects of every bad event before it fails.
fn leave_traces(ctx: &Context) -> Result {
    ctx.emit(Target::Sender, &NOISE, &Value::Null)?;
    ctx.emit(Target::room("lab"), &NOISE, &Value::Null)?;
    ctx.join("lab")?;
    ctx.state().set("trace", &true)
}

fn echo(_: &Context, data: Value) -> Result<Value> {
    Ok(data)
}

fn refuse(ctx: &Context, _: ()) -> Result {
    leave_traces(ctx)?;
    Err(Refusal::new("because", "I do not want to"))
}

fn trap(ctx: &Context, _: ()) -> Result {
    leave_traces(ctx)?;
    panic!("secret path: /etc/shadow");
}

fn spin(ctx: &Context, _: ()) -> Result {
    leave_traces(ctx)?;
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

/// Runs without a pause until this many milliseconds have passed on the clock.
fn run_for(_: &Context, ms: u64) -> Result {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(ms) {
        std::hint::black_box(0);
    }
    Ok(())
}

/// The time of day in milliseconds since 1970, by the guest's own clock.
fn wall_clock(_: &Context, _: ()) -> Result<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Ok(since.map_err(Refusal::internal)?.as_millis() as u64)
}

/// Repeatedly makes a system call that waits for no time.
fn busy_poll(_: &Context, _: ()) -> Result {
    #![allow(
        unsafe_code,
        reason = "std has no way to wait for nothing; the call takes a number and no pointer"
    )]
    unsafe extern "C" {
        fn usleep(microseconds: u32) -> i32;
    }
    loop {
        // SAFETY: wasi-libc's own function, with its own signature.
        std::hint::black_box(unsafe { usleep(0) });
    }
}

/// Takes this many random bytes, at most 256, in one call.
fn draw(_: &Context, count: usize) -> Result {
    #![allow(unsafe_code, reason = "std draws no number of bytes that a caller chooses")]
    unsafe extern "C" {
        fn getentropy(buffer: *mut u8, length: usize) -> i32;
    }
    let mut bytes = vec![0; count];
    // SAFETY: libc's own function, with its own signature; it writes `length` bytes at most.
    match unsafe { getentropy(bytes.as_mut_ptr(), bytes.len()) } {
        0 => Ok(()),
        _ => Err(Refusal::new("no_entropy", "not so many at once")),
    }
}

fn sleep(ctx: &Context, ms: u64) -> Result {
    leave_traces(ctx)?;
    std::thread::sleep(Duration::from_millis(ms));
    Ok(())
}

/// Sleeps 100 ms this many times. While the host is stopped, only one of these times is longer.
fn nap(_: &Context, times: u64) -> Result {
    (0..times).for_each(|_| std::thread::sleep(Duration::from_millis(100)));
    Ok(())
}

fn grow(ctx: &Context, _: ()) -> Result {
    leave_traces(ctx)?;
    let mut hoard = Vec::new();
    loop {
        // The memory is not written to, so that the limit of memory is reached before the limit of
        // time.
        hoard.push(Vec::<u8>::with_capacity(8 << 20));
        std::hint::black_box(&hoard);
    }
}

/// Declares a number, but serialises as a string.
#[derive(JsonSchema)]
struct Number {
    #[expect(dead_code, reason = "only its schema is used")]
    number: u64,
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str("no number at all")
    }
}

fn bad_reply(ctx: &Context, _: ()) -> Result<Number> {
    leave_traces(ctx)?;
    Ok(Number { number: 1 })
}

/// Emits this many numbers to the caller.
fn burst(ctx: &Context, events: u64) -> Result {
    (0..events).try_for_each(|number| ctx.emit(Target::Sender, &NOISE, &number.into()))
}

fn flood(ctx: &Context, _: ()) -> Result {
    loop {
        ctx.emit(Target::Sender, &NOISE, &Value::Null)?;
    }
}

/// Emits and replies with nested arrays. The host processes them on the guest's stack.
fn deep(ctx: &Context, levels: u8) -> Result<Value> {
    let nested = (1..levels).fold(Value::Array(Vec::new()), |inner, _| Value::Array(vec![inner]));
    ctx.emit(Target::Sender, &NOISE, &nested)?;
    Ok(nested)
}

/// Returns the host's refusal of an event that is not declared.
fn undeclared(ctx: &Context, _: ()) -> Result {
    const SECRET: Emits<Value> = Emits::new("secret");
    ctx.emit(Target::Sender, &SECRET, &Value::Null)
}

/// Replies with a value that clients would take for a rejection.
fn error_reply(_: &Context, _: ()) -> Result<Value> {
    Ok(serde_json::json!({"error": "mine"}))
}

/// Continues after a refusal, which alone does not fail the event.
fn shrug(ctx: &Context, _: ()) -> Result<String> {
    let refused = ctx.join("nowhere");
    ctx.emit(Target::Sender, &NOISE, &Value::Null)?;
    Ok(refused.map_or_else(|refusal| refusal.code, |()| "joined".to_owned()))
}

#[derive(Serialize, JsonSchema)]
struct Traces {
    stored: bool,
    rooms: Vec<String>,
    in_lab: u32,
}

fn traces(ctx: &Context, _: ()) -> Result<Traces> {
    let stored = ctx.state().get::<bool>("trace")?.is_some();
    Ok(Traces { stored, rooms: ctx.rooms(), in_lab: ctx.room_size("lab") })
}

fn enter(ctx: &Context, _: ()) -> Result {
    count(ctx, "entered")?;
    ctx.join("lab")
}

/// Counts with `next_id`: an id is never given twice, so concurrent counts don't conflict.
fn count(ctx: &Context, what: &str) -> Result {
    ctx.state().next_id(what).map(|_| ())
}

/// Returns how often something was counted, including the calls of this function.
fn counted(ctx: &Context, what: &str) -> Result<u64> {
    Ok(ctx.state().next_id(what)? - 1)
}

/// Joins both rooms and emits to both. Each receiver gets one event.
fn both(ctx: &Context, _: ()) -> Result {
    ctx.join("lab")?;
    ctx.join("left")?;
    ctx.emit(Target::Rooms(vec!["lab".to_owned(), "left".to_owned()]), &NOISE, &Value::Null)
}

/// Sends the same event to different receivers.
fn spread(ctx: &Context, to: String) -> Result {
    let target = match to.as_str() {
        "everyone" => Target::Everyone,
        "others" => Target::RoomsButSender(vec!["lab".to_owned()]),
        connection => Target::Connection(connection.to_owned()),
    };
    ctx.emit(target, &GOSSIP, &to)
}

/// The bytes and the weight, which are sent back to the sender.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Parcel {
    bytes: Attachment,
    weight: Option<f64>,
}

fn parcel(ctx: &Context, parcel: Parcel) -> Result<usize> {
    let bytes = ctx.attachments().first().cloned().unwrap_or_default();
    let size = bytes.len();
    ctx.emit_binary(
        Target::Sender,
        &PARCEL,
        &Parcel { bytes: Attachment::new(0), ..parcel },
        &[bytes],
    )?;
    Ok(size)
}

fn hurry(_: &Context, _: ()) -> Result {
    Err(Refusal::new("rate_limited", "not so fast"))
}

fn started(ctx: &Context) -> Result {
    ctx.state().set("started", &ctx.connection().is_none())
}

fn has_started(ctx: &Context, _: ()) -> Result<Option<bool>> {
    ctx.state().get("started")
}

/// Adds one to the counter that all clients share.
fn increment(ctx: &Context, _: ()) -> Result<u64> {
    let next = ctx.state().get::<u64>("counter")?.unwrap_or(0) + 1;
    ctx.state().set("counter", &next)?;
    Ok(next)
}

fn counter(ctx: &Context, _: ()) -> Result<u64> {
    Ok(ctx.state().get::<u64>("counter")?.unwrap_or(0))
}

/// Traps if its state can't be read.
fn stubborn(ctx: &Context, _: ()) -> Result<u64> {
    Ok(ctx
        .state()
        .get::<u64>("counter")
        .unwrap_or_else(|refusal| panic!("{}", refusal.message))
        .unwrap_or(0))
}

/// Reads, sleeps, and reads again. Its snapshot of the state is open for all that time.
fn slow_read(ctx: &Context, ms: u64) -> Result<u64> {
    ctx.state().get::<bool>("trace")?;
    std::thread::sleep(Duration::from_millis(ms));
    counter(ctx, ())
}

/// Stores the text under the next number.
fn note(ctx: &Context, text: String) -> Result {
    let id = ctx.state().next_id("notes")?;
    ctx.state().set(&format!("note/{}/{id:016}", ctx.connection().unwrap_or_default()), &text)
}

/// Sleeps before it stores.
fn slow_note(ctx: &Context, ms: u64) -> Result {
    count(ctx, "began")?;
    std::thread::sleep(Duration::from_millis(ms));
    note(ctx, "slow".to_owned())
}

/// Returns all notes of one connection, in their order.
fn notes(ctx: &Context, connection: String) -> Result<Vec<String>> {
    let prefix = format!("note/{connection}/");
    let notes = ctx.state().scan::<String>(Scan::prefix(&prefix).limit(1000))?;
    Ok(notes.into_iter().map(|(_, text)| text).collect())
}

fn me(ctx: &Context, _: ()) -> Result<String> {
    Ok(ctx.connection().unwrap_or_default().to_owned())
}

#[derive(Deserialize, JsonSchema)]
struct Small {
    number: u8,
}

fn small(_: &Context, small: Small) -> Result<u8> {
    Ok(small.number)
}

fn gone(ctx: &Context) -> Result {
    count(ctx, "gone")?;
    let rooms = ctx.rooms().join(",");
    let id = ctx.state().next_id("notes")?;
    ctx.state().set(
        &format!("note/{}/{id:016}", ctx.connection().unwrap_or_default()),
        &format!("$disconnect in {rooms}"),
    )
}

fn goodbye(ctx: &Context, _: ()) -> Result {
    ctx.emit(Target::Sender, &NOISE, &Value::Null)?;
    ctx.disconnect("asked for it");
    Ok(())
}

/// Calls a function that only `register` may call, and returns the host's refusal code.
fn register_again(_: &Context, _: ()) -> Result<String> {
    #[cfg(target_family = "wasm")]
    {
        use sockhop_sdk::bindings::generated::sockhop::plugin::registry;
        Ok(registry::handles("late", "{}", None)
            .map_or_else(|refusal| refusal.code, |()| "accepted".to_owned()))
    }
    #[cfg(not(target_family = "wasm"))]
    Err(Refusal::new("native", "there is no host"))
}

fn exit(_: &Context, _: ()) -> Result {
    std::process::exit(0)
}

fn print(_: &Context, _: ()) -> Result {
    #![allow(clippy::print_stdout, reason = "printing must do no harm")]
    for line in 0..1_000 {
        println!("line {line}");
    }
    Ok(())
}

/// Writes the text to the log and to both outputs, and returns it as a refusal.
fn say(ctx: &Context, text: String) -> Result {
    #![allow(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "what plugins print is what the test is about"
    )]
    ctx.info(&text);
    println!("{text}");
    eprintln!("{text}");
    Err(Refusal::new("said", text))
}

/// Writes the text to both outputs, without line breaks.
fn mutter(_: &Context, text: String) -> Result {
    #![allow(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "what plugins print is what the test is about"
    )]
    print!("{text}");
    eprint!("{text}");
    Ok(())
}

fn plugin() -> Plugin {
    Plugin::new("lab", "1.0.0", "Does whatever a test asks of it")
        .room("lab", Access::Anyone)
        .room("left", Access::Anyone)
        .emits(NOISE)
        .emits(GOSSIP)
        .emits(PARCEL)
        .on_start(started)
        .on_disconnect(gone)
        .on("echo", echo)
        .route(Put("/lab/echo/{name}"), "echo")
        .on("refuse", refuse)
        .on("trap", trap)
        .route(Post("/lab/trap"), "trap")
        .on("spin", spin)
        .on("run_for", run_for)
        .on("wall_clock", wall_clock)
        .on("busy_poll", busy_poll)
        .on("draw", draw)
        .on("sleep", sleep)
        .on("nap", nap)
        .on("grow", grow)
        .on("bad_reply", bad_reply)
        .on("burst", burst)
        .on("flood", flood)
        .on("deep", deep)
        .on("undeclared", undeclared)
        .on("error_reply", error_reply)
        .on("shrug", shrug)
        .on("traces", traces)
        .on("enter", enter)
        .on("both", both)
        .on("spread", spread)
        .on("parcel", parcel)
        .on("hurry", hurry)
        .on("has_started", has_started)
        .on("began", |ctx: &Context, (): ()| counted(ctx, "began"))
        .on("entered", |ctx: &Context, (): ()| counted(ctx, "entered"))
        .on("gone", |ctx: &Context, (): ()| counted(ctx, "gone"))
        .on("increment", increment)
        .on("counter", counter)
        .on("slow_read", slow_read)
        .on("stubborn", stubborn)
        .on("note", note)
        .on("slow_note", slow_note)
        .on("notes", notes)
        .on("me", me)
        .on("my_rooms", |ctx: &Context, (): ()| Ok(ctx.rooms()))
        .on("join_room", |ctx: &Context, room: String| ctx.join(&room))
        .on("small", small)
        .route(Get("/lab/small/{number}"), "small")
        .on("goodbye", goodbye)
        .on("register_again", register_again)
        .on("exit", exit)
        .on("print", print)
        .on("say", say)
        .on("mutter", mutter)
        .on("for_users", echo)
        .requires(Access::Authenticated)
        .route(Post("/lab/for-users"), "for_users")
        .on("for_admins", echo)
        .requires(Access::Role("admin"))
        .route(Post("/lab/for-admins"), "for_admins")
}

sockhop_sdk::export!(plugin);
