//! A Socket.IO v5 server for tokio and hyper.
//!
//! [`engineio`] carries messages over polling and WebSocket connections.
#![forbid(unsafe_code)]

pub mod engineio;
