//! The WIT interface as Rust: generated, and turned into the host's own words here and nowhere else.

#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]

wasmtime::component::bindgen!({
    path: "../wit/v0.1",
    world: "plugin",
    exports: { default: async },
    imports: { "sockhop:plugin/state.next-id": async },
    // An event's texts are lowered from where they are.
    ownership: Borrowing { duplicate_if_necessary: true },
});
