//! The host's log: one record per occurrence, written by its own thread. If the log is read too
//! slowly or can't be written, lines are dropped. A thread that logs never waits and never fails.
//!
//! Path of a record: `tracing` → filter → `repeats` → `format` → `queue` → `writer`. Only this
//! module uses tracing-subscriber. Each field has the same meaning everywhere:
//!
//! | field | meaning |
//! |---|---|
//! | `event`, `id` | the event type's name; the id of this event, as its rejection shows it |
//! | `plugin`, `version`, `digest`, `generation` | the plugin code concerned |
//! | `client`, `address`, `transport` | the connection's public id; its IP address; its first transport, `polling` or `websocket` |
//! | `session`, `end` | the beginning of an Engine.IO session's id; the library's name for the session's end |
//! | `code` | a rejection's code |
//! | `reason` | a code that says why: of the handler for its refusal; of the host for a connection that it cut; Socket.IO's own for a disconnect, such as `transport close` |
//! | `detail` | text for people: what the client or the caller received, or why a handler ended the connection |
//! | `error`, `location` | the error, as text for operators; its place in the source |
//! | `key`, `command` | the name of an operator's key; the command that was sent with it |
//! | `status`, `method`, `path` | of an HTTP request: the status of its response; its method; its path without the query |
//! | `origin`, `outcome` | of an HTTP request of a plugin: its scheme, host and port, if they are listed; `answered`, or the code of its refusal |
//! | `elapsed_ms` | how long it took, in milliseconds |
//! | `repeated` | how many records this line stands for |

mod capture;
mod escape;
mod format;
mod panics;
mod queue;
mod record;
mod rejected;
mod repeats;
mod writer;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{Registry, reload};

use crate::config::{LogConfig, LogFilter, LogFormat};

use format::Format;
use queue::LineQueue;
use record::{LogRecord, Value};
use repeats::Repeats;
use writer::Chores;

pub use capture::{Capture, Line};
pub use escape::{escape, escape_json};
pub(crate) use panics::{Panic, catch};
pub(crate) use rejected::{Fault, Handler, rejected};
pub use writer::LineWriter;

/// The target of plugins' log lines. These lines also have a rate limit of their own
/// (`log_lines_per_second`).
pub(crate) const PLUGIN: &str = "plugin";

/// The log of this process, from [`start`] to [`Log::finish`].
pub struct Log {
    writer: LineWriter,
    queue: Arc<LineQueue>,
    format: Format,
    repeats: Option<SharedRepeats>,
}

/// Locked briefly by each thread that logs, and by the writer between two lines; never during a
/// write.
type SharedRepeats = Arc<Mutex<Repeats>>;

/// The queue of this process's log, for the metric.
static QUEUE: OnceLock<Arc<LineQueue>> = OnceLock::new();

/// The filter of this process's log.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Why the log can't start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writer's thread can't be started.
    #[error("can't start the thread that writes the log")]
    Thread(#[from] io::Error),
    /// The process has a log already.
    #[error("this process has a log already")]
    Started,
}

/// Starts the log to standard error, including panics.
///
/// # Errors
/// If the writer's thread can't be started, or if the process has a log already.
pub fn start(settings: &LogConfig) -> Result<Log, LogError> {
    let format = Format {
        format: settings.format,
        ansi: settings.format == LogFormat::Text && colours(),
        time: true,
    };
    begin(settings, format)
}

/// Starts a log for a command that loads plugins: it shows what plugins print and log, without
/// times and without collapsing repeats.
///
/// # Errors
/// Same as [`start`].
pub fn start_for_command() -> Result<Log, LogError> {
    let settings =
        LogConfig { filter: LogFilter::plugins(), collapse: false, ..LogConfig::default() };
    begin(&settings, Format { format: LogFormat::Text, ansi: colours(), time: false })
}

fn begin(settings: &LogConfig, format: Format) -> Result<Log, LogError> {
    let queue = Arc::new(LineQueue::new(settings.queue_bytes.get()));
    let repeats = settings.collapse.then(|| Arc::new(Mutex::new(Repeats::new())));
    let chores = LogChores { format, repeats: repeats.clone() };
    let writer =
        LineWriter::with_chores("sockhop-log", stderr(), Arc::clone(&queue), Box::new(chores))?;
    let (filter, handle) = reload::Layer::new(targets(&settings.filter));
    let layer = RecordLayer { queue: Arc::clone(&queue), format, repeats: repeats.clone() };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    let _ = (QUEUE.set(Arc::clone(&queue)), FILTER.set(handle));
    panics::install();
    Ok(Log { writer, queue, format, repeats })
}

/// Keeps what plugins write, and what the host warns of or reports as failed or rejected, for a
/// command that tests plugins. Nothing is written.
///
/// # Errors
/// [`LogError::Started`]: this process has a log already.
pub fn capture() -> Result<Capture, LogError> {
    let capture = Capture::default();
    let targets = Targets::new()
        .with_default(Level::WARN)
        .with_target(PLUGIN, Level::TRACE)
        .with_target("sockhop::log::rejected", Level::INFO);
    let layer = CaptureLayer(capture.clone());
    let subscriber = tracing_subscriber::registry().with(targets).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    panics::install();
    Ok(capture)
}

fn targets(filter: &LogFilter) -> Targets {
    let mut targets = Targets::new().with_default(filter.level());
    targets.extend(filter.targets().map(|(target, level)| (target.to_owned(), level)));
    targets
}

/// Shows other records from now on. Without effect in a process without a log.
pub(crate) fn set_filter(filter: &LogFilter) {
    // It fails only if a thread has panicked while it replaced the filter.
    if let Some(handle) = FILTER.get() {
        let _ = handle.reload(targets(filter));
    }
}

impl Log {
    /// Writes the remaining lines, for at most `deadline`. Later lines are dropped.
    pub fn finish(self, deadline: Duration) {
        if let Some(repeats) = &self.repeats {
            let left = lock(repeats).take_all();
            for record in left {
                self.queue.push(self.format.line(&record));
            }
        }
        self.writer.finish(deadline);
    }
}

/// Returns the number of lines that this process's log has dropped: they came faster than they
/// could be written, or could not be written at all.
pub(crate) fn lines_dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// Whether standard error shows colours.
pub fn colours() -> bool {
    has_colours(io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// A terminal shows colours unless its user disables them: <https://no-color.org>.
fn has_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Returns standard error with its own descriptor. The writer may block in a write without end, and
/// must not hold the lock of the standard library meanwhile.
pub fn stderr() -> Box<dyn Write + Send> {
    own(io::stderr())
        .map_or_else(|| Box::new(io::stderr()) as Box<dyn Write + Send>, |file| Box::new(file))
}

/// Returns standard output with its own descriptor, for the same reason.
pub fn stdout() -> Box<dyn Write + Send> {
    own(io::stdout())
        .map_or_else(|| Box::new(io::stdout()) as Box<dyn Write + Send>, |file| Box::new(file))
}

#[cfg(unix)]
fn own(stream: impl std::os::fd::AsFd) -> Option<File> {
    stream.as_fd().try_clone_to_owned().ok().map(File::from)
}

#[cfg(not(unix))]
fn own<T>(_: T) -> Option<File> {
    None
}

/// A panic does not damage the table: it is consistent between any two of its calls.
fn lock(repeats: &Mutex<Repeats>) -> MutexGuard<'_, Repeats> {
    repeats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Converts `tracing` events to lines, on the thread that logs.
struct RecordLayer {
    queue: Arc<LineQueue>,
    format: Format,
    repeats: Option<SharedRepeats>,
}

impl<S: Subscriber> Layer<S> for RecordLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = LogRecord::of(event);
        // An operator who selects `debug` wants to see each record.
        let collapses = record.level <= Level::INFO;
        let now = match &self.repeats {
            Some(repeats) if collapses => {
                lock(repeats).take(&event.metadata().callsite(), record, Instant::now())
            }
            _ => Some(record),
        };
        if let Some(record) = now {
            self.queue.push(self.format.line(&record));
        }
    }
}

/// Keeps records.
struct CaptureLayer(Capture);

impl<S: Subscriber> Layer<S> for CaptureLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.keep(LogRecord::of(event));
    }
}

/// The work of the log's writer between two lines.
struct LogChores {
    format: Format,
    repeats: Option<SharedRepeats>,
}

impl Chores for LogChores {
    fn push_due(&mut self, now: Instant, queue: &LineQueue) -> Option<Instant> {
        let repeats = self.repeats.as_ref()?;
        let mut table = lock(repeats);
        let (due, next) = (table.take_due(now), table.next());
        drop(table);
        for record in due {
            queue.push(self.format.line(&record));
        }
        next
    }

    fn dropped_line(&self, dropped: u64) -> Option<String> {
        let message = "log lines were dropped: they came faster than they could be written, or \
                       could not be written"
            .to_owned();
        let fields = vec![("dropped", Value::Unsigned(dropped))];
        Some(self.format.line(&LogRecord {
            at: SystemTime::now(),
            level: Level::WARN,
            target: module_path!(),
            message,
            fields,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_whose_user_wants_them_has_colours() {
        let cases = [(true, None), (true, Some("")), (true, Some("1")), (false, None)];
        let shown =
            cases.map(|(is_terminal, no_color)| has_colours(is_terminal, no_color.map(OsStr::new)));
        assert_eq!(shown, [true, true, false, false]);
    }
}
