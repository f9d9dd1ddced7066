//! Standard output and standard error of an instance, as lines in the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::effect::LogLevel;

use super::{CurrentEvent, Output};

/// Standard output or standard error of one instance. Accepts every write and logs it line by line.
#[derive(Clone)]
pub(in crate::plugin) struct LineStream(Arc<Stream>);

struct Stream {
    output: Arc<Output>,
    level: LogLevel,
    current: Arc<CurrentEvent>,
    /// Whether lines are held until the call ends. What a guest prints about its own failure
    /// belongs to the log record of that failure.
    holds: bool,
    /// Whether there is any text now. It is read after each event, so it must not need the lock.
    has_text: AtomicBool,
    text: Mutex<StreamText>,
}

#[derive(Default)]
struct StreamText {
    /// The bytes since the last newline, limited to the length of one line.
    pending: Vec<u8>,
    held: Vec<String>,
    /// Total bytes of the lines in `held`.
    held_bytes: usize,
}

/// Maximum bytes of held lines: enough for a panic message and some lines before it. If there are
/// more, all held lines are logged at once.
const MAX_HELD: usize = 4 << 10;

impl LineStream {
    /// Standard output: each line is logged immediately, and an unfinished one at the end of the
    /// call, by [`LineStream::release`].
    pub(in crate::plugin) fn stdout(output: &Arc<Output>, current: &Arc<CurrentEvent>) -> Self {
        Self::new(output, LogLevel::Info, current, false)
    }

    /// Standard error: lines are held until [`LineStream::release`] or [`LineStream::take_held`].
    pub(in crate::plugin) fn stderr(output: &Arc<Output>, current: &Arc<CurrentEvent>) -> Self {
        Self::new(output, LogLevel::Warn, current, true)
    }

    fn new(
        output: &Arc<Output>,
        level: LogLevel,
        current: &Arc<CurrentEvent>,
        holds: bool,
    ) -> Self {
        let (output, current) = (Arc::clone(output), Arc::clone(current));
        Self(Arc::new(Stream {
            output,
            level,
            current,
            holds,
            has_text: AtomicBool::new(false),
            text: Mutex::default(),
        }))
    }

    /// Logs the held lines and the unfinished last line. Called at the end of a call, if no failure
    /// record will contain them. The text of one event must not become a part of the next one's.
    pub(in crate::plugin) fn release(&self) {
        if self.0.has_text.load(Ordering::Relaxed) {
            let lines = self.0.take(&mut self.0.text());
            self.0.log(lines);
        }
    }

    /// Returns the held lines and the unfinished last line. Called when the guest's call has
    /// failed.
    pub(in crate::plugin) fn take_held(&self) -> String {
        self.0.take(&mut self.0.text()).join("\n").trim().to_owned()
    }

    fn take(&self, bytes: &[u8]) {
        let stream = &self.0;
        let mut text = stream.text();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = stream.output.line_bytes.get().saturating_sub(text.pending.len());
            text.pending.extend(piece.iter().take(room).filter(|byte| **byte != b'\n'));
            if piece.ends_with(b"\n") {
                let line = text.take_pending();
                if !stream.holds {
                    stream.output.write(stream.level, &stream.current, line);
                    continue;
                }
                text.held_bytes += line.len();
                text.held.push(line);
                // Empty lines use memory as well.
                if text.held_bytes + text.held.len() * size_of::<String>() > MAX_HELD {
                    let held = stream.take(&mut text);
                    stream.log(held);
                }
            }
        }
        stream.has_text.store(!text.is_empty(), Ordering::Relaxed);
    }
}

impl Stream {
    /// The text is consistent between any two operations on it, so poisoning is ignored.
    fn text(&self) -> MutexGuard<'_, StreamText> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes all text, the unfinished last line too.
    fn take(&self, text: &mut StreamText) -> Vec<String> {
        self.has_text.store(false, Ordering::Relaxed);
        text.held_bytes = 0;
        let mut lines = std::mem::take(&mut text.held);
        if !text.pending.is_empty() {
            lines.push(text.take_pending());
        }
        lines
    }

    fn log(&self, lines: Vec<String>) {
        for line in lines.into_iter().filter(|line| !line.is_empty()) {
            self.output.write(self.level, &self.current, line);
        }
    }
}

impl StreamText {
    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty()
    }

    fn take_pending(&mut self) -> String {
        let line = String::from_utf8_lossy(&self.pending).trim_end().to_owned();
        self.pending.clear();
        line
    }
}

/// Bytes that a guest may write in one call. This is a chunk size, not a limit on its output.
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
        // Only WASI 0.3 uses this method, and the host does not offer WASI 0.3.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::num::{NonZeroU32, NonZeroUsize};

    use crate::config::Limits;

    use super::*;

    fn streams(lines: u32) -> [LineStream; 2] {
        let limits = Limits {
            log_lines_per_second: NonZeroU32::new(lines).unwrap(),
            log_line_bytes: NonZeroUsize::new(8).unwrap(),
            ..Limits::default()
        };
        let (output, current) = (Arc::new(Output::new("loud", None, &limits)), Arc::default());
        [LineStream::stdout(&output, &current), LineStream::stderr(&output, &current)]
    }

    #[test]
    fn a_line_without_an_end_takes_no_more_memory_than_a_line_may() {
        for stream in streams(1) {
            for _ in 0..1000 {
                stream.take(b"no end in sight ");
            }
            assert_eq!(stream.0.text().pending.len(), 8);
        }
    }

    #[test]
    fn an_unfinished_line_ends_with_its_call() {
        for stream in streams(u32::MAX) {
            stream.take(b"first");
            stream.release();
            assert!(stream.0.text().is_empty());
            stream.take(b"next");
            assert_eq!(stream.take_held(), "next");
        }
    }

    #[test]
    fn standard_error_is_held_for_the_record_of_a_failure_and_bounded() {
        let [_, stream] = streams(u32::MAX);
        stream.take(b"one\ntwo\nthr");
        assert_eq!(stream.take_held(), "one\ntwo\nthr");
        stream.take(b"three\n");
        stream.release();
        assert_eq!(stream.take_held(), "", "released lines are in the log");
        for _ in 0..10_000 {
            stream.take(b"\n");
        }
        assert!(stream.0.text().held.len() <= MAX_HELD / size_of::<String>());
    }
}
