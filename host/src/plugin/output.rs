//! A plugin's lines in the host's log: limited, and logged with the plugin's name. Exceeding a
//! limit never fails the plugin.

mod stream;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;
use crate::effect::LogLevel;
use crate::event::EventId;
use crate::rejection::truncate;

pub(super) use stream::LineStream;

/// One plugin's output to the host's log, shared by its instances.
#[derive(Debug)]
pub(super) struct Output {
    /// The registered name; the file stem before registration.
    plugin: Arc<str>,
    /// The registered version; `None` before registration.
    version: Option<String>,
    lines_per_second: NonZeroU32,
    line_bytes: NonZeroUsize,
    state: Mutex<OutputState>,
}

#[derive(Debug)]
struct OutputState {
    window: Instant,
    /// Lines logged in this window.
    shown: u32,
    /// Lines dropped since the last logged line.
    dropped: u64,
}

/// Length of the window in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

/// The event that one instance handles, for the log lines of that event. An instance runs on one
/// thread at a time, so relaxed stores are enough. They are made for each event, and a lock would
/// cost more.
#[derive(Debug, Default)]
pub(super) struct CurrentEvent {
    id: [AtomicU64; 2],
    /// Zero before the first event.
    generation: AtomicU64,
}

impl CurrentEvent {
    /// Sets the event that the instance handles from now on.
    pub(super) fn set(&self, id: EventId, generation: u64) {
        for (half, value) in self.id.iter().zip(id.halves()) {
            half.store(value, Ordering::Relaxed);
        }
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// The event's id and its generation; `None` before the first event.
    fn get(&self) -> Option<(EventId, u64)> {
        let [high, low] = &self.id;
        let halves = [high.load(Ordering::Relaxed), low.load(Ordering::Relaxed)];
        (halves != [0, 0])
            .then(|| (EventId::of_halves(halves), self.generation.load(Ordering::Relaxed)))
    }
}

impl Output {
    /// The output of `plugin`, with the limits of `limits`.
    pub(super) fn new(plugin: &str, version: Option<String>, limits: &Limits) -> Self {
        let state = OutputState { window: Instant::now(), shown: 0, dropped: 0 };
        let (lines_per_second, line_bytes) = (limits.log_lines_per_second, limits.log_line_bytes);
        Self {
            plugin: plugin.into(),
            version,
            lines_per_second,
            line_bytes,
            state: Mutex::new(state),
        }
    }

    /// Logs one line, or counts and drops it if it exceeds the rate limit.
    pub(super) fn write(&self, level: LogLevel, current: &CurrentEvent, mut message: String) {
        let (plugin, version) = (&*self.plugin, self.version.as_deref());
        let dropped = {
            // The lock guards only counters. They stay consistent if a thread panics, so poisoning
            // is ignored.
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.window.elapsed() >= WINDOW {
                (state.window, state.shown) = (Instant::now(), 0);
            }
            if state.shown >= self.lines_per_second.get() {
                state.dropped += 1;
                return;
            }
            state.shown += 1;
            std::mem::take(&mut state.dropped)
        };
        if dropped > 0 {
            tracing::warn!(target: "plugin", plugin, version, dropped, "log lines dropped: over \
                                        the plugin's rate");
        }
        truncate(&mut message, self.line_bytes.get());
        let event = current.get();
        let (id, generation) =
            (event.map(|(id, _)| id.to_string()), event.map(|(_, generation)| generation));
        match level {
            LogLevel::Trace => {
                tracing::trace!(target: "plugin", plugin, version, generation, id, "{message}")
            }
            LogLevel::Debug => {
                tracing::debug!(target: "plugin", plugin, version, generation, id, "{message}")
            }
            LogLevel::Info => {
                tracing::info!(target: "plugin", plugin, version, generation, id, "{message}")
            }
            LogLevel::Warn => {
                tracing::warn!(target: "plugin", plugin, version, generation, id, "{message}")
            }
            LogLevel::Error => {
                tracing::error!(target: "plugin", plugin, version, generation, id, "{message}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lines: u32) -> Limits {
        let (log_lines_per_second, log_line_bytes) =
            (NonZeroU32::new(lines).unwrap(), NonZeroUsize::new(8).unwrap());
        Limits { log_lines_per_second, log_line_bytes, ..Limits::default() }
    }

    #[test]
    fn lines_over_the_rate_are_counted_and_dropped() {
        let output = Output::new("loud", None, &limits(2));
        for _ in 0..5 {
            output.write(LogLevel::Info, &CurrentEvent::default(), "hello".to_owned());
        }
        let state = output.state.lock().unwrap();
        assert_eq!((state.shown, state.dropped), (2, 3));
    }
}
