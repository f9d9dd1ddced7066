//! Engine.IO v4: sessions over polling and WebSocket connections, with upgrade and heartbeat.
//!
//! It knows nothing of Socket.IO: a [`Protocol`] receives the messages of one session, and a
//! [`Service`] makes a protocol for each new session. Everything that waits or is unfinished is
//! bounded in bytes by [`Config`].
mod config;
mod engine;
mod frame;
mod http;
mod memory;
mod outgoing;
mod session;
mod sid;
mod stream;

pub use config::{Config, Transports};
pub use engine::{Batch, Engine, Protocol, Refused, Service};
pub use http::{Abort, Answer};
pub use memory::{Reservation, Usage};
pub use outgoing::Frame;
pub use session::{End, Session, Transport};
pub use sid::Sid;
pub use stream::Io;
