//! The interface `members`. Its functions are called directly; see `host.rs`.

use sockhop_core::effect::Who;

use crate::connection::{Connection, MemberCount};
use crate::host::MemberCalls;
use crate::refusal::Result;

use super::Component;
use super::connections::lifted;
use super::generated::sockhop::plugin::members;

impl MemberCalls for Component {}

/// Calls the import `members.join`.
pub(crate) fn join(who: Who, room: &str) -> Result {
    Ok(members::join(&who.into(), room)?)
}

/// Calls the import `members.remove`.
pub(crate) fn remove(who: Who, room: &str) -> Result {
    Ok(members::remove(&who.into(), room)?)
}

/// Calls the import `members.scan`.
pub(crate) fn scan(room: &str, after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
    Ok(members::scan(room, after, limit)?.into_iter().map(lifted).collect())
}

/// Calls the import `members.ids`.
pub(crate) fn ids(room: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>> {
    Ok(members::ids(room, after, limit)?)
}

/// Calls the import `members.count`.
pub(crate) fn count(room: &str) -> Result<MemberCount> {
    let members::Totals { connections, users } = members::count(room)?;
    Ok(MemberCount { connections, users })
}

impl From<Who> for members::Who {
    fn from(who: Who) -> Self {
        match who {
            Who::Connection(id) => Self::Connection(id),
            Who::User(user) => Self::User(user),
        }
    }
}
