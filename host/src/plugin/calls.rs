//! The functions that a plugin imports from the host: one file for each WIT interface. Each
//! function converts its arguments and calls [`HostCalls`](crate::effect::HostCalls), or the
//! declarations of `register`. It knows no rules.

mod connections;
mod deliver;
mod emitter;
mod http;
mod identity;
mod log;
mod members;
mod registry;
mod replies;
mod rooms;
mod state;
mod timers;
mod types;

use super::bindings::sockhop::plugin::types::Refusal;

pub(super) use types::lowered;

/// Result of a host call that can be refused.
type CallResult<T> = Result<T, Refusal>;
