//! What the SDK needs of a host: one seam with two sides, the component's imports and the test host.
//!
//! Mirrors `wit/v0.1` function by function, with `wasi:config/store` beside it, and adds nothing; whatever is convenient is built on top, in [`crate::Context`].

use crate::context::{Level, Target};
use crate::refusal::Result;

/// A stored key with its value.
pub(crate) type Entry = (String, Vec<u8>);

/// What a plugin may call while it registers.
pub(crate) trait Registry {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result;
    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result;
    fn requires(&self, event: &str, access: &str) -> Result;
    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result;
    fn room(&self, pattern: &str, access: &str) -> Result;
    fn listens(&self, event: &str) -> Result;
}

/// What a plugin may call while it handles an event.
pub(crate) trait Host {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result;
    fn join(&self, room: &str) -> Result;
    fn leave(&self, room: &str) -> Result;
    fn count(&self, room: &str) -> u32;
    fn mine(&self) -> Vec<String>;
    /// Here for the test host alone: `bindings::connections` is called by name, so that a plugin which does not
    /// use it does not import it, and runs on hosts before 0.1.1 too.
    #[cfg(not(target_family = "wasm"))]
    fn connections(&self, after: Option<&str>, limit: u32) -> Result<Vec<crate::Connection>>;
    fn has_role(&self, role: &str) -> bool;
    fn claims(&self) -> String;
    fn sid(&self) -> String;
    fn event_id(&self) -> String;
    fn received_at(&self) -> u64;
    fn disconnect(&self, reason: &str);
    fn setting(&self, name: &str) -> Option<String>;
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    fn set(&self, key: &str, value: &[u8]) -> Result;
    fn delete(&self, key: &str) -> Result;
    fn scan(&self, prefix: &str, cursor: Option<&str>, backwards: bool, limit: u32) -> Result<Vec<Entry>>;
    fn next_id(&self, sequence: &str) -> Result<u64>;
    fn log(&self, level: Level, message: &str);
}
