//! A log record: the content of one `tracing` event, independent of any output format.

use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::error_chain::ErrorChain;
use crate::rejection::truncate;

/// The content of one `tracing` event.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LogRecord {
    pub(super) at: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// The value of one field.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Text(String),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
}

/// Longest field in bytes; the rest is cut. A trap's backtrace fits. A plugin's own line is the
/// message, and has its own limit.
const MAX_FIELD: usize = 4 << 10;

impl LogRecord {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let metadata = event.metadata();
        let mut record = Self {
            at: SystemTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: String::new(),
            fields: Vec::with_capacity(metadata.fields().len()),
        };
        event.record(&mut record);
        record
    }

    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Text(text)) => self.message = text,
            (name, Value::Text(mut text)) => {
                truncate(&mut text, MAX_FIELD);
                self.fields.push((name, Value::Text(text)));
            }
            (name, value) => self.fields.push((name, value)),
        }
    }

    /// Returns the value of the field `name`.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value)
    }
}

impl Visit for LogRecord {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, Value::Text(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Value::Text(value.to_owned()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Value::Bool(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Value::Unsigned(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Value::Signed(value));
    }

    /// The milliseconds of a `Duration` have this type.
    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push(field, Value::Unsigned(u64::try_from(value).unwrap_or(u64::MAX)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, Value::Float(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.push(field, Value::Text(ErrorChain(value).to_string()));
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bool(value) => value.fmt(f),
            Self::Unsigned(value) => value.fmt(f),
            Self::Signed(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}
