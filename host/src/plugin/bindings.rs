//! Rust bindings that are generated from the WIT interface. Only modules of `plugin` convert them
//! from and to the host's own types.

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
    imports: {
        "sockhop:plugin/state.next-id": async,
        "sockhop:plugin/http.send": async | trappable,
    },
    // The event's strings are borrowed, not copied, when they are lowered into the guest.
    ownership: Borrowing { duplicate_if_necessary: true },
});
