//! A plugin whose version and behaviour a test selects by a text in the file: tests replace the
//! bytes between `<<` and `>>`.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "misbehaving is what it is for"
)]

use std::borrow::Cow;
use std::hint::black_box;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sockhop_sdk::{Access, Context, Emits, Plugin, Refusal, Result, Target};

#[used]
static MOOD: [u8; 48] = *b"<<version=0                                   >>";

/// Returns the value of a key in the text that the test has written. The text consists of
/// `key=value` pairs.
fn mood(key: &str) -> Option<String> {
    let bytes: [u8; 48] = black_box(file_bytes());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text = text.trim_start_matches('<').trim_end_matches('>').trim();
    text.split(' ').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
}

/// Reads through a pointer that is opaque to the optimiser, so that the bytes in the file are read.
fn file_bytes() -> [u8; 48] {
    *black_box(&MOOD)
}

fn version() -> String {
    mood("version").unwrap_or_default()
}

/// A payload whose schema the mood selects.
#[derive(Deserialize)]
struct Odd;

impl JsonSchema for Odd {
    fn schema_name() -> Cow<'static, str> {
        Cow::Borrowed("Odd")
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        match mood("schema").as_deref() {
            Some("enormous") => json_schema!({"description": "x".repeat(300 << 10)}),
            Some("http") => json_schema!({"$ref": "http://127.0.0.1:9/schema.json"}),
            Some("file") => json_schema!({"$ref": "file:///etc/passwd"}),
            Some("pattern") => json_schema!({"type": "string", "pattern": "(a|b)(?=c)"}),
            Some("repeat") => {
                json_schema!({"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"})
            }
            Some("circle") => json_schema!({"allOf": [{"$ref": "#"}]}),
            _ => json_schema!({"type": "no such type"}),
        }
    }
}

const NOISE: Emits<String> = Emits::new("chameleon_noise").to(&["chameleons"]);

#[derive(Serialize, JsonSchema)]
struct Which {
    version: String,
    calls: u64,
}

/// Returns the version that answers, and the number of calls over all versions.
fn which(ctx: &Context, _: ()) -> Result<Which> {
    Ok(Which { version: version(), calls: ctx.state().get("calls")?.unwrap_or(0) })
}

fn call(ctx: &Context, _: ()) -> Result<Which> {
    // This version expects another type under the key, so it can't read what the previous version
    // has stored.
    if mood("reads").as_deref() == Some("text") {
        ctx.state().get::<String>("calls")?;
    }
    let calls = ctx.state().get::<u64>("calls")?.unwrap_or(0) + 1;
    ctx.state().set("calls", &calls)?;
    Ok(Which { version: version(), calls })
}

fn slow(_: &Context, ms: u64) -> Result<String> {
    std::thread::sleep(Duration::from_millis(ms));
    Ok(version())
}

/// Runs until a client has entered the room.
fn hold(ctx: &Context, _: ()) -> Result<String> {
    while ctx.room_size("chameleons") == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(version())
}

fn echo(_: &Context, data: u64) -> Result<(u64, String)> {
    Ok((data, version()))
}

fn enter(ctx: &Context, _: ()) -> Result {
    ctx.join("chameleons")
}

/// Joins, then runs until a client has opened the gate.
fn enter_late(ctx: &Context, _: ()) -> Result {
    ctx.join("chameleons")?;
    while ctx.room_size("gate") == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn open_gate(ctx: &Context, _: ()) -> Result {
    ctx.join("gate")
}

fn rooms(ctx: &Context, _: ()) -> Result<Vec<String>> {
    Ok(ctx.rooms())
}

fn recurse(depth: u64) -> u64 {
    let below = black_box([depth; 64]);
    if black_box(depth) == u64::MAX {
        below.iter().sum()
    } else {
        recurse(depth + 1) + below.len() as u64
    }
}

/// Misbehaves in the way that `how` names.
fn behave(ctx: &Context, how: String) -> Result<String> {
    match how.as_str() {
        "recurse" => return Ok(recurse(0).to_string()),
        "spin" => loop {
            black_box(0);
        },
        "grow" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(Vec::<u8>::with_capacity(8 << 20));
                black_box(&hoard);
            }
        }
        "flood" => loop {
            ctx.emit(Target::Sender, &NOISE, &"noise".to_owned())?;
        },
        "roar" => ctx.emit(Target::Sender, &NOISE, &"x".repeat(200 << 20))?,
        "shout" => ctx.emit(Target::Sender, &NOISE, &"x".repeat(16 << 20))?,
        "print" => {
            for _ in 0..2_000 {
                println!("{}", "x".repeat(100));
            }
        }
        "exit" => std::process::exit(7),
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "trap" => panic!("told so"),
        "hoard_keys" => {
            for key in 0.. {
                ctx.state().set(&format!("{key}"), &0)?;
            }
        }
        "huge_key" => ctx.state().set(&"k".repeat(600), &0)?,
        "huge_value" => ctx.state().set("k", &"x".repeat(300 << 10))?,
        "random" => {
            #[cfg(target_family = "wasm")]
            black_box(std::collections::hash_map::RandomState::new());
        }
        _ => {}
    }
    Ok(how)
}

/// Traps on every call after the tenth. The count is stored, because only stored state outlives an
/// instance.
fn ten_times(ctx: &Context, _: ()) -> Result<u64> {
    let times = ctx.state().next_id("times")?;
    if times > 10 { panic!("worn out") } else { Ok(times) }
}

fn two_keys(ctx: &Context, _: ()) -> Result {
    ctx.state().set("one", &1)?;
    ctx.state().set("two", &2)
}

fn setting(ctx: &Context, name: String) -> Result<Option<String>> {
    Ok(ctx.setting(&name))
}

fn failing(_: &Context, _: ()) -> Result {
    if mood("fails").is_some() { panic!("this version always fails") } else { Ok(()) }
}

fn odd(_: &Context, _: Odd) -> Result {
    Err(Refusal::new("odd", "never called"))
}

fn plugin() -> Plugin {
    match mood("register").as_deref() {
        Some("trap") => panic!("no plugin today"),
        Some("spin") => loop {
            black_box(0);
        },
        Some("grow") => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(Vec::<u8>::with_capacity(8 << 20));
                black_box(&hoard);
            }
        }
        Some("exit") => std::process::exit(0),
        _ => {}
    }
    let name = mood("name").unwrap_or_else(|| "chameleon".to_owned());
    let mut plugin = Plugin::new(name, format!("{}.0.0", version()), "Whatever a test makes of it");
    if mood("register").as_deref() == Some("many") {
        for event in 0..10_000 {
            plugin = plugin.on(format!("event_{event}"), which);
        }
        return plugin;
    }
    if let Some(event) = mood("claims") {
        return plugin.on(event, which);
    }
    let access = match mood("rooms").as_deref() {
        Some("closed") => Access::Authenticated,
        Some("handler") => Access::Handler,
        _ => Access::Anyone,
    };
    plugin = plugin
        .room("chameleons", access)
        .room("gate", Access::Anyone)
        .emits(NOISE)
        .on("which", which)
        .on("call", call)
        .on("slow", slow)
        .on("hold", hold)
        .on("enter", enter)
        .on("enter_late", enter_late)
        .on("open_gate", open_gate);
    plugin = plugin
        .on("count", echo)
        .on("rooms", rooms)
        .on("behave", behave)
        .on("ten_times", ten_times)
        .on("failing", failing)
        .on("setting", setting)
        .on("two_keys", two_keys);
    if mood("schema").is_some() { plugin.on("odd", odd) } else { plugin }
}

sockhop_sdk::export!(plugin);
