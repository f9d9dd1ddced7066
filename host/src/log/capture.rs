//! The log of a command that tests plugins: records are kept until the command takes them, and
//! nothing is written.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::Level;

use super::PLUGIN;
use super::record::LogRecord;

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
    /// Returns the records since the last call, at most `MAX_RECORDS`, and how many more there
    /// were.
    pub fn take(&self) -> (Vec<Line>, usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut kept.lines), std::mem::take(&mut kept.dropped))
    }
}

impl Capture {
    /// Keeps a record.
    pub(super) fn keep(&self, record: LogRecord) {
        let LogRecord { level, target, message, fields, .. } = record;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
