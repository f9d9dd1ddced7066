//! Mental notes: texts of a user with title and tags. They are stored, listed, and broadcast to the
//! subscribers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sockhop_records::{Change, List, Page, Record, Records, UserId, audience, must_own};
use sockhop_sdk::Route::{Delete, Get, Patch, Post};
use sockhop_sdk::{Access, Context, Emits, Plugin, Result};

/// A mental note, as it is stored, returned and broadcast.
#[derive(Serialize, Deserialize, JsonSchema)]
struct MentalNote {
    id: u64,
    user_id: UserId,
    /// Absent if the note has no title.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    content: String,
    /// Absent if the note has no tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<Vec<String>>,
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
    #[schemars(length(max = 200))]
    title: Option<String>,
    #[schemars(length(min = 1, max = 10_000))]
    content: String,
    #[schemars(length(max = 20))]
    tags: Option<Vec<String>>,
}

/// An absent field keeps its value. `null` clears title and tags. The content can't be cleared.
#[derive(Deserialize, JsonSchema)]
struct Update {
    id: u64,
    #[serde(default)]
    #[schemars(length(max = 200))]
    title: Change<String>,
    #[schemars(length(min = 1, max = 10_000), extend("type" = "string"))]
    content: Option<String>,
    #[serde(default)]
    #[schemars(length(max = 20))]
    tags: Change<Vec<String>>,
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

/// The room for the notes of all users. The notes of a user also go to the user's own room.
const ROOM: &str = "mental_notes";
const ROOMS: &[&str] = &[ROOM, "user_{user_id}"];

const CREATED: Emits<MentalNote> = Emits::new("mental_note_created").to(ROOMS);
const UPDATED: Emits<MentalNote> = Emits::new("mental_note_updated").to(ROOMS);
const DELETED: Emits<Deleted> = Emits::new("mental_note_deleted").to(ROOMS);

const NOTES: Records<MentalNote> = Records::new("mental note");

fn plugin() -> Plugin {
    Plugin::new(
        "mental_notes",
        env!("CARGO_PKG_VERSION"),
        "Mental notes: stored, listed and broadcast",
    )
    .room(ROOM, Access::Anyone)
    .on("mental_note_create", create)
    .route(Post("/mental-notes"), "mental_note_create")
    .emits(CREATED)
    .on("mental_note_get", get)
    .route(Get("/mental-notes/{id}"), "mental_note_get")
    .on("mental_note_update", update)
    .route(Patch("/mental-notes/{id}"), "mental_note_update")
    .emits(UPDATED)
    .on("mental_note_delete", delete)
    .route(Delete("/mental-notes/{id}"), "mental_note_delete")
    .emits(DELETED)
    .on("mental_note_list", list)
    .route(Get("/mental-notes"), "mental_note_list")
}

sockhop_sdk::export!(plugin);

fn create(ctx: &Context, Create { user_id, title, content, tags }: Create) -> Result<MentalNote> {
    must_own(ctx, &user_id)?;
    let id = NOTES.next_id(ctx)?;
    let note =
        MentalNote { id, user_id, title, content, tags, created_at: ctx.now(), updated_at: None };
    NOTES.store(ctx, &note)?;
    ctx.emit(audience(ROOM, &note.user_id), &CREATED, &note)?;
    Ok(note)
}

fn get(ctx: &Context, ById { id }: ById) -> Result<MentalNote> {
    NOTES.owned(ctx, id)
}

fn update(ctx: &Context, Update { id, title, content, tags }: Update) -> Result<MentalNote> {
    let mut note = NOTES.owned(ctx, id)?;
    title.apply(&mut note.title);
    note.content = content.unwrap_or(note.content);
    tags.apply(&mut note.tags);
    note.updated_at = Some(ctx.now());
    NOTES.store(ctx, &note)?;
    ctx.emit(audience(ROOM, &note.user_id), &UPDATED, &note)?;
    Ok(note)
}

fn delete(ctx: &Context, ById { id }: ById) -> Result<Deleted> {
    let note = NOTES.owned(ctx, id)?;
    NOTES.remove(ctx, &note)?;
    let deleted = Deleted { id };
    ctx.emit(audience(ROOM, &note.user_id), &DELETED, &deleted)?;
    Ok(deleted)
}

fn list(ctx: &Context, list: List) -> Result<Page<MentalNote>> {
    NOTES.list(ctx, list)
}

impl Record for MentalNote {
    fn id(&self) -> u64 {
        self.id
    }

    fn user_id(&self) -> &UserId {
        &self.user_id
    }
}

#[cfg(test)]
mod tests;
