//! The settings of an Engine.IO server, each with its unit and its default.
use std::time::Duration;

/// Which transports a server offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// HTTP long polling.
    pub polling: bool,
    /// WebSocket.
    pub websocket: bool,
    /// Whether a polling session may move on to a WebSocket. Needs both.
    pub upgrade: bool,
}

impl Default for Transports {
    /// All of them.
    fn default() -> Self {
        Self { polling: true, websocket: true, upgrade: true }
    }
}

/// The settings of connection state recovery: the server keeps events so that a client whose
/// transport was lost can return to its connection. See the crate's docs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How long a connection is kept after its transport was lost. Default: 2 min, as the reference
    /// server.
    pub duration: Duration,
    /// How many bytes the kept events of all connections together may take, including those of
    /// connections that are not lost. An event that many connections keep counts once, and then 32
    /// bytes for each of them; each event counts 128 bytes more than its own.
    ///
    /// One connection keeps at most a sixteenth of it, and at most half of [`Config::max_queued`],
    /// because all of it may have to be sent at once. When more than half is in use, each
    /// connection keeps at most an equal share of the other half. Beyond, a connection drops its
    /// oldest events. A client that has missed one of these is not recovered. An event that the
    /// application holds encoded is counted and not refused. When a connection keeps a new event,
    /// it also drops the events that no client can need any more: they were sent longer ago than
    /// [`duration`](Self::duration), [`Config::ping_interval`] and [`Config::ping_timeout`]
    /// together. Default: 64 MiB.
    pub max_bytes: usize,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { duration: Duration::from_secs(120), max_bytes: 64 << 20 }
    }
}

/// The settings of an Engine.IO server.
///
/// Every bound is enforced: beyond it, the session ends (see [`End`](super::End)) or the request is
/// answered with an error. Nothing beyond a bound waits in memory.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of all requests, without a slash at its end. Default: `/socket.io`.
    pub path: String,
    /// The transports on offer. Default: all.
    pub transports: Transports,
    /// How long after a pong the next ping is sent. Default: 25 s, as the reference server.
    pub ping_interval: Duration,
    /// How long the pong may take before the session ends. Default: 20 s, as the reference server.
    pub ping_timeout: Duration,
    /// How long a session may exist before [`Session::connected`](super::Session::connected) is
    /// called. Default: 45 s, as the reference server.
    pub connect_timeout: Duration,
    /// How long an upgrade may take, and the request that starts it. Default: 10 s.
    pub upgrade_timeout: Duration,
    /// How long a message may take from its first byte to its last: a frame, a fragmented
    /// message, a packet with its attachments, the body of a POST. Default: 30 s.
    pub receive_timeout: Duration,
    /// How long a client may take nothing while [`Session::writable`](super::Session::writable)
    /// waits for it; then its session ends with [`End::Overflow`](super::End::Overflow).
    /// Default: 45 s, as long as a missing pong takes by default.
    pub stall_timeout: Duration,
    /// How long a session that the server ends, or that ends with the server, may take to deliver
    /// queued messages: a client may read slowly, or poll again only later. Default: 30 s.
    pub delivery_timeout: Duration,
    /// How long the end of a session may take to deliver a last message, such as the close frame of
    /// an error. Default: 1 s.
    pub linger: Duration,
    /// The longest message and the longest body of a POST, in bytes. The handshake contains it.
    /// Default: 1,000,000, as the reference server.
    pub max_payload: usize,
    /// How many fragments one WebSocket message may have. Default: 1,024.
    pub max_fragments: usize,
    /// How many bytes may be queued for one client that does not read. Beyond this, its session
    /// ends with [`End::Overflow`](super::End::Overflow). If nothing is queued, a message may be
    /// longer, together with its attachments. Its length is then added to the bound, until nothing
    /// is queued again. Default: 4 MiB.
    pub max_queued: usize,
    /// How many bytes may be queued for all clients together; a shared [`Frame`](super::Frame)
    /// counts once. If more than half of it is in use, each session may have an equal share of the
    /// other half. A session with more ends with [`End::Overflow`](super::End::Overflow). A frame
    /// that the application holds is counted, but not refused. Default: 256 MiB.
    pub max_queued_total: usize,
    /// How many bytes of unfinished messages all sessions together may hold. If more than half of
    /// it is in use, each session may have an equal share of the other half. A session that needs
    /// more ends with [`End::Overload`](super::End::Overload).
    ///
    /// While a handler of a WebSocket's message waits, the buffer of its read counts too: mostly 16
    /// KiB, or, if more than half is in use, as much as the client has sent. The buffer of a
    /// handler that does not wait is not counted: there is at most one for each thread. Default: 64
    /// MiB.
    pub max_unfinished_total: usize,
    /// How many attachments one packet may announce. Default: 1,000.
    pub max_attachments: usize,
    /// How many bytes the attachments of one packet may have together. Default: 10 MiB.
    pub max_attachment_bytes: usize,
    /// How many answers the server may wait for from one connection. Default: 1,024.
    pub max_pending_acks: usize,
    /// How many sessions may exist, including closing ones. Default: 10,000.
    pub max_sessions: usize,
    /// Whether and how the connection of a client whose transport was lost is kept, until the
    /// client returns. At most [`max_sessions`](Self::max_sessions) connections are kept, beside
    /// the sessions; beyond, a connection ends together with its session. Default: `None`,
    /// connections end with their sessions.
    pub recovery: Option<Recovery>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/socket.io".into(),
            transports: Transports::default(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            receive_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(45),
            delivery_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(1),
            max_payload: 1_000_000,
            max_fragments: 1024,
            max_queued: 4 << 20,
            max_queued_total: 256 << 20,
            max_unfinished_total: 64 << 20,
            max_attachments: 1000,
            max_attachment_bytes: 10 << 20,
            max_pending_acks: 1024,
            max_sessions: 10_000,
            recovery: None,
        }
    }
}
