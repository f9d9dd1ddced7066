//! A Socket.IO v5 server for tokio and hyper.
#![forbid(unsafe_code)]

mod call;
mod client;
mod connection;
pub mod engineio;
mod handler;
mod hub;
mod packet;
mod server;

pub use call::placeholders_are_valid;
pub use connection::{AckReceiver, Connection, EmitError, EventFrame, NoReply, Reply};
pub use engineio::{Abort, Answer, Batch, Config, End, Io, Refused, Sid, Transport, Transports};
pub use handler::{ConnectError, ConnectRequest, Context, DisconnectReason, Event, Handler};
pub use server::{InvalidNamespace, Server, Usage};
