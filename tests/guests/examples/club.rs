//! Decides who is in its rooms: joins, removes and lists others.

#![allow(missing_docs, reason = "nobody reads it")]

use schemars::JsonSchema;
use serde::Deserialize;
use sockhop_sdk::{Access, Context, Emits, MemberCount, Plugin, Result, Target, Who};

const NEWS: Emits<String> = Emits::new("news").to(&["club_{name}", "staff"]);

#[derive(Deserialize, JsonSchema)]
struct Others {
    room: String,
    user: Option<String>,
    connection: Option<String>,
}

impl Others {
    fn who(&self) -> Who {
        match &self.user {
            Some(user) => Who::User(user.clone()),
            None => Who::Connection(self.connection.clone().unwrap_or_default()),
        }
    }
}

/// Joins them, and tells the room.
fn invite(ctx: &Context, others: Others) -> Result {
    ctx.join_others(others.who(), &others.room)?;
    ctx.emit(Target::room(others.room.as_str()), &NEWS, &"joined".to_owned())
}

fn expel(ctx: &Context, others: Others) -> Result {
    ctx.remove_others(others.who(), &others.room)
}

fn who(ctx: &Context, room: String) -> Result<Vec<(String, Option<String>)>> {
    let members = ctx.members(&room, None, 1_000)?;
    Ok(members.into_iter().map(|member| (member.id, member.user)).collect())
}

/// The ids in any room: the first `limit` after `after`.
fn ids(ctx: &Context, (room, after, limit): (String, Option<String>, u32)) -> Result<Vec<String>> {
    ctx.member_ids(&room, after.as_deref(), limit)
}

/// The number of connections and of users in any room.
fn count(ctx: &Context, room: String) -> Result<(u32, u32)> {
    let MemberCount { connections, users } = ctx.member_count(&room)?;
    Ok((connections, users))
}

/// The id of the caller's own connection.
fn own_id(ctx: &Context, _: ()) -> Result<Option<String>> {
    Ok(ctx.connection().map(str::to_owned))
}

fn plugin() -> Plugin {
    Plugin::new("club", "1.0.0", "Decides who is in its rooms")
        .room("club_{name}", Access::Handler)
        .room("staff", Access::Role("staff"))
        .on("invite", invite)
        .on("expel", expel)
        .on("who", who)
        .on("ids", ids)
        .on("count", count)
        .on("own_id", own_id)
        .emits(NEWS)
}

sockhop_sdk::export!(plugin);
