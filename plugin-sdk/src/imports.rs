//! The imports of the component: the generated bindings, and [`Host`] and [`Registry`] on top of
//! them.
//!
//! Only this file and `bindings` use the generated types. Both are compiled only for WebAssembly
//! targets.

use sockhop_core::effect::Target;

use crate::connection::Connection;
use crate::host::{Entry, Host, Registry};
use crate::level::Level;
use crate::refusal::{Refusal, Result};

/// Generated from `wit/v0.1`, once for all plugins, so that a plugin needs no interface files.
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::missing_errors_doc,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code: it crosses the component's boundary, and its documentation is the \
              interface's"
)]
pub mod generated {
    wit_bindgen::generate!({
        path: "../wit/v0.1",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "__export_component",
        default_bindings_module: "sockhop_sdk::bindings::generated",
    });
}

/// Generated from WASI's own interface, separately: a plugin that reads no settings does not import
/// it.
#[allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    dead_code,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code: it crosses the component's boundary, and its documentation is the \
              interface's"
)]
mod settings {
    wit_bindgen::generate!({ path: "wit", world: "settings", generate_all });
}

use generated::sockhop::plugin::{
    connections, emitter, identity, log, registry, rooms, state, types,
};

/// Calls the import `connections.scan`.
pub(crate) fn connections(after: Option<&str>, limit: u32) -> Result<Vec<Connection>> {
    let connections = connections::scan(after, limit)?;
    let connection =
        |connections::Connection { id, user, namespace }| Connection { id, user, namespace };
    Ok(connections.into_iter().map(connection).collect())
}

/// The host, called through the component's imports.
#[derive(Clone, Copy)]
pub(crate) struct Component;

impl Registry for Component {
    fn plugin(&self, name: &str, version: &str, description: &str) -> Result {
        Ok(registry::plugin(name, version, description)?)
    }

    fn handles(&self, event: &str, data: &str, reply: Option<&str>) -> Result {
        Ok(registry::handles(event, data, reply)?)
    }

    fn requires(&self, event: &str, access: &str) -> Result {
        Ok(registry::requires(event, access)?)
    }

    fn emits(&self, event: &str, data: &str, rooms: &[String]) -> Result {
        Ok(registry::emits(event, data, rooms)?)
    }

    fn room(&self, pattern: &str, access: &str) -> Result {
        Ok(registry::room(pattern, access)?)
    }

    fn listens(&self, event: &str) -> Result {
        Ok(registry::listens(event)?)
    }
}

impl Host for Component {
    fn emit(&self, to: Target, event: &str, data: &str, attachments: &[Vec<u8>]) -> Result {
        let to = to.into();
        Ok(match attachments {
            [] => emitter::emit(&to, event, data)?,
            some => emitter::emit_binary(&to, event, data, some)?,
        })
    }

    fn join(&self, room: &str) -> Result {
        Ok(rooms::join(room)?)
    }

    fn leave(&self, room: &str) -> Result {
        Ok(rooms::leave(room)?)
    }

    fn room_size(&self, room: &str) -> u32 {
        rooms::room_size(room)
    }

    fn rooms(&self) -> Vec<String> {
        rooms::rooms()
    }

    fn has_role(&self, role: &str) -> bool {
        identity::has_role(role)
    }

    fn claims(&self) -> String {
        identity::claims()
    }

    fn sid(&self) -> String {
        identity::sid()
    }

    fn event_id(&self) -> String {
        identity::event_id()
    }

    fn received_at(&self) -> u64 {
        identity::received_at()
    }

    fn disconnect(&self, reason: &str) {
        identity::disconnect(reason);
    }

    fn setting(&self, name: &str) -> Option<String> {
        settings::wasi::config::store::get(name).ok().flatten()
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(state::get(key)?)
    }

    fn set(&self, key: &str, value: &[u8]) -> Result {
        Ok(state::set(key, value)?)
    }

    fn delete(&self, key: &str) -> Result {
        Ok(state::delete(key)?)
    }

    fn scan(
        &self,
        prefix: &str,
        cursor: Option<&str>,
        backwards: bool,
        limit: u32,
    ) -> Result<Vec<Entry>> {
        let entries = state::scan(prefix, cursor, backwards, limit)?;
        Ok(entries.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    fn next_id(&self, sequence: &str) -> Result<u64> {
        Ok(state::next_id(sequence)?)
    }

    fn log(&self, level: Level, message: &str) {
        log::write(level.into(), message);
    }
}

impl From<types::Refusal> for Refusal {
    fn from(types::Refusal { code, message }: types::Refusal) -> Self {
        Self { code, message }
    }
}

impl From<Target> for types::Target {
    fn from(target: Target) -> Self {
        match target {
            Target::Sender => Self::Sender,
            Target::Connection(id) => Self::Connection(id),
            Target::Rooms(rooms) => Self::Rooms(rooms),
            Target::RoomsButSender(rooms) => Self::RoomsButSender(rooms),
            Target::Everyone => Self::Everyone,
        }
    }
}

impl From<Level> for log::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error => Self::Error,
        }
    }
}
