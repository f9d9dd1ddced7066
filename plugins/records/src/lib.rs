//! Shared code of the plugins that store records of users: who can access a record ([`must_own`]),
//! where it is stored ([`Records`]), who is notified of it ([`audience`]), and the common types of
//! their payloads.
//!
//! This library decides nothing about events: the handlers of the plugins define the records, how
//! they change, and what is emitted.

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

/// The role that can access the records of all users.
const ADMIN: &str = "admin";

/// A stored record. It has an id and an owner.
pub trait Record: Serialize + DeserializeOwned {
    /// The record's id. Ids are unique per plugin and increase.
    fn id(&self) -> u64;

    /// The record's owner.
    fn user_id(&self) -> &UserId;
}

/// Checks that the caller can access the records of `user`. An authenticated caller can access only
/// its own records, unless it is an admin. An anonymous caller can access all records: a host that
/// accepts anonymous clients can't tell their users apart.
///
/// # Errors
/// `forbidden`: the records belong to another user.
pub fn must_own(ctx: &Context, user: &UserId) -> Result {
    match limited_to(ctx) {
        Some(caller) if !user.is(caller) => {
            Err(Refusal::forbidden("these records belong to another user"))
        }
        _ => Ok(()),
    }
}

/// Returns the only user whose records the caller can access, or `None` if there is no such limit.
fn limited_to(ctx: &Context) -> Option<&str> {
    ctx.user().filter(|_| !ctx.has_role(ADMIN))
}

/// Returns the connections that listen to all records (`room`) or to the records of `user`. A
/// connection in both rooms receives an event once.
pub fn audience(room: &str, user: &UserId) -> Target {
    Target::Rooms(vec![room.to_owned(), format!("user_{user}")])
}

/// The records of one plugin, stored under `record/ID`, with an index under `user/LENGTH:USER/ID`.
///
/// The ids in keys have leading zeros, so that the order of the keys is the order of the ids. A
/// record and its index entry are written together, and the host applies both or neither.
#[derive(Debug)]
pub struct Records<R> {
    kind: &'static str,
    record: PhantomData<fn() -> R>,
}

impl<R: Record> Records<R> {
    /// `kind` is the name of the records in error messages, such as `memory log`.
    #[must_use]
    pub const fn new(kind: &'static str) -> Self {
        Self { kind, record: PhantomData }
    }

    /// Returns the id of the next record.
    ///
    /// # Errors
    /// Only errors of the state, which the caller can't correct.
    pub fn next_id(&self, ctx: &Context) -> Result<u64> {
        ctx.state().next_id("record")
    }

    /// Returns the record with this id. The caller must have access to it.
    ///
    /// # Errors
    /// `not_found`: there is no such record. `forbidden`: it belongs to another user.
    pub fn owned(&self, ctx: &Context, id: u64) -> Result<R> {
        let record: R = match ctx.state().get(&key(id))? {
            Some(record) => record,
            None => return Err(Refusal::not_found(format!("there is no {} {id}", self.kind))),
        };
        must_own(ctx, record.user_id())?;
        Ok(record)
    }

    /// Stores a new or changed record. The owner of a record must not change.
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
    /// Only errors of the state, which the caller can't correct.
    pub fn remove(&self, ctx: &Context, record: &R) -> Result {
        ctx.state().delete(&key(record.id()))?;
        ctx.state().delete(&record.user_id().key(record.id()))
    }
}

/// The prefix of the keys of all records.
const RECORDS: &str = "record/";

/// Returns the key of the record with this id. Ids are below 2^53, which has 16 digits.
fn key(id: u64) -> String {
    format!("{RECORDS}{id:016}")
}
