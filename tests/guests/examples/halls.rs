//! Records which of its rooms are occupied, by what the host reports.

#![allow(clippy::panic, missing_docs, reason = "misbehaving is a part of what it is for")]

use sockhop_sdk::{Access, Context, Emits, Plugin, Result, Scan, Target};

/// What happened to a room, to its members.
const HALL: Emits<String> = Emits::new("hall").to(&["hall_{name}"]);

fn occupied(ctx: &Context, room: &str) -> Result {
    note(ctx, format!("+{room}"))?;
    ctx.state().set(&key(ctx, room)?, &())?;
    ctx.emit(Target::room(room), &HALL, &format!("+{room}"))
}

fn vacated(ctx: &Context, room: &str) -> Result {
    note(ctx, format!("-{room}"))?;
    ctx.state().delete(&key(ctx, room)?)
}

/// The key of an occupied room. What was believed before the last `forget` has another epoch.
fn key(ctx: &Context, room: &str) -> Result<String> {
    Ok(format!("{}{}|{room}", prefix(ctx)?, ctx.namespace().unwrap_or_default()))
}

fn prefix(ctx: &Context) -> Result<String> {
    Ok(format!("in/{:08}/", ctx.state().get::<u64>("epoch")?.unwrap_or_default()))
}

/// Adds a line to what was reported. Ids are never taken twice, so lines don't conflict.
fn note(ctx: &Context, line: String) -> Result {
    let id = ctx.state().next_id("told")?;
    ctx.state().set(&format!("told/{id:016}"), &line)
}

fn told(ctx: &Context, _: ()) -> Result<Vec<String>> {
    let told = ctx.state().scan::<String>(Scan::prefix("told/").limit(1_000))?;
    Ok(told.into_iter().map(|(_, line)| line).collect())
}

/// The rooms that it believes to be occupied.
fn believed(ctx: &Context, _: ()) -> Result<Vec<String>> {
    let rooms = ctx.state().scan_bytes(Scan::prefix(&prefix(ctx)?).limit(1_000))?;
    let name = |key: &str| key.rsplit_once('|').map(|(_, room)| room.to_owned());
    Ok(rooms.iter().filter_map(|(key, _)| name(key)).collect())
}

fn forget(ctx: &Context) -> Result {
    note(ctx, "=".to_owned())?;
    let epoch = ctx.state().get::<u64>("epoch")?.unwrap_or_default();
    ctx.state().set("epoch", &(epoch + 1))
}

fn plugin() -> Plugin {
    Plugin::new("halls", "1.0.0", "Writes down which halls are occupied")
        .room("hall_{name}", Access::Anyone)
        .emits(HALL)
        .on_room_occupied(occupied)
        .on_room_vacated(vacated)
        .on_start(forget)
        .on_resync(forget)
        .on("hall_told", told)
        .on("halls", believed)
        .on("hall_enter", |ctx: &Context, room: String| ctx.join(&room))
        .on("hall_leave", |ctx: &Context, room: String| ctx.leave(&room))
        .on("hall_count", |ctx: &Context, room: String| Ok(ctx.member_count(&room)?.connections))
        .on("hall_trap", |_: &Context, (): ()| -> Result { panic!("told so") })
}

sockhop_sdk::export!(plugin);
