//! The imports of the component: the generated bindings, and the SDK's own traits on top of them,
//! with one file for each WIT interface.
//!
//! Only these files and `bindings` use the generated types. They are compiled only for WebAssembly
//! targets.

mod connections;
pub(crate) mod deliver;
pub(crate) mod emitter;
pub(crate) mod http;
pub(crate) mod identity;
mod log;
pub(crate) mod members;
mod registry;
pub(crate) mod replies;
mod rooms;
mod settings;
mod state;
pub(crate) mod timers;
mod types;

pub(crate) use connections::connections;
pub(crate) use registry::{ack, arguments, every, handshake, route, timer};

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
mod config {
    wit_bindgen::generate!({ path: "wit", world: "settings", generate_all });
}

/// The host, called through the component's imports.
#[derive(Clone, Copy)]
pub(crate) struct Component;
