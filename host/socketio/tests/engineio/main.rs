//! Engine.IO over real TCP connections, with a client that sends exactly the bytes of a test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod bounds;
mod ending;
mod pressure;
mod raw;
mod requests;
mod server;
mod storm;
mod upgrades;
mod websockets;
