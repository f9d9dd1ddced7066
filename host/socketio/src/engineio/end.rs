//! The reasons for which sessions end.
use tracing::{debug, info, warn};

use super::sid::Sid;

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// The client closed the session with an Engine.IO `1`.
    Client,
    /// The transport was lost: the WebSocket was closed or cut, or a pending poll was cancelled.
    Transport,
    /// The pong did not come in time.
    PingTimeout,
    /// [`Session::connected`](super::Session::connected) was not called in time.
    ConnectTimeout,
    /// A message was not complete in time after its first byte.
    ReceiveTimeout,
    /// The client violated the protocol.
    Parse,
    /// The client sent two polls or two posts at once.
    Overlap,
    /// A message was longer than [`Config::max_payload`](super::Config::max_payload), or had more
    /// fragments or attachments than allowed.
    TooBig,
    /// More waited for the client than [`Config::max_queued`], or than its share of
    /// [`Config::max_queued_total`], or it took nothing while [`Session::writable`] waited.
    ///
    /// [`Config::max_queued`]: super::Config::max_queued
    /// [`Config::max_queued_total`]: super::Config::max_queued_total
    /// [`Session::writable`]: super::Session::writable
    Overflow,
    /// All sessions together hold too many bytes of unfinished messages.
    Overload,
    /// The application ended it; queued messages are still delivered.
    Server,
    /// The application ended it at once; queued messages are discarded.
    Aborted,
    /// The server stops; queued messages are still delivered. The client receives no packet about
    /// it, so that it connects again.
    Shutdown,
}

impl End {
    /// Whether queued messages are still delivered after this end.
    pub(crate) fn delivers(self) -> bool {
        matches!(self, Self::Server | Self::Shutdown)
    }

    /// Whether the transport was lost, so that a stock client connects again by itself and wants
    /// to continue its connections. Returns false if the client or the server has decided that the
    /// session ends, or if the client has exceeded a bound: it would exceed it again.
    pub(crate) fn is_recoverable(self) -> bool {
        match self {
            // A message that stays unfinished means that the network transports nothing.
            End::Transport | End::PingTimeout | End::ReceiveTimeout => true,
            End::Client
            | End::ConnectTimeout
            | End::Parse
            | End::Overlap
            | End::TooBig
            | End::Overflow
            | End::Overload
            | End::Server
            | End::Aborted
            | End::Shutdown => false,
        }
    }

    /// Writes the one log record of a session's end. `client`: the application's name for it.
    pub(crate) fn log(self, session: Sid, client: Option<&str>) {
        let end = self;
        match self {
            // An operator can change these bounds.
            End::Overflow | End::Overload => {
                warn!(client, ?session, ?end, "session ended by a memory limit");
            }
            // No stock client does this.
            End::Parse | End::Overlap | End::TooBig => {
                info!(client, ?session, ?end, "session ended by an invalid message");
            }
            End::Client
            | End::Transport
            | End::PingTimeout
            | End::ConnectTimeout
            | End::ReceiveTimeout
            | End::Server
            | End::Aborted
            | End::Shutdown => debug!(client, ?session, ?end, "session ended"),
        }
    }
}
