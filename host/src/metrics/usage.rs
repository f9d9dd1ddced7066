//! Metrics of what all clients share: connections, sessions, and memory for messages.

use super::{Counter, Gauge, Metrics, Registry, number, register, register_bytes};

/// The use of resources that all clients share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResourceUsage {
    /// TCP connections of clients.
    pub(crate) connections: usize,
    /// Engine.IO sessions, including closing sessions.
    pub(crate) sessions: usize,
    /// The limit of connections, and of sessions.
    pub(crate) limit: usize,
    /// Bytes that wait in all mailboxes.
    pub(crate) mailbox: usize,
    /// The limit of these bytes.
    pub(crate) mailbox_limit: usize,
    /// Bytes that wait for clients that are slow to read.
    pub(crate) overflow: usize,
    /// The limit of these bytes.
    pub(crate) overflow_limit: usize,
    /// Bytes that wait for the client for which the most waits.
    pub(crate) overflow_largest: usize,
    /// Bytes of messages that are not complete.
    pub(crate) unfinished: usize,
    /// The limit of these bytes.
    pub(crate) unfinished_limit: usize,
    /// Bytes of the kept answers to requests with an idempotency key.
    pub(crate) idempotency: u64,
    /// Connections that lost their transport and whose client may return.
    pub(crate) detached: usize,
    /// Bytes of events that are kept for clients that return.
    pub(crate) recovery: usize,
    /// The limit of these bytes.
    pub(crate) recovery_limit: usize,
    /// HTTP requests of plugins that run.
    pub(crate) outbound: usize,
    /// The limit of these requests.
    pub(crate) outbound_limit: usize,
    /// Bytes of the responses that are read or kept.
    pub(crate) deliveries: usize,
    pub(crate) deliveries_limit: usize,
    pub(crate) outbound_memory: usize,
    /// The limit of these bytes.
    pub(crate) outbound_memory_limit: usize,
}

/// The registered metrics of what all clients share.
pub(super) struct UsageMetrics {
    connections: Gauge,
    sessions: Gauge,
    limit: Gauge,
    refused: Counter,
    mailbox: Gauge,
    mailbox_limit: Gauge,
    overflow: Gauge,
    overflow_limit: Gauge,
    overflow_largest: Gauge,
    unfinished: Gauge,
    unfinished_limit: Gauge,
    idempotency: Gauge,
    detached: Gauge,
    recovery: Gauge,
    recovery_limit: Gauge,
    outbound: Gauge,
    outbound_limit: Gauge,
    deliveries: Gauge,
    deliveries_limit: Gauge,
    outbound_memory: Gauge,
    outbound_memory_limit: Gauge,
}

impl UsageMetrics {
    /// Registers the metrics in the order of the fields.
    pub(super) fn new(registry: &mut Registry) -> Self {
        Self {
            connections: register(registry, "tcp_connections", "TCP connections of clients"),
            sessions: register(
                registry,
                "sessions",
                "Engine.IO sessions, those that are closing included",
            ),
            limit: register(
                registry,
                "connections_limit",
                "TCP connections, and sessions, that clients may have at once",
            ),
            refused: register(
                registry,
                "connections_refused",
                "Connections and handshakes refused because the host was at its limit",
            ),
            mailbox: register_bytes(
                registry,
                "mailbox",
                "Memory of the events that wait in all mailboxes",
            ),
            mailbox_limit: register_bytes(registry, "mailbox_limit", "The most of that memory"),
            overflow: register_bytes(
                registry,
                "overflow",
                "Memory of what waits for clients that are slow to read",
            ),
            overflow_limit: register_bytes(registry, "overflow_limit", "The most of that memory"),
            overflow_largest: register_bytes(
                registry,
                "overflow_largest",
                "Memory of what waits for the one client for which the most waits",
            ),
            unfinished: register_bytes(
                registry,
                "unfinished",
                "Memory of messages whose end has not come",
            ),
            unfinished_limit: register_bytes(
                registry,
                "unfinished_limit",
                "The most of that memory",
            ),
            idempotency: register_bytes(
                registry,
                "idempotency",
                "Size of the kept answers to requests with `Idempotency-Key`",
            ),
            detached: register(
                registry,
                "detached_connections",
                "Connections whose transport was lost and whose client may return",
            ),
            recovery: register_bytes(
                registry,
                "recovery",
                "Memory of the events that are kept for clients that return",
            ),
            recovery_limit: register_bytes(registry, "recovery_limit", "The most of that memory"),
            outbound: register(registry, "outbound_open", "HTTP requests of plugins that run"),
            outbound_limit: register(
                registry,
                "outbound_open_limit",
                "HTTP requests of plugins that may run at once",
            ),
            deliveries: register(
                registry,
                "deliveries_open",
                "Deliveries of plugins that are being sent",
            ),
            deliveries_limit: register(
                registry,
                "deliveries_open_limit",
                "Deliveries of plugins that may be sent at once",
            ),
            outbound_memory: register_bytes(
                registry,
                "outbound_memory",
                "Memory of the responses to plugins that are read or kept",
            ),
            outbound_memory_limit: register_bytes(
                registry,
                "outbound_memory_limit",
                "The most of that memory",
            ),
        }
    }
}

impl Metrics {
    /// Counts a connection or a handshake that got no slot.
    pub(crate) fn connection_refused(&self) {
        self.usage.refused.inc();
    }

    /// Sets the gauges that are read at each scrape.
    pub(crate) fn show_usage(&self, usage: &ResourceUsage) {
        let gauges = &self.usage;
        gauges.connections.set(number(usage.connections));
        gauges.sessions.set(number(usage.sessions));
        gauges.limit.set(number(usage.limit));
        gauges.mailbox.set(number(usage.mailbox));
        gauges.mailbox_limit.set(number(usage.mailbox_limit));
        gauges.overflow.set(number(usage.overflow));
        gauges.overflow_limit.set(number(usage.overflow_limit));
        gauges.overflow_largest.set(number(usage.overflow_largest));
        gauges.unfinished.set(number(usage.unfinished));
        gauges.unfinished_limit.set(number(usage.unfinished_limit));
        gauges.idempotency.set(usage.idempotency.cast_signed());
        gauges.detached.set(number(usage.detached));
        gauges.recovery.set(number(usage.recovery));
        gauges.recovery_limit.set(number(usage.recovery_limit));
        gauges.outbound.set(number(usage.outbound));
        gauges.deliveries.set(number(usage.deliveries));
        gauges.deliveries_limit.set(number(usage.deliveries_limit));
        gauges.outbound_limit.set(number(usage.outbound_limit));
        gauges.outbound_memory.set(number(usage.outbound_memory));
        gauges.outbound_memory_limit.set(number(usage.outbound_memory_limit));
    }
}
