//! The limit of client connections. It is computed at the start, and lowered while plugins that
//! were added later need the file descriptors.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::config::{Config, DEFAULT_CONNECTIONS};
use crate::http::slots::ConnectionSlots;
use crate::outbound;
use crate::registry::Registry;
use crate::reload::directory::plugin_files;
use crate::store;

use super::descriptors::{self, TooFew};

/// The limits that follow from the file descriptors of the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowed {
    /// Client connections.
    pub(super) connections: NonZeroUsize,
    /// Plugins that fit in addition to these connections.
    plugins: usize,
    /// Descriptors of the requests of plugins, if any may send requests.
    outbound: u64,
    /// Whether any may at the start.
    sends: bool,
    /// All descriptors; `None` if the system has no limit.
    descriptors: Option<u64>,
}

/// Computes how many connections clients may have at the start, from the configuration and the file
/// descriptors.
pub(super) fn allowed(config: &Config) -> Result<Allowed, TooFew> {
    // An unreadable directory is reported later, as an error of its own.
    let plugins = plugin_files(&config.plugins.dir).map_or(0, |files| files.len())
        + descriptors::MORE_PLUGINS;
    let descriptors = descriptors::raise_limit();
    let outbound = outbound::max_descriptors(&config.outbound);
    let sends = config.plugins.by_name.values().any(|plugin| !plugin.outbound.is_empty());
    let reserved = config.operator_connections();
    let needed = needed(plugins, reserved, if sends { outbound } else { 0 });
    let connections = descriptors::connections(descriptors, needed, config.limits.connections)?;
    if config.limits.connections.is_none() && connections < DEFAULT_CONNECTIONS {
        tracing::warn!(
            connections,
            descriptors,
            "few file descriptors: the limit of client connections is lower than the default; to \
             increase it, raise the hard limit (`ulimit -n`, LimitNOFILE in systemd)"
        );
    }
    Ok(Allowed { connections, plugins, outbound, sends, descriptors })
}

/// Returns the number of descriptors for everything except client connections.
fn needed(plugins: usize, reserved: NonZeroUsize, outbound: u64) -> u64 {
    descriptors::needed(plugins, store::max_descriptors(), reserved, outbound)
}

/// Lowers the limit of client connections while there are more plugins than expected at the start:
/// each plugin needs file descriptors. If none are left, only new clients may be refused.
pub(super) async fn adapt_to_plugins(
    slots: Arc<ConnectionSlots>,
    registry: Arc<Registry>,
    reserved: NonZeroUsize,
    allowed: Allowed,
) {
    let (mut changes, mut before) = (registry.changes(), allowed.connections.get());
    loop {
        let plugins = &registry.snapshot().plugins;
        let now = plugins.len();
        let sends = allowed.sends || plugins.iter().any(|active| active.allowance.allows_any());
        let outbound = if sends { allowed.outbound } else { 0 };
        let needed = needed(now.max(allowed.plugins), reserved, outbound);
        let connections = descriptors::left(allowed.descriptors, needed, allowed.connections);
        if connections < before {
            tracing::warn!(
                connections,
                plugins = now,
                "the limit of client connections is lowered: plugins need more file descriptors"
            );
        }
        if connections != before {
            slots.set_limit(connections);
            before = connections;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
