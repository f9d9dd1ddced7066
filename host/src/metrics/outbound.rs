//! Metrics of the HTTP requests that plugins send.

use std::time::Duration;

use super::histogram::TimeHistogram;
use super::{Counter, Family, Labels, Metrics, Registry, Unit, register};

/// The registered metrics of requests.
pub(super) struct OutboundMetrics {
    requests: Family<Labels, Counter>,
    seconds: Family<Labels, TimeHistogram>,
}

impl OutboundMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let requests = register(
            registry,
            "outbound_requests",
            "HTTP requests of a plugin, by what became of them",
        );
        let seconds = Family::default();
        registry.register_with_unit(
            "outbound",
            "Time from an HTTP request of a plugin to the end of the response, or of the wait for it",
            Unit::Seconds,
            seconds.clone(),
        );
        Self { requests, seconds }
    }
}

impl Metrics {
    /// Counts an HTTP request of `plugin`; `outcome` is `answered`, or the code of its refusal.
    /// `elapsed` is the time of a request that was sent.
    pub(crate) fn outbound_request(&self, plugin: &str, outcome: &str, elapsed: Option<Duration>) {
        let plugin = ("plugin", plugin.to_owned());
        if let Some(elapsed) = elapsed {
            self.outbound.seconds.get_or_create(&vec![plugin.clone()]).observe(elapsed);
        }
        let labels = vec![plugin, ("outcome", outcome.to_owned())];
        self.outbound.requests.get_or_create(&labels).inc();
    }
}
