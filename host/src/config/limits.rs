//! `[limits]`: the limits of one client, one event, one plugin and the host.

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use sockhop_core::limits as shared;

use crate::breaker::BreakerLimits;

/// The limits that only a start reads: they size what exists for all connections, or what is given
/// to the open state of a plugin.
pub(super) const NEEDS_RESTART: &[&str] = &[
    "connections",
    "connections_per_network",
    "reserved_connections",
    "mailboxes_bytes",
    "message_bytes",
    "attachments",
    "attachment_bytes",
    "connect_ms",
    "body_ms",
    "stalled_reader_ms",
    "connection_acks",
    "volatile_bytes",
    "outgoing_packets",
    "overflow_bytes",
    "unfinished_bytes",
    "idempotency_bytes",
    "instance_memory_bytes",
    "state_key_bytes",
    "state_value_bytes",
    "state_bytes",
    "state_wal_bytes",
    "timers",
    "deliveries",
    "effects",
    "effects_bytes",
    "host_call_bytes",
];

/// The keys of `[plugins.NAME]`: three that are not limits, and the limits that can be set for a
/// single plugin.
pub(super) const KEYS_OF_A_PLUGIN: &[&str] = &[
    "instance_policy",
    "config",
    "outbound",
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
    "timers",
    "deliveries",
    "deliveries_at_once",
    "delivery_ms",
    "pending_acks",
    "pending_acks_bytes",
    "ack_timeout_ms",
    "outbound_requests",
    "outbound_at_once",
    "outbound_ms",
    "outbound_request_bytes",
    "outbound_response_bytes",
    "log_lines_per_second",
    "log_line_bytes",
    "drain_ms",
    "host_events",
    "room_debounce_ms",
    "breaker_failures",
    "breaker_failures_within_ms",
    "breaker_calls",
    "breaker_calls_within_ms",
    "breaker_open_ms",
    "breaker_open_at_most_ms",
];

/// `[limits]`: the limits of one client, one event, one plugin and the host. The names contain the
/// units.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Size of a plugin's file. Larger files are not read.
    pub plugin_file_bytes: NonZeroU64,
    /// Memory of all memories and tables of one instance.
    pub instance_memory_bytes: NonZeroUsize,
    /// Memory of all instances of one plugin.
    pub plugin_memory_bytes: NonZeroUsize,
    /// Instances of one plugin that run at once. `None` is twice the number of worker threads. The
    /// last events of a replaced version have permits of their own.
    pub instances: Option<NonZeroUsize>,
    /// Running time of the handler of one event, reruns included.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub event_cpu_ms: Duration,
    /// Elapsed time of one event, waiting and reruns included.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub event_wall_ms: Duration,
    /// Running time of `register`.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub register_cpu_ms: Duration,
    /// Calls of `registry` in one `register`.
    pub declarations: NonZeroUsize,
    /// Size of one schema.
    pub schema_bytes: NonZeroUsize,
    /// Number of effects of one event.
    pub effects: NonZeroUsize,
    /// Data of all effects of one event.
    pub effects_bytes: NonZeroUsize,
    /// Data of one host call, in each direction.
    pub host_call_bytes: NonZeroUsize,
    /// Component-model handles of one instance.
    pub handles: NonZeroUsize,
    /// Random bytes of one call.
    pub random_bytes: NonZeroU64,
    /// Size of one key of a plugin's state.
    pub state_key_bytes: NonZeroUsize,
    /// Size of one value of a plugin's state.
    pub state_value_bytes: NonZeroUsize,
    /// Disk space of one plugin's state: its file, the write-ahead log, and the log's index.
    pub state_bytes: NonZeroU64,
    /// Size of the write-ahead log of one plugin's state. Writers wait when the log has this size.
    /// The effective limit is at most an eighth of `state_bytes`.
    pub state_wal_bytes: NonZeroU64,
    /// Timers of one plugin at once, dead ones included.
    pub timers: NonZeroU32,
    /// Deliveries of one plugin, dead ones included.
    pub deliveries: NonZeroU32,
    /// Deliveries of one plugin that are sent at once. One origin gets at most one less than that,
    /// if it is more than one.
    pub deliveries_at_once: NonZeroUsize,
    /// Time of one attempt to send a delivery, from the resolution of the name to the end of the
    /// response.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub delivery_ms: Duration,
    /// Acks of clients that one plugin waits for at once, those included whose outcome waits for
    /// the plugin.
    pub pending_acks: NonZeroUsize,
    /// Memory of these acks: the contexts that handlers pass, and 512 bytes for each.
    pub pending_acks_bytes: NonZeroUsize,
    /// The longest timeout of an ack.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub ack_timeout_ms: Duration,
    /// HTTP requests that one event sends, reruns included.
    pub outbound_requests: NonZeroU32,
    /// HTTP requests of one plugin at once. `None`: as many as it has instances, less one. A larger
    /// number counts as that one, so that an instance stays for events that send no request.
    pub outbound_at_once: Option<NonZeroUsize>,
    /// Time of one HTTP request of a plugin, from the resolution of the name to the end of the
    /// response.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub outbound_ms: Duration,
    /// Size of one HTTP request of a plugin: its URL, headers and body.
    pub outbound_request_bytes: NonZeroUsize,
    /// Size of the body of the response to one HTTP request of a plugin.
    pub outbound_response_bytes: NonZeroUsize,
    /// Log lines of one plugin per second. Further lines are dropped and counted.
    pub log_lines_per_second: NonZeroU32,
    /// Size of one log line of a plugin. A longer line is truncated.
    pub log_line_bytes: NonZeroUsize,
    /// TCP connections of clients at once, and as many Engine.IO sessions. Further clients get the
    /// status 503. `None` is 50,000, or as many as the file descriptors of the process allow.
    pub connections: Option<NonZeroUsize>,
    /// TCP connections, and sessions, of one network: one IPv4 address or one IPv6 /64. `None`: as
    /// many as of all networks.
    pub connections_per_network: Option<NonZeroUsize>,
    /// Connections beyond `connections`, on which only `/healthz`, `/readyz`, `/metrics` and `/api`
    /// are served.
    pub reserved_connections: NonZeroUsize,
    /// Time from the start of a TCP connection to the first byte of its first request.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub first_byte_ms: Duration,
    /// Time from the first byte of a request to the end of its head.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub head_ms: Duration,
    /// Time from the end of a request's head to the end of its body.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub body_ms: Duration,
    /// The lowest rate of a request's body, after its first seconds, and of an answer, over each
    /// `keep_alive_ms`.
    pub body_bytes_per_second: NonZeroU32,
    /// How long an HTTP connection may be idle between two requests.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub keep_alive_ms: Duration,
    /// Events of one connection that wait to be handled. Further events are answered `busy`.
    pub mailbox_events: NonZeroUsize,
    /// Memory, in bytes, of the events of one connection that wait to be handled.
    pub mailbox_bytes: NonZeroUsize,
    /// Memory of the events in all mailboxes together. Further events are answered `busy`.
    pub mailboxes_bytes: NonZeroUsize,
    /// Size of one message of a client. Only a message of more than twice this size closes the
    /// connection.
    pub message_bytes: NonZeroUsize,
    /// Number of attachments of one message.
    pub attachments: usize,
    /// Size of all attachments of one message.
    pub attachment_bytes: NonZeroUsize,
    /// Nesting depth of a payload.
    pub json_depth: NonZeroUsize,
    /// Size of the handshake of one connection that is kept for plugins: its `auth` without the
    /// token, and the query of its URL. Nothing of a larger one is kept.
    pub handshake_bytes: NonZeroUsize,
    /// Rooms of one connection at once.
    pub rooms: NonZeroUsize,
    /// Time from a connection's handshake to its CONNECT packet.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub connect_ms: Duration,
    /// How long a client may read nothing while an answer waits for it, before it is disconnected.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub stalled_reader_ms: Duration,
    /// Acks of one connection that are waited for at once.
    pub connection_acks: NonZeroUsize,
    /// If more bytes wait for a client, volatile emits are skipped for it. With socketioxide, they
    /// are skipped if its buffer is full.
    pub volatile_bytes: NonZeroUsize,
    /// With `socketio = "socketioxide"`: packets in the library's buffer of one client.
    pub outgoing_packets: NonZeroUsize,
    /// Memory of the data that waits for all clients. A client for which no memory is left is
    /// disconnected. With socketioxide, only emits that have no space in its buffers count.
    pub overflow_bytes: NonZeroUsize,
    /// Memory of the incomplete incoming messages of all clients. A client for which no memory is
    /// left is disconnected. Not used with socketioxide.
    pub unfinished_bytes: NonZeroUsize,
    /// Memory on the disk of the answers to one key's requests with `Idempotency-Key`, in 24 hours.
    pub idempotency_bytes: NonZeroUsize,
    /// How long events may still run on a replaced version.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub drain_ms: Duration,
    /// Host events that wait for one plugin. If there are more, all are dropped, and one `$resync`
    /// tells the plugin to read the connections again.
    pub host_events: NonZeroUsize,
    /// Time for which a room must stay occupied, or empty, before its plugin is told.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub room_debounce_ms: Duration,
    /// CPU time of compiling one plugin, on all processors together.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub compile_ms: Duration,
    /// Elapsed time of compiling one plugin. It is long, because a compiler gets little CPU time on
    /// a busy machine.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub compile_wall_ms: Duration,
    /// Memory of the process that compiles one plugin.
    pub compile_memory_bytes: NonZeroU64,
    /// A plugin's breaker opens after this many failures…
    pub breaker_failures: NonZeroU32,
    /// …within this time.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub breaker_failures_within_ms: Duration,
    /// It also opens when half of at least this many calls have failed…
    pub breaker_calls: NonZeroU32,
    /// …within this time.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub breaker_calls_within_ms: Duration,
    /// How long a breaker stays open at first. Each failed probe doubles the time…
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub breaker_open_ms: Duration,
    /// …up to this time.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub breaker_open_at_most_ms: Duration,
    /// How long a stopping host answers `/readyz` with 503 before it refuses new clients, so that a
    /// load balancer notices it.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub shutdown_unready_ms: Duration,
    /// How long a stopping host waits for work that has begun.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub shutdown_drain_ms: Duration,
    /// How long a stopping host takes to close the connections of clients one after the other.
    #[serde(deserialize_with = "milliseconds", serialize_with = "as_milliseconds")]
    pub shutdown_close_ms: Duration,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// A non-zero constant. Zero is a compile error.
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
            declarations: nonzero!(NonZeroUsize, shared::DECLARATIONS),
            schema_bytes: nonzero!(NonZeroUsize, shared::SCHEMA_BYTES),
            effects: nonzero!(NonZeroUsize, shared::EFFECTS),
            effects_bytes: nonzero!(NonZeroUsize, shared::EFFECTS_BYTES),
            host_call_bytes: nonzero!(NonZeroUsize, shared::HOST_CALL_BYTES),
            handles: nonzero!(NonZeroUsize, 1000),
            random_bytes: nonzero!(NonZeroU64, 64 * KIB as u64),
            state_key_bytes: nonzero!(NonZeroUsize, shared::STATE_KEY_BYTES),
            state_value_bytes: nonzero!(NonZeroUsize, shared::STATE_VALUE_BYTES),
            state_bytes: nonzero!(NonZeroU64, 256 * MIB as u64),
            state_wal_bytes: nonzero!(NonZeroU64, 16 * MIB as u64),
            timers: nonzero!(NonZeroU32, shared::TIMERS),
            deliveries: nonzero!(NonZeroU32, shared::DELIVERIES),
            deliveries_at_once: nonzero!(NonZeroUsize, 4),
            // The least time that Standard Webhooks recommends.
            delivery_ms: Duration::from_secs(15),
            pending_acks: nonzero!(NonZeroUsize, shared::PENDING_ACKS),
            pending_acks_bytes: nonzero!(NonZeroUsize, shared::PENDING_ACKS_BYTES),
            ack_timeout_ms: Duration::from_millis(shared::ACK_TIMEOUT_MS),
            outbound_requests: nonzero!(NonZeroU32, shared::OUTBOUND_REQUESTS),
            outbound_at_once: None,
            // Shorter than the time of an event, so that a handler can handle a timeout.
            outbound_ms: Duration::from_secs(3),
            outbound_request_bytes: nonzero!(NonZeroUsize, shared::OUTBOUND_REQUEST_BYTES),
            outbound_response_bytes: nonzero!(NonZeroUsize, shared::OUTBOUND_RESPONSE_BYTES),
            log_lines_per_second: nonzero!(NonZeroU32, 100),
            log_line_bytes: nonzero!(NonZeroUsize, 8 * KIB),
            connections: None,
            connections_per_network: None,
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
            attachments: shared::ATTACHMENTS,
            attachment_bytes: nonzero!(NonZeroUsize, shared::ATTACHMENT_BYTES),
            json_depth: nonzero!(NonZeroUsize, shared::JSON_DEPTH),
            handshake_bytes: nonzero!(NonZeroUsize, shared::HANDSHAKE_BYTES),
            rooms: nonzero!(NonZeroUsize, shared::ROOMS),
            connect_ms: Duration::from_secs(10),
            stalled_reader_ms: Duration::from_secs(20),
            // Enough for a question to each of some windows of one page.
            connection_acks: nonzero!(NonZeroUsize, 256),
            // What a client reads in less than a second over a slow line.
            volatile_bytes: nonzero!(NonZeroUsize, 64 * KIB),
            outgoing_packets: nonzero!(NonZeroUsize, 4096),
            overflow_bytes: nonzero!(NonZeroUsize, 64 * MIB),
            unfinished_bytes: nonzero!(NonZeroUsize, 64 * MIB),
            idempotency_bytes: nonzero!(NonZeroUsize, 64 * MIB),
            drain_ms: Duration::from_secs(10),
            host_events: nonzero!(NonZeroUsize, 50_000),
            // A page that is loaded again leaves its rooms for less than that.
            room_debounce_ms: Duration::from_secs(1),
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
            // Short enough for a stop within 30 s, after which many supervisors kill a process.
            shutdown_close_ms: Duration::from_secs(2),
        }
    }
}

/// Memory of a queued event in addition to its payload: the event itself, its name, its queue
/// entry, and the overhead of the allocator. An emit that waits for a slow client counts in the
/// same way.
pub(crate) const EVENT_BYTES: usize = 512;

/// A queue (a mailbox, or the emits that wait for a slow client) may hold at most the free memory
/// of its kind divided by this number. The more queues are long, the shorter each must be, so the
/// first events of another client always have space. With 16, ten thousand clients that send as
/// much as they can leave 1.6 ‰ free.
pub(crate) const QUEUE_SHARE: usize = 16;

/// TCP connections of clients at once, if the configuration contains no number and the file
/// descriptors suffice.
pub const DEFAULT_CONNECTIONS: NonZeroUsize = nonzero!(NonZeroUsize, 50_000);

/// The smallest `state_bytes`. With less, the file and the shortest write-ahead log together could
/// take more than that.
const MIN_STATE_BYTES: u64 = MIB as u64;

impl Limits {
    /// Checks limits that depend on each other. `table` is the table of the limits that one plugin
    /// can have: `limits`, or `plugins.NAME`.
    pub(super) fn check(&self, table: &str) -> Result<(), String> {
        let least = |bytes: usize| bytes.saturating_add(EVENT_BYTES).saturating_mul(QUEUE_SHARE);
        let (message, attachments, effects) =
            (self.message_bytes.get(), self.attachment_bytes.get(), self.effects_bytes.get());
        let largest = message.saturating_add(attachments);
        let (mailboxes, overflow) = (least(largest), least(effects));
        if self.mailboxes_bytes.get() < mailboxes {
            return Err(format!(
                "limits.mailboxes_bytes: found {}, expected at least {mailboxes}: {QUEUE_SHARE} \
                 times the largest message (message_bytes \
                 {message} + attachment_bytes {attachments} + {EVENT_BYTES} for each event), \
                 because one mailbox may take a sixteenth of the \
                 memory; raise it, or lower message_bytes or attachment_bytes",
                self.mailboxes_bytes
            ));
        }
        if self.mailbox_bytes.get() < largest {
            return Err(format!(
                "limits.mailbox_bytes: found {}, expected at least {largest}: the largest message \
                 (message_bytes {message} + \
                 attachment_bytes {attachments}), because a larger one would always be answered \
                 `busy`; raise it, or lower message_bytes or \
                 attachment_bytes",
                self.mailbox_bytes
            ));
        }
        if self.overflow_bytes.get() < overflow {
            return Err(format!(
                "limits.overflow_bytes: found {}, expected at least {overflow}: {QUEUE_SHARE} \
                 times the largest emit ({table}.effects_bytes \
                 {effects} + {EVENT_BYTES} for each event), because the emits for one client may \
                 take a sixteenth of the memory; raise it, or \
                 lower {table}.effects_bytes",
                self.overflow_bytes
            ));
        }
        if self.state_wal_bytes.get() < effects as u64 {
            return Err(format!(
                "{table}.state_wal_bytes: found {}, expected at least {effects}: as many bytes as \
                 one event may store \
                 ({table}.effects_bytes); raise it, or lower {table}.effects_bytes",
                self.state_wal_bytes
            ));
        }
        if self.state_bytes.get() < MIN_STATE_BYTES {
            return Err(format!(
                "{table}.state_bytes: found {}, expected at least {MIN_STATE_BYTES}: empty state \
                 and its write-ahead log take nearly as much",
                self.state_bytes
            ));
        }
        Ok(())
    }

    /// The limits whose values are not those of `others`, as `name=value`.
    pub(super) fn differences(&self, others: &Self) -> Vec<String> {
        let members = |limits: &Self| match serde_json::to_value(limits) {
            Ok(Value::Object(members)) => members,
            _ => serde_json::Map::new(),
        };
        let others = members(others);
        let differ =
            members(self).into_iter().filter(|(name, value)| others.get(name) != Some(value));
        differ.map(|(name, value)| format!("{name}={value}")).collect()
    }

    /// Takes the limits that only a start reads from `old`.
    pub(super) fn keep_until_restart(&mut self, old: &Self) {
        self.connections = old.connections;
        self.connections_per_network = old.connections_per_network;
        self.reserved_connections = old.reserved_connections;
        self.mailboxes_bytes = old.mailboxes_bytes;
        self.message_bytes = old.message_bytes;
        self.attachments = old.attachments;
        self.attachment_bytes = old.attachment_bytes;
        self.connect_ms = old.connect_ms;
        self.body_ms = old.body_ms;
        self.stalled_reader_ms = old.stalled_reader_ms;
        self.connection_acks = old.connection_acks;
        self.volatile_bytes = old.volatile_bytes;
        self.outgoing_packets = old.outgoing_packets;
        self.overflow_bytes = old.overflow_bytes;
        self.unfinished_bytes = old.unfinished_bytes;
        self.idempotency_bytes = old.idempotency_bytes;
        self.instance_memory_bytes = old.instance_memory_bytes;
        self.state_key_bytes = old.state_key_bytes;
        self.state_value_bytes = old.state_value_bytes;
        self.state_bytes = old.state_bytes;
        self.state_wal_bytes = old.state_wal_bytes;
        self.timers = old.timers;
        self.deliveries = old.deliveries;
        self.effects = old.effects;
        self.effects_bytes = old.effects_bytes;
        self.host_call_bytes = old.host_call_bytes;
    }

    /// Whether a limit of plugins differs.
    pub(super) fn differ_for_plugins(&self, others: &Self) -> bool {
        let is_of_plugins = |difference: &String| {
            let name = difference.split('=').next().unwrap_or_default();
            name == "rooms" || KEYS_OF_A_PLUGIN.contains(&name)
        };
        self.differences(others).iter().any(is_of_plugins)
    }

    /// The limits of a plugin's breaker.
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

/// Reads a whole number of milliseconds, at least 1.
pub(super) fn milliseconds<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let number = NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_millis(number.get()))
}

/// Writes what [`milliseconds`] reads.
fn as_milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
}

/// Reads a whole number of seconds, at least 1.
pub(super) fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let number = NonZeroU64::deserialize(deserializer)?;
    Ok(Duration::from_secs(number.get()))
}
