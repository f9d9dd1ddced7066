//! The defaults of the limits that the host and the SDK's test host both enforce. An operator can
//! change the host's limits; the test host always uses these.

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Calls of `registry` in one `register`.
pub const DECLARATIONS: usize = 1000;

/// Bytes of one schema.
pub const SCHEMA_BYTES: usize = 256 * KIB;

/// Effects of one event, stored values included.
pub const EFFECTS: usize = 256;

/// Bytes of all effects of one event, stored values included.
pub const EFFECTS_BYTES: usize = MIB;

/// Bytes that one host call may pass in each direction, and so the bytes of one scan.
pub const HOST_CALL_BYTES: usize = 2 * MIB;

/// Bytes of one key of a plugin's state.
pub const STATE_KEY_BYTES: usize = 512;

/// Bytes of one value of a plugin's state.
pub const STATE_VALUE_BYTES: usize = 256 * KIB;

/// Timers of one plugin, dead ones included.
pub const TIMERS: u32 = 100_000;

/// Deliveries of one plugin, dead ones included.
pub const DELIVERIES: u32 = 10_000;

/// Acks that one plugin waits for.
pub const PENDING_ACKS: usize = 10_000;

/// Memory of the acks that one plugin waits for, their contexts included.
pub const PENDING_ACKS_BYTES: usize = 16 * MIB;

/// The longest timeout of an ack, in milliseconds.
pub const ACK_TIMEOUT_MS: u64 = 10 * 60 * 1000;

/// HTTP requests of one event.
pub const OUTBOUND_REQUESTS: u32 = 8;

/// Bytes of one HTTP request: its URL, headers and body.
pub const OUTBOUND_REQUEST_BYTES: usize = 256 * KIB;

/// Bytes of the body of a response to an HTTP request.
pub const OUTBOUND_RESPONSE_BYTES: usize = MIB;

/// Attachments of one message, from a client or in a reply.
pub const ATTACHMENTS: usize = 4;

/// Bytes of all attachments of one message.
pub const ATTACHMENT_BYTES: usize = 256 * KIB;

/// Bytes of what a client sends when it connects, as far as it is kept for plugins.
pub const HANDSHAKE_BYTES: usize = 4 * KIB;

/// Nesting depth of a payload.
pub const JSON_DEPTH: usize = 64;

/// Rooms of one connection at once.
pub const ROOMS: usize = 100;

/// Connections that one call of `connections.scan` returns; the same as the entries of a scan.
pub const CONNECTIONS_PAGE: u32 = 1000;
