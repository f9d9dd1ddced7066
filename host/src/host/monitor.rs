//! A handle to a running host, for the process in which it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::config::LiveConfig;
use crate::http::drain::Drain;
use crate::registry::Registry;
use crate::reload::Operator;
use crate::rooms::Rooms;
use crate::settings::Settings;
use crate::wall_clock::WallClock;

use super::shutdown;

/// Operations on a running host, for the process in which it runs.
pub struct Monitor {
    pub(super) operator: Arc<Operator>,
    pub(super) registry: Arc<Registry>,
    pub(super) rooms: Arc<Rooms>,
    pub(super) settings: Arc<Settings>,
    pub(super) config: Arc<LiveConfig>,
    pub(super) drain: Arc<Drain>,
    pub(super) clock: WallClock,
}

impl Monitor {
    /// Scans the plugin directory now, and retries loads that failed because of their environment.
    pub fn request_scan(&self) {
        self.operator.request_scan();
    }

    /// Reads the configuration again and applies it, as `POST /api/reload` does. Returns whether
    /// that was possible; the log has the reason.
    pub async fn reload(&self) -> bool {
        self.settings.reload().await.is_ok()
    }

    /// Shifts the clock by which timers fire from that of the system, for tests.
    #[doc(hidden)]
    pub fn shift_clock(&self, by_ms: i64) {
        self.clock.shift(by_ms);
    }

    /// Waits until the host stops, because of `stop` or because an operator asks for it. Returns
    /// how long the stop takes at most.
    pub async fn stopping(&self, stop: &CancellationToken) -> Duration {
        let over = tokio::select! {
            () = stop.cancelled() => None,
            over = self.drain.requested() => Some(over),
        };
        let config = self.config.get();
        shutdown::longest(&config.limits, over.unwrap_or(config.limits.shutdown_close_ms))
    }

    /// Logs the status of the host and of each plugin.
    pub fn log_status(&self) {
        tracing::info!(
            connections = self.rooms.connections(),
            generation = self.registry.snapshot().number,
            "host status"
        );
        for status in self.operator.statuses().iter() {
            let active = status.active.as_ref().map(|active| &active.code);
            let (calls, failures) = active.map_or((0, 0), |plugin| plugin.counts());
            let version = active.map(|plugin| plugin.registration.version.as_str());
            let error = status.error().map(|error| error.reason);
            tracing::info!(
                plugin = status.name,
                state = status.state().name(),
                version,
                calls,
                failures,
                error,
                "plugin status"
            );
        }
    }
}
