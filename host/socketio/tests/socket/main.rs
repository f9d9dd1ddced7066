//! Socket.IO over real TCP connections, with raw packets and with stock clients.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod acks;
mod attachments;
mod bounds;
mod ending;
mod logging;
mod malformed;
mod namespaces;
mod polling;
mod proxy;
mod raw;
mod recovery;
mod server;
mod stock;
