//! `[limits]`: how much one client, one event and one plugin may take.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use crate::breaker::BreakerLimits;

/// The keys of `[plugins.NAME]`: two that are no limits, and the limits that a plugin can have of its own.
pub(super) const KEYS_OF_A_PLUGIN: &[&str] = &[
    "instance_policy",
    "config",
    "plugin_file_bytes",
    "compile_ms",
    "compile_wall_ms",
    "compile_memory_bytes",
    "register_cpu_ms",
    "declarations",
    "schema_bytes",
    "instance_memory_bytes",
    "plugin_memory_bytes",
    "instances",
    "event_cpu_ms",
    "event_wall_ms",
    "effects",
    "effects_bytes",
    "host_call_bytes",
    "handles",
    "random_bytes",
    "state_key_bytes",
    "state_value_bytes",
    "state_bytes",
    "state_wal_bytes",
    "log_lines_per_second",
    "log_line_bytes",
    "drain_ms",
    "host_events",
    "breaker_failures",
    "breaker_failures_within_ms",
    "breaker_calls",
    "breaker_calls_within_ms",
    "breaker_open_ms",
    "breaker_open_at_most_ms",
];

/// `[limits]`: how much one client, one event and one plugin may take. Units are in the names.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A plugin's file. Larger ones are not read.
    pub plugin_file_bytes: NonZeroU64,
    /// All memories and tables of one instance.
    pub instance_memory_bytes: NonZeroUsize,
    /// All instances of one plugin.
    pub plugin_memory_bytes: NonZeroUsize,
    /// Instances of one plugin that run at once; twice the host's worker threads where it is not set. The last events of a version that was
    /// replaced have places of their own.
    pub instances: Option<NonZeroUsize>,
    /// Running time of one event's handler, reruns included.
    #[serde(deserialize_with = "milliseconds")]
    pub event_cpu_ms: Duration,
    /// All the time of one event, waiting and reruns included.
    #[serde(deserialize_with = "milliseconds")]
    pub event_wall_ms: Duration,
    /// Running time of `register`.
    #[serde(deserialize_with = "milliseconds")]
    pub register_cpu_ms: Duration,
    /// Calls of `registry` that one `register` may make.
    pub declarations: NonZeroUsize,
    /// One schema.
    pub schema_bytes: NonZeroUsize,
    /// Effects of one event.
    pub effects: NonZeroUsize,
    /// All data of one event's effects.
    pub effects_bytes: NonZeroUsize,
    /// Data that one host call may carry, either way.
    pub host_call_bytes: NonZeroUsize,
    /// Component-model handles of one instance.
    pub handles: NonZeroUsize,
    /// Random bytes that one call may ask for.
    pub random_bytes: NonZeroU64,
    /// One key of a plugin's state.
    pub state_key_bytes: NonZeroUsize,
    /// One value.
    pub state_value_bytes: NonZeroUsize,
    /// What one plugin's state takes on the disk: its file, the write-ahead log, and the log's index.
    pub state_bytes: NonZeroU64,
    /// The write-ahead log of one plugin's state: writers wait when it has this length. At most an eighth of `state_bytes` counts.
    pub state_wal_bytes: NonZeroU64,
    /// Log lines of one plugin in a second; the rest is counted.
    pub log_lines_per_second: NonZeroU32,
    /// One log line of a plugin; the rest is cut.
    pub log_line_bytes: NonZeroUsize,
    /// TCP connections of clients at once, and Engine.IO sessions; beyond, clients are answered 503. Without a value: 50,000, or as many as
    /// the file descriptors of the process allow.
    pub connections: Option<NonZeroUsize>,
    /// Connections beyond, which only `/healthz`, `/readyz`, `/metrics` and `/api` are served on.
    pub reserved_connections: NonZeroUsize,
    /// From a TCP connection's beginning to the first byte of its first request.
    #[serde(deserialize_with = "milliseconds")]
    pub first_byte_ms: Duration,
    /// From the first byte of a request to the end of its head.
    #[serde(deserialize_with = "milliseconds")]
    pub head_ms: Duration,
    /// From the end of a request's head to the end of its body.
    #[serde(deserialize_with = "milliseconds")]
    pub body_ms: Duration,
    /// How fast a body must come, after its first seconds.
    pub body_bytes_per_second: NonZeroU32,
    /// How long an HTTP connection may be idle between two requests.
    #[serde(deserialize_with = "milliseconds")]
    pub keep_alive_ms: Duration,
    /// Events of one connection that wait for their turn; beyond, `busy`.
    pub mailbox_events: NonZeroUsize,
    /// The same in bytes.
    pub mailbox_bytes: NonZeroUsize,
    /// Memory of the events that wait in all mailboxes together; beyond, `busy`.
    pub mailboxes_bytes: NonZeroUsize,
    /// One message of a client. The connection is closed only beyond twice as much.
    pub message_bytes: NonZeroUsize,
    /// Attachments of one message.
    pub attachments: usize,
    /// All attachments of one message.
    pub attachment_bytes: NonZeroUsize,
    /// Nesting of a payload.
    pub json_depth: NonZeroUsize,
    /// Rooms of one connection.
    pub rooms: NonZeroUsize,
    /// From a connection's handshake to its CONNECT packet.
    #[serde(deserialize_with = "milliseconds")]
    pub connect_ms: Duration,
    /// How long a client may not read before it is cut.
    #[serde(deserialize_with = "milliseconds")]
    pub stalled_reader_ms: Duration,
    /// Packets in the library's buffer of one client.
    pub outgoing_packets: NonZeroUsize,
    /// Memory of what waits for all clients to read it; a client for which there is none is cut. With the library, of what finds no space in its
    /// buffers.
    pub overflow_bytes: NonZeroUsize,
    /// Memory of all messages that have begun to arrive and are not complete; a client for which there is none is cut. Not with the library.
    pub unfinished_bytes: NonZeroUsize,
    /// How long events that run on a version that was replaced may go on.
    #[serde(deserialize_with = "milliseconds")]
    pub drain_ms: Duration,
    /// Host events that wait for one plugin; beyond, they are dropped, and one `$resync` tells it to read the connections again.
    pub host_events: NonZeroUsize,
    /// CPU time that compiling one plugin may take, on all processors together.
    #[serde(deserialize_with = "milliseconds")]
    pub compile_ms: Duration,
    /// All the time of compiling one plugin. Long, because a compiler gets little of a processor that others keep busy.
    #[serde(deserialize_with = "milliseconds")]
    pub compile_wall_ms: Duration,
    /// Memory that compiling one plugin may take, in a process of its own.
    pub compile_memory_bytes: NonZeroU64,
    /// Failures that open a plugin's breaker…
    pub breaker_failures: NonZeroU32,
    /// …within this time.
    #[serde(deserialize_with = "milliseconds")]
    pub breaker_failures_within_ms: Duration,
    /// So does a half of the calls, where there were at least this many…
    pub breaker_calls: NonZeroU32,
    /// …within this time.
    #[serde(deserialize_with = "milliseconds")]
    pub breaker_calls_within_ms: Duration,
    /// How long a breaker stays open at first; each probe that fails doubles it…
    #[serde(deserialize_with = "milliseconds")]
    pub breaker_open_ms: Duration,
    /// …up to this.
    #[serde(deserialize_with = "milliseconds")]
    pub breaker_open_at_most_ms: Duration,
    /// How long a stopping host is not ready before it refuses new clients: time for a load balancer to see it.
    #[serde(deserialize_with = "milliseconds")]
    pub shutdown_unready_ms: Duration,
    /// How long a stopping host waits for what it has begun.
    #[serde(deserialize_with = "milliseconds")]
    pub shutdown_drain_ms: Duration,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A non-zero constant; zero would not compile.
macro_rules! nonzero {
    ($kind:ty, $value:expr) => {
        const {
            match <$kind>::new($value) {
                Some(value) => value,
                None => unreachable!(),
            }
        }
    };
}

pub(super) use nonzero;

impl Default for Limits {
    fn default() -> Self {
        Self {
            plugin_file_bytes: nonzero!(NonZeroU64, 32 * MIB as u64),
            instance_memory_bytes: nonzero!(NonZeroUsize, 128 * MIB),
            plugin_memory_bytes: nonzero!(NonZeroUsize, 512 * MIB),
            instances: None,
            event_cpu_ms: Duration::from_millis(250),
            event_wall_ms: Duration::from_secs(5),
            register_cpu_ms: Duration::from_secs(1),
            declarations: nonzero!(NonZeroUsize, 1000),
            schema_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            effects: nonzero!(NonZeroUsize, 256),
            effects_bytes: nonzero!(NonZeroUsize, MIB),
            host_call_bytes: nonzero!(NonZeroUsize, 2 * MIB),
            handles: nonzero!(NonZeroUsize, 1000),
            random_bytes: nonzero!(NonZeroU64, 64 * KIB as u64),
            state_key_bytes: nonzero!(NonZeroUsize, 512),
            state_value_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            state_bytes: nonzero!(NonZeroU64, 256 * MIB as u64),
            state_wal_bytes: nonzero!(NonZeroU64, 16 * MIB as u64),
            log_lines_per_second: nonzero!(NonZeroU32, 100),
            log_line_bytes: nonzero!(NonZeroUsize, 8 * KIB),
            connections: None,
            reserved_connections: nonzero!(NonZeroUsize, 32),
            first_byte_ms: Duration::from_secs(10),
            head_ms: Duration::from_secs(10),
            body_ms: Duration::from_secs(60),
            body_bytes_per_second: nonzero!(NonZeroU32, 1024),
            keep_alive_ms: Duration::from_secs(10),
            mailbox_events: nonzero!(NonZeroUsize, 256),
            mailbox_bytes: nonzero!(NonZeroUsize, 2 * MIB),
            mailboxes_bytes: nonzero!(NonZeroUsize, 256 * MIB),
            message_bytes: nonzero!(NonZeroUsize, 128 * KIB),
            attachments: 4,
            attachment_bytes: nonzero!(NonZeroUsize, 256 * KIB),
            json_depth: nonzero!(NonZeroUsize, 64),
            rooms: nonzero!(NonZeroUsize, 100),
            connect_ms: Duration::from_secs(10),
            stalled_reader_ms: Duration::from_secs(20),
            outgoing_packets: nonzero!(NonZeroUsize, 4096),
            overflow_bytes: nonzero!(NonZeroUsize, 64 * MIB),
            unfinished_bytes: nonzero!(NonZeroUsize, 64 * MIB),
            drain_ms: Duration::from_secs(10),
            host_events: nonzero!(NonZeroUsize, 50_000),
            compile_ms: Duration::from_secs(30),
            compile_wall_ms: Duration::from_secs(600),
            compile_memory_bytes: nonzero!(NonZeroU64, 2 * 1024 * MIB as u64),
            breaker_failures: nonzero!(NonZeroU32, 5),
            breaker_failures_within_ms: Duration::from_secs(10),
            breaker_calls: nonzero!(NonZeroU32, 20),
            breaker_calls_within_ms: Duration::from_secs(30),
            breaker_open_ms: Duration::from_secs(1),
            breaker_open_at_most_ms: Duration::from_secs(60),
            shutdown_unready_ms: Duration::from_secs(5),
            shutdown_drain_ms: Duration::from_secs(10),
        }
    }
}

/// Memory of an event in a queue beside its payload: the event itself, its name, its place, what the allocator adds. An emit that waits for a
/// slow client is counted in the same way.
pub(crate) const EVENT_BYTES: usize = 512;

/// A queue (a mailbox, or the emits that wait for a slow client) may hold as much as one part in so many of what is free for its kind. So the
/// more queues are long, the shorter each must be, and there is
/// always space for the first events of another client: with 16, ten thousand clients that send as much as they can leave 1.6 ‰ free.
pub(crate) const QUEUE_SHARE: usize = 16;

/// TCP connections of clients at once where the configuration names no number and the file descriptors suffice.
pub const DEFAULT_CONNECTIONS: NonZeroUsize = nonzero!(NonZeroUsize, 50_000);

impl Limits {
    /// Why limits that are right each do not fit together: the largest message would never fit into a mailbox, or the largest emit would never
    /// wait for a client.
    pub(super) fn check(&self) -> Result<(), String> {
        let least = |bytes: usize| bytes.saturating_add(EVENT_BYTES).saturating_mul(QUEUE_SHARE);
        let (message, attachments, effects) = (self.message_bytes.get(), self.attachment_bytes.get(), self.effects_bytes.get());
        let (mailboxes, overflow) = (least(message.saturating_add(attachments)), least(effects));
        if self.mailboxes_bytes.get() < mailboxes {
            return Err(format!(
                "limits.mailboxes_bytes: found {}, expected at least {mailboxes}: {QUEUE_SHARE} times the largest message (message_bytes \
                 {message} + attachment_bytes {attachments} + {EVENT_BYTES} for each event), because one mailbox may take a sixteenth of the \
                 memory; raise it, or lower message_bytes or attachment_bytes",
                self.mailboxes_bytes
            ));
        }
        if self.overflow_bytes.get() < overflow {
            return Err(format!(
                "limits.overflow_bytes: found {}, expected at least {overflow}: {QUEUE_SHARE} times the largest emit (effects_bytes {effects} + \
                 {EVENT_BYTES} for each event), because the emits for one client may take a sixteenth of the memory; raise it, or lower \
                 effects_bytes",
                self.overflow_bytes
            ));
        }
        Ok(())
    }

    /// When a plugin's breaker opens, and for how long.
    pub fn breaker(&self) -> BreakerLimits {
        BreakerLimits {
            failures: self.breaker_failures.get(),
            failures_within: self.breaker_failures_within_ms,
            calls: self.breaker_calls.get(),
            calls_within: self.breaker_calls_within_ms,
            open: self.breaker_open_ms,
            open_at_most: self.breaker_open_at_most_ms,
        }
    }
}

pub(super) fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_millis(number.get()))
}

/// The same in whole seconds.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_secs(number.get()))
}
