//! What precedes HTTP on a TCP connection: the TLS handshake. It is done within the deadlines of
//! the first byte and of the head of a request, in the slot of the connection.

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::metrics::Metrics;
use crate::tls::{ClientStream, Tls};
use crate::transport::{AbortHandle, Peer, Stage};

use super::deadline::deadline;
use super::slots::ConnectionSlot;

/// What precedes HTTP on the connections of one listener.
pub(crate) struct Opening {
    /// `None`: the listener serves plain HTTP.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A connection that is opened, and what may end it.
pub(super) struct Opened<'connection> {
    pub(super) slot: &'connection ConnectionSlot,
    pub(super) abort_handle: &'connection AbortHandle,
    pub(super) limits: &'connection Limits,
    pub(super) stop: &'connection CancellationToken,
}

/// Why HTTP does not begin.
enum Failure {
    TimedOut,
    Io(io::Error),
}

impl Opening {
    /// Whether HTTP begins with the first byte of a connection.
    pub(super) fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Returns the stream of a connection after everything that precedes HTTP, and its client.
    /// Returns `None` if the connection must be closed.
    pub(super) async fn open(
        &self,
        stream: TcpStream,
        peer: Peer,
        opened: Opened<'_>,
    ) -> Option<(ClientStream, Peer)> {
        let steps = opened.abort_handle.unless_aborted(self.steps(stream, peer, &opened));
        let result = tokio::select! {
            result = steps => result?,
            // A client that has not sent a request does not wait for an answer.
            () = opened.stop.cancelled() => return None,
        };
        let (name, error) = match &result {
            Ok(_) => ("ok", None),
            Err(Failure::TimedOut) => ("timed_out", Some("it took too long".to_owned())),
            Err(Failure::Io(error)) => ("failed", Some(error.to_string())),
        };
        self.metrics.tls_handshake(name);
        if let Some(error) = error {
            let Peer(address) = peer;
            tracing::debug!(%address, error, "TLS handshake failed");
        }
        result.ok()
    }

    async fn steps(
        &self,
        stream: TcpStream,
        peer: Peer,
        opened: &Opened<'_>,
    ) -> Result<(ClientStream, Peer), Failure> {
        let limit = |stage| {
            let limit = deadline(opened.limits, stage, opened.slot.is_reserved());
            limit.unwrap_or_default()
        };
        let late = |_| Failure::TimedOut;
        // `readable` alone may return without a byte.
        timeout(limit(Stage::Opened), stream.peek(&mut [0]))
            .await
            .map_err(late)?
            .map_err(Failure::Io)?;
        let rest = async {
            match &self.tls {
                Some(tls) => tls.accept(stream).await,
                None => Ok(ClientStream::Plain(stream)),
            }
        };
        let stream = timeout(limit(Stage::Head), rest).await.map_err(late)?;
        Ok((stream.map_err(Failure::Io)?, peer))
    }
}
