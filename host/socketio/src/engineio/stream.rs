//! The TCP stream under a WebSocket: the only file that knows it.
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The type with which the application's HTTP server serves connections.
pub trait Io: Read + Write + Unpin + Send + 'static {
    /// What the application needs to keep with the connection, such as its permit. It is dropped
    /// when the connection has ended.
    type Guard: Send + 'static;

    /// Takes the wrapper apart.
    fn into_parts(self) -> (TcpStream, Self::Guard);
}

impl Io for TokioIo<TcpStream> {
    type Guard = ();

    fn into_parts(self) -> (TcpStream, ()) {
        (self.into_inner(), ())
    }
}
