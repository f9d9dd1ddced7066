//! What plugins that keep their users' records share: who may touch a record ([`must_own`]), where it is kept ([`Records`]), who hears of
//! it ([`audience`]), and the types that their payloads have in common.
//!
//! It decides nothing about an event: which records there are, what changes them and what is emitted stays in the plugins' handlers.

mod change;
mod list;
mod user;

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sockhop_sdk::{Context, Refusal, Result, Target};

pub use change::Change;
pub use list::{List, Page};
pub use user::UserId;

/// Who may touch everybody's records.
const ADMIN: &str = "admin";

/// A stored record: it has an id and an owner.
pub trait Record: Serialize + DeserializeOwned {
    /// Its id, unique per plugin and growing.
    fn id(&self) -> u64;

    /// Its owner.
    fn user_id(&self) -> &UserId;
}

/// Checks that the caller may touch records of `user`: an authenticated one only its own, unless it is an admin. An anonymous caller may,
/// because a host that lets anonymous clients in has nobody to tell apart.
///
/// # Errors
/// `forbidden`.
pub fn must_own(ctx: &Context, user: &UserId) -> Result {
    match limited_to(ctx) {
        Some(caller) if !user.is(caller) => Err(Refusal::forbidden("these records belong to another user")),
        _ => Ok(()),
    }
}

/// The only user whose records the caller may touch; none where there is no such limit.
fn limited_to(ctx: &Context) -> Option<&str> {
    ctx.user().filter(|_| !ctx.has_role(ADMIN))
}

/// Whoever listens to all records (`room`) or to those of `user`; a connection that does both hears once.
pub fn audience(room: &str, user: &UserId) -> Target {
    Target::Rooms(vec![room.to_owned(), format!("user_{user}")])
}

/// The records of one plugin, kept under `record/ID`, with an index `user/USER/ID`.
///
/// Ids in keys have leading zeros, so that the order of keys is that of ids. Both kinds of key are written together, and the host applies
/// both or none.
#[derive(Debug)]
pub struct Records<R> {
    kind: &'static str,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Records<R> {
    /// The records called `kind`, such as `memory log`, in messages.
    #[must_use]
    pub const fn new(kind: &'static str) -> Self {
        Self { kind, record: PhantomData }
    }

    /// The id of the next record.
    ///
    /// # Errors
    /// None that the caller could mend.
    pub fn next_id(&self, ctx: &Context) -> Result<u64> {
        ctx.state().next_id("record")
    }

    /// The record with this id, which must be one that the caller may touch.
    ///
    /// # Errors
    /// `not_found`, `forbidden`.
    pub fn owned(&self, ctx: &Context, id: u64) -> Result<R> {
        let record: R = match ctx.state().get(&key(id))? {
            Some(record) => record,
            None => return Err(Refusal::not_found(format!("there is no {} {id}", self.kind))),
        };
        must_own(ctx, record.user_id())?;
        Ok(record)
    }

    /// Stores a new or changed record; its owner never changes.
    ///
    /// # Errors
    /// `limit`: the plugin's state is full.
    pub fn store(&self, ctx: &Context, record: &R) -> Result {
        ctx.state().set(&key(record.id()), record)?;
        ctx.state().set(&record.user_id().key(record.id()), &())
    }

    /// Removes a record.
    ///
    /// # Errors
    /// None that the caller could mend.
    pub fn remove(&self, ctx: &Context, record: &R) -> Result {
        ctx.state().delete(&key(record.id()))?;
        ctx.state().delete(&record.user_id().key(record.id()))
    }
}

/// What all records' keys begin with.
const RECORDS: &str = "record/";

/// Where the record with this id is kept. Ids are below 2^53, which has 16 digits.
fn key(id: u64) -> String {
    format!("{RECORDS}{id:016}")
}
