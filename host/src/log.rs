//! The host's log: one record per occurrence, written by one thread of its own. A log that nobody reads, or that can't be written, costs
//! lines, and nothing else: whoever logs never waits and never fails.
//!
//! The way of a record: `tracing` → filter → `repeats` → `format` → `queue` → `writer`. The only part that knows
//! tracing-subscriber. Fields have one meaning everywhere:
//!
//! | field | is |
//! |---|---|
//! | `event`, `id` | the event type's name; the id of this one event, as its rejection shows it |
//! | `plugin`, `version`, `digest`, `generation` | which code |
//! | `client`, `address`, `transport` | the connection's public id; the IP address that it comes from; `polling` or `websocket`, at its beginning |
//! | `code`, `reason` | a rejection's code; the word of the handler or the peer that gives the reason |
//! | `detail` | what the client or the caller was told, in words |
//! | `error`, `location` | what went wrong, in words for operators; where in which source |
//! | `key`, `command` | the name of an operator's key; what was asked with it |
//! | `repeated` | how many records this line stands for |

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

use crate::config::{Log as Settings, LogFormat};

use format::Format;
use queue::Queue;
use record::{Record, Value};
use repeats::Repeats;
use writer::Chores;

pub use escape::{escape, escape_json, is_unsafe};
pub use panics::{Panic, catch};
pub use record::Chain;
pub use rejected::{Fault, Handler, rejected};
pub use writer::Writer;

/// The target of the lines of plugins. They have a rate of their own (`log_lines_per_second`), so none of them is collapsed.
pub const PLUGIN: &str = "plugin";

/// The log of this process, from [`start`] to [`Log::finish`].
pub struct Log {
    writer: Writer,
    queue: Arc<Queue>,
    format: Format,
    repeats: Option<SharedRepeats>,
}

/// Locked for a few moves by whoever logs, and by the writer between two lines; never while something is written.
type SharedRepeats = Arc<Mutex<Repeats>>;

/// The queue of this process's log, for the metric.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The writer's thread.
    #[error("can't start the thread that writes the log")]
    Thread(#[from] io::Error),
    /// It has been started before.
    #[error("this process has a log already")]
    Started,
}

/// Logs to standard error from now on, panics included.
///
/// # Errors
/// Where the system gives no thread, or the process has a log.
pub fn start(settings: &Settings) -> Result<Log, LogError> {
    let format = Format { format: settings.format, ansi: settings.format == LogFormat::Text && colours(), time: true };
    begin(settings, format)
}

/// Shows what plugins print and log while a command loads them: without the time, each line as it comes.
///
/// # Errors
/// As [`start`].
pub fn start_for_command() -> Result<Log, LogError> {
    let settings = Settings { filter: crate::config::LogFilter::plugins(), collapse: false, ..Settings::default() };
    begin(&settings, Format { format: LogFormat::Text, ansi: colours(), time: false })
}

fn begin(settings: &Settings, format: Format) -> Result<Log, LogError> {
    let queue = Arc::new(Queue::new(settings.queue_bytes.get()));
    let repeats = settings.collapse.then(|| Arc::new(Mutex::new(Repeats::new())));
    let chores = LogChores { format, repeats: repeats.clone() };
    let writer = Writer::with_chores("sockhop-log", stderr(), Arc::clone(&queue), Box::new(chores))?;
    let mut targets = Targets::new().with_default(settings.filter.level());
    targets.extend(settings.filter.targets().map(|(target, level)| (target.to_owned(), level)));
    let layer = RecordLayer { queue: Arc::clone(&queue), format, repeats: repeats.clone() };
    let subscriber = tracing_subscriber::registry().with(targets).with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    let _ = QUEUE.set(Arc::clone(&queue));
    panics::install();
    Ok(Log { writer, queue, format, repeats })
}

impl Log {
    /// Writes what is left, for at most `deadline`. What comes later is dropped.
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

/// Lines that this process's log has dropped, because they came faster than they could be written, or could not be written at all.
pub fn lines_dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// Whether standard error shows colours.
fn colours() -> bool {
    has_colours(io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref())
}

/// A terminal does, unless its user wants none: <https://no-color.org>.
fn has_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// Standard error by a descriptor of its own: the writer may be stuck in a write for ever, and would hold the standard library's lock.
fn stderr() -> Box<dyn Write + Send> {
    own(io::stderr()).map_or_else(|| Box::new(io::stderr()) as Box<dyn Write + Send>, |file| Box::new(file))
}

/// The same for standard output.
pub fn stdout() -> Box<dyn Write + Send> {
    own(io::stdout()).map_or_else(|| Box::new(io::stdout()) as Box<dyn Write + Send>, |file| Box::new(file))
}

#[cfg(unix)]
fn own(stream: impl std::os::fd::AsFd) -> Option<File> {
    stream.as_fd().try_clone_to_owned().ok().map(File::from)
}

#[cfg(not(unix))]
fn own<T>(_: T) -> Option<File> {
    None
}

/// The lock guards a table that is whole between any two of its calls.
fn lock(repeats: &Mutex<Repeats>) -> MutexGuard<'_, Repeats> {
    repeats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Turns calls of `tracing` into lines, on the thread that makes them.
struct RecordLayer {
    queue: Arc<Queue>,
    format: Format,
    repeats: Option<SharedRepeats>,
}

impl<S: Subscriber> Layer<S> for RecordLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let record = Record::of(event);
        // An operator who asks for `debug` wants to see each.
        let collapses = record.target != PLUGIN && record.level <= Level::INFO;
        let now = match &self.repeats {
            Some(repeats) if collapses => lock(repeats).take(&event.metadata().callsite(), record, Instant::now()),
            _ => Some(record),
        };
        if let Some(record) = now {
            self.queue.push(self.format.line(&record));
        }
    }
}

/// What the log's writer does between two lines.
struct LogChores {
    format: Format,
    repeats: Option<SharedRepeats>,
}

impl Chores for LogChores {
    fn push_due(&mut self, now: Instant, queue: &Queue) -> Option<Instant> {
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
        let message = "log lines were dropped: they came faster than they could be written, or could not be written".to_owned();
        let fields = vec![("dropped", Value::Unsigned(dropped))];
        Some(self.format.line(&Record { at: SystemTime::now(), level: Level::WARN, target: module_path!(), message, fields }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_whose_user_wants_them_has_colours() {
        let cases = [(true, None), (true, Some("")), (true, Some("1")), (false, None)];
        let shown = cases.map(|(is_terminal, no_color)| has_colours(is_terminal, no_color.map(OsStr::new)));
        assert_eq!(shown, [true, true, false, false]);
    }
}
