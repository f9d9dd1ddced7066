//! The exports of the component. `export!` names them and the generated bindings by their paths in
//! this module.
//!
//! Only this file and `imports` use the generated types. Both are compiled only for WebAssembly
//! targets.

use std::io::Write;

use crate::event::{Caller, Event};
use crate::imports::Component;
use crate::imports::generated::sockhop::plugin::types;
use crate::plugin::Plugin;

pub use crate::imports::generated;

/// Implements the export `register` for `export!`.
pub fn register(plugin: &Plugin) -> Result<(), types::Refusal> {
    let registered = plugin.register_under(&Component, &Component).map_err(Into::into);
    flush();
    registered
}

/// Implements the export `handle` for `export!`.
pub fn handle(plugin: &Plugin, event: types::Event) -> Result<Option<String>, types::Refusal> {
    let types::Event { name, data, attachments, caller } = event;
    let caller = caller.map(|types::Caller { connection, user, namespace }| Caller {
        connection,
        user,
        namespace,
    });
    let event = Event { name, data, attachments, caller };
    let handled = plugin.handle(event, Box::new(Component)).map_err(Into::into);
    flush();
    handled
}

/// Prints an unfinished line at the end of a call. Rust keeps it in the instance otherwise, and
/// prints it during a later call.
fn flush() {
    let _ = std::io::stdout().flush();
}
