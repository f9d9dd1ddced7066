//! The events by which a version prepares and checks the state of others: `$load` and `$check`.

use serde_json::{Value, json};
use sockhop_core::load::{Stall, Step, read_reply};
use sockhop_core::name::host_event;
use sockhop_core::state_check;

use super::{CheckReply, Outcome, TestHost};
use crate::refusal::{Refusal, Result};

/// Maximum number of calls in one [`load`](TestHost::load).
const LOADS: usize = 100_000;

impl TestHost {
    /// Sends `$load`, which has no caller, until its handler has finished or a call has failed, as
    /// a host does for a version that it has not seen. Returns the outcome of each call: the reply
    /// of the last one is `null` if the handler has finished. The effects of a call that fails are
    /// dropped, and those of the calls before stay. After 1,000 calls in a row without a greater
    /// `done`, the last outcome is a refusal that says so. Empty if the plugin has no such handler.
    ///
    /// # Panics
    /// If the handler has not finished after 100,000 calls.
    pub fn load(&mut self) -> Vec<Outcome> {
        let (mut calls, mut stall) = (Vec::new(), Stall::default());
        if !self.declared.listens_to(host_event::LOAD) {
            return calls;
        }
        loop {
            assert!(calls.len() < LOADS, "`$load` has not finished after {LOADS} calls");
            let outcome = self.host_event(host_event::LOAD, Value::Null, None);
            let reply = outcome.reply.as_ref().ok().map(Value::to_string);
            let progress = reply.and_then(|reply| read_reply(Some(&reply), 0).ok().flatten());
            calls.push(outcome);
            match progress.map(|progress| stall.take(progress)) {
                None => return calls,
                Some(Step::Forward | Step::Still) => {}
                Some(Step::Stuck(reason)) => {
                    calls.push(Outcome::refused("plugin_failed", reason));
                    return calls;
                }
            }
        }
    }

    /// Sends `$check` until its handler has tried all of the state, as `sockhop check --state`
    /// does, and returns what it has found in all. Nothing if the plugin has no such handler.
    ///
    /// # Errors
    /// The handler has refused, its reply is invalid, `next` has come before, or 1,000 calls in a
    /// row have tried no entry.
    pub fn check(&mut self) -> Result<CheckReply> {
        let (mut found, mut cursors) = (CheckReply::default(), state_check::Cursors::default());
        if !self.declared.listens_to(host_event::CHECK) {
            return Ok(found);
        }
        loop {
            let cursor = found.next.take();
            let outcome = self.host_event(host_event::CHECK, json!({"cursor": cursor}), None);
            let reply = outcome.reply?.to_string();
            let CheckReply { checked, unreadable, examples, next } =
                state_check::read_reply(Some(&reply), 0).map_err(invalid_reply)?;
            found.checked += checked;
            found.unreadable += unreadable;
            found.examples.extend(examples);
            found.examples.truncate(state_check::MAX_EXAMPLES);
            found.next = next;
            let Some(next) = &found.next else { return Ok(found) };
            cursors.take(checked, next).map_err(invalid_reply)?;
        }
    }
}

/// Whether the host reads the reply to this event.
pub(super) fn is_about_state(event: &str) -> bool {
    event == host_event::LOAD || event == host_event::CHECK
}

/// Reads the reply to `$load` or `$check`. Returns its value.
///
/// # Errors
/// `plugin_failed`: it is invalid.
pub(super) fn read(event: &str, reply: Option<&str>, attachments: usize) -> Result<Value> {
    if event == host_event::LOAD {
        read_reply(reply, attachments).map_err(invalid_reply)?;
    } else {
        state_check::read_reply(reply, attachments).map_err(invalid_reply)?;
    }
    let value = reply.and_then(|reply| serde_json::from_str(reply).ok());
    Ok(value.unwrap_or_default())
}

fn invalid_reply(reason: String) -> Refusal {
    Refusal::new("plugin_failed", reason)
}
