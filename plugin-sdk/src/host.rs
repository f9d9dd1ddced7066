//! The traits through which the SDK calls a host. There are two implementations: the component's
//! imports and the test host.
//!
//! The traits mirror `wit/v0.1` function by function, plus `wasi:config/store`, and add nothing.
//! [`crate::Context`] builds the convenient API on top of them.

#[cfg(not(target_family = "wasm"))]
use sockhop_core::ack::AckRequest;
#[cfg(not(target_family = "wasm"))]
use sockhop_core::arguments::Message;
#[cfg(not(target_family = "wasm"))]
use sockhop_core::delivery::Delivery;
use sockhop_core::effect::Target;
#[cfg(not(target_family = "wasm"))]
use sockhop_core::effect::Who;
#[cfg(not(target_family = "wasm"))]
use sockhop_core::outbound::{Request, Response};

#[cfg(not(target_family = "wasm"))]
use crate::connection::{Connection, MemberCount};
use crate::level::Level;
use crate::refusal::Result;
#[cfg(not(target_family = "wasm"))]
use crate::timer::FiredTimer;

/// A stored key with its value.
pub(crate) type Entry = (String, Vec<u8>);

/// The functions that a plugin can call while it registers. Public only for the host's own tests.
#[doc(hidden)]
pub trait Registry {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result;
    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result;
    fn requires(&self, event: &str, access: &str) -> Result;
    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result;
    fn room(&self, pattern: &str, access: &str) -> Result;
    fn listens(&self, event: &str) -> Result;
    /// This and the following functions are only for native hosts. On WebAssembly, those of
    /// `imports` are called directly: a plugin without routes, lists of arguments and timers then
    /// does not import them, and also runs on hosts before 0.1.1.
    #[cfg(not(target_family = "wasm"))]
    fn route(&self, method: &str, path: &str, event: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn handshake(&self) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn arguments(&self, of: Message, event: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn ack(&self, ack: &str, data: &str, is_list: bool) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn timer(&self, timer: &str, data: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn every(&self, timer: &str, cron: &str, zone: &str) -> Result;
}

/// The functions that a plugin can call while it handles an event: one trait for each interface.
pub(crate) trait Host:
    EmitterCalls
    + ReplyCalls
    + RoomCalls
    + MemberCalls
    + ConnectionCalls
    + IdentityCalls
    + SettingCalls
    + StateCalls
    + TimerCalls
    + HttpCalls
    + DeliverCalls
    + LogCalls
{
}

impl<T> Host for T where
    T: EmitterCalls
        + ReplyCalls
        + RoomCalls
        + MemberCalls
        + ConnectionCalls
        + IdentityCalls
        + SettingCalls
        + StateCalls
        + TimerCalls
        + HttpCalls
        + DeliverCalls
        + LogCalls
{
}

/// The interface `emitter`.
pub(crate) trait EmitterCalls {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result;
    /// This and the next function are only for the test host; see [`ConnectionCalls`].
    #[cfg(not(target_family = "wasm"))]
    fn emit_volatile(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>])
    -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn emit_with_ack(
        &self,
        event: &str,
        data: &str,
        attachments: &[Vec<u8>],
        ack: AckRequest,
    ) -> Result<String>;
}

/// The interface `replies`. Only for the test host; see [`ConnectionCalls`].
pub(crate) trait ReplyCalls {
    #[cfg(not(target_family = "wasm"))]
    fn attach(&self, bytes: &[u8]) -> Result<u32>;
}

/// The interface `rooms`.
pub(crate) trait RoomCalls {
    fn join(&self, room: &str) -> Result;
    fn leave(&self, room: &str) -> Result;
    fn room_size(&self, room: &str) -> u32;
    fn rooms(&self) -> Vec<String>;
}

/// The interface `members`. Only for the test host; see [`ConnectionCalls`].
pub(crate) trait MemberCalls {
    #[cfg(not(target_family = "wasm"))]
    fn join_member(&self, who: Who, room: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn remove_member(&self, who: Who, room: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn members(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<Connection>>;
    #[cfg(not(target_family = "wasm"))]
    fn member_ids(&self, room: &str, after: Option<&str>, limit: u32) -> Result<Vec<String>>;
    #[cfg(not(target_family = "wasm"))]
    fn member_count(&self, room: &str) -> Result<MemberCount>;
}

/// The interface `connections`. Only for the test host. On WebAssembly, its functions are called
/// directly: a plugin that does not use them then does not import them, and also runs on hosts
/// before 0.1.1.
pub(crate) trait ConnectionCalls {
    #[cfg(not(target_family = "wasm"))]
    fn connections(&self, after: Option<&str>, limit: u32) -> Result<Vec<Connection>>;
}

/// The interface `identity`.
pub(crate) trait IdentityCalls {
    fn has_role(&self, role: &str) -> bool;
    fn claims(&self) -> String;
    /// This and the next function are only for the test host; see [`ConnectionCalls`].
    #[cfg(not(target_family = "wasm"))]
    fn auth(&self) -> Result<String>;
    #[cfg(not(target_family = "wasm"))]
    fn query(&self) -> Result<Option<Vec<(String, String)>>>;
    fn sid(&self) -> String;
    fn event_id(&self) -> String;
    fn received_at(&self) -> u64;
    fn disconnect(&self, reason: &str);
}

/// WASI's interface `wasi:config/store`.
pub(crate) trait SettingCalls {
    fn setting(&self, name: &str) -> Option<String>;
    fn setting_names(&self) -> Vec<String>;
}

/// The interface `state`.
pub(crate) trait StateCalls {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>>;
    fn set(&self, key: &str, value: &[u8]) -> Result;
    fn delete(&self, key: &str) -> Result;
    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>>;
    fn next_id(&self, sequence: &str) -> Result<u64>;
}

/// The interface `timers`. Only for the test host; see [`ConnectionCalls`].
pub(crate) trait TimerCalls {
    #[cfg(not(target_family = "wasm"))]
    fn set_timer_after(&self, timer: &str, duration: u64, key: &str, data: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn set_timer_at(&self, timer: &str, time: u64, key: &str, data: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn cancel_timer(&self, timer: &str, key: &str) -> Result;
    #[cfg(not(target_family = "wasm"))]
    fn current_timer(&self) -> Option<FiredTimer>;
}

/// The interface `http`. Only for the test host; see [`ConnectionCalls`].
pub(crate) trait HttpCalls {
    #[cfg(not(target_family = "wasm"))]
    fn send(&self, request: Request) -> Result<Response>;
}

/// The interface `deliver`. Only for the test host; see [`ConnectionCalls`].
pub(crate) trait DeliverCalls {
    #[cfg(not(target_family = "wasm"))]
    fn deliver(&self, delivery: Delivery) -> Result<String>;
}

/// The interface `log`.
pub(crate) trait LogCalls {
    fn log(&self, level: Level, message: &str);
}
