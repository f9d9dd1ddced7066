//! The log of a command that tests plugins: records are kept until the command takes them, and
//! nothing is written.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::record::LogRecord;
use super::{LogError, PLUGIN, panics};

/// Records that are kept at most. Further ones are counted.
const MAX_RECORDS: usize = 1_000;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The level in lower case, such as `info`.
    pub level: &'static str,
    /// Whether a plugin has written it.
    pub is_of_plugin: bool,
    /// The text.
    pub message: String,
    /// The fields, by name.
    pub fields: Vec<(&'static str, String)>,
}

impl Line {
    /// The value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.as_str())
    }
}

/// The records since the last [`Capture::take`].
#[derive(Debug, Clone, Default)]
pub struct Capture(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    lines: Vec<Line>,
    dropped: usize,
}

impl Capture {
    /// Returns the records since the last call, at most [`MAX_RECORDS`], and how many more there
    /// were.
    pub fn take(&self) -> (Vec<Line>, usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut kept.lines), std::mem::take(&mut kept.dropped))
    }
}

/// Keeps what plugins write, and what the host warns of or reports as failed or rejected.
///
/// # Errors
/// [`LogError::Started`]: this process has a log already.
pub fn capture() -> Result<Capture, LogError> {
    let capture = Capture::default();
    let targets = Targets::new()
        .with_default(Level::WARN)
        .with_target(PLUGIN, Level::TRACE)
        .with_target("sockhop::log::rejected", Level::INFO);
    let subscriber = tracing_subscriber::registry().with(targets).with(Keep(capture.clone()));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Started)?;
    panics::install();
    Ok(capture)
}

struct Keep(Capture);

impl<S: Subscriber> Layer<S> for Keep {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let LogRecord { level, target, message, fields, .. } = LogRecord::of(event);
        let mut kept = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.lines.len() >= MAX_RECORDS {
            kept.dropped += 1;
            return;
        }
        let fields = fields.into_iter().map(|(name, value)| (name, value.to_string())).collect();
        let is_of_plugin = target == PLUGIN;
        kept.lines.push(Line { level: name(level), is_of_plugin, message, fields });
    }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}
