//! Engine.IO v4: sessions over polling and WebSocket connections, with upgrade and heartbeat.
//!
//! It knows nothing of Socket.IO: a [`Protocol`] receives the messages of one session, and a
//! [`Service`] makes a protocol for each new session. Everything that waits or is unfinished is
//! bounded in bytes by [`Config`].
mod body;
mod buffer;
mod config;
mod engine;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod heartbeat;
mod http;
mod incoming;
mod memory;
#[cfg(test)]
mod model;
mod outgoing;
mod packet;
mod polling;
mod session;
mod sessions;
mod sid;
mod stream;
mod upgrade;
mod websocket;

pub use body::Body;
pub use config::{Config, Transports};
pub use engine::{Batch, Engine, Protocol, Refused, Service};
pub use http::{Abort, Answer};
pub use memory::{Reservation, Usage};
pub use outgoing::Frame;
pub use session::{End, Session, Transport};
pub use sid::Sid;
pub use stream::Io;
