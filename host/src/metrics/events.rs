//! Metrics of the events that plugins handle: what became of them, and the time that they took.

use std::time::Duration;

use super::histogram::TimeHistogram;
use super::{Counter, Family, Labels, Metrics, Registry, Unit, register};

/// The registered metrics of events.
pub(super) struct EventMetrics {
    events: Family<Labels, Counter>,
    seconds: Family<Labels, TimeHistogram>,
}

/// The metrics of one event type, looked up once: counting a success allocates nothing.
#[derive(Clone)]
pub(crate) struct Meter {
    plugin: String,
    event: String,
    ok: Counter,
    seconds: TimeHistogram,
    events: Family<Labels, Counter>,
}

impl EventMetrics {
    /// Registers the metrics.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let events = register(
            registry,
            "events",
            "Events that plugins were asked to handle, by what became of them",
        );
        let seconds = Family::default();
        registry.register_with_unit(
            "handler",
            "Time from an event's turn to its answer",
            Unit::Seconds,
            seconds.clone(),
        );
        Self { events, seconds }
    }
}

impl Metrics {
    /// Returns the metrics of `event` of `plugin`.
    pub(crate) fn meter(&self, plugin: &str, event: &str) -> Meter {
        let EventMetrics { events, seconds } = &self.events;
        let ok = events.get_or_create_owned(&labels(plugin, event, "ok"));
        let seconds = seconds.get_or_create_owned(&vec![("plugin", plugin.to_owned())]);
        Meter {
            plugin: plugin.to_owned(),
            event: event.to_owned(),
            ok,
            seconds,
            events: events.clone(),
        }
    }

    /// Counts an event that no plugin handles.
    pub(crate) fn unknown_event(&self) {
        self.events.events.get_or_create(&labels("", "", "unknown_event")).inc();
    }
}

impl Meter {
    /// Records an event that was answered after `elapsed`: `rejection` is the code of its
    /// rejection, or `None` for a reply.
    pub(crate) fn record(&self, rejection: Option<&'static str>, elapsed: Duration) {
        self.seconds.observe(elapsed);
        match rejection {
            None => self.ok.inc(),
            Some(code) => self.events.get_or_create(&labels(&self.plugin, &self.event, code)).inc(),
        };
    }
}

fn labels(plugin: &str, event: &str, outcome: &str) -> Labels {
    vec![
        ("plugin", plugin.to_owned()),
        ("event", event.to_owned()),
        ("outcome", outcome.to_owned()),
    ]
}
