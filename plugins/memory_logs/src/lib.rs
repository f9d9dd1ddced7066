//! Memory logs: short texts of a user. They are stored, listed, and broadcast to the subscribers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_records::{List, Page, Record, Records, UserId, audience, must_own};
use sockhop_sdk::Route::{Delete, Get, Patch, Post};
use sockhop_sdk::{Access, Context, Emits, Plugin, Result};

/// A memory log, as it is stored, returned and broadcast.
#[derive(Serialize, Deserialize, JsonSchema)]
struct MemoryLog {
    id: u64,
    user_id: UserId,
    content: String,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// Absent before the first update.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    updated_at: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct Create {
    user_id: UserId,
    #[schemars(length(min = 1, max = 10_000))]
    content: String,
}

#[derive(Deserialize, JsonSchema)]
struct Update {
    id: u64,
    #[schemars(length(min = 1, max = 10_000))]
    content: String,
}

/// Selects one record.
#[derive(Deserialize, JsonSchema)]
struct ById {
    id: u64,
}

#[derive(Serialize, JsonSchema)]
struct Deleted {
    id: u64,
}

/// The room for the logs of all users. The logs of a user also go to the user's own room.
const ROOM: &str = "memory_logs";
const ROOMS: &[&str] = &[ROOM, "user_{user_id}"];

const CREATED: Emits<MemoryLog> = Emits::new("memory_log_created").to(ROOMS);
const UPDATED: Emits<MemoryLog> = Emits::new("memory_log_updated").to(ROOMS);
const DELETED: Emits<Deleted> = Emits::new("memory_log_deleted").to(ROOMS);

const LOGS: Records<MemoryLog> = Records::new("memory log");

fn plugin() -> Plugin {
    Plugin::new(
        "memory_logs",
        env!("CARGO_PKG_VERSION"),
        "Memory logs: stored, listed and broadcast",
    )
    .room(ROOM, Access::Anyone)
    .on("memory_log_create", create)
    .route(Post("/memory-logs"), "memory_log_create")
    .emits(CREATED)
    .on("memory_log_get", get)
    .route(Get("/memory-logs/{id}"), "memory_log_get")
    .on("memory_log_update", update)
    .route(Patch("/memory-logs/{id}"), "memory_log_update")
    .emits(UPDATED)
    .on("memory_log_delete", delete)
    .route(Delete("/memory-logs/{id}"), "memory_log_delete")
    .emits(DELETED)
    .on("memory_log_list", list)
    .route(Get("/memory-logs"), "memory_log_list")
}

sockhop_sdk::export!(plugin);

fn create(ctx: &Context, Create { user_id, content }: Create) -> Result<MemoryLog> {
    must_own(ctx, &user_id)?;
    let log = MemoryLog {
        id: LOGS.next_id(ctx)?,
        user_id,
        content,
        created_at: ctx.now(),
        updated_at: None,
    };
    LOGS.store(ctx, &log)?;
    ctx.emit(audience(ROOM, &log.user_id), &CREATED, &log)?;
    Ok(log)
}

fn get(ctx: &Context, ById { id }: ById) -> Result<MemoryLog> {
    LOGS.owned(ctx, id)
}

fn update(ctx: &Context, Update { id, content }: Update) -> Result<MemoryLog> {
    let log = MemoryLog { content, updated_at: Some(ctx.now()), ..LOGS.owned(ctx, id)? };
    LOGS.store(ctx, &log)?;
    ctx.emit(audience(ROOM, &log.user_id), &UPDATED, &log)?;
    Ok(log)
}

fn delete(ctx: &Context, ById { id }: ById) -> Result<Deleted> {
    let log = LOGS.owned(ctx, id)?;
    LOGS.remove(ctx, &log)?;
    let deleted = Deleted { id };
    ctx.emit(audience(ROOM, &log.user_id), &DELETED, &deleted)?;
    Ok(deleted)
}

fn list(ctx: &Context, list: List) -> Result<Page<MemoryLog>> {
    LOGS.list(ctx, list)
}

impl Record for MemoryLog {
    fn id(&self) -> u64 {
        self.id
    }

    fn user_id(&self) -> &UserId {
        &self.user_id
    }
}

#[cfg(test)]
mod tests;
