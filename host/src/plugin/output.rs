//! What a plugin says: its log lines and its standard output, limited and shown with its name. Never fatal to the plugin.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::config::Limits;
use crate::effect::LogLevel;
use crate::rejection::truncate;

/// One plugin's voice in the host's log, shared by its instances.
#[derive(Debug)]
pub(super) struct Output {
    /// As it was registered; the file's name before that.
    plugin: Arc<str>,
    lines_per_second: NonZeroU32,
    line_bytes: NonZeroUsize,
    state: Mutex<OutputState>,
}

#[derive(Debug)]
struct OutputState {
    window: Instant,
    /// Lines shown in this window.
    shown: u32,
    /// Lines dropped since the last that was shown.
    dropped: u64,
}

/// The length of a window in which lines are counted.
const WINDOW: Duration = Duration::from_secs(1);

impl Output {
    /// The voice of `plugin`, as loud as its limits allow.
    pub(super) fn new(plugin: &str, limits: &Limits) -> Self {
        let state = OutputState { window: Instant::now(), shown: 0, dropped: 0 };
        let (lines_per_second, line_bytes) = (limits.log_lines_per_second, limits.log_line_bytes);
        Self { plugin: plugin.into(), lines_per_second, line_bytes, state: Mutex::new(state) }
    }

    /// Writes one line; beyond the rate it is counted and dropped.
    pub(super) fn write(&self, level: LogLevel, event: &str, mut message: String) {
        let plugin = &self.plugin;
        let dropped = {
            // The lock guards counters only: a panic elsewhere leaves them whole.
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
            tracing::warn!(target: "plugin", %plugin, dropped, "log lines dropped: over the plugin's rate");
        }
        truncate(&mut message, self.line_bytes.get());
        // One line is one line: a plugin can't write what looks like another's.
        if message.contains(char::is_control) {
            message = message.replace(char::is_control, " ");
        }
        match level {
            LogLevel::Trace => tracing::trace!(target: "plugin", %plugin, event, "{message}"),
            LogLevel::Debug => tracing::debug!(target: "plugin", %plugin, event, "{message}"),
            LogLevel::Info => tracing::info!(target: "plugin", %plugin, event, "{message}"),
            LogLevel::Warn => tracing::warn!(target: "plugin", %plugin, event, "{message}"),
            LogLevel::Error => tracing::error!(target: "plugin", %plugin, event, "{message}"),
        }
    }
}

/// Standard output or error of one instance: always takes what it is given, and logs it by lines.
#[derive(Clone)]
pub(super) struct LineStream {
    output: Arc<Output>,
    level: LogLevel,
    /// What came since the last line's end, at most one line's bytes.
    pending: Arc<Mutex<Vec<u8>>>,
}

impl LineStream {
    pub(super) fn new(output: Arc<Output>, level: LogLevel) -> Self {
        Self { output, level, pending: Arc::default() }
    }

    fn take(&self, bytes: &[u8]) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = self.output.line_bytes.get().saturating_sub(pending.len());
            pending.extend(piece.iter().take(room).filter(|byte| **byte != b'\n'));
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&pending).trim_end().to_owned();
                pending.clear();
                self.output.write(self.level, "", line);
            }
        }
    }
}

/// Bytes that a guest may write at once: the size of the pieces, not a limit on what it prints.
const PIECE: usize = 64 << 10;

impl OutputStream for LineStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(PIECE)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LineStream {
    async fn ready(&mut self) {}
}

impl IsTerminal for LineStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LineStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this form, which the host does not offer.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(lines: u32) -> Limits {
        let (log_lines_per_second, log_line_bytes) = (NonZeroU32::new(lines).unwrap(), NonZeroUsize::new(8).unwrap());
        Limits { log_lines_per_second, log_line_bytes, ..Limits::default() }
    }

    #[test]
    fn lines_over_the_rate_are_counted_and_dropped() {
        let output = Output::new("loud", &limits(2));
        for _ in 0..5 {
            output.write(LogLevel::Info, "", "hello".to_owned());
        }
        let state = output.state.lock().unwrap();
        assert_eq!((state.shown, state.dropped), (2, 3));
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_a_line_may() {
        let stream = LineStream::new(Arc::new(Output::new("loud", &limits(1))), LogLevel::Info);
        for _ in 0..1000 {
            stream.take(b"no end in sight ");
        }
        assert_eq!(stream.pending.lock().unwrap().len(), 8);
    }
}
